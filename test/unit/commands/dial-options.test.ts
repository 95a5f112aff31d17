/** The options of `pisa-serve upscale` are those of the schema. */
import { Command } from 'commander';
import { expect, test } from 'vitest';
import { dialOptions } from '../../../src/commands/dial-options.ts';
import {
  outputFormats,
  resolveParams,
  upscaleDefaults,
  upscaleQuerySchema,
} from '../../../src/jobs/params.ts';

function parse(...args: string[]): Record<string, unknown> {
  const command = new Command().exitOverride().configureOutput({ writeErr: () => {} });
  for (const option of dialOptions()) command.addOption(option);
  return command.parse(args, { from: 'user' }).opts();
}

test('there is one for each dial', () => {
  const names = dialOptions().map((option) => option.attributeName());
  expect(names).toEqual(Object.keys(upscaleQuerySchema.properties));
});

test('the defaults are those of a request, but the ending of the output names its format', () => {
  const { format, ...others } = upscaleDefaults;
  expect(parse()).toEqual(others);
  expect(resolveParams({}, 'any')).toEqual({ ...others, format, model: 'any' });
});

test.each([
  ['--pix', '2', '2.01', /number from 0 to 2\./],
  ['--scale', '1', '0.9', /number from 1 to 4\./],
  ['--quality', '100', '90.5', /whole number from 1 to 100\./],
  ['--sem', '0', '', /number from 0 to 2\./],
  ['--format', 'avif', 'tiff', /Allowed choices are png, jpeg, webp, avif\./],
  ['--colorfix', 'none', 'most', /Allowed choices are adain, wavelet, none\./],
  ['--metadata', 'keep', 'all', /Allowed choices are none, keep\./],
])('%s takes %s, and not "%s"', (flag, taken, refused, words) => {
  expect(Object.values(parse(flag, taken)).map(String)).toContain(taken);
  expect(() => parse(flag, refused)).toThrow(words);
});

test('help tells ranges, choices and defaults', () => {
  const command = new Command();
  for (const option of dialOptions()) command.addOption(option);
  const help = command.helpInformation().replaceAll(/\s+/g, ' ');
  expect(help).toContain('--quality <n> quality of jpeg, webp, avif, 1 to 100 (default: 90)');
  expect(help).toContain(`(choices: ${outputFormats.map((name) => `"${name}"`).join(', ')})`);
});
