// A real device process on the CPU that stands in for one of a GPU: the decoder of a job of 8 × 8 pixels breaks the device,
// just when the encoder of a larger one is about to run. What a job keeps never gets into the store.
import path from 'node:path';
import ort from 'onnxruntime-node';

/** Compiled `src/`. */
const build = process.env.TEST_BUILD;
const { FolderStore } = await import(path.join(build, 'storage/folder-store.js'));

const { put } = FolderStore.prototype;
FolderStore.prototype.put = function (key, ...rest) {
  return key.startsWith('output/') ? put.call(this, key, ...rest) : new Promise(() => {});
};

const { run } = ort.InferenceSession.prototype;
let breakIt;
const broken = new Promise((resolve) => {
  breakIt = resolve;
});
let arrive;
const anotherHasCome = new Promise((resolve) => {
  arrive = resolve;
});
let hasJobs = false;

ort.InferenceSession.prototype.run = async function (feeds, ...rest) {
  if (!hasJobs) return run.call(this, feeds, ...rest);
  const isEncoder = 'pixels' in feeds;
  const isDecoder = !isEncoder && !('semantic' in feeds);
  if (isDecoder) {
    await anotherHasCome;
    breakIt();
  } else if (isEncoder && feeds.pixels.dims[3] > 32) {
    arrive();
    await broken;
  } else return run.call(this, feeds, ...rest);
  throw new Error('CUDA failure 700: an illegal memory access was encountered');
};

await import(path.join(build, 'worker/device-process/device-main.js'));
// Not before: a message that came meanwhile would have been heard by this alone.
process.on('message', ({ type }) => {
  hasJobs ||= type === 'run';
});
