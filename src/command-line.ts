/** The command line. Each command lives in `src/commands`; they are loaded when called, so `--help` is quick. */
import { Command, Option } from 'commander';
import { dialOptions, numberIn } from './commands/dial-options.ts';
import { type Config, loadConfig } from './config.ts';
import { AppError } from './errors.ts';
import { description, version } from './package-info.ts';

// ONNX Runtime reports to its makers unless this is set before it is loaded. We call nobody.
process.env.ORT_DISABLE_TELEMETRY = '1';

/** The settings, or a clear end of the process. */
function settingsOrExit(): Config {
  try {
    return loadConfig();
  } catch (error) {
    fail(error);
  }
}

function fail(error: unknown): never {
  const text = error instanceof AppError ? error.message : String((error as Error).stack ?? error);
  process.stderr.write(`pisa-serve: ${text}\n`);
  process.exit(1);
}

const program = new Command('pisa-serve')
  .description(description)
  .version(version)
  .showHelpAfterError('Run with --help to see what is possible.')
  .configureHelp({ sortSubcommands: false })
  .addHelpText(
    'after',
    `
Examples:
  pisa-serve serve                                        the service on http://127.0.0.1:8080
  pisa-serve upscale photo.jpg photo-x4.png --sem 1.2     one photo, no service needed
  pisa-serve upscale 'holiday/*.jpg' out --format webp    many photos

Settings come from environment variables: docs/settings.md lists them.`,
  );

program
  .command('serve')
  .description('API, worker and (unless REDIS_URL is set) a private Redis: all in one')
  .addHelpText('after', '\nAnother model: MODEL=pisa-sr pisa-serve serve (docs/models.md)')
  .action(async () => {
    const { serve } = await import('./commands/serve.ts');
    await serve(settingsOrExit());
  });

program
  .command('api')
  .description('the HTTP API alone; needs REDIS_URL and storage shared with the workers')
  .action(async () => {
    const { serveApi } = await import('./commands/serve.ts');
    await serveApi(settingsOrExit());
  });

program
  .command('worker')
  .description('a worker alone, with one process per device of DEVICES; needs REDIS_URL')
  .action(async () => {
    const { serveWorker } = await import('./commands/serve.ts');
    await serveWorker(settingsOrExit());
  });

const upscale = program
  .command('upscale')
  .description('upscale files on this machine, without queue or service')
  .argument(
    '<input...>',
    'photos, folders or globs, then the output file or folder as the last argument',
  );
for (const option of dialOptions()) upscale.addOption(option);
upscale
  .option('--device <device>', 'cpu, webgpu or cuda:N; default: the first of DEVICES')
  .option('--force', 'replace output files that exist')
  .addOption(
    new Option(
      '--skip-existing',
      'leave out photos whose output file exists, to go on after a run that stopped',
    ).conflicts('force'),
  )
  .action(async (paths: string[], flags) => {
    const output = paths.pop();
    if (output === undefined || paths.length === 0) {
      fail(new AppError('invalid_parameter', 'Name at least one input, then the output.'));
    }
    const config = settingsOrExit();
    const { upscaleFiles } = await import('./commands/upscale.ts');
    const failed = await upscaleFiles(config, paths, output, flags);
    process.exitCode = failed > 0 ? 1 : 0;
  });

const models = program.command('models').description('list the model bundles of MODELS_DIR');
models.action(async () => {
  const { listModels } = await import('./commands/models.ts');
  await listModels(settingsOrExit());
});
models
  .command('verify')
  .description('check manifests and sha256 of bundles')
  .argument('[name...]', 'bundles; default: all')
  .action(async (names: string[]) => {
    const { verifyModels } = await import('./commands/models.ts');
    process.exitCode = (await verifyModels(settingsOrExit(), names)) > 0 ? 1 : 0;
  });

models
  .command('add')
  .description('add a bundle to MODELS_DIR, checked and whole or not at all (docs/models.md)')
  .argument('<from>', 'folder with manifest.json and its graphs, or the https:// URL of one')
  .option('--replace', 'replace another bundle of this name')
  .option(
    '--sha256 <hex>',
    'take only this bundle, by its sha256 as `models` and GET /models show it; fetch nothing where it is',
  )
  .option('--plain-http', 'also take http:// URLs of other machines')
  .action(async (from: string, flags) => {
    const { addModel } = await import('./commands/add-model/add-model.ts');
    await addModel(settingsOrExit(), from, flags, console.log);
  });
models
  .command('remove')
  .description('remove a bundle from MODELS_DIR')
  .argument('<name>')
  .action(async (name: string) => {
    const { removeModel } = await import('./commands/remove-model.ts');
    await removeModel(settingsOrExit(), name);
  });

const keys = program.command('keys').description('API keys of the service (docs/api-keys.md)');
keys
  .command('create')
  .description('make a key, print it, and add its digest to a file for API_KEYS_FILE')
  .argument(
    '<name>',
    'of the client: a-z, 0-9, dot, dash; a second key of a name is the same client',
  )
  .requiredOption('--file <file>', 'the key file; made if it is not there')
  .option('--requests-per-minute <n>', 'default: the setting', numberIn(0, 1_000_000, true))
  .option('--concurrent-jobs <n>', 'default: the setting', numberIn(0, 100_000, true))
  .action(async (name: string, { file, ...limits }) => {
    if (!/^[a-z0-9][a-z0-9._-]{0,63}$/.test(name)) {
      fail(new AppError('invalid_parameter', `Not a name for a client: ${name}`));
    }
    const { createKey } = await import('./commands/keys.ts');
    await createKey(name, file, limits);
  });
keys
  .command('webhook-secret')
  .description('print what a client verifies its webhooks with (docs/webhooks.md)')
  .argument('<name>', 'of the client, as in API_KEYS_FILE')
  .action(async (name: string) => {
    const { printWebhookSecret } = await import('./commands/keys.ts');
    await printWebhookSecret(name, settingsOrExit());
  });

program.parseAsync().catch(fail);
