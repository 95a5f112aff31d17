/** How a photo comes in: chosen, dropped anywhere on the page, or pasted. */
import { element } from './element.js';

/** @param {(file: File) => void} onPhoto */
export function watchPhotoInput(onPhoto) {
  const input = element('file', HTMLInputElement);
  const stage = element('stage', HTMLElement);
  const takeChosen = () => {
    const file = input.files?.[0];
    if (file) onPhoto(file);
    // So that the same file, mended, can be chosen again.
    input.value = '';
  };
  input.addEventListener('change', takeChosen);
  // Chosen while this script was still on its way.
  takeChosen();

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
    onPhoto(file);
  });

  document.addEventListener('paste', (event) => {
    const file = event.clipboardData?.files[0];
    if (file) onPhoto(file);
  });
}
