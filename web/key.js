/** The API key: asked for when the service wants one, kept in this tab's session only. */
import { element } from './element.js';

/** @import { Problem } from './problem.js' */

const storageName = 'pisa-serve.key';
const dialog = element('key-dialog', HTMLDialogElement);
const input = element('key', HTMLInputElement);

export const currentKey = () => sessionStorage.getItem(storageName);

/** @type {Promise<boolean> | undefined} */
let asking;

/**
 * Requests that are refused together ask once.
 * @param {Problem} problem why the service asks
 * @returns {Promise<boolean>} false when the user gave none
 */
export function askForKey(problem) {
  asking ??= ask(problem).finally(() => {
    asking = undefined;
  });
  return asking;
}

/** @param {Problem} problem */
function ask({ title, detail }) {
  element('key-problem', HTMLElement).textContent = `${title}. ${detail}`;
  dialog.returnValue = '';
  input.value = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'given'), { once: true });
  });
}

element('key-form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(storageName, input.value);
  input.value = '';
  dialog.close('given');
});
element('key-dismiss', HTMLButtonElement).addEventListener('click', () => dialog.close());
