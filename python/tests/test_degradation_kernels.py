"""Blur kernels: normalisation, symmetry, closed forms and the distribution of the draws."""

from collections import Counter

import numpy as np
import pytest

from pisa_models.degradation import kernels
from pisa_models.degradation.config import KernelConfig


def second_moments(kernel: np.ndarray) -> np.ndarray:
    """(2, 2) covariance in (x, y) of a kernel that sums to 1."""
    axis = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    x, y = np.meshgrid(axis, axis)
    cross = (kernel * x * y).sum()
    return np.array([[(kernel * x * x).sum(), cross], [cross, (kernel * y * y).sum()]])


def test_every_random_kernel_sums_to_one_and_has_an_allowed_odd_size():
    rng = np.random.default_rng(1)
    config = KernelConfig()
    seen = Counter()
    for _ in range(600):
        kernel = kernels.random_kernel(config, rng)
        assert kernel.dtype == np.float32
        assert kernel.shape[0] == kernel.shape[1]
        assert abs(float(kernel.sum(dtype=np.float64)) - 1) < 1e-5
        seen[kernel.shape[0]] += 1
    assert set(seen) == set(config.sizes)
    # Uniform over eight sizes: 75 expected each, four standard deviations are 33.
    assert all(abs(count - 75) < 33 for count in seen.values())


def test_gaussian_has_the_asked_covariance():
    kernel = kernels.generalized_gaussian_kernel(21, 2.0, 1.0)
    assert np.allclose(second_moments(kernel), [[4, 0], [0, 1]], atol=0.01)


def test_angle_turns_the_long_axis():
    kernel = kernels.generalized_gaussian_kernel(21, 2.0, 1.0, angle=np.pi / 4)
    assert np.allclose(second_moments(kernel), [[2.5, 1.5], [1.5, 2.5]], atol=0.01)
    quarter = kernels.generalized_gaussian_kernel(21, 2.0, 1.0, angle=np.pi / 2)
    assert np.allclose(second_moments(quarter), [[1, 0], [0, 4]], atol=0.01)


def test_beta_makes_the_generalized_gaussian_boxier():
    tail = {beta: kernels.generalized_gaussian_kernel(21, 3.0, 3.0, beta=beta)[10, 19] for beta in (0.5, 1.0, 4.0)}
    assert tail[0.5] > tail[1.0] > tail[4.0]
    assert tail[4.0] < 1e-6


def test_plateau_closed_form():
    kernel = kernels.plateau_kernel(7, 1.5, 1.5, beta=2.0)
    ratio = kernel[3, 3] / kernel[3, 5]  # at radius 2
    assert ratio == pytest.approx(1 + (4 / 1.5**2) ** 2, rel=1e-4)


def test_sinc_is_a_low_pass_that_rings():
    kernel = kernels.sinc_kernel(21, np.pi / 3)
    assert kernel.min() < 0 < kernel.max()
    response = np.abs(np.fft.fft2(kernel, (128, 128)))
    frequency = 2 * np.pi * np.fft.fftfreq(128)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    assert response[radius < np.pi / 3 * 0.5].min() > 0.85
    assert response[(radius > np.pi / 3 * 2) & (radius < np.pi)].max() < 0.1


def test_sinc_is_symmetric():
    kernel = kernels.sinc_kernel(9, 2.0)
    assert np.allclose(kernel, kernel.T, atol=1e-7)
    assert np.allclose(kernel, kernel[::-1], atol=1e-7)


def test_share_of_sinc_kernels():
    rng = np.random.default_rng(2)
    draws = [kernels.random_kernel(KernelConfig(), rng).min() < 0 for _ in range(2000)]
    # 10 % of the draws; a high cut-off or a small size still rings. 4 standard deviations = 2.7 %.
    assert abs(np.mean(draws) - 0.1) < 0.027


def test_isotropic_draws_are_isotropic_and_within_the_sigma_range():
    rng = np.random.default_rng(3)
    only_iso = KernelConfig(sizes=(21,), probabilities=(1, 0, 0, 0, 0, 0), sinc_probability=0.0, sigma=(1.0, 2.0))
    for _ in range(100):
        moments = second_moments(kernels.random_kernel(only_iso, rng))
        assert moments[0, 0] == pytest.approx(moments[1, 1], rel=1e-4)
        assert abs(moments[0, 1]) < 1e-5
        assert 0.98 < moments[0, 0] < 4.02


def test_anisotropic_draws_are_not_isotropic():
    rng = np.random.default_rng(4)
    only_aniso = KernelConfig(sizes=(21,), probabilities=(0, 1, 0, 0, 0, 0), sinc_probability=0.0)
    moments = [second_moments(kernels.random_kernel(only_aniso, rng)) for _ in range(50)]
    assert np.mean([abs(m[0, 0] - m[1, 1]) + abs(m[0, 1]) > 0.05 for m in moments]) > 0.9
