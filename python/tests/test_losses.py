"""Schedule, CSD, perceptual distance and grid score against plain transcriptions and planted faults."""

import io
import pickle
import shutil

import pytest
import torch

from pisa_models.losses.adversary import CHANNELS, Discriminator, discriminator_loss, generator_loss
from pisa_models.losses.csd import FIRST_T, LAST_T, csd_gradient, csd_loss, keep_statistics
from pisa_models.losses.grid import grid_penalty, grid_score, local_grid_penalty, squared_grid_score
from pisa_models.lpips import LPIPS, _ArraysOnly, block_distance
from pisa_models.packages import Package, read
from pisa_models.schedule import add_noise, alphas_cumprod, predict_clean
from pisa_models.training.loop import Opponent
from pisa_models.training.pixel import channel_variances, pixel_loss, pixel_rmse
from pisa_models.training.semantic import (
    contrast_difference,
    deviation_difference,
    mean_difference,
    random_window,
    strength_difference,
)

LPIPS_AUTHORS = Package(
    "pypi",
    "lpips",
    "0.1.4",
    "lpips-0.1.4-py3-none-any.whl",
    "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
    "BSD-2-Clause",
)


def test_schedule_is_scaled_linear():
    alphas = alphas_cumprod()
    assert alphas.shape == (1000,)
    assert alphas[0].item() == pytest.approx(1 - 0.00085, abs=1e-6)
    # Known from Stable Diffusion: sigma_max = sqrt((1 - a)/a) = 14.6146, sigma_min = 0.0292.
    sigmas = ((1 - alphas) / alphas).sqrt()
    assert sigmas[-1].item() == pytest.approx(14.6146, abs=2e-3)
    assert sigmas[0].item() == pytest.approx(0.0292, abs=1e-4)
    assert (alphas[1:] < alphas[:-1]).all()


def test_predict_clean_inverts_add_noise():
    z, noise = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    alpha_bar = alphas_cumprod()[torch.tensor([1, 200, 500])]
    assert torch.allclose(predict_clean(add_noise(z, noise, alpha_bar), noise, alpha_bar), z, atol=1e-4)


def test_csd_gradient_is_the_formula():
    alphas = alphas_cumprod()
    z = torch.randn(2, 4, 6, 6)
    calls = []

    def teacher(noisy, timestep, good):
        calls.append((noisy.clone(), timestep.clone(), good))
        return noisy * (0.3 if good else 0.2)

    found = csd_gradient(z, alphas, teacher)
    noisy, timestep, _ = calls[0]
    assert [good for *_, good in calls] == [False, True]
    assert (timestep >= FIRST_T).all() and (timestep <= LAST_T).all()
    for n in range(2):
        a = alphas[timestep[n]]
        eps_u, eps_c = 0.2 * noisy[n], 0.3 * noisy[n]
        eps_cfg = eps_u + 7.5 * (eps_c - eps_u)
        f_u = (noisy[n] - (1 - a).sqrt() * eps_u) / a.sqrt()
        f_cfg = (noisy[n] - (1 - a).sqrt() * eps_cfg) / a.sqrt()
        expected = (f_u - f_cfg) / (z[n] - f_cfg).abs().mean()
        assert torch.allclose(found[n], expected, atol=1e-4)


def test_csd_loss_moves_latents_along_the_gradient():
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    gradient = torch.randn(2, 3, 4, 4)
    csd_loss(z, gradient).sum().backward()
    assert torch.allclose(z.grad, 2 * gradient / gradient[0].numel(), atol=1e-6)


def test_keep_statistics_leaves_mean_and_contrast():
    z, gradient = torch.randn(2, 5, 16, 16), torch.randn(2, 5, 16, 16)
    gradient += 0.5 + 0.8 * z
    kept = keep_statistics(gradient, z)
    step = 1e-3
    head, moved = z[:, :3], (z - step * kept)[:, :3]
    assert (moved.mean((2, 3)) - head.mean((2, 3))).abs().max() < 1e-6
    assert (moved.std((2, 3)) - head.std((2, 3))).abs().max() < 1e-5
    plain = (z - step * gradient)[:, :3]
    assert (plain.std((2, 3)) - head.std((2, 3))).abs().max() > 5e-4
    assert torch.equal(kept[:, 3:], gradient[:, 3:])


def test_grid_score_sees_a_planted_grid():
    picture = torch.rand(1, 3, 128, 128) * 2 - 1
    assert grid_score(picture).item() < 0.04
    planted = picture.clone()
    planted[..., ::4, ::4] += 0.8
    assert grid_score(planted).item() > 0.1


def test_grid_penalty_is_zero_for_what_the_target_has():
    target = torch.rand(4, 3, 64, 64)
    target[..., ::4, :] += 0.3
    assert (grid_penalty(target, target) == 0).all()
    planted = target.clone()
    planted[..., 1::4, ::4] += 0.3
    assert (grid_penalty(planted, target) > 0.1).all()
    # Texture that is wrong but not locked to the grid is none of its business, however strong.
    noisy = target + 0.3 * torch.randn_like(target)
    assert (grid_penalty(noisy, target) < 0.01).all()


def blurred_picture() -> torch.Tensor:
    return torch.nn.functional.interpolate(torch.rand(2, 3, 24, 24), size=(96, 96), mode="bicubic") * 2 - 1


@pytest.mark.parametrize("network", ["alexnet", "vgg16"])
def test_lpips_orders_faults(network):
    lpips = LPIPS(network)
    picture = blurred_picture()
    noise = torch.randn_like(picture)
    zero, small, large = (lpips(picture + s * noise, picture) for s in (0.0, 0.05, 0.4))
    assert zero.shape == (2,) and (zero == 0).all() and (small > 0).all() and (small < large).all()
    # The first blocks alone are the first terms of the sum.
    whole, part = (lpips.distance(*(lpips.features(x, n) for x in (picture + noise, picture))) for n in (5, 3))
    assert (part < whole).all() and (part > 0).all()


def test_lpips_by_vgg_sees_a_grid():
    lpips, picture = LPIPS("vgg16"), blurred_picture()
    planted = picture.clone()
    planted[..., ::4, ::4] += 0.2
    assert (lpips(planted, picture) > 0.01).all()
    faulty = planted.requires_grad_(True)
    lpips(faulty, picture).sum().backward()
    assert faulty.grad.abs().sum() > 0


@pytest.mark.parametrize(("network", "file"), [("alexnet", "alex"), ("vgg16", "vgg")])
def test_lpips_weights_are_those_its_authors_published(network, file):
    published = torch.load(
        io.BytesIO(read(LPIPS_AUTHORS, f"lpips/weights/v0.1/{file}.pth")), weights_only=True, map_location="cpu"
    )
    for found, wanted in zip(LPIPS(network).weights, published.values(), strict=True):
        assert torch.allclose(found, wanted.flatten(), atol=1e-6)


def test_only_arrays_are_unpickled():
    with pytest.raises(pickle.UnpicklingError, match="nothing but arrays"):
        _ArraysOnly(io.BytesIO(pickle.dumps(print))).load()


def test_the_discriminator_learns_what_tells_two_sets_apart():
    torch.manual_seed(0)
    features = [torch.rand(6, width, 5, 5) for width in CHANNELS]
    others = [x * (1 + (torch.arange(x.shape[1]) % 2).view(1, -1, 1, 1)) for x in features]
    network = Discriminator()
    opponent = Opponent(network, 1e-2)
    first = discriminator_loss(network(features), network(others))
    for _ in range(30):
        opponent.advance(discriminator_loss(network(features), network(others)))
    last = discriminator_loss(network(features), network(others))
    assert first > 1.5 and last < 0.7
    assert generator_loss(network(features)) < generator_loss(network(others))
    assert [len(x) for x in network(features[:3])] == [6] * 3


def test_a_random_window_keeps_the_pair_together():
    a = torch.rand(2, 3, 64, 48)
    corners = set()
    for _ in range(20):
        x, y = random_window(a, a)
        assert torch.equal(x, y) and x.shape == (2, 3, 48, 36)
        corners.add(x[0, 0, 0, 0].item())
    assert len(corners) > 5


def test_strength_beyond_the_originals_is_excess_and_short_of_it_is_lack():
    wanted = torch.randn(2, 16, 32, 32)
    for factor, more, less in ((0.5, 0, 0.3), (1.5, 0.3, 0)):
        excess, lack = strength_difference(factor * wanted, wanted)
        assert ((excess > more) if more else (excess == 0)).all()
        assert ((lack > less) if less else (lack == 0)).all()
    excess, lack = strength_difference(torch.randn_like(wanted), wanted)
    assert (excess < 0.15).all() and (lack < 0.15).all()  # the phase is not asked


def test_pixel_rmse_equals_pixels_for_an_orthonormal_encoder():
    basis = torch.linalg.qr(torch.randn(48, 48)).Q
    deviations = torch.rand(48) + 0.5

    class Encoder:
        project = torch.nn.Conv2d(3, 48, 4, stride=4)

    with torch.no_grad():
        Encoder.project.weight.copy_((basis.T / deviations[:, None]).reshape(48, 3, 4, 4))
    a, b = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    found = pixel_rmse(Encoder.project(a), Encoder.project(b), channel_variances(Encoder))
    assert torch.allclose(found, (a - b).square().mean((1, 2, 3)).sqrt(), rtol=1e-3)


def test_mean_and_contrast_differences():
    wanted = torch.rand(2, 3, 64, 64)
    assert mean_difference(wanted + 0.1, wanted) == pytest.approx([0.1, 0.1], abs=1e-5)
    assert contrast_difference(wanted, wanted).max() == 0
    assert contrast_difference(wanted + 0.1, wanted).max() < 1e-4
    stronger = contrast_difference(1.1 * wanted, wanted)
    assert stronger == pytest.approx([0.1 * 12**-0.5] * 2, rel=0.1)  # the deviation of U(0, 1) is 1/√12
    # What one half has too much does not make up for what the other lacks.
    halved = torch.cat([1.1 * wanted[..., :32], 0.9 * wanted[..., 32:]], 3)
    assert (contrast_difference(halved, wanted) > 0.5 * stronger).all()


def test_deviation_difference_is_relative_and_of_the_whole_crop():
    torch.manual_seed(0)
    wanted = torch.rand(2, 3, 64, 64) - 0.5
    assert deviation_difference(wanted, wanted).max() == 0
    assert deviation_difference(wanted + 0.1, wanted).max() < 1e-4
    assert torch.allclose(deviation_difference(1.1 * wanted, wanted), torch.tensor(1.1).log().expand(2), atol=1e-4)
    soft = 0.2 * wanted
    assert torch.allclose(deviation_difference(1.1 * soft, soft), torch.tensor(1.1).log().expand(2), atol=1e-4)
    flat = torch.zeros(2, 3, 64, 64)
    assert deviation_difference(0.01 * wanted, flat).max() == 0  # noise on a flat crop is no contrast


def test_pixel_loss_counts_what_is_lost_against_the_input():
    before = torch.tensor([0.1, 0.1])
    better, worse = pixel_loss(torch.tensor([0.07, 0.1]), before), pixel_loss(torch.tensor([0.14, 0.1]), before)
    same = pixel_loss(before, before)
    assert better < same < worse
    assert worse - same > 3 * (same - better)  # though both are 3 dB
    # Far below the floor there is nothing more to gain.
    assert pixel_loss(torch.tensor([1e-3]), before[:1]) - pixel_loss(torch.tensor([1e-4]), before[:1]) < 1e-3


def test_local_grid_penalty_sees_a_pattern_whose_sign_changes():
    target = torch.rand(2, 3, 64, 64) * 0.2
    planted = target.clone()
    planted[..., :32, 1::4] += 0.3
    planted[..., 32:, 1::4] -= 0.3
    assert (local_grid_penalty(target, target) == 0).all()
    assert (local_grid_penalty(planted, target) > 10 * grid_penalty(planted, target)).all()
    noisy = target + 0.3 * torch.randn_like(target)
    assert (local_grid_penalty(planted, target) > 10 * local_grid_penalty(noisy, target)).all()


def test_squared_grid_score_is_that_of_the_measure():
    pictures = torch.randn(4, 3, 64, 64) * 0.1
    assert torch.allclose(squared_grid_score(pictures), grid_score(pictures).square(), rtol=0.01)


def test_squared_grid_score_finds_over_many_crops_what_hides_in_the_chance_of_one():
    torch.manual_seed(0)
    pictures = torch.randn(256, 3, 64, 64) * 0.1
    pattern = torch.zeros(4, 4)
    pattern[0, 0] = 0.01  # by chance a phase mean of one crop's high-pass is 0.006
    planted = pattern.clone().requires_grad_()
    squared_grid_score(pictures + planted.repeat(16, 16)).mean().backward()
    assert torch.cosine_similarity(planted.grad.flatten(), (pattern - pattern.mean()).flatten(), 0) > 0.9


def test_compiled_distance_is_the_same():
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    features, weights = [torch.randn(2, 8, 6, 5) for _ in range(2)], torch.rand(8)
    plain = block_distance(*features, weights)
    assert torch.allclose(torch.compile(block_distance, dynamic=True)(*features, weights), plain, rtol=1e-4)
