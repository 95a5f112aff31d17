"""The autoencoder: pixels [-1, 1] <-> scaled latents at a quarter of the size, both ways linear and computed.

The encoder is a lapped transform: an orthonormal filter across the borders of 4 x 4 pixel cells, then the principal
component analysis of the cells. It is orthonormal up to the scale of each channel, so distances in latents are
distances in pixels; it costs next to nothing, and a latent cell depends on its own pixels and two more on each side, so
tiling is exact. The decoder is its exact inverse (but for the components left out). Its basis functions are 8 px long,
overlap and fade to nothing at their ends. Without the filter they are blocks, and whatever the UNet invents shows the
borders of its cells (`EXPERIMENTS.md`).
"""

import math

import torch
from torch import Tensor, nn

DOWNSCALE = 4
LATENT_CHANNELS = 16
# Receptive radius of both in latent cells, checked against the networks in the tests.
RADIUS = 1


def lapped_filter() -> Tensor:
    """P [4, 4], orthonormal: maps the two pixels on each side of a border of cells to what the cells are computed of.

    P = [I J; J -I] diag(I, V) [I J; J -I] / 2 with V = J C_IIᵀ C_IV J, followed by a cosine transform of the cells,
    is the lapped orthogonal transform (Malvar and Staelin 1989; as a filter across borders: Tran, Liang and Tu 2003).
    """
    identity, flip = torch.eye(2), torch.eye(2).flip(0)
    c, s = math.cos(math.pi / 8), math.sin(math.pi / 8)
    cosine_2 = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    cosine_4 = torch.tensor([[c, s], [s, -c]])
    rotation = flip @ cosine_2.T @ cosine_4 @ flip
    butterfly = torch.cat([torch.cat([identity, flip], 1), torch.cat([flip, -identity], 1)])
    return butterfly @ torch.block_diag(identity, rotation) @ butterfly / 2


class BorderFilter(nn.Module):
    """Applies a [4, 4] matrix across all borders of cells, along rows and columns; [N,3,H,W] → the same size.

    The picture is continued by its mirror image, of which the filter makes itself: its own border stays as it is.
    """

    def __init__(self, matrix: Tensor):
        super().__init__()
        kernel = torch.einsum("ay,bx->abyx", matrix, matrix).reshape(16, 1, 4, 4)
        self.filter = nn.Conv2d(3, 48, DOWNSCALE, stride=DOWNSCALE, groups=3, bias=False)
        self.filter.weight = nn.Parameter(kernel.repeat(3, 1, 1, 1), requires_grad=False)
        self.shuffle = nn.PixelShuffle(DOWNSCALE)

    def forward(self, pixels: Tensor) -> Tensor:
        # Single lines, as not every runtime slices backwards.
        x = torch.cat([pixels[:, :, 1:2], pixels[:, :, :1], pixels, pixels[:, :, -1:], pixels[:, :, -2:-1]], 2)
        x = torch.cat([x[..., 1:2], x[..., :1], x, x[..., -1:], x[..., -2:-1]], 3)
        return self.shuffle(self.filter(x))[:, :, 2:-2, 2:-2]


class Encoder(nn.Module):
    """pixels [N,3,H,W] RGB [-1,1] -> scaled latents [N,C,H/4,W/4], each channel of about unit variance."""

    def __init__(self, channels: int = LATENT_CHANNELS):
        super().__init__()
        self.lap = BorderFilter(lapped_filter())
        self.project = nn.Conv2d(3, channels, DOWNSCALE, stride=DOWNSCALE)

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """mean [48], components [48,C] orthonormal, deviations [C]; rows ordered (channel, y, x)."""
        weight = components.T / deviations[:, None]
        self.project.weight.copy_(weight.reshape(-1, 3, DOWNSCALE, DOWNSCALE))
        self.project.bias.copy_(-(weight @ mean))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.project(self.lap(pixels))


class Decoder(nn.Module):
    """scaled latents [N,C,h,w] -> pixels [N,3,4h,4w] RGB, about [-1,1] (not clamped)."""

    def __init__(self, channels: int = LATENT_CHANNELS):
        super().__init__()
        self.inverse = nn.Conv2d(channels, 3 * DOWNSCALE**2, 1)
        self.shuffle = nn.PixelShuffle(DOWNSCALE)
        self.unlap = BorderFilter(lapped_filter().T)

    @torch.no_grad()
    def set_components(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """The inverse of `Encoder.set_components`."""
        self.inverse.weight.copy_((components * deviations)[:, :, None, None])
        self.inverse.bias.copy_(mean)

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # bfloat16 would cost the reconstruction 10 dB
            return self.unlap(self.shuffle(self.inverse(latents.float())))


class Autoencoder(nn.Module):
    """Encoder and decoder together; forward reconstructs pixels."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decoder(self.encoder(pixels))
