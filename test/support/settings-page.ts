/** docs/settings.md, generated from the settings' schema. */
import { settings } from '../../src/config/settings.ts';

export function settingsPage(): string {
  const rows = Object.entries(settings).map(([name, setting]) => {
    const fallback = 'defaultText' in setting ? setting.defaultText : `\`${setting.default}\``;
    return `| \`${name}\` | ${fallback} | ${setting.format} | ${setting.description} |`;
  });
  return `# Settings

All settings are environment variables, read once at start. A value that does not fit ends the start with
one message that names every faulty setting. An empty value counts as unset.

<!-- Generated from src/config/settings.ts by \`make docs\`; a test fails on drift. -->

| setting | default | a valid value | what it does |
|---|---|---|---|
${rows.join('\n')}
`;
}
