/** The two dials, the scale and the model. */
import { element } from './element.js';

/** @import { Settings } from './jobs.js' */

/** Between the last step of a dial and the request. */
const settleMs = 200;

const pix = element('pix', HTMLInputElement);
const sem = element('sem', HTMLInputElement);
const scale = element('scale', HTMLSelectElement);
const model = element('model', HTMLSelectElement);

/** The choice of a photo that is too large for what was chosen, and what that was. */
const lowered = { option: new Option(), before: '' };

/** @returns {Settings} */
export const readSettings = () => ({
  pix: pix.value,
  sem: sem.value,
  scale: scale.value,
  ...(model.value ? { model: model.value } : {}),
});

/**
 * @param {Settings} a
 * @param {Settings} b
 */
export const areEqual = (a, b) =>
  a.pix === b.pix && a.sem === b.sem && a.scale === b.scale && a.model === b.model;

/** @param {{ onMove: () => void, onSettled: () => void, onChoice: () => void }} handlers onChoice: of scale or model */
export function watchDials({ onMove, onSettled, onChoice }) {
  /** @type {number | undefined} */
  let timer;
  for (const dial of [pix, sem]) {
    const value = element(`${dial.id}-value`, HTMLOutputElement);
    dial.addEventListener('input', () => {
      value.textContent = dial.valueAsNumber.toFixed(1);
      onMove();
      clearTimeout(timer);
      timer = setTimeout(onSettled, settleMs);
    });
  }
  for (const choice of [scale, model]) choice.addEventListener('change', onChoice);
}

/**
 * Chooses the largest scale that this photo can have; larger ones cannot be chosen until there is another photo.
 * @param {number} fitting
 */
export function lowerScale(fitting) {
  restoreScale();
  lowered.before = scale.value;
  lowered.option = new Option(`×${fitting} (largest)`, String(fitting));
  for (const option of scale.options) option.disabled = Number(option.value) > fitting;
  // Largest first.
  scale.add(lowered.option, [...scale.options].find(({ disabled }) => !disabled) ?? null);
  scale.value = lowered.option.value;
}

/** All can be chosen again; what was, is, unless another choice was made meanwhile. */
export function restoreScale() {
  for (const option of scale.options) option.disabled = false;
  const isChosen = lowered.option.selected && lowered.option.isConnected;
  lowered.option.remove();
  if (isChosen) scale.value = lowered.before;
}

/**
 * One model is no choice: nothing is shown then, and no request names it.
 * @param {{ name: string, default: boolean, available: boolean }[]} models
 */
export function offerModels(models) {
  if (models.length < 2) return;
  const options = models.map(({ name, default: isDefault, available }) => {
    const option = new Option(name, name, isDefault, isDefault);
    option.disabled = !available;
    return option;
  });
  const chosen = model.value;
  model.replaceChildren(...options);
  // They may be asked for again after a fault: what was chosen stays.
  if (options.some(({ value, disabled }) => value === chosen && !disabled)) model.value = chosen;
  model.hidden = false;
  element('model-name', HTMLElement).hidden = true;
}
