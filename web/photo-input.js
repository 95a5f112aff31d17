/** How a photo comes in: chosen, dropped anywhere on the page, pasted, or the sample of the service. */
import { element } from './element.js';
import { request } from './request.js';

const sampleUrl = new URL('playground/sample.jpg', document.baseURI).href;

/**
 * @param {object} handlers
 * @param {(file: File, url?: string) => void} handlers.onPhoto with where it can be fetched, if it is the sample
 * @param {(error: unknown) => void} handlers.onFault the sample could not be fetched
 */
export function watchPhotoInput({ onPhoto, onFault }) {
  const input = element('file', HTMLInputElement);
  const stage = element('stage', HTMLElement);
  let newest = 0;
  /** @param {File} file */
  const take = (file) => {
    newest += 1;
    onPhoto(file);
  };
  const takeChosen = () => {
    const file = input.files?.[0];
    if (file) take(file);
    // So that the same file, mended, can be chosen again.
    input.value = '';
  };
  input.addEventListener('change', takeChosen);
  // Chosen while this script was still on its way.
  takeChosen();

  element('sample', HTMLButtonElement).addEventListener('click', async () => {
    newest += 1;
    const mine = newest;
    try {
      const bytes = await (await request(sampleUrl)).blob();
      // Another photo may have come meanwhile.
      if (newest !== mine) return;
      // The button goes with the first picture, and must not take the focus with it.
      input.focus();
      onPhoto(new File([bytes], 'sample.jpg', { type: 'image/jpeg' }), sampleUrl);
    } catch (error) {
      if (newest === mine) onFault(error);
    }
  });

  element('another', HTMLButtonElement).addEventListener('click', () => input.click());

  document.addEventListener('dragover', (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    stage.classList.add('target');
  });
  document.addEventListener('dragleave', (event) => {
    // Leaving an element for another one is no end of the drag.
    if (event.relatedTarget === null) stage.classList.remove('target');
  });
  document.addEventListener('drop', (event) => {
    stage.classList.remove('target');
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault();
    take(file);
  });

  document.addEventListener('paste', (event) => {
    const file = event.clipboardData?.files[0];
    if (file) take(file);
  });
}
