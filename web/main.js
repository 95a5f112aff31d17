/** The playground: from a photo and the dials to the picture. Read from here. */
import { showAfter, showBefore } from './compare.js';
import { showCurl } from './curl.js';
import { areEqual, offerModels, readSettings, watchDials } from './dials.js';
import { element } from './element.js';
import { adjust, follow, listModels, readResult, upscale } from './jobs.js';
import { watchPhotoInput } from './photo-input.js';
import { Problem, Unreachable } from './problem.js';
import * as report from './report.js';

/** @import { Job, Settings } from './jobs.js' */

/**
 * @typedef {object} Photo
 * @property {File} file
 * @property {string} [source] id of the job that has kept what every other position of the dials is made from
 * @property {{ settings: Settings, job: Job }} [unread] has succeeded, but its picture did not come through
 */

/** @type {Photo | undefined} */
let photo;
let current = new AbortController();
/**
 * Of what is under way, or waits until what was asked for before has been canceled.
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
const staying = { onWait: report.showWait, onLost: report.showLost };

/** Asks for the picture of the dials as they stand; what was asked for before is outdated. */
function start() {
  stop();
  if (!photo) return;
  const { signal } = current;
  setBusy(signal);
  running = running.then(() => run(signal));
}

/** @param {AbortSignal} signal */
async function run(signal) {
  if (photo && !signal.aborted) await make(photo, signal);
  // Another one may have been asked for meanwhile.
  if (busy !== signal) return;
  setBusy(undefined);
  report.showProgress(undefined);
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
  report.hideProblem();
  report.showProgress(Number.NaN);
  try {
    const job = takeUnread(wanted, settings) ?? (await finish(wanted, settings, signal));
    wanted.source ??= job.id;
    await show(wanted, settings, job, signal);
  } catch (error) {
    asked = undefined;
    if (!signal.aborted) {
      report.say('');
      report.showProblem(error);
    }
  }
  // The dials were moved while a first job of the photo ran; an adjust would have been stopped.
  if (asked && !signal.aborted && !areEqual(settings, readSettings())) start();
}

/**
 * Once: where it still does not come through, it is kept again.
 * @param {Photo} wanted
 * @param {Settings} settings
 */
function takeUnread(wanted, settings) {
  const { unread } = wanted;
  delete wanted.unread;
  return unread && areEqual(unread.settings, settings) ? unread.job : undefined;
}

/**
 * @param {Photo} wanted
 * @param {Settings} settings
 * @param {AbortSignal} signal
 */
async function finish(wanted, settings, signal) {
  const accepted = await accept(wanted, settings, signal);
  return follow(accepted, { signal, ...staying, onChange: report.showJob });
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
  const onReceive = report.showReceiving;
  const result = await readResult(job.id, { signal, ...staying, onReceive }).catch((error) => {
    if (error instanceof Unreachable) wanted.unread = { settings, job };
    throw error;
  });
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
let wasBusy = false;
addEventListener('pagehide', () => {
  wasBusy = busy !== undefined && !busy.aborted;
  stop();
});
addEventListener('pageshow', ({ persisted }) => {
  // Back from the browser's cache of pages, where nothing has gone on.
  if (persisted && wasBusy) start();
});

updateCurl();
loadModels();
