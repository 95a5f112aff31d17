// A device process without graphs. What its jobs do, their request id says:
//   busy   never ends; told to stop, it fails at once, but goes on
//   deaf   never ends and does not hear that it is to stop
//   ending ends at once, and with it all that goes on
//   large  as busy, and the process says that it has grown to two terabytes
//   starved  fails for want of the device's memory
//   broken   finds the device broken
//   doomed   as busy, and finds it broken after the first one that did
//   breaking as busy, and breaks it once it has been told to stop
//   damaged  fails since its model does not open
//   mended   as ending, and its model opens
// With `unusable` as its default model it cannot start, and says so as ONNX Runtime does; with `mute` it says nothing.
const goingOn = [];
const deaf = new Set();
const doomed = [];
const breaking = new Set();

process.on('disconnect', () => process.exit(0));
process.on('message', (message) => {
  if (message.type === 'start') start(message.settings);
  if (message.type === 'abort') {
    const { run, failure } = message;
    if (!deaf.has(run)) process.send({ type: 'failed', run, failure });
    if (breaking.has(run)) fail(run, 'device_lost');
  }
  if (message.type !== 'run') return;
  goingOn.push(message.run);
  if (message.data.requestId === 'deaf') deaf.add(message.run);
  if (message.data.requestId === 'large') {
    process.send({ type: 'heartbeat', residentBytes: 2e12 });
  }
  if (message.data.requestId === 'doomed') doomed.push(message.run);
  if (message.data.requestId === 'breaking') breaking.add(message.run);
  if (message.data.requestId === 'starved') fail(message.run, 'out_of_device_memory');
  if (message.data.requestId === 'broken') {
    for (const run of [message.run, ...doomed]) fail(run, 'device_lost');
  }
  const { model } = message.data.params;
  if (message.data.requestId === 'damaged') {
    process.send({ type: 'unopened', unopened: { model, stamp: '', detail: 'Damaged.' } });
    fail(message.run, 'model_failed');
  }
  if (message.data.requestId === 'mended') {
    process.send({ type: 'model', change: { model, bytes: 1, milliseconds: 1 } });
  }
  if (!['ending', 'mended'].includes(message.data.requestId)) return;
  process.send({ type: 'done', run: message.run, result: {} });
  for (const run of goingOn.splice(0)) process.send({ type: 'over', run });
});

function fail(run, code) {
  process.send({ type: 'failed', run, failure: { code, detail: 'The device says so.' } });
  process.send({ type: 'over', run });
}

function start({ defaultModel }) {
  if (defaultModel === 'mute') return;
  if (defaultModel !== 'unusable') {
    process.send({ type: 'ready' });
    return;
  }
  const at = '2026-11-30 14:15:14.286273077 [E:onnxruntime:, provider_bridge_ort.cc:2146 Create]';
  process.stderr.write(
    `\u001b[1;31m${at} libcublasLt.so.13: cannot open shared object file\u001b[m\n\n`,
  );
  process.stderr.write(`${at} Failed to load shared library\n`);
  const detail = 'The device cannot be used: Failed to load shared library. It needs a GPU.';
  const failure = { code: 'device_unavailable', detail };
  process.send({ type: 'unusable', failure, cause: 'Error: Failed to load' }, () =>
    process.exit(1),
  );
}
