/** Before and after in one frame, with a divider between them, whole or pixel by pixel. */
import { element } from './element.js';

const drop = element('drop', HTMLElement);
const scroller = element('scroller', HTMLElement);
const picture = element('picture', HTMLElement);
const divider = element('divider', HTMLElement);
const split = element('split', HTMLInputElement);
const fitButton = element('fit', HTMLButtonElement);
const actualButton = element('actual', HTMLButtonElement);
let low = element('before', HTMLImageElement);
let high = element('after', HTMLImageElement);

/** @typedef {{ width: number, height: number }} Size in pixels of the result */
/** @typedef {() => boolean} IsCurrent false once another photo is wanted */

/**
 * The photo, enlarged by the browser to the size that the result will have.
 * @param {Blob} photo
 * @param {number} scale
 * @param {IsCurrent} isCurrent
 */
export async function showBefore(photo, scale, isCurrent) {
  const shown = await decoded(low, photo);
  if (!isCurrent()) return release(shown);
  high = swap(high, blank(high));
  low = swap(low, shown ?? blank(low));
  show({ width: scale * low.naturalWidth, height: scale * low.naturalHeight });
}

/**
 * @param {Blob} result
 * @param {Size} size
 * @param {IsCurrent} isCurrent
 * @returns {Promise<string | undefined>} its object URL, good until the next result or photo is shown; empty when this
 *   browser cannot show it, undefined when it is not wanted any more
 */
export async function showAfter(result, size, isCurrent) {
  const shown = await decoded(high, result);
  if (!isCurrent()) return release(shown);
  high = swap(high, shown ?? blank(high));
  show(size);
  return high.src;
}

/**
 * Decoded before it takes its place, so that the picture before it stays until then.
 * @param {HTMLImageElement} image
 * @param {Blob} blob
 * @returns {Promise<HTMLImageElement | undefined>} undefined when this browser cannot show it (TIFF, or no photo)
 */
async function decoded(image, blob) {
  const next = blank(image);
  next.hidden = false;
  next.src = URL.createObjectURL(blob);
  try {
    await next.decode();
    return next;
  } catch {
    release(next);
    return undefined;
  }
}

/** @param {HTMLImageElement} image */
function blank(image) {
  const copy = /** @type {HTMLImageElement} */ (image.cloneNode());
  copy.removeAttribute('src');
  copy.hidden = true;
  return copy;
}

/**
 * @param {HTMLImageElement} old
 * @param {HTMLImageElement} next
 */
function swap(old, next) {
  old.replaceWith(next);
  release(old);
  return next;
}

/** @param {HTMLImageElement | undefined} image */
function release(image) {
  if (image?.src) URL.revokeObjectURL(image.src);
  return undefined;
}

/** @param {Size} size */
function show({ width, height }) {
  const isComparable = !low.hidden && !high.hidden;
  drop.hidden = !low.hidden || !high.hidden;
  scroller.hidden = !drop.hidden;
  divider.hidden = !isComparable;
  split.disabled = !isComparable;
  picture.style.setProperty('--width', String(width));
  picture.style.setProperty('--ratio', String(width / height));
  moveDivider();
}

/** What can be seen of the picture, in pixels of the window. */
function visible() {
  const frame = scroller.getBoundingClientRect();
  const whole = picture.getBoundingClientRect();
  return {
    frame,
    whole,
    left: Math.max(frame.left, whole.left),
    right: Math.min(frame.left + scroller.clientWidth, whole.right),
    top: Math.max(frame.top, whole.top),
    bottom: Math.min(frame.top + scroller.clientHeight, whole.bottom),
  };
}

/** The divider is a share of what can be seen, so it stays in view when the picture scrolls. */
function moveDivider() {
  if (scroller.hidden) return;
  const { frame, whole, left, right, top, bottom } = visible();
  const x = left + (split.valueAsNumber / 100) * (right - left);
  // Where there is nothing to compare with, all is the result.
  picture.style.setProperty('--cut', `${split.disabled ? 0 : x - whole.left}px`);
  divider.style.left = `${x - frame.left}px`;
  divider.style.top = `${top - frame.top}px`;
  divider.style.height = `${bottom - top}px`;
  split.ariaValueText = `${Math.round(split.valueAsNumber)} % before`;
}

/** @param {PointerEvent} event */
function drag({ pointerId, clientX }) {
  if (!divider.hasPointerCapture(pointerId)) return;
  const { left, right } = visible();
  split.valueAsNumber = (100 * (clientX - left)) / (right - left);
  moveDivider();
}

/** @param {boolean} isActual one pixel of the result on one pixel of the screen */
function zoom(isActual) {
  scroller.classList.toggle('actual', isActual);
  // So that the arrow keys reach all of it.
  scroller.tabIndex = isActual ? 0 : -1;
  fitButton.ariaPressed = String(!isActual);
  actualButton.ariaPressed = String(isActual);
  scroller.scrollTo({
    left: (scroller.scrollWidth - scroller.clientWidth) / 2,
    top: (scroller.scrollHeight - scroller.clientHeight) / 2,
  });
  moveDivider();
}

/** Pixels of the screen for each of the page: they change with the browser's zoom, and from screen to screen. */
function measureScreen() {
  picture.style.setProperty('--screen-pixels', String(devicePixelRatio));
  const same = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
  same.addEventListener('change', measureScreen, { once: true });
  moveDivider();
}

measureScreen();
split.addEventListener('input', moveDivider);
scroller.addEventListener('scroll', moveDivider, { passive: true });
new ResizeObserver(moveDivider).observe(scroller);
divider.addEventListener('pointerdown', (event) => {
  // Else the browser drags what is below it.
  event.preventDefault();
  divider.setPointerCapture(event.pointerId);
});
divider.addEventListener('pointermove', drag);
fitButton.addEventListener('click', () => zoom(false));
actualButton.addEventListener('click', () => zoom(true));
