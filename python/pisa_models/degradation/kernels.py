"""Random blur kernels: (generalised, plateau-shaped) Gaussians and the circular sinc.

All kernels are (size, size) float32, odd size, centred, and sum to 1. Formulas: Real-ESRGAN
(Wang et al. 2021, section 3.1 and 3.3) and Liu et al. 2020 for the generalised and plateau shapes.
"""

from __future__ import annotations

import numpy as np
from scipy.special import j1

from pisa_models.degradation.config import KernelConfig, Range

KERNEL_TYPES = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
)


def _normalized(kernel: np.ndarray) -> np.ndarray:
    return (kernel / kernel.sum()).astype(np.float32)


def _mahalanobis_squared(size: int, sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    """(size, size) of rᵀΣ⁻¹r with Σ = R(angle)·diag(σx², σy²)·R(angle)ᵀ, r from the centre."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = -np.sin(angle) * x + np.cos(angle) * y
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def generalized_gaussian_kernel(
    size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0
) -> np.ndarray:
    """exp(−½·(rᵀΣ⁻¹r)^β): beta 1 is the Gaussian, larger is boxier, smaller is more peaked."""
    return _normalized(np.exp(-0.5 * _mahalanobis_squared(size, sigma_x, sigma_y, angle) ** beta))


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0) -> np.ndarray:
    """1 / (1 + (rᵀΣ⁻¹r)^β): a flat top with long tails."""
    return _normalized(1.0 / (1.0 + _mahalanobis_squared(size, sigma_x, sigma_y, angle) ** beta))


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """Ideal circular low-pass of `cutoff` radians per pixel in (0, π]: ω·J₁(ω·r) / (2π·r).

    Truncating it to `size` pixels leaves the ringing and overshoot that it is there to imitate.
    """
    axis = np.arange(size, dtype=np.float64) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    centre = size // 2
    radius[centre, centre] = 1.0  # any non-zero value: replaced by the limit below
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[centre, centre] = cutoff**2 / (4 * np.pi)
    return _normalized(kernel)


def random_sinc_kernel(sizes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """The final sinc filter: cut-off uniform in [π/3, π]."""
    return sinc_kernel(int(rng.choice(sizes)), rng.uniform(np.pi / 3, np.pi))


def _random_beta(bounds: Range, rng: np.random.Generator) -> float:
    """Half of the draws below 1 and half above, so that both shapes are equally frequent."""
    if rng.random() < 0.5:
        return rng.uniform(bounds[0], 1.0)
    return rng.uniform(1.0, bounds[1])


def random_kernel(config: KernelConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw a kernel by `config`."""
    size = int(rng.choice(config.sizes))
    if rng.random() < config.sinc_probability:
        # A low cut-off needs a kernel wide enough to hold its period.
        lowest = np.pi / 3 if size < 13 else np.pi / 5
        return sinc_kernel(size, rng.uniform(lowest, np.pi))

    kind = KERNEL_TYPES[rng.choice(len(KERNEL_TYPES), p=config.probabilities)]
    sigma_x = sigma_y = rng.uniform(*config.sigma)
    angle = 0.0
    if kind.endswith("aniso"):
        sigma_y = rng.uniform(*config.sigma)
        angle = rng.uniform(-np.pi, np.pi)
    if kind.startswith("generalized"):
        beta = _random_beta(config.generalized_beta, rng)
        return generalized_gaussian_kernel(size, sigma_x, sigma_y, angle, beta)
    if kind.startswith("plateau"):
        beta = _random_beta(config.plateau_beta, rng)
        return plateau_kernel(size, sigma_x, sigma_y, angle, beta)
    return generalized_gaussian_kernel(size, sigma_x, sigma_y, angle)
