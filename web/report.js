/** What the page tells in words: how a job stands, what came out, what went wrong. */
import { element } from './element.js';
import { Problem } from './problem.js';

/** @import { Job } from './jobs.js' */

const status = element('status', HTMLElement);
const progress = element('progress', HTMLProgressElement);
const problemBox = element('problem', HTMLElement);
const download = element('download', HTMLAnchorElement);

/** @param {string} text announced by a screen reader, so only what is news */
export function say(text) {
  if (status.textContent !== text) status.textContent = text;
}

/** @param {number | undefined} fraction undefined: nothing is under way; NaN: nobody knows how far */
export function showProgress(fraction) {
  progress.classList.toggle('busy', fraction !== undefined);
  if (Number.isNaN(fraction)) progress.removeAttribute('value');
  else progress.value = fraction ?? 0;
}

/** @param {Job} job */
export function showJob({ status: state, queue_position: position, progress: done }) {
  if (state === 'queued') {
    say(position ? `Waiting in the queue behind ${position} …` : 'Waiting in the queue …');
    showProgress(Number.NaN);
  } else {
    say('Upscaling …');
    showProgress(done?.fraction ?? 0);
  }
}

/**
 * @param {Problem} problem
 * @param {number} seconds
 */
export function showWait({ title, detail }, seconds) {
  say(`${title}. ${detail} Trying again in ${seconds} s …`);
  showProgress(Number.NaN);
}

/** @param {Problem} problem */
export function showLost({ title }) {
  say(`${title}. Trying again …`);
  showProgress(Number.NaN);
}

/** The last of it: the job is done, its picture on the way. */
export function showReceiving() {
  say('Receiving the picture …');
  showProgress(Number.NaN);
}

/** @param {unknown} error */
export function showProblem(error) {
  const { title, detail } =
    error instanceof Problem ? error : { title: 'This page has a fault', detail: String(error) };
  element('problem-title', HTMLElement).textContent = title;
  element('problem-detail', HTMLElement).textContent = detail;
  const isOfThePhoto = error instanceof Problem && error.isOfThePhoto;
  element('again', HTMLButtonElement).hidden = isOfThePhoto;
  element('another', HTMLButtonElement).hidden = !isOfThePhoto;
  problemBox.hidden = false;
}

export function hideProblem() {
  problemBox.hidden = true;
}

/**
 * @param {Job} job
 * @param {{ url: string, fileName: string }} file
 */
export function showResult({ input, output, params, timings_ms: timings }, { url, fileName }) {
  const time = timings ? `${(timings.total / 1000).toFixed(2)} s` : 'none: a stored result';
  facts({
    size: `${input.width} × ${input.height} → ${output?.width} × ${output?.height}`,
    bytes: toKilobytes(output?.bytes ?? 0),
    time,
    'model-name': params.model,
  });
  download.href = url;
  download.download = fileName;
  download.removeAttribute('aria-disabled');
  say(`Done: pix ${params.pix}, sem ${params.sem}.`);
}

export function hideResult() {
  facts({ size: '–', bytes: '–', time: '–', 'model-name': '–' });
  download.removeAttribute('href');
  download.setAttribute('aria-disabled', 'true');
}

/** @param {Record<string, string>} texts by id */
function facts(texts) {
  for (const [id, text] of Object.entries(texts)) element(id, HTMLElement).textContent = text;
}

/** @param {number} bytes */
const toKilobytes = (bytes) => `${Math.round(bytes / 1000).toLocaleString('en')} kB`;
