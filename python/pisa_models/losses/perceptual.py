"""How pictures are shown to VGG16: at random shifts and sizes, so that its strides and pools meet every phase."""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = 5
FULL_SIZE_BLOCKS = 4  # of a few cells of 8 px each, the fifth at full size sees little more for its cost


def random_view(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, int]:
    """The same random view of both pictures, and how many blocks of VGG16 to look at it with.

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
