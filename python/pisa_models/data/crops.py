"""Cuts the fetched photos into training crops and 512 px validation photos.

    python -m pisa_models.data.crops

Writes into `<cache>/crops`: `train.npy` (N, 192, 192, 3) uint8 RGB, `validation.npy` (same shape, of
other photos), `validation-512/*.png`, and `sources.csv` (crops per photo). Train and validation are
split by photo: no photo gives crops to both. Most training crops are full of detail; some are soft (out
of focus, low contrast, sky with clouds), because a model that never sees those paints over faint texture.
"""

import argparse
import csv
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
MAX_PER_DRAWN = 60  # of a drawn or rendered background
MAX_PER_TEXTURE = 5
MIN_FAINT = 1.2  # standard deviation, 8-bit units, of the 2-12 px band in a 24 px block that is not flat
MIN_FAINT_SHARE = 0.3  # share of such blocks in a soft crop
MAX_SOFT_PER_PHOTO = 60
MAX_SOFT_PER_TEXTURE = 3
SEED = 20_260

# Computer-drawn backgrounds: speckles, polygons or gradients at every scale, which teach no photo detail.
DRAWN = re.compile(
    r"ubuntu-mate-|mate-stripes|focal-ubuntukylin|/stripes|/gulp|/silk|/waves|/spring|arc-colors|/flow$|/cluster$"
    r"|lxqt-themes/(kde-plasma|lxqt-|origami|plasma|simple|triangles|waves)|gogh|peretanguy|auvers"
    r"|noise-texture"
)
# More backgrounds that are drawn: some of their detail is used, but their soft parts are only gradients.
RENDERED = re.compile(
    r"ukui-wallpapers/|mate-backgrounds/float|lomiri-wallpapers/|lomiri-wallpapers-20.04/(fossa|painting)"
    r"|plasma-workspace-wallpapers/(?!(autumn|bythewater|coldripple|eveningglow|onestandsout|path)$)"
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


@dataclass(frozen=True)
class Job:
    """One photo to cut: its id, its file and the package it is of."""

    key: str
    path: Path
    package: PhotoPackage

    @property
    def held_out(self) -> bool:
        return self.key in VALIDATION_PHOTOS


def photo_id(package: PhotoPackage, path: Path) -> str:
    """Name shared by all files that show the same photo (other sizes, dark variants)."""
    parts = path.parts
    name = parts[parts.index("contents") - 1] if "contents" in parts else path.stem
    name = re.sub(r"[_-]?\d{3,4}x\d{3,4}", "", name)
    folder = "" if package.photos and not package.archives else path.parent.name + "-"
    return f"{package.name}/{folder}{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def photo_files(package: PhotoPackage) -> dict[str, Path]:
    """The largest file of each photo in an unpacked package, by photo id."""
    best: dict[str, Path] = {}
    for path in sorted(unpacked(package).rglob("*")):
        if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp"} or not path.is_file():
            continue
        least = 60_000 if package.shrink is None else 40_000
        if path.is_symlink() or path.stem == "screenshot" or path.stat().st_size < least or "cartoon" in path.parts:
            continue
        if path.stem.lower().endswith(("_normal", "_nm", "normalmap", "_gloss", "_gm", "_sm", "_rm", "_mask")):
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


def working_scales(path: Path, longest: int, photos: bool, shrink: float | None = None) -> list[float]:
    """Factors at which crops are cut: the finest clean one, and coarser ones.

    Two of large photos; one of textures, whose grain then comes near the limit of the low resolution, where a model
    that has not seen it takes grass for noise.
    """
    if shrink is not None:
        first = shrink
    elif longest > 2 * LARGE:
        first = 0.4
    elif longest > LARGE:
        first = 0.5
    else:
        first = 0.75 if path.suffix.lower() != ".png" else 1.0
    if not photos:
        return [first, first / 2]
    return [first, 0.7 * first, 0.45 * first] if longest * first > 900 else [first]


def is_surface_map(crop: np.ndarray) -> bool:
    """Whether a crop is of a game texture's map of normals, which is blue all over, and no picture."""
    red, green, blue = crop.reshape(-1, 3).mean(0)
    return bool(blue > 190 and abs(red - 128) < 25 and abs(green - 128) < 25)


def is_detailed(crop: np.ndarray) -> bool:
    """Whether a crop (H, W, 3) has enough fine detail, spread over enough of it, to teach anything."""
    if is_surface_map(crop):
        return False
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = cv2.Laplacian(luma, cv2.CV_32F)
    blocks = laplacian.reshape(CROP // 24, 24, CROP // 24, 24).std(axis=(1, 3))
    return bool(laplacian.std() > MIN_DETAIL and (blocks > 2.5).mean() > MIN_BUSY)


def is_soft(crop: np.ndarray) -> bool:
    """Whether a crop without fine detail still has structure: faint texture, blur, clouds.

    Measured between blurs of 1 and 4 px, where sensor noise and smooth gradients leave next to nothing.
    """
    if is_surface_map(crop):
        return False
    luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    band = cv2.GaussianBlur(luma, (0, 0), 1) - cv2.GaussianBlur(luma, (0, 0), 4)
    blocks = band.reshape(CROP // 24, 24, CROP // 24, 24).std(axis=(1, 3))
    return bool((blocks > MIN_FAINT).mean() > MIN_FAINT_SHARE)


def chosen(crops: list[np.ndarray], limit: int, rng: np.random.Generator) -> list[np.ndarray]:
    """At most `limit` of the crops, drawn by `rng`, in their order."""
    return [crops[i] for i in sorted(rng.permutation(len(crops))[:limit])]


def crops_of(job: Job, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Detailed and soft crops of one photo, at most the limits, chosen by `rng`. Validation has no soft ones."""
    detailed: list[np.ndarray] = []
    soft: list[np.ndarray] = []
    read = read_photo(job.path)
    if read is None:
        return detailed, soft
    photos = job.package.photos
    step = CROP // 2 if photos and not job.held_out else CROP * 3 // 4
    for factor in working_scales(job.path, max(read[0].shape), photos, job.package.shrink):
        image, opaque = scaled(*read, factor) if factor < 1 else read
        for y in range(0, image.shape[0] - CROP + 1, step):
            for x in range(0, image.shape[1] - CROP + 1, step):
                window = (slice(y, y + CROP), slice(x, x + CROP))
                if not opaque[window].all():
                    continue
                if is_detailed(image[window]):
                    detailed.append(image[window].copy())
                elif not job.held_out and not RENDERED.search(job.key) and is_soft(image[window]):
                    soft.append(image[window].copy())
    limit = job.package.most or (MAX_PER_PHOTO if photos else MAX_PER_TEXTURE)
    if RENDERED.search(job.key) and not job.held_out:
        limit = min(limit, MAX_PER_DRAWN)
    return (
        chosen(detailed, limit, rng),
        chosen(soft, MAX_SOFT_PER_PHOTO if photos else MAX_SOFT_PER_TEXTURE, rng),
    )


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
        partial = name.with_suffix(".partial.png")
        if not cv2.imwrite(str(partial), image[y : y + 512, x : x + 512, ::-1]):
            raise OSError(f"Cannot write {partial}: is there room on the disk?")
        partial.replace(name)
        detail[max(0, y - 400) : y + 400, max(0, x - 400) : x + 400] = 0


def validation_images() -> list[Path]:
    """The 512 x 512 validation photos, none of which gave a training crop."""
    found = cache_dir("crops", "validation-512").glob("*.png")
    return sorted(path for path in found if not path.name.endswith(".partial.png"))


def load_crops(split: str) -> np.ndarray:
    """Memory-map `train` or `validation` crops, (N, 192, 192, 3) uint8 RGB. Raises FileNotFoundError."""
    path = cache_dir("crops") / f"{split}.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make data` first")
    return np.load(path, mmap_mode="r")


def save_array(path: Path, array: np.ndarray) -> None:
    """Save under another name and rename: a training may have the old file mapped."""
    partial = path.with_name(f"{path.stem}.partial.npy")
    np.save(partial, array)
    partial.replace(path)


def save_split(folder: Path, split: dict[str, list[np.ndarray]]) -> None:
    """Save the crops of `train` and `validation`, each (H, W, 3), in random order.

    `train.npy` says that all is done: it goes first and comes last, so that after an interruption all is done anew.
    """
    for name in split:
        (folder / f"{name}-low-res.npy").unlink(missing_ok=True)  # they would be of other crops
    (folder / "train.npy").unlink(missing_ok=True)
    for name in ("validation", "train"):
        crops = split[name]
        order = np.random.default_rng(SEED).permutation(len(crops))
        save_array(folder / f"{name}.npy", np.stack([crops[i] for i in order]))
        print(f"{name}: {len(crops)} crops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="replace what is there, low-resolution crops included")
    again = parser.parse_args().again
    target = cache_dir("crops")
    if (target / "train.npy").exists() and not again:
        print(f"{target}/train.npy exists already; --again cuts the crops anew")
        return
    cv2.setNumThreads(1)
    jobs = [Job(key, path, p) for p in PACKAGES for key, path in sorted(photo_files(p).items())]
    if not jobs:
        sys.exit("no photos found: run `python -m pisa_models.data.fetch` first")
    seeds = np.random.SeedSequence(SEED).spawn(len(jobs))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job, seed: crops_of(job, np.random.default_rng(seed)), jobs, seeds))
    split: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    with open(target / "sources.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["photo", "split", "detailed", "soft"])
        for job, (detailed, soft) in zip(jobs, results, strict=True):
            name = "validation" if job.held_out else "train"
            split[name] += detailed + soft
            rows.writerow([job.key, name, len(detailed), len(soft)])
            if job.held_out:
                write_validation_512(job.key, job.path)
    save_split(target, split)
    print(f"validation photos: {len(validation_images())} windows of 512 px")


if __name__ == "__main__":
    main()
