"""Contrast and structure at several scales: the second factor of MS-SSIM (Wang et al. 2003) as a loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 7, 1.5  # pixels
C2 = (0.03 * 2) ** 2  # SSIM's constant for values in [-1, 1]


def _smooth(x: Tensor) -> Tensor:
    """Gaussian window over each channel, [N,C,H,W] → [N,C,H−6,W−6]."""
    offset = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    line = (-offset.square() / (2 * SIGMA**2)).exp()
    line = (line / line.sum()).expand(x.shape[1], 1, 1, WINDOW)
    x = F.conv2d(x, line, groups=x.shape[1])
    return F.conv2d(x, line.transpose(2, 3), groups=x.shape[1])


def contrast_structure(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (2·cov + C₂) / (var a + var b + C₂) over Gaussian windows, [N,C,H,W] → [N], at most 1."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a = (_smooth(a * a) - mean_a.square()).clamp_min(0)
    var_b = (_smooth(b * b) - mean_b.square()).clamp_min(0)
    covariance = _smooth(a * b) - mean_a * mean_b
    return ((2 * covariance + C2) / (var_a + var_b + C2)).mean((1, 2, 3))


def structure_loss(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """One minus `contrast_structure`, averaged over `scales` halvings, [N,C,H,W] → [N].

    Where the output follows the target only in part, ℓ2 is least for a weakened copy; this is least for one of
    the target's own strength, in phase.
    """
    total = torch.zeros(len(a))
    for scale in range(scales):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        total = total + 1 - contrast_structure(a, b)
    return total / scales
