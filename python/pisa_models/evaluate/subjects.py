"""The pictures for people: a (pix × sem) sheet like the paper's Figure 1, and before/after by subject."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pisa_models.degradation import NAMED_CONFIGS, degrade
from pisa_models.evaluate import peers, sheets
from pisa_models.evaluate.assets import UNSEEN_PHOTOS, load_unseen
from pisa_models.evaluate.bundle import Bundle
from pisa_models.evaluate.photos import EvaluationPhoto, unseen

SHEET_DIALS = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Subject:
    """A window (x, y) of a photo that shows one kind of detail."""

    label: str
    photo: str
    x: int
    y: int
    degradation: str


SUBJECTS = (
    Subject("face", "astronaut", 130, 20, "mild-jpeg"),
    Subject("fur", "chelsea", 110, 20, "phone-noise"),
    Subject("text", "text", 0, 0, "mild-jpeg"),
    Subject("foliage", "raccoon", 0, 320, "phone-noise"),
    Subject("fabric", "astronaut", 80, 320, "phone-noise"),
    Subject("brick", "brick", 160, 160, "heavy"),
    Subject("sky, roof", "china", 90, 0, "heavy"),
)
SIDE = 176


def subject_photo(name: str, photos: list[EvaluationPhoto]) -> EvaluationPhoto:
    """The photo of that name; small unseen ones (text) are not among the measured photos."""
    for photo in photos:
        if photo.name == name:
            return photo
    small = next(photo for photo in UNSEEN_PHOTOS if photo.name == name)
    image = load_unseen(small)
    height, width = (side // 4 * 4 for side in image.shape[:2])
    return EvaluationPhoto(name, "unseen", image[:height, :width].astype(np.float32) / np.float32(255))


def before_after(bundle: Bundle, subjects: tuple[Subject, ...] = SUBJECTS) -> Image.Image:
    """One row per subject: bicubic input, (1, 0), (1, 1), original."""
    rows, labels = [], []
    photos = unseen()
    for subject in subjects:
        photo = subject_photo(subject.photo, photos)
        low_res = photo.low_res(subject.degradation)
        prepared = bundle.prepare(low_res)
        images = [
            peers.bicubic(low_res),
            bundle.restore(prepared, 1, 0),
            bundle.restore(prepared, 1, 1),
            photo.original,
        ]
        side = min(SIDE, *photo.original.shape[:2])
        cropped = [sheets.crop(image, subject.x, subject.y, SIDE, side) for image in images]
        if side < SIDE:
            cropped = [np.pad(image, ((0, SIDE - side), (0, 0), (0, 0))) for image in cropped]
        rows.append(cropped)
        labels.append(f"{subject.label}\n{subject.degradation.replace('-', chr(10))}")
    columns = ["input, bicubic x4", "pix 1, sem 0", "pix 1, sem 1", "original"]
    return sheets.grid(rows, labels, columns)


def contact_sheet(bundle: Bundle, photo_name: str = "chelsea", x: int = 120, y: int = 30) -> Image.Image:
    """(pix × sem) of one photo with JPEG and noise: rows sem, columns pix, after input and original."""
    photo = subject_photo(photo_name, unseen())
    low_res = degrade(photo.original, np.random.default_rng(5), NAMED_CONFIGS["phone-noise"])
    prepared = bundle.prepare(low_res)

    def window(image: np.ndarray) -> np.ndarray:
        return sheets.crop(image, x, y, SIDE, SIDE)

    blank = np.full((SIDE, SIDE, 3), 24 / 255, np.float32)
    beside = [
        sheets.caption(window(peers.bicubic(low_res)), "input, bicubic x4"),
        sheets.caption(window(photo.original), "original"),
        blank,
        blank,
    ]
    rows = [
        [left] + [window(bundle.restore(prepared, pix, sem)) for pix in SHEET_DIALS]
        for left, sem in zip(beside, SHEET_DIALS, strict=True)
    ]
    return sheets.grid(rows, [f"sem {sem:g}" for sem in SHEET_DIALS], [""] + [f"pix {pix:g}" for pix in SHEET_DIALS])
