"""The single steps of a degradation. All images are (H, W, 3) float32 RGB in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from pisa_models.degradation.config import SCALE

INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
"""Chosen from at random. Linear and cubic alias when shrinking: wanted, Real-ESRGAN's do too."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Filter with `kernel` (k, k), mirrored borders. May leave [0, 1] when the kernel is a sinc."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def resize(image: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    """Resize with one of `INTERPOLATIONS`. May leave [0, 1] with INTER_CUBIC."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation)


def add_gaussian_noise(image: np.ndarray, sigma: float, gray: bool, rng: np.random.Generator) -> np.ndarray:
    """Add N(0, (sigma/255)²), the same in all three channels if `gray`; clipped to [0, 1]."""
    channels = 1 if gray else 3
    noise = rng.standard_normal((*image.shape[:2], channels), dtype=np.float32)
    return np.clip(image + noise * np.float32(sigma / 255.0), 0.0, 1.0)


def add_poisson_noise(image: np.ndarray, scale: float, gray: bool, rng: np.random.Generator) -> np.ndarray:
    """Add `scale` times Poisson noise; clipped to [0, 1].

    As many photons at white as the 8-bit image has different values, rounded up to a power of
    two (BasicSR `generate_poisson_noise_pt`), so flat images are noisier.
    """
    clean = np.clip(image, 0.0, 1.0)
    if gray:
        clean = (clean @ _LUMA)[..., None]
    levels = np.rint(clean * 255.0).astype(np.uint8)
    clean = levels.astype(np.float32) / np.float32(255.0)
    different = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2.0 ** np.ceil(np.log2(different))
    noise = rng.poisson(clean * photons).astype(np.float32) / np.float32(photons) - clean
    return np.clip(image + noise * np.float32(scale), 0.0, 1.0)


def add_camera_noise(
    image: np.ndarray,
    read_noise: float,
    shot_noise: float,
    chroma_smoothing: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Add noise of variance (read² + shot²·y)/255², its colour part smoothed; clipped to [0, 1]."""
    deviation = np.sqrt(read_noise**2 + shot_noise**2 * np.clip(image, 0, 1)) / 255.0
    noise = rng.standard_normal(image.shape, dtype=np.float32) * deviation.astype(np.float32)
    if chroma_smoothing > 0:
        luma = (noise @ _LUMA)[..., None]
        chroma = cv2.GaussianBlur(noise - luma, (0, 0), chroma_smoothing, borderType=cv2.BORDER_REFLECT_101)
        noise = luma + chroma
    return np.clip(image + noise, 0.0, 1.0)


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Compress and decompress as baseline JPEG with 4:2:0 chroma; quality is rounded to 1…100."""
    levels = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        int(np.clip(round(quality), 1, 100)),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    done, encoded = cv2.imencode(".jpg", levels[..., ::-1], options)
    if not done:
        raise RuntimeError(f"Expected OpenCV to encode a JPEG of shape {levels.shape}.")
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return decoded[..., ::-1].astype(np.float32) / np.float32(255.0)


def bicubic_x4(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) → (H/4, W/4, 3): Pillow's anti-aliased BICUBIC in float, unclipped."""
    height, width = image.shape[:2]
    size = (width // SCALE, height // SCALE)
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(size, Image.Resampling.BICUBIC))
        for channel in range(3)
    ]
    return np.stack(planes, axis=-1)
