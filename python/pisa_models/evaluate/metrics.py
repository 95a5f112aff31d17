"""Full-reference and statistical measures of one image. Images are (H, W, 3) float32 RGB in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.metrics import structural_similarity

# ITU-R BT.601 studio swing, as MATLAB's rgb2ycbcr: the Y of the super-resolution literature.
_Y_WEIGHTS = np.array([65.481, 128.553, 24.966])
_Y_OFFSET = 16.0

_HIGH_PASS = np.full((3, 3), -1 / 9)
_HIGH_PASS[1, 1] += 1


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W) float64 Y in 16…235."""
    return image.astype(np.float64) @ _Y_WEIGHTS + _Y_OFFSET


def psnr_y(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of Y in dB, peak 255; infinite for equal images."""
    error = np.mean((luma(image) - luma(reference)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim_y(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of Y with the original's Gaussian window (Wang et al. 2004)."""
    return float(
        structural_similarity(
            luma(image),
            luma(reference),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def grid_score(image: np.ndarray) -> float:
    """How strongly a 4 px grid covers the image: 0 none, photos 0.006…0.02.

    Standard deviation of the 16 means of a 3×3 high-pass of Y over the phases (x mod 4, y mod 4),
    divided by the standard deviation of that high-pass. A flat image scores 0.
    """
    detail = cv2.filter2D(luma(image), cv2.CV_64F, _HIGH_PASS)[1:-1, 1:-1]
    height, width = (side - side % 4 for side in detail.shape)
    detail = detail[:height, :width]
    deviation = detail.std()
    if deviation < 1e-9:
        return 0.0
    phases = detail.reshape(height // 4, 4, width // 4, 4).mean(axis=(0, 2))
    return float(phases.std() / deviation)


def deviation_ratio(image: np.ndarray, reference: np.ndarray) -> float:
    """Standard deviation divided by the reference's, of the channel farthest from 1."""
    ratios = image.std(axis=(0, 1)) / np.maximum(reference.std(axis=(0, 1)), 1e-9)
    return float(ratios[np.argmax(np.abs(ratios - 1))])


@dataclass(frozen=True)
class ChannelShift:
    """How far colour and contrast moved; the worst of the three channels."""

    mean_levels: float
    """|mean − mean of the input| in 8-bit levels."""
    deviation_ratio: float
    """Standard deviation divided by the original's, of the channel farthest from 1."""


def channel_shift(image: np.ndarray, resampled: np.ndarray, reference: np.ndarray) -> ChannelShift:
    """Compare the means to the resampled input's and the deviations to the original photo's."""
    means = np.abs(image.mean(axis=(0, 1)) - resampled.mean(axis=(0, 1))) * 255
    return ChannelShift(float(means.max()), deviation_ratio(image, reference))
