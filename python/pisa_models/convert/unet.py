"""The UNet as it is served: timestep and prompt folded in, pixel LoRA merged, semantic LoRA gated.

latents [N,C,h,w], semantic [N] → residual [N,C,h,w]; 0 gives ε_pix, 1 gives ε_PiSA
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pisa_models.convert.adapters import Adapter, Adapters
from pisa_models.convert.layers import (
    Float32Norm,
    Gate,
    GatedConv,
    GatedLinear,
    PromptAttention,
    SelfAttention,
    fold_upsampling,
    keep_padding_apart,
    merged,
    replace,
)

TIMESTEP = 1


class ServedUNet(nn.Module):
    """Made from diffusers' UNet2DConditionModel, which it takes apart (its weights are moved, not copied).

    prompt: [T,width], the embedding of the empty prompt.
    """

    def __init__(self, unet: nn.Module, adapters: Adapters, prompt: Tensor):
        super().__init__()
        self.gate = Gate()
        with torch.no_grad():
            self._fold_timestep(unet)
            self._fold_prompt(unet, adapters, prompt)
            self._replace_layers(unet, adapters)
        for name in ("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_act", "conv_out"):
            setattr(self, name, getattr(unet, name))
        self.eval().requires_grad_(False)

    @staticmethod
    def _fold_timestep(unet: nn.Module) -> None:
        """Each residual block adds a projection of the timestep after its first convolution: into that bias."""
        embedding = unet.time_embedding(unet.time_proj(torch.tensor([TIMESTEP])).float())
        for module in unet.modules():
            if getattr(module, "time_emb_proj", None) is not None:
                shift = module.time_emb_proj(module.nonlinearity(embedding))[0]
                module.conv1.bias = nn.Parameter(module.conv1.bias + shift, requires_grad=False)
                module.time_emb_proj = None

    def _fold_prompt(self, unet: nn.Module, adapters: Adapters, prompt: Tensor) -> None:
        for name, module in list(unet.named_modules()):
            if type(module).__name__ != "Attention":
                continue
            if not name.endswith("attn2"):
                replace(unet, name, SelfAttention(module))
                continue
            constants: dict[str, Tensor] = {}
            for key, layer in (("key", "to_k"), ("value", "to_v")):
                constants |= _constant(getattr(module, layer), f"{name}.{layer}", key, adapters, prompt)
            replace(unet, name, PromptAttention(module, constants, self.gate))

    def _replace_layers(self, unet: nn.Module, adapters: Adapters) -> None:
        kinds = {nn.Linear: GatedLinear, nn.Conv2d: GatedConv}
        for name, module in list(unet.named_modules()):
            # The attention modules renamed their last layer: its adapters go by the original name.
            key = f"{name}.0" if name.endswith(".to_out") else name
            if type(module) in kinds:
                layer = kinds[type(module)](module, adapters.pix.get(key), adapters.sem.get(key), self.gate)
                replace(unet, name, layer)
            elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                replace(unet, name, Float32Norm(module))
        fold_upsampling(unet)
        keep_padding_apart(unet)

    def forward(self, latents: Tensor, semantic: Tensor) -> Tensor:
        self.gate.set(semantic)
        x = self.conv_in(latents)
        skips = [x]
        for block in self.down_blocks:
            x, outputs = block(x, None)
            skips += outputs
        if self.mid_block is not None:
            x = self.mid_block(x, None)
        for block in self.up_blocks:
            count = len(block.resnets)
            x = block(x, res_hidden_states_tuple=tuple(skips[-count:]), temb=None)
            del skips[-count:]
        if self.conv_norm_out is not None:
            x = self.conv_act(self.conv_norm_out(x))
        return self.conv_out(x)


def _constant(linear: nn.Linear, name: str, key: str, adapters: Adapters, prompt: Tensor) -> dict[str, Tensor]:
    """[1,T,C] with the pixel LoRA merged, and what the semantic LoRA adds to it."""
    tokens = prompt.double()
    weight = merged(linear.weight, adapters.pix.get(name)).double()
    bias = 0 if linear.bias is None else linear.bias.double()
    adapter: Adapter | None = adapters.sem.get(name)
    added = torch.zeros_like(weight) if adapter is None else adapter.delta()
    return {key: (tokens @ weight.T + bias).float()[None], f"{key}_sem": (tokens @ added.T).float()[None]}
