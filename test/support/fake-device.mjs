// A device process without graphs. What its jobs do, their request id says:
//   busy   never ends; told to stop, it fails at once, but goes on
//   deaf   never ends and does not hear that it is to stop
//   ending ends at once, and with it all that goes on
const goingOn = [];
const deaf = new Set();

process.on('disconnect', () => process.exit(0));
process.on('message', (message) => {
  if (message.type === 'start') process.send({ type: 'ready', models: [] });
  if (message.type === 'abort') {
    const { run, failure } = message;
    if (!deaf.has(run)) process.send({ type: 'failed', run, failure });
  }
  if (message.type !== 'run') return;
  goingOn.push(message.run);
  if (message.data.requestId === 'deaf') deaf.add(message.run);
  if (message.data.requestId !== 'ending') return;
  process.send({ type: 'done', run: message.run, result: {} });
  for (const run of goingOn.splice(0)) process.send({ type: 'over', run });
});
