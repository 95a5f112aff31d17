"""The service's pipeline stages in NumPy, float64 inside: the reference that everything is compared to.

Images are (3, H, W) float32 unless said otherwise.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

WAVELET_LEVELS = 5
ADAIN_EPSILON = 1e-5  # wavelet_color_fix.py of the PiSA-SR code, for pixels in [0, 1]
TILE_VARIANCE = 0.01  # of the Gaussian tile weights, in units of the tile size squared


def resample(image: np.ndarray, height: int, width: int, filter: int | None = None) -> np.ndarray:
    """(C, H, W) → (C, height, width): Pillow's resize of each plane in float32, no 8-bit rounding.

    The default is BICUBIC: a = −0.5, anti-aliased when shrinking, weights normalised at the edges.
    """
    chosen = Image.Resampling.BICUBIC if filter is None else filter
    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in image]
    return np.stack([np.asarray(plane.resize((width, height), chosen)) for plane in planes])


def pad_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """(C, H, W) → (C, H', W'): the right and bottom edge repeated up to a multiple of `multiple`."""
    height, width = image.shape[1:]
    return np.pad(image, ((0, 0), (0, -height % multiple), (0, -width % multiple)), mode="edge")


def combine(
    latents: np.ndarray,
    eps_pix: np.ndarray,
    eps_pisa: np.ndarray,
    lambda_pix: float | np.ndarray,
    lambda_sem: float | np.ndarray,
) -> np.ndarray:
    """z_H = z_L − λ_pix·ε_pix − λ_sem·(ε_PiSA − ε_pix) (paper, Eq. 8); λ a number or an (h, w) map."""
    pix, pisa = eps_pix.astype(np.float64), eps_pisa.astype(np.float64)
    return (latents - (lambda_pix * pix + lambda_sem * (pisa - pix))).astype(np.float32)


def adain(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Give each channel of `target` the mean and deviation of `source`; both (3, H, W) in [0, 1].

    The deviation is √(unbiased variance + 1e−5). Not clipped.
    """

    def statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = image.reshape(len(image), -1).astype(np.float64)
        deviation = np.sqrt(flat.var(axis=1, ddof=1) + ADAIN_EPSILON)
        return flat.mean(axis=1)[:, None, None], deviation[:, None, None]

    target_mean, target_deviation = statistics(target)
    source_mean, source_deviation = statistics(source)
    return ((target - target_mean) / target_deviation * source_deviation + source_mean).astype(np.float32)


def _dilated_binomial(image: np.ndarray, dilation: int) -> np.ndarray:
    """(C, H, W): [1 2 1]⊗[1 2 1]/16 with holes of `dilation`, borders repeated."""
    height, width = image.shape[1:]
    rows = np.pad(image, ((0, 0), (dilation, dilation), (0, 0)), mode="edge")
    rows = (rows[:, :height] + 2 * rows[:, dilation : dilation + height] + rows[:, 2 * dilation :]) / 4
    columns = np.pad(rows, ((0, 0), (0, 0), (dilation, dilation)), mode="edge")
    return (columns[..., :width] + 2 * columns[..., dilation : dilation + width] + columns[..., 2 * dilation :]) / 4


def wavelet(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """target + LP₅(source − target): the detail of `target` on the low frequencies of `source`."""
    low = source.astype(np.float64) - target
    for level in range(WAVELET_LEVELS):
        low = _dilated_binomial(low, 2**level)
    return (target + low).astype(np.float32)


def tile_weights(height: int, width: int) -> np.ndarray:
    """(height, width) float32: outer product of exp(−(x−(n−1)/2)²/(2·n²·0.01))/√(2π·0.01)."""

    def axis(size: int) -> np.ndarray:
        offset = np.arange(size, dtype=np.float64) - (size - 1) / 2
        return np.exp(-(offset**2) / (2 * size**2 * TILE_VARIANCE)) / np.sqrt(2 * np.pi * TILE_VARIANCE)

    return np.outer(axis(height), axis(width)).astype(np.float32)


def blend_tiles(tiles: list[np.ndarray], origins: list[tuple[int, int]], height: int, width: int) -> np.ndarray:
    """Weighted mean of overlapping (C, h, w) tiles whose top left corners are `origins` (y, x)."""
    total = np.zeros((tiles[0].shape[0], height, width))
    weight = np.zeros((height, width))
    for tile, (y, x) in zip(tiles, origins, strict=True):
        window = tile_weights(*tile.shape[1:]).astype(np.float64)
        total[:, y : y + tile.shape[1], x : x + tile.shape[2]] += tile * window
        weight[y : y + tile.shape[1], x : x + tile.shape[2]] += window
    return (total / weight).astype(np.float32)
