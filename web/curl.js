/** The command that does the same as the page. */
import { element } from './element.js';
import { toQuery } from './jobs.js';
import { currentKey } from './key.js';

/** @import { Settings } from './jobs.js' */

const command = element('curl', HTMLElement);
const copy = element('copy', HTMLButtonElement);

/** @param {string} text one word of a POSIX shell */
const quote = (text) =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** @param {string} name quoted where curl's -F would read it otherwise */
const formFile = (name) =>
  /^[\w. -]+$/.test(name) ? name : `"${name.replaceAll(/["\\]/g, '\\$&')}"`;

/**
 * @param {string} fileName of the photo
 * @param {Settings} settings
 * @param {string} resultName
 */
export function showCurl(fileName, settings, resultName) {
  const url = new URL(`upscale?${toQuery(settings)}`, document.baseURI);
  command.textContent = [
    `curl -f -F ${quote(`image=@${formFile(fileName)}`)}`,
    // Never the key itself: what is copied ends up in notes and histories.
    ...(currentKey() === null ? [] : ['-H "Authorization: Bearer $KEY"']),
    "-H 'Accept: image/png'",
    quote(url.href),
    `-o ${quote(resultName)}`,
  ].join(' \\\n  ');
}

copy.addEventListener('click', async () => {
  // Safari on macOS does not focus a button that is clicked, and what the button says ends with the focus.
  copy.focus();
  getSelection()?.selectAllChildren(command);
  // Browsers give pages the clipboard over HTTPS and on this machine only; elsewhere the selection is there to copy.
  try {
    await navigator.clipboard.writeText(command.textContent ?? '');
    copy.textContent = 'Copied';
  } catch {
    copy.textContent = 'Selected: copy it';
  }
});
copy.addEventListener('blur', () => {
  copy.textContent = 'Copy';
});
