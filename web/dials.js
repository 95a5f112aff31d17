/** The two dials and the model. */
import { element } from './element.js';

/** @import { Settings } from './jobs.js' */

/** Between the last step of a dial and the request. */
const settleMs = 200;

const pix = element('pix', HTMLInputElement);
const sem = element('sem', HTMLInputElement);
const model = element('model', HTMLSelectElement);

/** @returns {Settings} */
export const readSettings = () => ({
  pix: pix.value,
  sem: sem.value,
  ...(model.value ? { model: model.value } : {}),
});

/**
 * @param {Settings} a
 * @param {Settings} b
 */
export const areEqual = (a, b) => a.pix === b.pix && a.sem === b.sem && a.model === b.model;

/** @param {{ onMove: () => void, onSettled: () => void, onModel: () => void }} handlers */
export function watchDials({ onMove, onSettled, onModel }) {
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
  model.addEventListener('change', onModel);
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
