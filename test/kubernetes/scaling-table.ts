/** How pods followed a queue, from samples of both. */

export interface Sample {
  /** Since the start. */
  seconds: number;
  /** That wait or run. */
  jobs: number;
  /** Pods that the chart's formula gives for them. */
  wanted: number;
  /** Pods that the Deployment shall have. */
  pods: number;
}

/** A time at which more pods were wanted than were there. */
export interface Step {
  seconds: number;
  pods: number;
  wanted: number;
  /** Whether there were as many then, or as many as were still wanted. */
  reached: boolean;
  /** Until that. */
  tookSeconds: number;
}

/** Each rise of the wish above what was there, and how long it took to be met. */
export function followed(samples: Sample[]): Step[] {
  const steps: Step[] = [];
  let step: Step | undefined;
  for (const { seconds, wanted, pods } of samples) {
    if (step) {
      // A wish that has become smaller is met by less.
      step.wanted = Math.min(step.wanted, Math.max(wanted, step.pods));
      step.tookSeconds = seconds - step.seconds;
      step.reached = pods >= step.wanted;
      if (step.reached) step = undefined;
    }
    if (!step && wanted > pods) {
      step = { seconds, pods, wanted, reached: false, tookSeconds: 0 };
      steps.push(step);
    }
  }
  return steps;
}

/** Seconds from when no more than so many pods were wanted, for good, until there were no more. */
function settledSeconds(samples: Sample[], most: number): number {
  const since = samples.findLast(({ wanted }) => wanted > most)?.seconds ?? 0;
  const until = samples.findLast(({ pods }) => pods > most)?.seconds ?? 0;
  return until - since;
}

/** As Markdown. */
export function scalingTable(samples: Sample[], facts: Record<string, number>): string {
  const every = 5;
  const rows = samples.filter(
    ({ seconds }, index) =>
      Math.floor(seconds / every) !== Math.floor((samples[index - 1]?.seconds ?? -1) / every),
  );
  return [
    '',
    ...Object.entries(facts).map(([name, value]) => `${name}: ${value}`),
    `seconds from when one was enough to one: ${settledSeconds(samples, 1).toFixed(1)}`,
    `seconds from the last job to none: ${settledSeconds(samples, 0).toFixed(1)}`,
    '',
    '| from pods | to pods | seconds |',
    '|---|---|---|',
    ...followed(samples).map(
      ({ pods, wanted, tookSeconds }) => `| ${pods} | ${wanted} | ${tookSeconds.toFixed(1)} |`,
    ),
    '',
    '| second | jobs | pods wanted | pods |',
    '|---|---|---|---|',
    ...rows.map(
      ({ seconds, jobs, wanted, pods }) =>
        `| ${seconds.toFixed(0)} | ${jobs} | ${wanted} | ${pods} |`,
    ),
    '',
  ].join('\n');
}
