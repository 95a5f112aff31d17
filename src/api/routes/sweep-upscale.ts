/** POST /upscale/{id}/sweep: one sheet of the same image at many dials, labelled. */
import Type from 'typebox';
import type { Config } from '../../config.ts';
import { AppError, expected } from '../../errors.ts';
import { outputSize } from '../../jobs/output-size.ts';
import { maxDial, upscaleQuerySchema } from '../../jobs/params.ts';
import { checkSheet, planSheet, type Sweep } from '../../jobs/sheet.ts';
import { jobResponses } from '../answer-job.ts';
import { answerDerived, answerDerivedProblems } from '../derived-job.ts';
import { jobHeaderSchema } from '../enter-job.ts';
import { jobParamsSchema } from '../find-job.ts';
import { asInSource, derivedJobOptions } from '../job-options.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';
import { refuseBody } from '../upload.ts';

const sheetFormat = 'png';
const sweepDefaults = { pix: '0.5,1,1.5', sem: '0,0.5,1,1.5' };
/** Three decimals are what a label has room for. */
const dial = `([0-${maxDial - 1}](\\.\\d{1,3})?|${maxDial}(\\.0{1,3})?)`;
const dials = `comma-separated numbers from 0 to ${maxDial} with at most three decimals`;
const list = (usual: string, what: string) =>
  Type.Optional(
    Type.String({
      title: dials,
      pattern: `^${dial}(,${dial})*$`,
      maxLength: 1000,
      default: usual,
      description: `${what}: ${dials}.`,
    }),
  );

const { format, quality, colorfix } = upscaleQuerySchema.properties;
const querySchema = Type.Object(
  {
    pix: list(sweepDefaults.pix, 'λ_pix of each column'),
    sem: list(sweepDefaults.sem, 'λ_sem of each row'),
    format,
    quality: asInSource(quality),
    colorfix: asInSource(colorfix),
    ...derivedJobOptions,
  },
  { additionalProperties: false },
);

const schema = {
  operationId: 'sweepUpscale',
  tags: ['upscale'],
  summary: 'The same image at many dials, on one sheet',
  description:
    'Makes a new job whose image is a contact sheet: a column for each `pix`, a row for each `sem`, labelled. It has no body: strength maps are for `adjust`. At most SWEEP_MAX_CELLS cells and MAX_OUTPUT_PIXELS pixels. Answers as `POST /upscale` does; `410` once the image is no longer kept.',
  headers: { type: 'object', properties: jobHeaderSchema },
  params: jobParamsSchema,
  querystring: querySchema,
  response: {
    ...jobResponses,
    ...problemResponses(
      ...answerDerivedProblems,
      // Of a body.
      'unsupported_media_type',
    ),
  },
};

export function sweepUpscale(app: App, services: Services): void {
  const { config } = services;
  app.post('/upscale/:id/sweep', { schema }, (request, reply) => {
    const { query } = request;
    refuseBody(request, 'Dials go into the query, and a sweep takes no strength maps.');
    const sweep = readSweep(query.pix, query.sem, config);
    return answerDerived(services, request, reply, {
      query,
      usual: sheetFormat,
      derive: ({ data }, plan) => {
        const params = {
          ...data.params,
          format: plan.format ?? query.format ?? sheetFormat,
          ...(query.quality ? { quality: query.quality } : {}),
          ...(query.colorfix ? { colorfix: query.colorfix } : {}),
          metadata: 'none' as const,
        };
        const layout = planSheet(outputSize(data.input, params.scale), sweep);
        return {
          asked: { kind: 'sweep', sweep, params },
          check: () => checkSheet(layout, params.format, config.MAX_OUTPUT_PIXELS),
        };
      },
    });
  });
}

/** @throws invalid_parameter */
function readSweep(
  pix = sweepDefaults.pix,
  sem = sweepDefaults.sem,
  { SWEEP_MAX_CELLS }: Pick<Config, 'SWEEP_MAX_CELLS'>,
): Sweep {
  const sweep = { pix: readDials(pix), sem: readDials(sem) };
  const cells = sweep.pix.length * sweep.sem.length;
  if (cells <= SWEEP_MAX_CELLS) return sweep;
  const limit = `at most ${SWEEP_MAX_CELLS} cells (SWEEP_MAX_CELLS)`;
  const detail = expected(limit, 'pix × sem', `${cells} cells`);
  throw new AppError('invalid_parameter', `${detail}.`, {
    errors: [{ pointer: '#/query/pix', detail }],
  });
}

const readDials = (text: string): number[] => text.split(',').map(Number);
