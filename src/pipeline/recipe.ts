/** Where the output says how it was made: in two EXIF tags, or in XMP beside what the owner has in them. */
import { exifTags, exifText } from './exif.ts';
import { hasXmpCaption } from './xmp.ts';

export interface Recipe {
  /** As in `software`, e.g. `pisa-serve 0.1.0`. */
  readonly software: string;
  /** What was done, as JSON. */
  readonly description: string;
}

export interface PlacedRecipe {
  /** For IFD0. */
  readonly exif: Readonly<Record<string, string>>;
  /** Names in our own namespace. */
  readonly xmp: Readonly<Record<string, string>>;
}

/** How the description of an upscaled photo begins (`recipeOf` in run.ts): the caption of one that comes back. */
const descriptionStart = '{"pix":';

/**
 * A caption and the name of the camera's or editor's software stay the owner's, unless an earlier run wrote them.
 * @param kept what the output keeps of its input
 */
export function placeRecipe(
  { software, description }: Recipe,
  { exif, xmp }: { exif?: Buffer | undefined; xmp?: Buffer | undefined },
): PlacedRecipe {
  const [product] = software.split(' ') as [string];
  const maker = exif ? exifText(exif, exifTags.software) : '';
  const isMade = maker !== '' && !maker.startsWith(product);
  const caption = exif ? exifText(exif, exifTags.imageDescription) : '';
  const isCaptioned =
    (caption !== '' && !caption.startsWith(descriptionStart)) ||
    (xmp !== undefined && hasXmpCaption(xmp));
  return {
    exif: {
      ...(isMade ? {} : { Software: software }),
      ...(isCaptioned ? {} : { ImageDescription: description }),
    },
    xmp: {
      ...(isMade ? { Software: software } : {}),
      ...(isCaptioned ? { Recipe: description } : {}),
    },
  };
}
