/** Certificates for programs of a test on loopback, by openssl. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const openssl = (...args: string[]) => {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
};

/** A pair of keys for signing: the private one, in PEM. */
export const makeKey = (file: string): void => openssl('genrsa', '-out', file, '2048');

export interface Authority {
  /** Its certificate. */
  readonly file: string;
  /** Makes `tls.crt` and `tls.key`, for servers and clients, and puts `ca.crt` beside them. */
  issue(folder: string, commonName: string, dnsNames?: string[]): void;
}

/** A private authority, which lives as long as its folder. */
export function makeAuthority(folder: string): Authority {
  mkdirSync(folder, { recursive: true });
  const [file, key] = [path.join(folder, 'ca.crt'), path.join(folder, 'ca.key')];
  const subject = ['-subj', '/CN=test-authority'];
  openssl(
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    key,
    '-out',
    file,
    ...subject,
  );
  return {
    file,
    issue: (into, commonName, dnsNames = []) => {
      mkdirSync(into, { recursive: true });
      const at = (name: string) => path.join(into, name);
      const names = ['DNS:localhost', 'IP:127.0.0.1', ...dnsNames.map((name) => `DNS:${name}`)];
      writeFileSync(
        at('extensions'),
        `subjectAltName=${names}\nextendedKeyUsage=serverAuth,clientAuth\n`,
      );
      const request = [
        '-keyout',
        at('tls.key'),
        '-out',
        at('request'),
        '-subj',
        `/CN=${commonName}`,
      ];
      openssl('req', '-newkey', 'rsa:2048', '-nodes', ...request);
      const authority = ['-CA', file, '-CAkey', key, '-CAcreateserial', '-days', '2'];
      const output = ['-extfile', at('extensions'), '-out', at('tls.crt')];
      openssl('x509', '-req', '-in', at('request'), ...authority, ...output);
      openssl('x509', '-in', file, '-out', at('ca.crt'));
    },
  };
}
