"""The autoencoder in strips against the same network on the whole image."""

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL

from pisa_models.convert import strips, vae
from pisa_models.convert.layers import to_half

CONFIG = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def open_session(data: bytes):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@pytest.fixture(autouse=True)
def _one_thread(_seeded):
    """Networks this small are slower on several."""
    torch.set_num_threads(1)


def autoencoder(**changes) -> torch.nn.Module:
    model = AutoencoderKL(**(CONFIG | changes)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def runner(network, plan, tmp_path, dtype="float32") -> strips.Runner:
    facts = strips.write(plan(network), getattr(torch, dtype), tmp_path / "half.stages")
    return strips.Runner(tmp_path / "half.stages", facts, dtype, open_session)


def relative(found: np.ndarray, expected: torch.Tensor) -> float:
    assert found.shape == tuple(expected.shape) and np.isfinite(found).all()
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


def uneven(*shape: int) -> torch.Tensor:
    """Its parts have other means and deviations than the whole, as those of photos do."""
    x = torch.randn(shape)
    x[..., : shape[2] // 2, :] = 0.1 * x[..., : shape[2] // 2, :] + 2
    return x


@pytest.mark.parametrize("rows", [1, 6, 13, 1000])
def test_strips_give_what_the_whole_gives(tmp_path, rows):
    model = autoencoder()
    encoder, decoder = vae.ServedEncoder(model), vae.ServedDecoder(model)
    pixels, latents = uneven(1, 3, 48, 32), uneven(1, 4, 14, 9)
    assert relative(runner(encoder, strips.plan_encoder, tmp_path).run(pixels.numpy(), rows), encoder(pixels)) < 2e-5
    assert relative(runner(decoder, strips.plan_decoder, tmp_path).run(latents.numpy(), rows), decoder(latents)) < 2e-5


def test_float16_strips(tmp_path):
    model = autoencoder()
    decoder, latents = vae.ServedDecoder(model), uneven(1, 4, 12, 8)
    expected = decoder(latents)
    found = runner(to_half(decoder), strips.plan_decoder, tmp_path, "float16").run(latents.numpy(), 8)
    assert relative(found, expected) < 2e-2


def test_other_autoencoders(tmp_path):
    """No attention in the middle, no `post_quant_conv`, more layers."""
    model = autoencoder(mid_block_add_attention=False, use_post_quant_conv=False, layers_per_block=2)
    decoder, latents = vae.ServedDecoder(model), uneven(1, 4, 10, 8)
    assert relative(runner(decoder, strips.plan_decoder, tmp_path).run(latents.numpy(), 4), decoder(latents)) < 2e-5


def test_statistics_of_each_strip_alone_would_be_wrong(tmp_path):
    """What the pooling is for: the variance between strips counts."""
    model = autoencoder()
    decoder, latents = vae.ServedDecoder(model), uneven(1, 4, 14, 8)
    tiles = torch.cat([decoder(latents[:, :, :7]), decoder(latents[:, :, 7:])], 2)
    assert relative(tiles.numpy(), decoder(latents)) > 0.05


def test_pooled_statistics_are_those_of_all_values():
    values = np.concatenate([np.random.default_rng(0).normal(5, 1, (100, 3)), np.full((40, 3), -2.0)])
    parts = [(len(part), part.mean(0), part.var(0)) for part in (values[:30], values[30:100], values[100:])]
    mean, variance = strips.pooled(parts)
    assert np.allclose(mean, values.mean(0)) and np.allclose(variance, values.var(0))


def test_a_decode_of_1024_pixels_has_no_seams(tmp_path):
    """Stable Diffusion's depth, narrow: 128² cells in strips of 96 rows and 32, against the whole at once."""
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths = {"block_out_channels": (8, 16, 16, 16), "layers_per_block": 2}
    decoder, latents = vae.ServedDecoder(autoencoder(**levels, **widths)), uneven(1, 4, 128, 128)
    rows = 96
    found = runner(decoder, strips.plan_decoder, tmp_path).run(latents.numpy(), rows)[0]
    expected = decoder(latents).numpy()[0]
    decibels = 10 * np.log10(4 / np.mean((found - expected) ** 2))
    steps = np.abs(np.diff(found, axis=1)).mean((0, 2))
    # The uneven input has a step of its own in the middle, as the whole image has.
    borders = [row - 1 for row in range(rows, 1024, rows)]
    at_borders = steps[borders].mean() / np.abs(np.diff(expected, axis=1)).mean((0, 2))[borders].mean()
    print(f"strips: {decibels:.1f} dB, steps at their borders {at_borders:.4f} of those of the whole")
    assert decibels > 45 and at_borders < 1.1
