"""Shapes, receptive fields and tiling of the networks, and the algebra of their LoRAs."""

import pytest
import torch

from pisa_models.networks.autoencoder import (
    LATENT_CHANNELS,
    RADIUS,
    Autoencoder,
    BorderFilter,
    Decoder,
    Encoder,
    lapped_filter,
)
from pisa_models.networks.deployed import DeployedUNet
from pisa_models.networks.lora import PIXEL, SEMANTIC, AdaptableConv2d, adaptable, add_adapters, set_gates, train_only
from pisa_models.networks.unet import DOWNSCALE, NULL, UNet
from pisa_models.schedule import ONE_STEP
from pisa_models.training.vae import principal_components


def randomise(module: torch.nn.Module) -> None:
    """Give zero-initialised weights a value, so that a test of them can fail."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


def adapted_unet() -> UNet:
    unet = UNet()
    add_adapters(unet, PIXEL, lambda _: 6)
    add_adapters(unet, SEMANTIC, lambda _: 5)
    randomise(unet)
    return unet.requires_grad_(False)


def evaluate(unet: UNet, latents: torch.Tensor) -> torch.Tensor:
    n = len(latents)
    return unet(latents, torch.full((n,), ONE_STEP), torch.full((n,), NULL))


def test_autoencoder_shapes():
    pixels = torch.rand(2, 3, 48, 64) * 2 - 1
    model = Autoencoder()
    latents = model.encoder(pixels)
    assert latents.shape == (2, LATENT_CHANNELS, 12, 16)
    assert model.decoder(latents).shape == pixels.shape


def test_encoder_is_an_orthonormal_transform_scaled_to_unit_variance():
    crops = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8).numpy()
    mean, components, deviations = principal_components(crops, channels=48)
    assert torch.allclose(components.T @ components, torch.eye(48), atol=1e-4)
    encoder = Autoencoder().encoder
    encoder.project = torch.nn.Conv2d(3, 48, 4, stride=4)
    encoder.set_components(mean, components, deviations)
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = encoder(pixels)
    assert torch.allclose(latents.mean((0, 2, 3))[:3], torch.zeros(3), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(48), atol=2e-2)
    # All 48 components lose nothing: distances in scaled-back latents are distances in pixels.
    squares = (latents.detach() * deviations.view(1, -1, 1, 1)).square().sum((1, 2, 3))
    filtered = encoder.lap(pixels)
    assert torch.allclose(filtered.square().sum((1, 2, 3)), pixels.square().sum((1, 2, 3)), rtol=1e-4)
    centred = filtered.reshape(6, 3, 8, 4, 8, 4).permute(0, 2, 4, 1, 3, 5).reshape(6, -1, 48) - mean
    assert torch.allclose(squares, centred.square().sum((1, 2)), rtol=1e-3)


def test_border_filter_is_inverted_by_its_transpose_up_to_the_pictures_border():
    pixels = torch.rand(2, 3, 24, 32) * 2 - 1
    filtered = BorderFilter(lapped_filter())(pixels)
    assert (filtered - pixels).abs().max() > 0.1
    assert torch.allclose(BorderFilter(lapped_filter().T)(filtered), pixels, atol=1e-5)


def test_border_filter_leaves_flat_pictures_and_their_own_border():
    lap = BorderFilter(lapped_filter())
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(lap(flat), flat, atol=1e-6)
    pixels = torch.rand(1, 3, 16, 16)
    for corner in ((slice(2), slice(2)), (slice(-2, None), slice(-2, None))):
        assert torch.allclose(lap(pixels)[(..., *corner)], pixels[(..., *corner)], atol=1e-6)


def test_basis_functions_fade_out_where_those_of_blocks_break_off():
    crops = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8).numpy()
    decoder = Decoder()
    decoder.set_components(*principal_components(crops))
    latents = torch.zeros(1, LATENT_CHANNELS, 5, 5)
    impulses = latents.repeat(LATENT_CHANNELS, 1, 1, 1)
    impulses[range(LATENT_CHANNELS), range(LATENT_CHANNELS), 2, 2] = 1
    painted = (decoder(impulses) - decoder(latents)).detach().square().sum((0, 1))
    assert painted[:6].max() < 1e-10 and painted[14:].max() < 1e-10  # nothing beyond 8 px
    assert painted[6:14].sum(1)[0] < painted[6:14].sum(1)[3] / 10


def test_decoder_inverts_the_encoder():
    crops = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8).numpy()
    components = principal_components(crops)
    model = Autoencoder()
    model.encoder.set_components(*components)
    model.decoder.set_components(*components)
    latents = torch.randn(2, LATENT_CHANNELS, 6, 5)
    assert torch.allclose(model.encoder(model.decoder(latents)), latents, atol=1e-3)


def test_flat_colours_are_held_exactly():
    crops = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8).numpy()
    model = Autoencoder()
    for part in (model.encoder, model.decoder):
        part.set_components(*principal_components(crops))
    flat = torch.tensor([0.9, -0.7, 0.2]).view(1, 3, 1, 1).expand(1, 3, 16, 24)
    assert torch.allclose(model(flat), flat, atol=1e-5)


def test_decoder_is_exact_under_autocast():
    decoder = Decoder().requires_grad_(False)
    latents = torch.randn(1, LATENT_CHANNELS, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(decoder(latents), decoder(latents.float()))
        pixels = decoder(latents)
    assert pixels.dtype == torch.float32 and torch.equal(pixels, decoder(latents))


def test_radius_bounds_the_receptive_fields():
    encoder, decoder = Encoder().requires_grad_(False), Decoder().requires_grad_(False)
    latents, pixels = torch.randn(1, LATENT_CHANNELS, 9, 9), torch.randn(1, 3, 36, 36)
    changed_latents, changed_pixels = latents.clone(), pixels.clone()
    changed_latents[:, :, 4, 4] += 3
    changed_pixels[:, :, 16:20, 16:20] += 3
    for touched in (
        (decoder(latents) != decoder(changed_latents)).any(1)[0].nonzero() // 4,
        (encoder(pixels) != encoder(changed_pixels)).any(1)[0].nonzero(),
    ):
        assert (touched - 4).abs().max().item() <= RADIUS


def test_decoder_tiles_equal_the_whole():
    decoder = Decoder().requires_grad_(False)
    latents = torch.randn(1, LATENT_CHANNELS, 24, 64)
    whole = decoder(latents)
    inner = 32 * 4 - RADIUS * 4
    assert torch.allclose(decoder(latents[..., :32])[..., :inner], whole[..., :inner], atol=1e-5)


def test_untrained_prior_predicts_zero_and_keeps_the_shape():
    latents = torch.randn(2, LATENT_CHANNELS, 5 * DOWNSCALE, 3 * DOWNSCALE)
    eps = evaluate(UNet(), latents)
    assert eps.shape == latents.shape
    assert (eps == 0).all()


def test_composed_weight_equals_branches():
    conv = AdaptableConv2d(5, 7, 3, padding=1)
    add_adapters(conv, PIXEL, lambda _: 2)
    add_adapters(conv, SEMANTIC, lambda _: 3)
    randomise(conv)
    x = torch.randn(2, 5, 9, 8)
    set_gates(conv, pixel=1, semantic=0.7)
    expected = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    for name, gate in ((PIXEL, 1.0), (SEMANTIC, 0.7)):
        adapter = conv.adapters[name]
        low = torch.nn.functional.conv2d(x, adapter.down, padding=1)
        expected = expected + gate * torch.einsum("or,nrhw->nohw", adapter.up, low)
    assert torch.allclose(conv(x), expected, atol=1e-5)


def test_fresh_adapters_change_nothing():
    unet = UNet()
    randomise(unet)
    latents = torch.randn(1, LATENT_CHANNELS, 8, 8)
    before = evaluate(unet, latents)
    add_adapters(unet, PIXEL, lambda _: 4)
    set_gates(unet, pixel=1)
    assert torch.equal(evaluate(unet, latents), before)


def test_train_only_frees_one_adapter():
    unet = adapted_unet()
    train_only(unet, SEMANTIC)
    free = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert len(free) == 2 * len(adaptable(unet))
    assert all(".adapters.semantic." in name for name in free)


@pytest.mark.parametrize("semantic", [0.0, 0.5, 1.0])
def test_deployed_equals_trained(semantic):
    """Folded timestep, merged pixel LoRA and gated branch against the composed weights of training."""
    unet = adapted_unet()
    latents = torch.randn(2, LATENT_CHANNELS, 16, 12)
    set_gates(unet, pixel=1, semantic=semantic)
    expected = evaluate(unet, latents)
    found = DeployedUNet(unet)(latents, torch.full((2,), semantic))
    assert expected.abs().max() > 0.05
    assert torch.allclose(found, expected, atol=2e-4)


def test_gate_is_per_sample():
    deployed = DeployedUNet(adapted_unet())
    latents = torch.randn(1, LATENT_CHANNELS, 8, 8).expand(2, -1, -1, -1)
    pair = deployed(latents, torch.tensor([0.0, 1.0]))
    for index, gate in enumerate((0.0, 1.0)):
        alone = deployed(latents[:1], torch.tensor([gate]))
        assert torch.allclose(pair[index], alone[0], atol=1e-5)
    assert not torch.allclose(pair[0], pair[1], atol=1e-3)
