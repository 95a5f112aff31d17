"""Low-rank adapters for convolutions (Hu et al. 2021), two named ones side by side: pixel and semantic."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL, SEMANTIC = "pixel", "semantic"


class Adapter(nn.Module):
    """ΔW = up · down: `down` is a k x k convolution to `rank` channels, `up` a 1 x 1 convolution from them."""

    def __init__(self, conv: nn.Conv2d, rank: int):
        super().__init__()
        fan_in = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        self.down = nn.Parameter(torch.randn(rank, conv.in_channels, *conv.kernel_size) / fan_in**0.5)
        self.up = nn.Parameter(torch.zeros(conv.out_channels, rank))

    def delta(self) -> Tensor:
        """[out, in, k, k], what the adapter adds to the weight."""
        return torch.einsum("or,rikl->oikl", self.up, self.down)


class AdaptableConv2d(nn.Conv2d):
    """A convolution whose weight is W + Σ gate · ΔW over its adapters.

    Training composes the weight, which costs one convolution whatever the adapters; the exported graph
    has the semantic adapter as a branch, W·x + s·up(down·x), the same by linearity.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapters = nn.ModuleDict()
        self.gates: dict[str, float] = {}

    def composed_weight(self) -> Tensor:
        weight = self.weight
        for name, gate in self.gates.items():
            if gate and name in self.adapters:
                weight = weight + gate * self.adapters[name].delta()
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.composed_weight(), self.bias, self.stride, self.padding)


def adaptable(model: nn.Module) -> list[AdaptableConv2d]:
    return [m for m in model.modules() if isinstance(m, AdaptableConv2d)]


def add_adapters(model: nn.Module, name: str, rank_of) -> None:
    """Add an adapter called `name` to every adaptable convolution; `rank_of(conv)` gives its rank."""
    for conv in adaptable(model):
        full = min(conv.out_channels, conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1])
        conv.adapters[name] = Adapter(conv, min(rank_of(conv), full))


def set_gates(model: nn.Module, **gates: float) -> None:
    """Switch adapters, e.g. `set_gates(unet, pixel=1, semantic=0)`; those not named are off."""
    for conv in adaptable(model):
        conv.gates = dict(gates)


def train_only(model: nn.Module, name: str) -> None:
    """Freeze all but the adapters called `name`."""
    model.requires_grad_(False)
    for conv in adaptable(model):
        conv.adapters[name].requires_grad_(True)
