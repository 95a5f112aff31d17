"""The autoencoder: pixels [-1, 1] <-> scaled latents at a quarter of the size, both ways linear and computed.

The encoder is the principal component analysis of 4 x 4 pixel blocks, orthonormal up to the scale of each
channel: a latent cell depends on its own 16 pixels only, so tiling is exact, distances in latents are distances
in pixels, and it costs next to nothing. The decoder is its exact inverse. Two learned decoders (resize +
convolution) were trained, one in its place and one as a correction on top of it; measured on predicted latents both
were worse than it in PSNR and distance and no better in the grid score (`EXPERIMENTS.md`).
"""

import torch
from torch import Tensor, nn

DOWNSCALE = 4
LATENT_CHANNELS = 16
# Receptive radius of both in latent cells, checked against the networks in the tests.
RADIUS = 0


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


class Decoder(nn.Module):
    """scaled latents [N,C,h,w] -> pixels [N,3,4h,4w] RGB, about [-1,1] (not clamped)."""

    def __init__(self, channels: int = LATENT_CHANNELS):
        super().__init__()
        self.inverse = nn.Conv2d(channels, 3 * DOWNSCALE**2, 1)
        self.shuffle = nn.PixelShuffle(DOWNSCALE)

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """The inverse of `Encoder.set_components`."""
        self.inverse.weight.copy_((components * deviations)[:, :, None, None])
        self.inverse.bias.copy_(mean)

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # bfloat16 would cost the reconstruction 10 dB
            return self.shuffle(self.inverse(latents.float()))


class Autoencoder(nn.Module):
    """Encoder and decoder together; forward reconstructs pixels."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decoder(self.encoder(pixels))
