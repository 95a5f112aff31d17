"""The reference stages against independent transcriptions, and the committed fixtures against them."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms

from pisa_models.evaluate import stages
from pisa_models.fixtures import format, icc
from pisa_models.fixtures.__main__ import FOLDER, same, stale


def random_image(height=21, width=17, seed=0):
    return np.random.default_rng(seed).random((3, height, width), dtype=np.float32)


def bicubic_matrix(size: int, new_size: int) -> np.ndarray:
    """(new, old) weights of the anti-aliased cubic with a = −0.5, written down from its definition."""
    scale = size / new_size
    stretch = max(scale, 1.0)
    matrix = np.zeros((new_size, size))
    for i in range(new_size):
        centre = (i + 0.5) * scale
        distance = np.abs((np.arange(size) + 0.5 - centre) / stretch)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        matrix[i] = weights / weights.sum()
    return matrix


@pytest.mark.parametrize("new", [(84, 68), (42, 34), (5, 4), (21, 17), (30, 9)])
def test_resample_is_the_cubic_of_its_definition(new):
    image = random_image()
    expected = bicubic_matrix(21, new[0]) @ image @ bicubic_matrix(17, new[1]).T
    ours = stages.resample(image, *new)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 1e-5
    assert np.abs(ours - expected - 1e-4).max() > 5e-5  # the tolerance notices a shift of 1e-4


def test_pad_repeats_the_edge():
    padded = stages.pad_to_multiple(random_image(5, 7), 4)
    assert padded.shape == (3, 8, 8)
    assert np.array_equal(padded[:, 7, :7], padded[:, 4, :7])
    assert np.array_equal(stages.pad_to_multiple(padded, 4), padded)


def test_combine_special_cases():
    latents, eps_pix, eps_pisa = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)
    assert np.allclose(stages.combine(latents, eps_pix, eps_pisa, 1, 1), latents - eps_pisa, atol=1e-6)
    assert np.allclose(stages.combine(latents, eps_pix, eps_pisa, 1, 0), latents - eps_pix, atol=1e-6)
    assert np.array_equal(stages.combine(latents, eps_pix, eps_pisa, 0, 0), latents)
    left = np.zeros((5, 6))
    left[:, :3] = 1
    mixed = stages.combine(latents, eps_pix, eps_pisa, left, left)
    assert np.allclose(mixed[..., :3], (latents - eps_pisa)[..., :3], atol=1e-6)
    assert np.array_equal(mixed[..., 3:], latents[..., 3:])


def test_adain_is_pytorchs_unbiased_statistics():
    target, source = random_image(seed=1), random_image(30, 11, seed=2) * 0.5
    t, s = torch.from_numpy(target), torch.from_numpy(source)
    t_std = (t.flatten(1).var(1) + 1e-5).sqrt()[:, None, None]
    s_std = (s.flatten(1).var(1) + 1e-5).sqrt()[:, None, None]
    t_mean, s_mean = t.mean((1, 2), keepdim=True), s.mean((1, 2), keepdim=True)
    expected = ((t - t_mean) / t_std * s_std + s_mean).numpy()
    assert np.abs(stages.adain(target, source) - expected).max() < 2e-6


def test_wavelet_is_pytorchs_dilated_convolutions():
    target, source = random_image(seed=1), random_image(seed=2)
    taps = torch.tensor([1.0, 2.0, 1.0])
    kernel = (taps[:, None] * taps / 16).expand(3, 1, 3, 3)

    def low_pass(image: torch.Tensor) -> torch.Tensor:
        for level in range(5):
            radius = 2**level
            padded = F.pad(image, (radius,) * 4, mode="replicate")
            image = F.conv2d(padded, kernel, groups=3, dilation=radius)
        return image

    t, s = torch.from_numpy(target)[None], torch.from_numpy(source)[None]
    expected = (t - low_pass(t) + low_pass(s))[0].numpy()
    assert np.abs(stages.wavelet(target, source) - expected).max() < 2e-6


def test_wavelet_of_equal_images_changes_nothing():
    image = random_image()
    assert np.array_equal(stages.wavelet(image, image), image)


def test_blend_of_one_image_cut_into_tiles_is_that_image():
    image = random_image(20, 26)
    origins = [(y, x) for y in (0, 6, 12) for x in (0, 6, 12, 18)]
    tiles = [image[:, y : y + 8, x : x + 8] for y, x in origins]
    assert np.abs(stages.blend_tiles(tiles, origins, 20, 26) - image).max() < 1e-6


def test_tile_weights_closed_form():
    weights = stages.tile_weights(96, 96)
    assert weights[0, 0] == pytest.approx(3.7e-10, rel=0.5)  # the corner that fp16 cannot hold
    assert np.array_equal(weights, weights[::-1, ::-1])
    assert stages.tile_weights(1, 1)[0, 0] == pytest.approx(1 / (2 * np.pi * 0.01))


def linear_srgb(space: str) -> np.ndarray:
    """`icc.chart()` in sRGB by matrices instead of Little CMS, (H, W, 3) levels, clipped."""
    values = icc.chart() / 255
    if space == "adobe-rgb":
        linear, primaries = values ** (563 / 256), icc.ADOBE_RGB_XY
    else:
        linear = np.where(values >= 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
        primaries = icc.DISPLAY_P3_XY
    matrix = np.linalg.inv(icc.rgb_to_d50(icc.SRGB_XY)) @ icc.rgb_to_d50(primaries)
    srgb = np.clip(linear @ matrix.T, 0, 1)
    return 255 * np.where(srgb > 0.0031308, 1.055 * srgb ** (1 / 2.4) - 0.055, 12.92 * srgb)


@pytest.mark.parametrize("space", icc.SPACES)
def test_icc_values_are_those_of_the_matrices(space):
    by_lcms = icc.to_srgb(space).astype(float)
    assert np.abs(by_lcms - linear_srgb(space)).max() < 2
    assert np.abs(by_lcms - icc.chart()).max() > 10  # the conversion does something
    # Grey stays grey.
    assert np.ptp(by_lcms[0], axis=-1).max() <= 1


@pytest.mark.parametrize("space", icc.SPACES)
def test_icc_profile_is_embedded_and_readable(space):
    embedded = Image.open(io.BytesIO(icc.png(space))).info["icc_profile"]
    profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    assert ImageCms.getProfileDescription(profile).strip() != ""
    assert profile.profile.xcolor_space.strip() == "RGB"


def test_format_round_trip():
    value = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": [{"c": 1.5}, np.uint8([7])], "d": "x"}
    again = format.from_json(format.to_json(value))
    assert same(value, again)
    again["a"] = again["a"] + 1e-3
    assert not same(value, again)
    with pytest.raises(TypeError, match="float64"):
        format.to_json(np.zeros(2))


def test_committed_fixtures_are_current():
    assert stale(FOLDER) == []


def test_a_changed_or_missing_fixture_is_noticed(tmp_path):
    for path in FOLDER.iterdir():
        if path.is_file() and path.name != "combine.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    changed = format.load(tmp_path / "tiles.json")
    changed["blend"]["output"] = changed["blend"]["output"] + np.float32(1e-3)
    format.save(tmp_path / "tiles.json", changed)
    assert stale(tmp_path) == ["combine.json", "tiles.json"]


def test_fixtures_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 1_500_000
