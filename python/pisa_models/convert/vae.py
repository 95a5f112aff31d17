"""The autoencoder's two halves as they are served: the posterior's mean, and latent scaling, folded in."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pisa_models.convert.layers import (
    Float32Norm,
    GatedConv,
    GatedLinear,
    SelfAttention,
    fold_upsampling,
    keep_padding_apart,
    replace,
)


def _replace_layers(network: nn.Module) -> None:
    for name, module in list(network.named_modules()):
        if type(module).__name__ == "Attention":
            replace(network, name, SelfAttention(module))
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear):
            replace(network, name, GatedLinear(module, None, None, None))
        elif isinstance(module, nn.Conv2d):
            replace(network, name, GatedConv(module, None, None, None))
        elif isinstance(module, nn.GroupNorm):
            replace(network, name, Float32Norm(module))
    fold_upsampling(network)
    keep_padding_apart(network)


class ServedEncoder(nn.Module):
    """pixels [N,3,H,W] RGB in [−1,1] → latents [N,C,h,w], the posterior's mean, scaled.

    `quant_conv` is a 1 × 1 convolution right after `conv_out`, so both are one; of its outputs the first
    half is the mean, and the other half, the deviation, is not computed at all.
    """

    def __init__(self, vae: nn.Module):
        super().__init__()
        channels, scaling = vae.config.latent_channels, vae.config.scaling_factor
        encoder = vae.encoder
        last = encoder.conv_out
        weight, bias = last.weight.double(), last.bias.double()
        if vae.quant_conv is not None:
            mix = vae.quant_conv.weight.double()[:, :, 0, 0]
            weight = torch.einsum("om,mikl->oikl", mix, weight)
            bias = mix @ bias + vae.quant_conv.bias.double()
        mean = nn.Conv2d(last.in_channels, channels, last.kernel_size, last.stride, last.padding, device="meta")
        mean.weight = nn.Parameter((scaling * weight[:channels]).float(), requires_grad=False)
        mean.bias = nn.Parameter((scaling * bias[:channels]).float(), requires_grad=False)
        encoder.conv_out = mean
        _replace_layers(encoder)
        self.encoder = encoder
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)


class ServedDecoder(nn.Module):
    """latents [N,C,h,w], scaled → pixels [N,3,H,W] RGB, about [−1,1].

    1/scaling is folded into the first layer. `post_quant_conv` stays apart from `conv_in`: its bias does not
    reach the zeros that `conv_in` pads with.
    """

    def __init__(self, vae: nn.Module):
        super().__init__()
        first = vae.decoder.conv_in if vae.post_quant_conv is None else vae.post_quant_conv
        scaled = first.weight.double() / vae.config.scaling_factor
        first.weight = nn.Parameter(scaled.float(), requires_grad=False)
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder
        _replace_layers(self)
        self.eval().requires_grad_(False)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))


def downscale(config: dict) -> int:
    """Pixels per latent cell and axis: each block but the last halves."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def encoder_reach(config: dict) -> int:
    """How far the encoder's convolutions see, in latent cells; statistics and attention see everything.

    In pixels, level l counts 2^l per 3 × 3 convolution, two for each residual block; the stride-2
    convolutions pad on one side and so reach 2 cells of their level to that side.
    """
    levels, layers = len(config["block_out_channels"]), config.get("layers_per_block", 1)
    pixels = 1 + sum(2 * layers * 2**level for level in range(levels))
    pixels += sum(2 * 2**level for level in range(levels - 1))
    pixels += (4 + 1) * 2 ** (levels - 1)  # two residual blocks in the middle, then conv_out
    return math.ceil(pixels / 2 ** (levels - 1))


def decoder_reach(config: dict) -> int:
    """As `encoder_reach`: level l counts 2^−l latent cells; each block has one more layer than the encoder's."""
    levels, layers = len(config["block_out_channels"]), config.get("layers_per_block", 1) + 1
    cells = 1 + 4 + sum(2 * layers / 2**level for level in range(levels))
    cells += sum(1 / 2**level for level in range(1, levels)) + 1 / 2 ** (levels - 1)
    return math.ceil(cells)
