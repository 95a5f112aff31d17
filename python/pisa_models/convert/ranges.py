"""Runs a network on ordinary and extreme inputs, to see whether its activations fit float16.

The largest magnitude is taken over the inputs and outputs of every layer, all of which are float16 values
in a float16 graph. Attention's logits and what normalisation sums are not among them: those stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pisa_models.convert.errors import ConversionError

HALF_MAX = 65504.0
HEADROOM = 2.0
EXTREME_LATENT = 5.0  # scaled latents have a deviation of about 1


@dataclass
class Probe:
    feeds: list[dict[str, Tensor]]
    """Inputs by name, float32."""
    outputs: list[Tensor]
    largest: float
    layer: str

    @property
    def fits_half(self) -> bool:
        return self.largest * HEADROOM < HALF_MAX


def pixel_feeds(edge: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
    """Noise, and black and white by turns in checks of 1 to edge/4 pixels, [1,3,edge,edge] in [−1,1]."""
    noise = torch.rand(1, 3, edge, edge, generator=generator) * 2 - 1
    index = torch.arange(edge)
    checks = [(index[:, None] // size + index // size) % 2 for size in (1, 8, max(1, edge // 4))]
    return [{"pixels": noise}, {"pixels": torch.stack(checks)[None] * 2.0 - 1}]


def latent_feeds(channels: int, edge: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
    """Normal latents, and ±EXTREME_LATENT at random, [2,C,edge,edge]."""
    normal = torch.randn(2, channels, edge, edge, generator=generator)
    return [{"latents": normal}, {"latents": EXTREME_LATENT * normal.sign()}]


def probe(network: nn.Module, feeds: list[dict[str, Tensor]], what: str) -> Probe:
    """Raises ConversionError when a result is not finite."""
    largest, layer = torch.zeros(()), ""

    def look(name: str):
        def hook(_module, inputs, output) -> None:
            nonlocal largest, layer
            values = [*inputs, *(output if isinstance(output, tuple) else (output,))]
            for value in values:
                if isinstance(value, Tensor) and value.numel() and value.abs().max() > largest:
                    largest, layer = value.abs().max(), name

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            outputs = [network(**feed) for feed in feeds]
    finally:
        for handle in handles:
            handle.remove()
    if not all(output.isfinite().all() for output in outputs):
        raise ConversionError(f"The {what} gives NaN or infinity even in float32: its weights are damaged. Fetch them.")
    return Probe(feeds, outputs, float(largest), layer)
