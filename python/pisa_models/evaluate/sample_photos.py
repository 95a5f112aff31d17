"""Makes `test/photos/*`: small real photos, mildly degraded, for the service's tests and README.

    python -m pisa_models.evaluate.sample_photos

Sources are public-domain or CC0 photos of an old scikit-image wheel; the same bytes come out at
every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pisa_models.degradation import bicubic_x4, degrade
from pisa_models.degradation.config import CameraConfig
from pisa_models.evaluate.assets import UNSEEN_PHOTOS, load_unseen
from pisa_models.paths import REPOSITORY

FOLDER = REPOSITORY / "test" / "photos"


@dataclass(frozen=True)
class SamplePhoto:
    """How one file is made: crop (x, y, w, h) of the source, ×1/4 by a camera model, encode."""

    file: str
    source: str
    crop: tuple[int, int, int, int]
    config: CameraConfig
    quality: int


_SOFT = CameraConfig(blur_sigma=(0.8, 0.8))
_NOISY = CameraConfig(blur_sigma=(1.0, 1.0), read_noise=(3.0, 3.0), shot_noise=(6.0, 6.0), chroma_smoothing=0.8)

SAMPLE_PHOTOS = (
    SamplePhoto("portrait-96x128.jpg", "astronaut", (60, 0, 384, 512), _SOFT, 85),
    SamplePhoto("coffee-150x100.jpg", "coffee", (0, 0, 600, 400), _SOFT, 75),
    SamplePhoto("rocket-160x106.png", "rocket", (0, 0, 640, 424), _SOFT, 0),
    SamplePhoto("brick-128.jpg", "brick", (0, 0, 512, 512), _NOISY, 85),
    SamplePhoto("text-112x43.png", "text", (0, 0, 448, 172), CameraConfig(), 0),
)
"""The cat is made apart: its photo is smaller than 512 px, so it is reduced by 300/128 only."""


def _save(low_res: np.ndarray, path: Path, quality: int) -> None:
    image = Image.fromarray(np.rint(np.clip(low_res, 0, 1) * 255).astype(np.uint8))
    if path.suffix == ".jpg":
        image.save(path, quality=quality, subsampling="4:2:0")
    else:
        image.save(path, optimize=True)


def make(folder: Path = FOLDER) -> list[Path]:
    """Write every photo into `folder`; returns the paths."""
    sources = {photo.name: photo for photo in UNSEEN_PHOTOS}
    written = []
    for index, spec in enumerate(SAMPLE_PHOTOS):
        x, y, width, height = spec.crop
        hq = load_unseen(sources[spec.source])[y : y + height, x : x + width]
        rng = np.random.default_rng(1000 + index)
        _save(degrade(hq, rng, spec.config), folder / spec.file, spec.quality)
        written.append(folder / spec.file)

    cat = Image.fromarray(load_unseen(sources["chelsea"])).crop((85, 0, 385, 300))
    cat = np.asarray(cat.resize((512, 512), Image.Resampling.BICUBIC), np.float32) / 255
    _save(bicubic_x4(cat), folder / "cat-128.jpg", 80)
    written.append(folder / "cat-128.jpg")
    return written


def main() -> None:
    for path in make():
        with Image.open(path) as image:
            size = image.size
        print(f"{path.name}: {size[0]}×{size[1]}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
