/**
 * The health check of the images: ends with 0 when this container's process answers /healthz.
 * `serve` and `api` answer on PORT, `worker` on WORKER_PORT.
 */
const ports = [process.env.PORT || '8080', process.env.WORKER_PORT || '8081'];

// Below the 5 seconds of HEALTHCHECK, so that the reason is printed before the check is killed.
const limitMs = 4000;

const answers = await Promise.allSettled(
  ports.map(async (port) => {
    const url = `http://127.0.0.1:${port}/healthz`;
    const { status } = await fetch(url, { signal: AbortSignal.timeout(limitMs) });
    if (status !== 200) throw new Error(`${url} answers ${status}`);
  }),
);

if (!answers.some(({ status }) => status === 'fulfilled')) {
  for (const { reason } of answers) {
    process.stderr.write(`${reason.cause?.message || reason.message}\n`);
  }
  process.exit(1);
}
