"""The UNet with its LoRAs: how large they are, and how the stages hand them on."""

import torch

from pisa_models.networks.lora import PIXEL, SEMANTIC, AdaptableConv2d, add_adapters, set_gates
from pisa_models.networks.unet import UNet
from pisa_models.paths import cache_dir
from pisa_models.training import prior


def semantic_rank(conv: AdaptableConv2d) -> int:
    """A quarter of the width: its branches are evaluated at inference."""
    return max(16, conv.out_channels // 4)


def pixel_rank(conv: AdaptableConv2d) -> int:
    """Half the width: merged at export, so that it costs nothing, and small widths need it."""
    return max(16, conv.out_channels // 2)


def build_adapted(unet: UNet) -> UNet:
    """Add both (zero) adapters to the prior, reproducibly."""
    torch.manual_seed(3)
    add_adapters(unet, PIXEL, pixel_rank)
    add_adapters(unet, SEMANTIC, semantic_rank)
    return unet


def load_average(unet: UNet, stage: str) -> None:
    """Copy the averaged adapter weights of a stage's checkpoint. Raises FileNotFoundError."""
    state = torch.load(cache_dir("checkpoints") / f"{stage}.pt", weights_only=True)
    parameters = dict(unet.named_parameters())
    with torch.no_grad():
        for key, value in state["average"].items():
            parameters[key].copy_(value)


def load_adapted() -> UNet:
    """The prior with as many LoRAs as are trained so far; an untrained one changes nothing.

    Without a pixel LoRA the UNet is told to predict nothing: a prior's ε at t = 1 is no residual.
    """
    unet = build_adapted(prior.build() if not (cache_dir("checkpoints") / "prior.pt").exists() else prior.load())
    unet.requires_grad_(False)
    if not (cache_dir("checkpoints") / "pixel.pt").exists():
        unet.last.weight.zero_()
        unet.last.bias.zero_()
        return unet
    load_average(unet, PIXEL)
    if (cache_dir("checkpoints") / "semantic.pt").exists():
        load_average(unet, SEMANTIC)
    set_gates(unet, pixel=1, semantic=1)
    return unet


def trained_steps() -> dict[str, int]:
    """Steps of every stage that has a checkpoint."""
    found = {}
    for stage in ("prior", "pixel", "semantic"):
        path = cache_dir("checkpoints") / f"{stage}.pt"
        if path.exists():
            found[stage] = torch.load(path, weights_only=True)["step"]
    return found
