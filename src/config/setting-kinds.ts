/** Kinds of settings: how the text of an environment variable becomes a value. `settings.ts` is the table of them. */

/** What the docs and a fault message say of a setting, and its value when it is not set. */
interface Described<T> {
  default: T;
  /** How the default reads in the docs, where it is not the value itself. */
  defaultText?: string;
  /** What a valid value looks like; part of the fault message. */
  format: string;
  description: string;
  /** A secret: a faulty value is not repeated in the fault message. */
  secret?: true;
}

export interface Setting<T> extends Described<T> {
  /** The value, or undefined when the text does not fit `format`. */
  parse: (text: string) => T | undefined;
}

/** A whole number from `min` to `max`. */
export const integer = (
  min: number,
  max: number,
  value: number,
  description: string,
  defaultText?: string,
): Setting<number> => ({
  default: value,
  ...(defaultText ? { defaultText } : {}),
  format: `a whole number from ${min} to ${max}`,
  description,
  parse: (text) => {
    const parsed = Number(text);
    return Number.isInteger(parsed) && parsed >= min && parsed <= max && text.trim() !== ''
      ? parsed
      : undefined;
  },
});

/** Text of one line that matches `pattern`; without one, any. */
export const text = ({
  pattern = /^.+$/,
  ...described
}: Described<string> & { pattern?: RegExp }): Setting<string> => ({
  ...described,
  parse: (raw) => (pattern.test(raw) ? raw : undefined),
});

/** One of a few words. */
export const choice = <const Word extends string>(
  words: readonly Word[],
  value: NoInfer<Word>,
  description: string,
): Setting<Word> => ({
  default: value,
  format: words.length > 2 ? `one of ${words.join(', ')}` : words.join(' or '),
  description,
  parse: (raw) => words.find((word) => word === raw),
});

/** Parts between commas, without the spaces around them. `fits` judges the whole when each part is valid. */
export const list = <T>({
  parsePart,
  fits = () => true,
  ...described
}: Described<T[]> & {
  parsePart: (part: string) => T | undefined;
  fits?: (parts: readonly T[]) => boolean;
}): Setting<T[]> => ({
  ...described,
  parse: (raw) => {
    const parsed = raw.split(',').map((part) => parsePart(part.trim()));
    const parts = parsed.filter((part) => part !== undefined);
    return parts.length === parsed.length && fits(parts) ? parts : undefined;
  },
});
