"""The UNet: a small convolutional ε-predictor on latents, conditioned on timestep and quality.

Fully convolutional with a finite receptive field, no attention and no normalisation: residual blocks that
start as identities train well without it (as in EDSR), and a convolution with ReLU is what ONNX Runtime
fuses best. Timestep and quality act as a scale and shift after the first convolution of every block, so
that with both constant they fold into that convolution's weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.networks.autoencoder import LATENT_CHANNELS
from pisa_models.networks.lora import AdaptableConv2d

HIGH, DEGRADED, NULL = 0, 1, 2  # quality of the picture: photo, degraded, unknown ("empty prompt")
DOWNSCALE = 4  # latent cells must be a multiple of this
EMBEDDING = 128


def timestep_features(timestep: Tensor, size: int = EMBEDDING) -> Tensor:
    """Sinusoids of t, [N] → [N, size] (Ho et al. 2020)."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(size // 2, dtype=torch.float32) / (size // 2))
    angle = timestep.float()[:, None] * frequency[None]
    return torch.cat([angle.cos(), angle.sin()], 1)


class ConditionedBlock(nn.Module):
    """x + conv2(relu((1+γ)·conv1(x) + β)), γ and β from the embedding; x is not rectified."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = AdaptableConv2d(width, width, 3, padding=1)
        self.conv2 = AdaptableConv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(EMBEDDING, 2 * width)
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.conv2.weight, nonlinearity="relu")
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)
        for bias in (self.conv1.bias, self.conv2.bias, self.modulation.bias):
            nn.init.zeros_(bias)
        nn.init.normal_(self.modulation.weight, std=0.01)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        return x + self.conv2(F.relu(self.conv1(x) * (1 + scale) + shift))


class UNet(nn.Module):
    """latents [N,C,h,w] (h, w multiples of 4), timestep [N], quality [N] int64 → ε [N,C,h,w]."""

    def __init__(self, channels: int = LATENT_CHANNELS, widths=(64, 128, 192), down=(3, 2), middle=4, up=(4, 2)):
        super().__init__()
        w0, w1, w2 = widths
        self.quality = nn.Embedding(3, EMBEDDING)
        self.embed = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        # 5 x 5, here and at the end: wide enough to take in a change of the latents' basis, which mixes neighbours.
        self.first = AdaptableConv2d(channels, w0, 5, padding=2)
        self.down0 = nn.ModuleList(ConditionedBlock(w0) for _ in range(down[0]))
        self.to1 = AdaptableConv2d(w0, w1, 3, stride=2, padding=1)
        self.down1 = nn.ModuleList(ConditionedBlock(w1) for _ in range(down[1]))
        self.to2 = AdaptableConv2d(w1, w2, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(ConditionedBlock(w2) for _ in range(middle))
        self.from2 = AdaptableConv2d(w2, w1, 3, padding=1)
        self.up1 = nn.ModuleList(ConditionedBlock(w1) for _ in range(up[1]))
        self.from1 = AdaptableConv2d(w1, w0, 3, padding=1)
        self.up0 = nn.ModuleList(ConditionedBlock(w0) for _ in range(up[0]))
        self.last = AdaptableConv2d(w0, channels, 5, padding=2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def embedding(self, timestep: Tensor, quality: Tensor) -> Tensor:
        """[N] and [N] → [N, EMBEDDING]."""
        return F.silu(self.embed(timestep_features(timestep)) + self.quality(quality))

    def forward(self, latents: Tensor, timestep: Tensor, quality: Tensor) -> Tensor:
        e = self.embedding(timestep, quality)
        x0 = self.first(latents)  # (N, w0, h, w)
        for block in self.down0:
            x0 = block(x0, e)
        x1 = self.to1(x0)  # (N, w1, h/2, w/2)
        for block in self.down1:
            x1 = block(x1, e)
        x2 = self.to2(x1)  # (N, w2, h/4, w/4)
        for block in self.middle:
            x2 = block(x2, e)
        x1 = x1 + self.from2(F.interpolate(x2, scale_factor=2.0, mode="nearest"))
        for block in self.up1:
            x1 = block(x1, e)
        x0 = x0 + self.from1(F.interpolate(x1, scale_factor=2.0, mode="nearest"))
        for block in self.up0:
            x0 = block(x0, e)
        return self.last(x0)
