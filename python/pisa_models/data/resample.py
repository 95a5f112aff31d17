"""Bicubic resampling as Pillow does it, as one matrix per axis: the same numbers as the service's."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def _cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic kernel with a = −0.5, Pillow's BICUBIC."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=16)
def bicubic_matrix(size_in: int, size_out: int) -> Tensor:
    """[size_out, size_in] float32; rows sum to 1; antialiased when shrinking (Pillow's `precompute_coeffs`)."""
    scale = size_in / size_out
    support_scale = max(scale, 1.0)
    centre = (np.arange(size_out) + 0.5) * scale
    position = np.arange(size_in) + 0.5
    weights = _cubic((position[None] - centre[:, None]) / support_scale)
    weights /= weights.sum(1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))


def bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """Resample [N,C,H,W] float → [N,C,height,width]; no rounding, no clamping."""
    rows = bicubic_matrix(images.shape[2], height)
    columns = bicubic_matrix(images.shape[3], width)
    return torch.einsum("oh,nchw,pw->ncop", rows, images, columns)
