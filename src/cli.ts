#!/usr/bin/env node
/**
 * Where the program starts: says in a sentence that this Node.js is too old, or loads the rest. Without a static import:
 * those are loaded, and fail on an old Node.js, before the first line runs. In a syntax that old ones can read, too.
 */

/** `engines` of package.json. */
const oldest = '20.19.2';

const needed = oldest.split('.').map(Number);
const given = process.versions.node.split('.').map(Number);
const differing = needed.findIndex((part, index) => part !== given[index]);

if (differing >= 0 && Number(given[differing]) < Number(needed[differing])) {
  process.stderr.write(
    `pisa-serve: Node.js ${oldest} or newer is needed, but this is ${process.version}: install a newer one from https://nodejs.org or your distribution.\n`,
  );
  process.exitCode = 1;
} else {
  import('./command-line.ts');
}
