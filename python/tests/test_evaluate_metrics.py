"""Every measure against a known value, and shown to notice a change."""

import cv2
import numpy as np
import pytest

from pisa_models.evaluate import metrics


def texture(height=128, width=128, seed=0):
    """(H, W, 3) float32 in [0, 1] with detail at several scales."""
    rng = np.random.default_rng(seed)
    image = sum(
        cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), sigma) * sigma for sigma in (0.7, 2, 6)
    )
    image = (image - image.min()) / (image.max() - image.min())
    return (0.1 + 0.8 * image).astype(np.float32)


def test_luma_of_the_primaries():
    colours = np.array([[[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.float32)
    assert np.allclose(metrics.luma(colours), [[16, 235, 81.481, 144.553, 40.966]], atol=1e-3)


def test_psnr_of_a_known_error():
    image = texture()
    # A grey step of one level changes Y by 219/255 levels.
    moved = image + np.float32(1 / 255)
    assert metrics.psnr_y(moved, image) == pytest.approx(20 * np.log10(255 / (219 / 255)), abs=0.01)
    assert metrics.psnr_y(image, image) == float("inf")
    assert metrics.psnr_y(image + np.float32(2 / 255), image) < metrics.psnr_y(moved, image) - 5


def test_ssim_is_one_for_equal_and_falls_with_noise_and_blur():
    image = texture()
    assert metrics.ssim_y(image, image) == pytest.approx(1)
    noise = np.random.default_rng(1).normal(0, 0.03, image.shape).astype(np.float32)
    little, much = metrics.ssim_y(image + noise, image), metrics.ssim_y(image + 3 * noise, image)
    assert 0 < much < little < 0.99
    assert metrics.ssim_y(cv2.GaussianBlur(image, (0, 0), 2), image) < 0.9
    # A constant offset costs structure nothing: SSIM stays high where PSNR does not.
    assert metrics.ssim_y(image + np.float32(0.02), image) > 0.99


def test_grid_score_of_noise_is_the_chance_level():
    """512² of white noise: each phase is the mean of 16384 high-passed samples."""
    noise = np.random.default_rng(0).random((512, 512, 3), dtype=np.float32)
    assert metrics.grid_score(noise) < 0.01


@pytest.mark.parametrize("period", [2, 4])
def test_grid_score_finds_a_planted_grid(period):
    image = texture(512, 512)
    clean = metrics.grid_score(image)
    planted = image.copy()
    planted[::period, ::period] += np.float32(0.02)
    assert clean < 0.02
    assert metrics.grid_score(planted) > 5 * clean
    assert metrics.grid_score(planted) > 0.05


def test_grid_score_grows_with_the_grid_and_ignores_its_phase():
    image = texture(512, 512)
    scores = []
    for strength in (0.01, 0.02, 0.04):
        planted = image.copy()
        planted[1::4, 2::4] += np.float32(strength)
        scores.append(metrics.grid_score(planted))
    assert scores[0] < scores[1] < scores[2]
    shifted = image.copy()
    shifted[3::4, 0::4] += np.float32(0.04)
    assert metrics.grid_score(shifted) == pytest.approx(scores[2], rel=0.1)


def test_grid_score_is_the_formula_on_a_pure_grid():
    """Only the grid: the phases hold all the variance, so the score is 1."""
    image = np.zeros((66, 66, 3), np.float32)
    image[::4, ::4] = 1
    assert metrics.grid_score(image) == pytest.approx(1, abs=1e-6)
    assert metrics.grid_score(np.full((64, 64, 3), 0.5, np.float32)) == 0


def test_channel_shift_measures_the_worst_channel():
    reference = texture()
    changed = reference.copy()
    changed[..., 1] += np.float32(3 / 255)
    changed[..., 2] = (changed[..., 2] - changed[..., 2].mean()) * np.float32(0.9) + changed[..., 2].mean()
    shift = metrics.channel_shift(changed, reference, reference)
    assert shift.mean_levels == pytest.approx(3, abs=0.01)
    assert shift.deviation_ratio == pytest.approx(0.9, abs=0.001)
    unchanged = metrics.channel_shift(reference, reference, reference)
    assert (unchanged.mean_levels, unchanged.deviation_ratio) == (0, pytest.approx(1))
