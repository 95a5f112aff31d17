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
 * @param {{ file: { name: string }, url?: string | undefined }} photo with where it can be fetched, if it is no file of the user's
 * @param {Settings} settings
 * @param {string} resultName
 */
export function showCurl({ file, url: photoUrl }, settings, resultName) {
  const url = new URL(`upscale?${toQuery(settings)}`, document.baseURI);
  const fetched = photoUrl === undefined ? '' : `curl -fO ${quote(photoUrl)} &&\n`;
  const upscaled = [
    `curl -f -F ${quote(`image=@${formFile(file.name)}`)}`,
    // Never the key itself: what is copied ends up in notes and histories.
    ...(currentKey() === null ? [] : ['-H "Authorization: Bearer $KEY"']),
    "-H 'Accept: image/png'",
    quote(url.href),
    `-o ${quote(resultName)}`,
  ].join(' \\\n  ');
  command.textContent = fetched + upscaled;
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
