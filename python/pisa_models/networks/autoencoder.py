"""The autoencoder: pixels [-1, 1] <-> scaled latents at a quarter of the size.

The encoder is the principal component analysis of 4 x 4 pixel blocks, linear and orthonormal up to the
scale of each channel: a latent cell depends on its own 16 pixels only, so tiling is exact, distances in
latents are distances in pixels, and it costs next to nothing. The decoder starts from the exact inverse of
that analysis, so that it reconstructs almost perfectly before any training, and adds a learned correction: the
inverse paints blocks of 4 x 4 as soon as latents are predicted, and undoing them needs context and hence
resize + convolution (no learned pixel shuffle, which paints a grid of its own).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DOWNSCALE = 4
LATENT_CHANNELS = 16
# Receptive radii in latent cells, checked against the networks in the tests.
ENCODER_RADIUS = 0
DECODER_RADIUS = 12


class Encoder(nn.Module):
    """pixels [N,3,H,W] RGB [-1,1] -> scaled latents [N,C,H/4,W/4], each channel of about unit variance."""

    def __init__(self, channels: int = LATENT_CHANNELS):
        super().__init__()
        self.project = nn.Conv2d(3, channels, DOWNSCALE, stride=DOWNSCALE)

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """mean [48], components [48,C] orthonormal, deviations [C]; rows ordered (channel, y, x)."""
        weight = components.T / deviations[:, None]
        self.project.weight.copy_(weight.reshape(-1, 3, DOWNSCALE, DOWNSCALE))
        self.project.bias.copy_(-(weight @ mean))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.project(pixels)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3 x 3, no normalisation, so that every tile is exact."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Decoder(nn.Module):
    """scaled latents [N,C,h,w] -> pixels [N,3,4h,4w] RGB, about [-1,1] (not clamped).

    `widths`: channels at latent, double and full resolution; `blocks`: residual blocks at the first two.
    """

    def __init__(self, channels: int = LATENT_CHANNELS, widths=(96, 48, 24), blocks=(4, 1)):
        super().__init__()
        w0, w1, w2 = widths
        self.inverse = nn.Conv2d(channels, 3 * DOWNSCALE**2, 1)
        self.first = nn.Conv2d(channels, w0, 3, padding=1)
        self.coarse = nn.Sequential(*[ResidualBlock(w0) for _ in range(blocks[0])])
        self.to_middle = nn.Conv2d(w0, w1, 3, padding=1)
        self.middle = nn.Sequential(*[ResidualBlock(w1) for _ in range(blocks[1])])
        self.to_fine = nn.Conv2d(w1, w2, 3, padding=1)
        self.see = nn.Conv2d(3, w2, 3, padding=1)
        self.mix = nn.Conv2d(w2, w2, 3, padding=1)
        self.last = nn.Conv2d(w2, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """The inverse of `Encoder.set_components`, which is not trained."""
        self.inverse.weight.copy_((components * deviations)[:, :, None, None])
        self.inverse.bias.copy_(mean)
        self.inverse.requires_grad_(False)

    def blocks(self, latents: Tensor) -> Tensor:
        """The inverse of the encoder without the correction, [N,C,h,w] -> [N,3,4h,4w]."""
        with torch.autocast("cpu", enabled=False):  # bfloat16 would cost the reconstruction 10 dB
            return F.pixel_shuffle(self.inverse(latents.float()), DOWNSCALE)

    def forward(self, latents: Tensor) -> Tensor:
        blocky = self.blocks(latents)  # (N, 3, 4h, 4w)
        x = self.coarse(self.first(latents))  # (N, w0, h, w)
        x = F.relu(self.to_middle(F.interpolate(F.relu(x), scale_factor=2.0, mode="nearest")))
        x = self.middle(x)  # (N, w1, 2h, 2w)
        x = self.to_fine(F.interpolate(F.relu(x), scale_factor=2.0, mode="nearest"))
        x = F.relu(x + self.see(blocky))  # (N, w2, 4h, 4w)
        return blocky + self.last(F.relu(self.mix(x)))


class Autoencoder(nn.Module):
    """Encoder and decoder together; forward reconstructs pixels."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decoder(self.encoder(pixels))
