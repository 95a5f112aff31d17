/** What `metadata=keep` changes in a packet of XMP (ISO 16684-1). It is edited as text, for most of it must stay as it is. */

/** Of the properties that this service writes. */
const ownNamespace = 'urn:pisa-serve:xmp/1.0/';

/**
 * Their properties speak of other bytes of the input's file, which the output does not have: a gain map, the film of a
 * motion photo, an extended packet; the last are of an earlier run of this service.
 */
const claimNamespaces = new Set([
  'http://ns.adobe.com/hdr-gain-map/1.0/',
  'http://ns.google.com/photos/1.0/camera/',
  'http://ns.google.com/photos/1.0/container/',
  'http://ns.google.com/photos/1.0/container/item/',
  'http://ns.adobe.com/xmp/note/',
  ownNamespace,
]);

/** The prefixes that a packet gives to the namespaces above. */
function claimPrefixes(packet: string): string[] {
  const declarations = packet.matchAll(/xmlns:([\w-]+)\s*=\s*["']([^"']*)["']/g);
  const claims = [...declarations].filter(([, , uri]) => claimNamespaces.has(uri ?? ''));
  return [...new Set(claims.map(([, name]) => name as string))];
}

/**
 * Without the elements and attributes of the claims. What it cannot take out cleanly (an unbalanced element, a value that
 * has `>` in it) it does not guess at: then nothing is left.
 */
function withoutClaims(packet: string): string | undefined {
  const prefixes = claimPrefixes(packet);
  if (prefixes.length === 0) return packet;
  const names = `(?:${prefixes.join('|')}):[\\w.-]+`;
  const element = new RegExp(`^</?${names}[\\s/>]`);
  const attributes = new RegExp(`\\s${names}\\s*=\\s*(?:"[^"]*"|'[^']*')`, 'g');
  let depth = 0;
  const parts: string[] = [];
  // Tags and the text between them, in turn.
  for (const part of packet.split(/(<[^<>]*>)/)) {
    if (!element.test(part)) {
      if (depth === 0) parts.push(part.startsWith('<') ? part.replace(attributes, '') : part);
    } else if (part.startsWith('</')) depth--;
    else if (!part.endsWith('/>')) depth++;
  }
  const left = parts.join('');
  const isClean = depth === 0 && !new RegExp(`[\\s</]${names}`).test(left);
  return isClean ? left : undefined;
}

const upright = (packet: string): string =>
  packet.replace(/(tiff:Orientation(?:\s*=\s*["']|\s*>\s*))\d/g, '$11');

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (sign) => escapes[sign] as string);

const emptyPacket =
  '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta><?xpacket end="w"?>';

const rdfEnd = '</rdf:RDF>';

/** As the last description of the packet, or nowhere in one that has another form. */
function withProperties(packet: string, properties: Readonly<Record<string, string>>): string {
  const end = packet.lastIndexOf(rdfEnd);
  if (end < 0) return packet;
  const attributes = Object.entries(properties).map(
    ([name, text]) => ` pisa:${name}="${escaped(text)}"`,
  );
  const description = `<rdf:Description rdf:about="" xmlns:pisa="${ownNamespace}"${attributes.join('')}/>`;
  return packet.slice(0, end) + description + packet.slice(end);
}

/** True when the photo has its caption here. */
export const hasXmpCaption = (xmp: Buffer): boolean => xmp.includes('dc:description');

/**
 * @param xmp of the input
 * @param properties to add in the namespace `urn:pisa-serve:xmp/1.0/`
 * @returns that of the output: upright, without claims about other parts of the input's file
 */
export function outputXmp(
  xmp: Buffer | undefined,
  properties: Readonly<Record<string, string>>,
): Buffer | undefined {
  const kept = xmp && withoutClaims(upright(xmp.toString('utf8')));
  if (Object.keys(properties).length === 0)
    return kept === undefined ? undefined : Buffer.from(kept);
  return Buffer.from(withProperties(kept ?? emptyPacket, properties));
}
