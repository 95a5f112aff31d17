import { describe, expect, test } from 'vitest';
import {
  decodeTold,
  encodeTold,
  eventsSince,
  frame,
  type Told,
  toldBy,
} from '../../../src/api/job-stream-events.ts';
import type { JobSnapshot } from '../../../src/jobs/job-snapshot.ts';
import { jobData } from '../../support/worker.ts';

const id = '00000000-0000-4000-8000-000000000000';
const job = (facts: Partial<JobSnapshot>): JobSnapshot => ({
  id,
  status: 'queued',
  data: jobData(id, Buffer.from('x')),
  createdAt: 1000,
  ...facts,
});
const names = (told: Told | undefined, now: JobSnapshot) =>
  eventsSince(told, now).map(({ name }) => name);

/** The life of a job that is taken twice, as one look after the other finds it. */
const life: [JobSnapshot, string[]][] = [
  [job({ queuePosition: 2 }), ['status', 'queue_position']],
  [job({ queuePosition: 2 }), []],
  [job({ queuePosition: 0 }), ['queue_position']],
  [job({ status: 'processing', startedAt: 2000 }), ['status']],
  [
    job({
      status: 'processing',
      startedAt: 2000,
      progress: { stage: 'encode_latents', fraction: 0.25 },
    }),
    ['progress'],
  ],
  [
    // A look that was overtaken by an event.
    job({
      status: 'processing',
      startedAt: 2000,
      progress: { stage: 'decode_image', fraction: 0 },
    }),
    [],
  ],
  [
    job({
      status: 'processing',
      startedAt: 3000,
      progress: { stage: 'decode_image', fraction: 0 },
    }),
    ['status', 'progress'],
  ],
  [job({ queuePosition: 0 }), ['status', 'queue_position']],
  [job({ status: 'processing', startedAt: 4000 }), ['status']],
  [job({ status: 'failed', startedAt: 4000, completedAt: 5000 }), ['status']],
  [job({ status: 'failed', startedAt: 4000, completedAt: 5000 }), []],
];

test('each change is told once', () => {
  let told: Told | undefined;
  for (const [now, expected] of life) {
    const events = eventsSince(told, now);
    expect(events.map(({ name }) => name)).toEqual(expected);
    told = toldBy(events, told);
  }
});

test('a client that comes back after any event is told the rest, and nothing twice', () => {
  let told: Told | undefined;
  for (const [now] of life) {
    const events = eventsSince(told, now);
    // It left after the first, the second … of these events.
    for (const [count, event] of events.entries()) {
      expect(names(decodeTold(event.id), now)).toEqual(
        events.slice(count + 1).map(({ name }) => name),
      );
    }
    told = toldBy(events, told);
  }
});

describe('an id', () => {
  test.each<[string, Told]>([
    ['queued', { status: 'queued' }],
    ['queued/0', { status: 'queued', queuePosition: 0 }],
    ['processing/2000', { status: 'processing', startedAt: 2000 }],
    [
      'processing/2000/color_fix/0.5',
      { status: 'processing', startedAt: 2000, progress: { stage: 'color_fix', fraction: 0.5 } },
    ],
    ['canceled', { status: 'canceled' }],
  ])('%s says what has been told', (text, told) => {
    expect(encodeTold(told)).toBe(text);
    expect(decodeTold(text)).toEqual(told);
  });

  test.each([undefined, '', '7', 'queue/1', 'processing/1/color_fix/0.5/x', '\u0000', 'a/b/c/d/e'])(
    'that is none of ours (%j) counts as none',
    (text) => {
      expect(decodeTold(text)).toBeUndefined();
    },
  );

  test('with senseless numbers costs only a repetition', () => {
    expect(names(decodeTold('queued/x'), job({ queuePosition: 1 }))).toEqual(['queue_position']);
    expect(names(decodeTold('processing/x'), job({ status: 'processing' }))).toEqual(['status']);
  });
});

test('a frame is one block, whatever the data', () => {
  expect(frame({ name: 'deleted', data: { id: 'a\nb' } })).toBe(
    'event: deleted\ndata: {"id":"a\\nb"}\n\n',
  );
});
