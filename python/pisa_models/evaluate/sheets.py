"""Contact sheets: labelled crops at 100 %, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_LABEL = 20
_BACKGROUND = (24, 24, 24)
_INK = (235, 235, 235)


def grid(
    rows: list[list[np.ndarray]],
    row_labels: list[str],
    column_labels: list[str],
    label_width: int = 76,
) -> Image.Image:
    """Images (H, W, 3) in [0, 1], all of one size, in a labelled table."""
    height, width = rows[0][0].shape[:2]
    font = ImageFont.load_default(size=13)
    sheet = Image.new(
        "RGB",
        (
            label_width + len(column_labels) * (width + _GAP),
            _LABEL + len(rows) * (height + _GAP),
        ),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        draw.text((label_width + column * (width + _GAP) + 4, 3), label, _INK, font)
    for index, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
        top = _LABEL + index * (height + _GAP)
        draw.multiline_text((6, top + 6), label, _INK, font)
        for column, image in enumerate(row):
            levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
            sheet.paste(Image.fromarray(levels), (label_width + column * (width + _GAP), top))
    return sheet


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """The image with `text` on a dark band over its lower edge."""
    picture = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, picture.height - _LABEL, picture.width, picture.height), _BACKGROUND)
    draw.text((6, picture.height - _LABEL + 2), text, _INK, ImageFont.load_default(size=13))
    return np.asarray(picture).astype(np.float32) / np.float32(255)


def crop(image: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) of the image, moved inside if it would leave it."""
    x = max(0, min(x, image.shape[1] - width))
    y = max(0, min(y, image.shape[0] - height))
    return image[y : y + height, x : x + width]


def save_jpeg(sheet: Image.Image, path: Path, max_bytes: int) -> None:
    """Save at the highest quality of 92, 88, …, 68 that stays within `max_bytes`.

    Raises ValueError if none does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in range(92, 67, -4):
        sheet.save(path, quality=quality, subsampling="4:4:4", optimize=True)
        if path.stat().st_size <= max_bytes:
            return
    raise ValueError(f"Expected {path.name} within {max_bytes} bytes; make its crops smaller.")
