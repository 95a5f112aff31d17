// A real device process that never ends its warm-up.
import path from 'node:path';
import ort from 'onnxruntime-node';

ort.InferenceSession.prototype.run = () => new Promise(() => {});

await import(path.join(process.env.TEST_BUILD, 'worker/device-process/device-main.js'));
