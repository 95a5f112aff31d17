"""Cuts the fetched photos into detailed training crops and 512 px validation photos.

    python -m pisa_models.data.crops

Writes into `<cache>/crops`: `train.npy` (N, 192, 192, 3) uint8 RGB, `validation.npy` (same shape, of
other photos), `validation-512/*.png`, and `sources.csv` (crops per photo). Train and validation are
split by photo: no photo gives crops to both.
"""

import csv
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from pisa_models.data.fetch import PACKAGES, PhotoPackage, unpacked
from pisa_models.paths import cache_dir

CROP = 192  # pixels; 48 low-resolution pixels at x4
LARGE = 2200  # longest side in pixels above which a photo is halved (hides sensor noise and JPEG blocks)
MIN_DETAIL = 6.0  # standard deviation of the Laplacian of luma, 8-bit units: below, a crop is flat
MIN_BUSY = 0.45  # share of 24 px blocks that must hold some detail
MAX_PER_PHOTO = 420  # so that a few huge photos do not dominate
MAX_PER_TEXTURE = 10
SEED = 20_260

# Computer-drawn backgrounds: speckles, polygons or gradients at every scale, which teach no photo detail.
DRAWN = re.compile(
    r"ubuntu-mate-|mate-stripes|focal-ubuntukylin|/stripes|/gulp|/silk|/waves|/spring|arc-colors|/flow$|/cluster$"
)

# Whole photos kept out of training: chosen by subject, before any training, for variety.
VALIDATION_PHOTOS = frozenset(
    {
        "mate-backgrounds/ladybird",
        "mate-backgrounds/garden",
        "mate-backgrounds/twowings",
        "lomiri-wallpapers-16.04/greentock-by-peter-nerlich",
        "lomiri-wallpapers-16.04/bridge-by-sander-klootwijk",
        "lomiri-wallpapers-16.04/friends-by-aitzol-berasategi",
        "mate-backgrounds/wood",
        "palapeli-data/cincinnati-bridge",
        "palapeli-data/european-honey-bee",
        "plasma-workspace-wallpapers/colorfulcups",
        "plasma-workspace-wallpapers/fallenleaf",
        "palapeli-data/castle-maintenon",
    }
)


def photo_id(package: PhotoPackage, path: Path) -> str:
    """Name shared by all files that show the same photo (other sizes, dark variants)."""
    parts = path.parts
    name = parts[parts.index("contents") - 1] if "contents" in parts else path.stem
    name = re.sub(r"[_-]?\d{3,4}x\d{3,4}", "", name)
    folder = "" if package.photos else path.parent.name + "-"
    return f"{package.name}/{folder}{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def photo_files(package: PhotoPackage) -> dict[str, Path]:
    """The largest file of each photo in an unpacked package, by photo id."""
    best: dict[str, Path] = {}
    for path in sorted(unpacked(package).rglob("*")):
        if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp"} or not path.is_file():
            continue
        if path.is_symlink() or path.stem == "screenshot" or path.stat().st_size < 60_000 or "cartoon" in path.parts:
            continue
        if path.stem.lower().endswith(("_normal", "_nm", "normalmap", "_gloss", "_mask")):
            continue  # surface maps of the game textures, no pictures
        key = photo_id(package, path)
        if DRAWN.search(key):
            continue
        if key not in best or path.stat().st_size > best[key].stat().st_size:
            best[key] = path
    return best


def read_photo(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read as (H, W, 3) uint8 RGB and an (H, W) bool mask of opaque pixels; None if unreadable."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3:
        return None
    if image.dtype != np.uint8:
        image = (image / 257).astype(np.uint8)
    opaque = image[..., 3] == 255 if image.shape[2] == 4 else np.ones(image.shape[:2], bool)
    return np.ascontiguousarray(image[..., 2::-1]), opaque


def scaled(image: np.ndarray, opaque: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Shrink by area averaging, which invents no ringing."""
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk, cv2.resize(opaque.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999


def working_scales(path: Path, longest: int, photos: bool) -> list[float]:
    """Factors at which crops are cut: the finest clean one, and two coarser ones of large photos."""
    if longest > 2 * LARGE:
        first = 0.4
    elif longest > LARGE:
        first = 0.5
    else:
        first = 0.75 if path.suffix.lower() != ".png" else 1.0
    if not photos:
        return [first]
    return [first, 0.7 * first, 0.45 * first] if longest * first > 900 else [first]


def is_detailed(crop: np.ndarray) -> bool:
    """Whether a crop (H, W, 3) has enough fine detail, spread over enough of it, to teach anything."""
    red, green, blue = crop.reshape(-1, 3).mean(0)
    if blue > 190 and abs(red - 128) < 25 and abs(green - 128) < 25:
        return False  # a surface normal map, not a picture
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = cv2.Laplacian(luma, cv2.CV_32F)
    blocks = laplacian.reshape(CROP // 24, 24, CROP // 24, 24).std(axis=(1, 3))
    return bool(laplacian.std() > MIN_DETAIL and (blocks > 2.5).mean() > MIN_BUSY)


def crops_of(path: Path, photos: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """All detailed crops of one photo, at most the limit, chosen by `rng`."""
    read = read_photo(path)
    if read is None:
        return []
    found = []
    for factor in working_scales(path, max(read[0].shape), photos):
        image, opaque = scaled(*read, factor) if factor < 1 else read
        step = CROP * 3 // 4
        for y in range(0, image.shape[0] - CROP + 1, step):
            for x in range(0, image.shape[1] - CROP + 1, step):
                window = (slice(y, y + CROP), slice(x, x + CROP))
                if opaque[window].all() and is_detailed(image[window]):
                    found.append(image[window].copy())
    limit = MAX_PER_PHOTO if photos else MAX_PER_TEXTURE
    keep = rng.permutation(len(found))[:limit]
    return [found[i] for i in sorted(keep)]


def write_validation_512(key: str, path: Path) -> None:
    """Save the two most detailed 512 px windows of a validation photo, far apart, as PNG."""
    image, opaque = read_photo(path)
    factor = working_scales(path, max(image.shape), photos=True)[0]
    if factor < 1:
        image, _ = scaled(image, opaque, factor)
    laplacian = np.abs(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F))
    detail = cv2.boxFilter(np.minimum(laplacian, 40), -1, (512, 512), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    detail = detail[: image.shape[0] - 511, : image.shape[1] - 511].copy()
    for index in range(2):
        if detail.size == 0 or detail.max() <= 0:
            return
        y, x = np.unravel_index(int(detail.argmax()), detail.shape)
        name = cache_dir("crops", "validation-512") / f"{key.replace('/', '--')}-{index}.png"
        cv2.imwrite(str(name), image[y : y + 512, x : x + 512, ::-1])
        detail[max(0, y - 400) : y + 400, max(0, x - 400) : x + 400] = 0


def validation_images() -> list[Path]:
    """The 512 x 512 validation photos, none of which gave a training crop."""
    return sorted(cache_dir("crops", "validation-512").glob("*.png"))


def load_crops(split: str) -> np.ndarray:
    """Memory-map `train` or `validation` crops, (N, 192, 192, 3) uint8 RGB. Raises FileNotFoundError."""
    path = cache_dir("crops") / f"{split}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make data` first")
    return np.load(path, mmap_mode="r")


def main() -> None:
    target = cache_dir("crops")
    if (target / "train.npy").exists():
        print(f"{target}/train.npy exists already; delete it to cut the crops again")
        return
    cv2.setNumThreads(1)
    jobs = [(key, path, p.photos) for p in PACKAGES for key, path in sorted(photo_files(p).items())]
    if not jobs:
        sys.exit("no photos found: run `python -m pisa_models.data.fetch` first")
    seeds = np.random.SeedSequence(SEED).spawn(len(jobs))
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(lambda j: crops_of(j[0][1], j[0][2], np.random.default_rng(j[1])), zip(jobs, seeds, strict=True))
        )
    split: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    with open(target / "sources.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["photo", "split", "crops"])
        for (key, path, _), crops in zip(jobs, results, strict=True):
            name = "validation" if key in VALIDATION_PHOTOS else "train"
            split[name] += crops
            rows.writerow([key, name, len(crops)])
            if name == "validation":
                write_validation_512(key, path)
    rng = np.random.default_rng(SEED)
    for name, crops in split.items():
        order = rng.permutation(len(crops))
        np.save(target / f"{name}.npy", np.stack([crops[i] for i in order]))
        print(f"{name}: {len(crops)} crops")
    print(f"validation photos: {len(validation_images())} windows of 512 px")


if __name__ == "__main__":
    main()
