"""The discriminator: tells photos from results by what VGG16 sees in them (Sauer et al. 2021, "Projected GANs").

The features are computed for LPIPS anyway, so that all it costs is a small head on each block. The heads see the first
block at full resolution and without a stride, where a pattern of a few pixels is plain.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CHANNELS = (64, 128, 256, 512, 512)  # of VGG16's blocks
STRENGTH = (1.25, 1.8, 2.6, 1.4, 0.65)  # root mean square of their outputs on training crops
HEADS = (24, 32, 64, 64, 64)  # channels of the heads: the first two blocks have the most places


class Discriminator(nn.Module):
    """`LPIPS.features` by VGG16, of n blocks → logits [N, places], the higher the more like a photo."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(channels, head, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(head, head, 3, padding=1)),
                nn.LeakyReLU(0.2),
                nn.Conv2d(head, 1, 1),
            )
            for channels, head in zip(CHANNELS, HEADS, strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [
            head(x / strength).float().flatten(1)
            for head, x, strength in zip(self.heads, features, STRENGTH, strict=False)
        ]


def discriminator_loss(photos: list[Tensor], results: list[Tensor]) -> Tensor:
    """Hinge loss (Lim & Ye 2017) of the logits of each block, averaged → scalar; 2 for one that cannot tell."""
    return torch.stack(
        [F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(photos, results, strict=True)]
    ).mean()


def generator_loss(results: list[Tensor]) -> Tensor:
    """Mean of the negative logits over the blocks → scalar."""
    return -torch.stack([x.mean() for x in results]).mean()
