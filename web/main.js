/** The playground: from a photo and the dials to the picture. Read from here. */
import { showAfter, showBefore } from './compare.js';
import { showCurl } from './curl.js';
import { areEqual, offerModels, readSettings, watchDials } from './dials.js';
import { element } from './element.js';
import { adjust, follow, listModels, readResult, upscale } from './jobs.js';
import { watchPhotoInput } from './photo-input.js';
import { Problem } from './problem.js';
import * as report from './report.js';

/** @import { Job, Settings } from './jobs.js' */

/**
 * @typedef {object} Photo
 * @property {File} file
 * @property {string} [source] id of the job that has kept what every other position of the dials is made from
 */

/** @type {Photo | undefined} */
let photo;
let current = new AbortController();
/**
 * Of what is under way.
 * @type {AbortSignal | undefined}
 */
let busy;
/**
 * What is under way or shown; undefined once it has failed.
 * @type {Settings | undefined}
 */
let asked;
/** Ends when what was asked for before has been canceled. */
let running = Promise.resolve();
const cancel = element('cancel', HTMLButtonElement);

/** Asks for the picture of the dials as they stand; what was asked for before is outdated. */
function start() {
  stop();
  const { signal } = current;
  running = running.then(() => (photo && !signal.aborted ? make(photo, signal) : undefined));
}

function stop() {
  current.abort();
  current = new AbortController();
}

/** @param {AbortSignal | undefined} signal */
function setBusy(signal) {
  busy = signal;
  // Not `disabled`: it would take the focus from who has just used it.
  cancel.ariaDisabled = String(!busy);
}

/**
 * @param {Photo} wanted
 * @param {AbortSignal} signal
 */
async function make(wanted, signal) {
  const settings = readSettings();
  asked = settings;
  setBusy(signal);
  report.hideProblem();
  report.showProgress(Number.NaN);
  try {
    const accepted = await accept(wanted, settings, signal);
    const job = await follow(accepted, { signal, onChange: report.showJob });
    wanted.source ??= job.id;
    await show(wanted, settings, job, signal);
  } catch (error) {
    asked = undefined;
    if (!signal.aborted) {
      report.say('');
      report.showProblem(error);
    }
  }
  setBusy(undefined);
  report.showProgress(undefined);
  // The dials were moved while a first job of the photo ran; an adjust would have been stopped.
  if (asked && !signal.aborted && !areEqual(settings, readSettings())) start();
}

/**
 * From the kept latents if there are any; a photo of which nothing is kept any more is sent again.
 * @param {Photo} wanted
 * @param {Settings} settings
 * @param {AbortSignal} signal
 * @returns {Promise<Job>}
 */
async function accept(wanted, settings, signal) {
  const waiting = { signal, onWait: report.showWait };
  if (wanted.source) {
    try {
      return await adjust(wanted.source, settings, waiting);
    } catch (error) {
      if (!(error instanceof Problem && [404, 410].includes(error.status))) throw error;
      delete wanted.source;
    }
  }
  report.say('Sending the photo …');
  return upscale(wanted.file, settings, waiting);
}

/**
 * @param {Photo} wanted
 * @param {Settings} settings
 * @param {Job} job
 * @param {AbortSignal} signal
 */
async function show(wanted, settings, job, signal) {
  const result = await readResult(job.id, { signal, onWait: report.showWait });
  if (!job.output) return;
  const url = await showAfter(result, job.output, () => photo === wanted);
  if (url === undefined) return;
  if (url === '') {
    throw new Problem({
      title: 'This browser cannot show the result',
      detail: 'It may be too large for it. The curl command fetches it.',
    });
  }
  report.showResult(job, { url, fileName: resultName(wanted.file.name, settings) });
}

/**
 * @param {string} name of the photo
 * @param {Settings} settings
 */
const resultName = (name, { pix, sem }) =>
  `${name.replace(/\.[^.]*$/, '')}-x4-pix${pix}-sem${sem}.png`;

function updateCurl() {
  const name = photo?.file.name ?? 'photo.jpg';
  const settings = readSettings();
  showCurl(name, settings, resultName(name, settings));
}

function loadModels() {
  listModels().then((models) => {
    offerModels(models);
    updateCurl();
  }, report.showProblem);
}

watchPhotoInput(async (file) => {
  stop();
  const wanted = { file };
  photo = wanted;
  report.hideResult();
  updateCurl();
  await showBefore(file, () => photo === wanted);
  if (photo === wanted) start();
});
watchDials({
  onMove: updateCurl,
  onSettled: () => {
    if (asked && areEqual(asked, readSettings())) return;
    // The first job of a photo goes on: what it keeps, this position is made from too.
    const isFirst = busy && !busy.aborted && !photo?.source;
    if (!isFirst) start();
  },
  onModel: () => {
    updateCurl();
    if (!photo) return;
    delete photo.source;
    start();
  },
});
cancel.addEventListener('click', () => {
  if (!busy) return;
  stop();
  report.say('Canceled.');
});
element('again', HTMLButtonElement).addEventListener('click', () => {
  report.hideProblem();
  loadModels();
  start();
});
addEventListener('pagehide', stop);
addEventListener('pageshow', ({ persisted }) => {
  // Back from the browser's cache of pages, where nothing has gone on.
  if (persisted) start();
});

updateCurl();
loadModels();
