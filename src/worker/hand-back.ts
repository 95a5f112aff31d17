/** The job was not at fault and did not end: it belongs back in the queue, without losing an attempt. */
export class HandBack extends Error {
  override readonly name = 'HandBack';
}
