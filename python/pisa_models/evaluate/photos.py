"""The photos of the evaluation: crops of at most 512 px, unseen by the training, and their degradations."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pisa_models.degradation import NAMED_CONFIGS, degrade
from pisa_models.evaluate.assets import UNSEEN_PHOTOS, load_unseen
from pisa_models.paths import cache_dir

SIDE = 512
MIN_SIDE = 256  # below, NIQE has too few patches

DEGRADED = ("mild-jpeg", "phone-noise", "heavy")
CLEAN = "bicubic"
COLOUR_NOISE = "colour-noise"
BESIDE = (CLEAN, COLOUR_NOISE)
"""Measured beside the degraded sets, which the bars of the model are about."""
ALL = (*DEGRADED, *BESIDE)


@dataclass(frozen=True)
class EvaluationPhoto:
    name: str
    group: str
    """`unseen`: of other packages than the training's; `validation`: other photos of the same."""
    original: np.ndarray
    """(H, W, 3) float32 RGB in [0, 1], sides multiples of 4 and at most 512."""

    def low_res(self, degradation: str) -> np.ndarray:
        """(H/4, W/4, 3) float32; the same at every call."""
        seed = [zlib.crc32(self.name.encode()), zlib.crc32(degradation.encode())]
        return degrade(self.original, np.random.default_rng(seed), NAMED_CONFIGS[degradation])


def _centre(image: np.ndarray, limit: int) -> np.ndarray:
    """The middle of the image as float32, at most `limit` px, sides multiples of 4."""
    height, width = (min(side, limit) // 4 * 4 for side in image.shape[:2])
    y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[y : y + height, x : x + width].astype(np.float32) / np.float32(255)


def unseen(limit: int = SIDE) -> list[EvaluationPhoto]:
    """Photos of scikit-image, scikit-learn and SciPy that are large enough."""
    photos = [EvaluationPhoto(photo.name, "unseen", _centre(load_unseen(photo), limit)) for photo in UNSEEN_PHOTOS]
    return [photo for photo in photos if min(photo.original.shape[:2]) >= MIN_SIDE]


def validation_files() -> list[Path]:
    """The 512 px crops that `pisa_models.data.crops` keeps out of the training, one photo after the other.

    The first crop of every photo comes before any second crop. Empty if the data was not made.
    """
    files = sorted(cache_dir("crops", "validation-512").glob("*.png"))
    return sorted(files, key=lambda path: path.stem.rsplit("-", 1)[-1])


def validation(limit: int = SIDE) -> list[EvaluationPhoto]:
    return [
        EvaluationPhoto(path.stem, "validation", _centre(np.asarray(Image.open(path).convert("RGB")), limit))
        for path in validation_files()
    ]
