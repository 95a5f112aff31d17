/** The playground: from a photo and the dials to the picture. Read from here. */
import { showAfter, showBefore } from './compare.js';
import { showCurl } from './curl.js';
import {
  areEqual,
  lowerScale,
  offerModels,
  readSettings,
  restoreScale,
  watchDials,
} from './dials.js';
import { element } from './element.js';
import { abandon, adjust, follow, listModels, readResult, upscale } from './jobs.js';
import { watchPhotoInput } from './photo-input.js';
import { fittingScale, Problem, Unreachable } from './problem.js';
import * as report from './report.js';

/** @import { Job, Settings } from './jobs.js' */

/**
 * @typedef {object} Photo
 * @property {File} file
 * @property {string | undefined} [url] where everybody can fetch it, if it is the sample
 * @property {string} [source] id of the job that has kept what every other position of the dials is made from
 * @property {{ settings: Settings, job: Job }} [accepted] what was asked for last, until its picture is there
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
/** The button starts again what was canceled. */
let isCanceled = false;
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
  if (busy) isCanceled = false;
  cancel.textContent = isCanceled ? 'Start again' : 'Cancel';
  // Not `disabled`: it would take the focus from who has just used it.
  cancel.ariaDisabled = String(!busy && !isCanceled);
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
    const job = await finish(wanted, settings, signal);
    wanted.source ??= job.id;
    await show(wanted, settings, job, signal);
    delete wanted.accepted;
  } catch (error) {
    asked = undefined;
    // Of a service that is out of reach nobody knows: the job may go on there, and is looked for first.
    if (!(error instanceof Unreachable)) delete wanted.accepted;
    if (!signal.aborted) answerFault(wanted, settings, error);
  }
  // The dials were moved while a first job of the photo ran; an adjust would have been stopped.
  if (asked && !signal.aborted && !areEqual(settings, readSettings())) start();
}

/**
 * A photo that is too large for the scale gets the largest that it can have.
 * @param {Photo} wanted
 * @param {Settings} settings
 * @param {unknown} error
 */
function answerFault(wanted, settings, error) {
  const fitting = fittingScale(error);
  if (fitting !== undefined && fitting < Number(settings.scale)) {
    lowerScale(fitting);
    startAnew(wanted);
    return;
  }
  report.say('');
  report.showProblem(error);
}

/**
 * What a photo has kept is of one scale and one model.
 * @param {Photo | undefined} wanted
 */
function startAnew(wanted) {
  updateCurl();
  if (!wanted) return;
  delete wanted.source;
  start();
}

/**
 * @param {Photo} wanted
 * @param {Settings} settings
 * @param {AbortSignal} signal
 * @returns {Promise<Job>} one that has succeeded
 */
async function finish(wanted, settings, signal) {
  /** @param {Job} job */
  const keep = (job) => {
    wanted.accepted = { settings, job };
    return job;
  };
  /** @param {Job} job */
  const toItsEnd = async (job) =>
    keep(await follow(keep(job), { signal, ...staying, onChange: report.showJob }));
  const { accepted } = wanted;
  if (accepted && areEqual(accepted.settings, settings)) {
    try {
      return await toItsEnd(accepted.job);
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  } else await forget(wanted);
  return toItsEnd(await accept(wanted, settings, signal));
}

/**
 * Of a job that was accepted before the service was out of reach, and whose picture nobody will look at.
 * @param {Photo} wanted
 */
async function forget(wanted) {
  const { accepted } = wanted;
  delete wanted.accepted;
  if (accepted) await abandon(accepted.job);
}

/** @param {unknown} error */
const isGone = (error) => error instanceof Problem && [404, 410].includes(error.status);

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
      if (!isGone(error)) throw error;
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
  const result = await readResult(job.id, { signal, ...staying, onReceive });
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
const resultName = (name, { pix, sem, scale }) =>
  `${name.replace(/\.[^.]*$/, '')}-x${scale}-pix${pix}-sem${sem}.png`;

function updateCurl() {
  const shown = photo ?? { file: { name: 'photo.jpg' } };
  const settings = readSettings();
  showCurl(shown, settings, resultName(shown.file.name, settings));
}

function loadModels() {
  listModels().then((models) => {
    offerModels(models);
    updateCurl();
  }, report.showProblem);
}

/**
 * @param {File} file
 * @param {string} [url]
 */
async function takePhoto(file, url) {
  stop();
  const [before, wanted] = [photo, { file, url }];
  photo = wanted;
  if (before) running = running.then(() => forget(before));
  report.hideResult();
  report.say('Opening the photo …');
  restoreScale();
  updateCurl();
  await showBefore(file, Number(readSettings().scale), () => photo === wanted);
  if (photo === wanted) start();
}

watchPhotoInput({ onPhoto: takePhoto, onFault: report.showProblem });
watchDials({
  onMove: updateCurl,
  onSettled: () => {
    if (asked && areEqual(asked, readSettings())) return;
    // The first job of a photo goes on: what it keeps, this position is made from too.
    const isFirst = busy && !busy.aborted && !photo?.source;
    if (!isFirst) start();
  },
  onChoice: () => startAnew(photo),
});
cancel.addEventListener('click', () => {
  if (!busy) {
    if (isCanceled) start();
    return;
  }
  isCanceled = true;
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
