"""Perceptual distance in VGG16's features, compared as LPIPS does (Zhang et al. 2018) without learned weights.

VGG16's first convolutions have no stride, so that fine periodic patterns are seen at full resolution; what its
max-pools could miss is shown to them at another phase each time (`random_view`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.losses.vgg import VGG16

BLOCKS = 4
FULL_SIZE_BLOCKS = 3  # the fourth at full size would cost half as much again as the first three


class PerceptualDistance(nn.Module):
    """distance(a, b) of pixels [N,3,H,W] in [-1,1] → [N], 0 for equal images, 1 for unrelated features.

    One minus the cosine over the channels, averaged over places and layers. The gradient flows to `a` alone.
    """

    def __init__(self):
        super().__init__()
        self.network = VGG16(BLOCKS)

    def forward(self, a: Tensor, b: Tensor, blocks: int = FULL_SIZE_BLOCKS) -> Tensor:
        with torch.no_grad():
            target = self.network(b, blocks)
        total = torch.zeros(len(a))
        for x, y in zip(self.network(a, blocks), target, strict=True):
            x = x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-4)
            y = y * torch.rsqrt(y.square().sum(1, keepdim=True) + 1e-4)
            total = total + 0.5 * (x - y).square().sum(1).mean((1, 2))
        return total / blocks


def random_view(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, int]:
    """The same random view of both pictures, and how many blocks to compare in it.

    Half of the time full size without a margin of up to 7 px, so that strides meet the picture at any phase; else
    shrunk, antialiased, to 0.4 to 0.8 of its size, where patterns lose their fixed period and deep features are cheap.
    """
    if torch.rand(()) < 0.5:
        y, x = torch.randint(0, 8, (2,)).tolist()
        height, width = a.shape[2] - 8, a.shape[3] - 8
        window = (..., slice(y, y + height), slice(x, x + width))
        return a[window], b[window], FULL_SIZE_BLOCKS
    factor = 0.4 + 0.4 * torch.rand(()).item()
    size = [max(32, round(side * factor)) for side in a.shape[2:]]
    pair = F.interpolate(torch.cat([a, b]), size=size, mode="bilinear", antialias=True, align_corners=False)
    return *pair.chunk(2), BLOCKS
