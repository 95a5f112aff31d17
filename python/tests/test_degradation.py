"""The degradation pipeline and its steps: contracts, determinism, noise statistics, strength."""

import cv2
import numpy as np
import pytest
from PIL import Image

from pisa_models.degradation import (
    BICUBIC,
    HEAVY,
    MILD_JPEG,
    NAMED_CONFIGS,
    PHONE_NOISE,
    REAL_ESRGAN_PAPER,
    bicubic_x4,
    degrade,
    operations,
)
from pisa_models.degradation.pipeline import _resize_factor


def photo_like(height: int = 192, width: int = 192, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with roughly the 1/f spectrum of a photo: grey detail, smooth colour."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for sigma, channels in ((1, 1), (3, 1), (9, 1), (27, 3)):
        layer = cv2.GaussianBlur(rng.standard_normal((height, width, channels)), (0, 0), sigma)
        image += (layer / layer.std() * np.sqrt(sigma)).reshape(height, width, channels)
    image = (image - image.min()) / (image.max() - image.min())
    return np.rint(image * 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("name", NAMED_CONFIGS)
def test_output_contract(name):
    for seed in range(20):
        low_res = degrade(photo_like(96, 128), np.random.default_rng(seed), NAMED_CONFIGS[name])
        assert low_res.shape == (24, 32, 3)
        assert low_res.dtype == np.float32
        assert low_res.min() >= 0 and low_res.max() <= 1
        levels = low_res * 255
        assert np.allclose(levels, np.rint(levels), atol=1e-4)


@pytest.mark.parametrize("name", NAMED_CONFIGS)
def test_deterministic_from_the_generator(name):
    hq = photo_like()
    before = hq.copy()
    config = NAMED_CONFIGS[name]
    first = degrade(hq, np.random.default_rng(7), config)
    assert np.array_equal(first, degrade(hq, np.random.default_rng(7), config))
    assert np.array_equal(hq, before)
    if config is not BICUBIC:
        assert not np.array_equal(first, degrade(hq, np.random.default_rng(8), config))


@pytest.mark.parametrize("config", [REAL_ESRGAN_PAPER, PHONE_NOISE])
def test_uint8_and_float_input_agree(config):
    hq = photo_like()
    as_float = hq.astype(np.float32) / np.float32(255)
    assert np.array_equal(
        degrade(hq, np.random.default_rng(3), config),
        degrade(as_float, np.random.default_rng(3), config),
    )


def test_the_paper_pipeline_keeps_the_image_in_place_and_bright():
    """Over many draws the mean LR is the clean LR: no shift, no change of brightness."""
    hq = photo_like()
    clean = bicubic_x4(hq.astype(np.float32) / np.float32(255))
    rng = np.random.default_rng(0)
    mean = np.mean([degrade(hq, rng) for _ in range(300)], axis=0)
    assert abs(float(mean.mean() - clean.mean())) < 0.01
    in_place = psnr(mean[2:-2, 2:-2], clean[2:-2, 2:-2])
    for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        shifted = np.roll(mean, shift, axis=(0, 1))
        assert psnr(shifted[2:-2, 2:-2], clean[2:-2, 2:-2]) < in_place


def test_named_configs_are_ordered_by_strength():
    hq = photo_like()
    clean = bicubic_x4(hq.astype(np.float32) / np.float32(255))
    score = {}
    for name, config in (
        ("bicubic", BICUBIC),
        ("mild", MILD_JPEG),
        ("phone", PHONE_NOISE),
        ("heavy", HEAVY),
    ):
        rng = np.random.default_rng(0)
        score[name] = np.mean([psnr(degrade(hq, rng, config), clean) for _ in range(40)])
    assert score["bicubic"] > 50
    assert score["bicubic"] > score["mild"] > score["phone"] > score["heavy"]


def test_bicubic_is_pillows_antialiased_bicubic():
    hq = photo_like(64, 96)
    pillow = np.asarray(Image.fromarray(hq).resize((24, 16), Image.Resampling.BICUBIC))
    ours = degrade(hq, np.random.default_rng(0), BICUBIC) * 255
    # Pillow rounds after each of its two passes, ours once at the end.
    assert np.abs(ours - pillow).max() <= 1.01


@pytest.mark.parametrize(
    ("hq", "error"),
    [
        (np.zeros((64, 64), np.uint8), ValueError),
        (np.zeros((64, 64, 4), np.uint8), ValueError),
        (np.zeros((66, 64, 3), np.uint8), ValueError),
        (np.zeros((28, 64, 3), np.uint8), ValueError),
        (np.zeros((64, 64, 3), np.float64), TypeError),
    ],
)
def test_wrong_input_is_refused(hq, error):
    with pytest.raises(error, match="Expected .* but received"):
        degrade(hq, np.random.default_rng(0))


def test_gaussian_noise_statistics():
    flat = np.full((256, 256, 3), 0.5, np.float32)
    noise = operations.add_gaussian_noise(flat, 20, False, np.random.default_rng(0)) - flat
    assert abs(noise.mean()) < 0.001
    assert noise.std() * 255 == pytest.approx(20, rel=0.01)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
    gray = operations.add_gaussian_noise(flat, 20, True, np.random.default_rng(0)) - flat
    assert np.array_equal(gray[..., 0], gray[..., 2])
    assert gray.std() * 255 == pytest.approx(20, rel=0.02)


def test_poisson_noise_variance_grows_with_light_and_scale():
    """A ramp over all 256 levels: 256 photons at white, so var = scale²·y/256."""
    ramp = np.repeat(np.arange(256, dtype=np.float32)[None, :, None] / 255, 3, axis=2)
    ramp = np.repeat(ramp, 4000, axis=0)
    for scale in (0.5, 1.0):
        noisy = operations.add_poisson_noise(ramp, scale, False, np.random.default_rng(0))
        noise = noisy - ramp
        for level in (32, 128):
            expected = scale**2 * (level / 255) / 256
            assert noise[:, level].var() == pytest.approx(expected, rel=0.05)
    gray = operations.add_poisson_noise(ramp, 1.0, True, np.random.default_rng(0)) - ramp
    assert np.allclose(gray[:, 128, 0], gray[:, 128, 1], atol=1e-6)


def test_camera_noise_statistics_and_smooth_chroma():
    flat = np.full((256, 256, 3), 0.25, np.float32)
    rng = np.random.default_rng(0)
    rough = operations.add_camera_noise(flat, 3.0, 8.0, 0.0, rng) - flat
    assert rough.std() * 255 == pytest.approx(np.sqrt(9 + 64 * 0.25), rel=0.01)
    smooth = operations.add_camera_noise(flat, 3.0, 8.0, 1.5, rng) - flat
    colour = smooth[..., 0] - smooth[..., 2]
    neighbours = np.corrcoef(colour[:, :-1].ravel(), colour[:, 1:].ravel())[0, 1]
    assert neighbours > 0.7


def test_unsmoothed_colour_noise_keeps_its_full_resolution():
    flat = np.full((256, 256, 3), 100, np.uint8)

    def colour(name):
        noisy = degrade(flat, np.random.default_rng(0), NAMED_CONFIGS[name]) * 255
        return noisy[..., 0] - noisy[..., 2]

    found = colour("colour-noise")
    assert abs(np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]) < 0.05
    assert found.std() > max(4, 2 * colour("phone-noise").std())


def test_jpeg_loses_more_at_lower_quality_and_keeps_colour():
    image = photo_like().astype(np.float32) / 255
    score = [psnr(operations.jpeg(image, quality), image) for quality in (30, 60, 95)]
    assert score[0] < score[1] < score[2]
    red = np.zeros((32, 32, 3), np.float32)
    red[..., 0] = 1
    assert np.abs(operations.jpeg(red, 95) - red).max() < 0.03


def test_blur_keeps_a_constant_and_does_not_shift():
    kernel = np.zeros((7, 7), np.float32)
    kernel[3, 3] = 1
    image = photo_like(64, 64).astype(np.float32) / 255
    assert np.allclose(operations.blur(image, kernel), image, atol=1e-6)
    box = np.full((5, 5), 1 / 25, np.float32)
    flat = np.full((40, 40, 3), 0.3, np.float32)
    assert np.allclose(operations.blur(flat, box), 0.3, atol=1e-6)


def test_resize_factor_follows_the_probabilities():
    rng = np.random.default_rng(0)
    factors = np.array([_resize_factor((0.2, 0.7, 0.1), (0.15, 1.5), rng) for _ in range(4000)])
    assert abs(np.mean(factors > 1) - 0.2) < 0.03
    assert abs(np.mean(factors < 1) - 0.7) < 0.03
    assert factors.min() > 0.15 and factors.max() < 1.5
    assert factors.min() < 0.2 and factors.max() > 1.45


def test_paper_settings_are_the_published_ones():
    first, second = REAL_ESRGAN_PAPER.first, REAL_ESRGAN_PAPER.second
    assert first.resize == (0.15, 1.5) and second.resize == (0.3, 1.2)
    assert first.kernel.sigma == (0.2, 3.0) and second.kernel.sigma == (0.2, 1.5)
    assert sum(first.kernel.probabilities) == pytest.approx(1)
    assert (first.blur_probability, second.blur_probability) == (1.0, 0.8)
    assert REAL_ESRGAN_PAPER.final_sinc_probability == 0.8
