"""`degrade`: one high-resolution photo in, one degraded low-resolution photo out."""

from __future__ import annotations

import cv2
import numpy as np

from pisa_models.degradation import operations
from pisa_models.degradation.config import (
    REAL_ESRGAN_PAPER,
    SCALE,
    CameraConfig,
    DegradationConfig,
    Range,
    SecondOrderConfig,
    StageConfig,
)
from pisa_models.degradation.kernels import random_kernel, random_sinc_kernel

_MIN_SIDE = 32
"""Below this the strongest first reduction would leave an image of a few pixels."""


def _as_unit_float(hq: np.ndarray) -> np.ndarray:
    if hq.ndim != 3 or hq.shape[2] != 3:
        raise ValueError(f"Expected hq of shape (H, W, 3) but received {hq.shape}.")
    if hq.shape[0] % SCALE or hq.shape[1] % SCALE or min(hq.shape[:2]) < _MIN_SIDE:
        raise ValueError(
            f"Expected sides that are multiples of {SCALE} and at least {_MIN_SIDE} "
            f"but received {hq.shape[0]}×{hq.shape[1]}."
        )
    if hq.dtype == np.uint8:
        return hq.astype(np.float32) / np.float32(255.0)
    if hq.dtype != np.float32:
        raise TypeError(f"Expected hq of dtype uint8 or float32 but received {hq.dtype}.")
    return hq


def _resize_factor(probabilities: tuple[float, float, float], bounds: Range, rng: np.random.Generator) -> float:
    direction = rng.choice(3, p=probabilities)
    if direction == 0:
        return rng.uniform(1.0, bounds[1])
    if direction == 1:
        return rng.uniform(bounds[0], 1.0)
    return 1.0


def _random_resize(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    interpolation = operations.INTERPOLATIONS[rng.integers(len(operations.INTERPOLATIONS))]
    return operations.resize(image, max(1, height), max(1, width), interpolation)


def _random_noise(image: np.ndarray, stage: StageConfig, rng: np.random.Generator) -> np.ndarray:
    gaussian = rng.random() < stage.gaussian_noise_probability
    gray = rng.random() < stage.gray_noise_probability
    if gaussian:
        return operations.add_gaussian_noise(image, rng.uniform(*stage.gaussian_sigma), gray, rng)
    return operations.add_poisson_noise(image, rng.uniform(*stage.poisson_scale), gray, rng)


def _second_order(hq: np.ndarray, config: SecondOrderConfig, rng: np.random.Generator) -> np.ndarray:
    height, width = hq.shape[0] // SCALE, hq.shape[1] // SCALE

    first = config.first
    image = hq
    if rng.random() < first.blur_probability:
        image = operations.blur(image, random_kernel(first.kernel, rng))
    factor = _resize_factor(first.resize_probabilities, first.resize, rng)
    image = _random_resize(image, int(hq.shape[0] * factor), int(hq.shape[1] * factor), rng)
    image = _random_noise(image, first, rng)
    image = operations.jpeg(image, rng.uniform(*first.jpeg_quality))

    second = config.second
    if rng.random() < second.blur_probability:
        image = operations.blur(image, random_kernel(second.kernel, rng))
    factor = _resize_factor(second.resize_probabilities, second.resize, rng)
    image = _random_resize(image, int(height * factor), int(width * factor), rng)
    image = _random_noise(image, second, rng)

    # Resizing back and the final sinc stay together: any other order draws twisted lines.
    jpeg_last = rng.random() < 0.5
    quality = rng.uniform(*second.jpeg_quality)
    if not jpeg_last:
        image = operations.jpeg(image, quality)
    image = _random_resize(image, height, width, rng)
    if rng.random() < config.final_sinc_probability:
        image = operations.blur(image, random_sinc_kernel(second.kernel.sizes, rng))
    if jpeg_last:
        image = operations.jpeg(image, quality)
    return image


def _camera(hq: np.ndarray, config: CameraConfig, rng: np.random.Generator) -> np.ndarray:
    image = hq
    if config.blur_sigma is not None:
        sigma = rng.uniform(*config.blur_sigma)
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    image = operations.bicubic_x4(image)
    if config.read_noise is not None or config.shot_noise is not None:
        read = rng.uniform(*config.read_noise) if config.read_noise else 0.0
        shot = rng.uniform(*config.shot_noise) if config.shot_noise else 0.0
        image = operations.add_camera_noise(image, read, shot, config.chroma_smoothing, rng)
    if config.jpeg_quality is not None:
        image = operations.jpeg(image, rng.uniform(*config.jpeg_quality))
    return image


def degrade(
    hq: np.ndarray,
    rng: np.random.Generator,
    config: DegradationConfig = REAL_ESRGAN_PAPER,
) -> np.ndarray:
    """Degrade a photo to a quarter of its size.

    hq (H, W, 3) RGB, uint8 or float32 in [0, 1], H and W multiples of 4 and ≥ 32
    → (H/4, W/4, 3) float32 RGB in [0, 1], on the grid of 8-bit values (a stored photo has no more).
    The result depends on `hq`, `config` and the state of `rng` only; `hq` is not changed.

    Raises ValueError for a wrong shape and TypeError for another dtype.
    """
    image = _as_unit_float(hq)
    if isinstance(config, SecondOrderConfig):
        image = _second_order(image, config, rng)
    else:
        image = _camera(image, config, rng)
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.float32) / np.float32(255.0)
