"""The UNet as it is exported: timestep and quality folded in, pixel LoRA merged, semantic LoRA gated or merged."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.networks.lora import PIXEL, SEMANTIC, AdaptableConv2d
from pisa_models.networks.unet import NULL, ConditionedBlock, UNet
from pisa_models.schedule import ONE_STEP


class GatedConv(nn.Module):
    """W·x + b + s·up(down·x) with s per sample; `gain` [out] is folded into W, b's share and `up`."""

    def __init__(self, conv: AdaptableConv2d, gain: Tensor | None = None, shift: Tensor | None = None):
        super().__init__()
        weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
        if PIXEL in conv.adapters:
            weight += conv.adapters[PIXEL].delta().detach()
        gain = torch.ones(len(weight)) if gain is None else gain
        bias = bias * gain + (0 if shift is None else shift)
        self.main = _conv(weight * gain[:, None, None, None], bias, conv.stride, conv.padding)
        self.down = self.up = None
        if SEMANTIC in conv.adapters:
            adapter = conv.adapters[SEMANTIC]
            self.down = _conv(adapter.down.detach(), None, conv.stride, conv.padding)
            self.up = _conv((adapter.up.detach() * gain[:, None])[:, :, None, None], None, 1, 0)

    def forward(self, x: Tensor, gate: Tensor | bool) -> Tensor:
        if self.down is None or gate is False:
            return self.main(x)
        if gate is True:
            main = self.main
            return F.conv2d(x, main.weight + self._delta(), main.bias, main.stride, main.padding)
        # The gate multiplies the few channels between down and up, where it is cheapest.
        return self.main(x) + self.up(self.down(x) * gate)

    def _delta(self) -> Tensor:
        """[out, in, k, k], what the semantic LoRA adds to the weight."""
        return (self.up.weight.flatten(1) @ self.down.weight.flatten(1)).view_as(self.main.weight)


def _conv(weight: Tensor, bias: Tensor | None, stride, padding) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding, bias=bias is not None)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None:
            conv.bias.copy_(bias)
    return conv.requires_grad_(False)


class DeployedBlock(nn.Module):
    def __init__(self, block: ConditionedBlock, embedding: Tensor):
        super().__init__()
        scale, shift = block.modulation(embedding)[0].detach().chunk(2)
        self.conv1 = GatedConv(block.conv1, 1 + scale, shift)
        self.conv2 = GatedConv(block.conv2)

    def forward(self, x: Tensor, gate: Tensor | bool) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x, gate)), gate)


class DeployedUNet(nn.Module):
    """latents [N,C,h,w], semantic [N] (0: ε_pix, 1: ε_PiSA, between: linear in each layer) → residual [N,C,h,w].

    With False or True for `semantic` the semantic LoRA is left out of every weight or merged into it: the same
    residual as by 0 or 1, without the branches.
    """

    def __init__(self, unet: UNet, timestep: int = ONE_STEP, quality: int = NULL):
        super().__init__()
        with torch.no_grad():
            e = unet.embedding(torch.tensor([timestep]), torch.tensor([quality]))
        for name in ("first", "to1", "to2", "from2", "from1", "last"):
            setattr(self, name, GatedConv(getattr(unet, name)))
        for name in ("down0", "down1", "middle", "up1", "up0"):
            setattr(self, name, nn.ModuleList(DeployedBlock(block, e) for block in getattr(unet, name)))

    def forward(self, latents: Tensor, semantic: Tensor | bool) -> Tensor:
        gate = semantic if isinstance(semantic, bool) else semantic.reshape(-1, 1, 1, 1)
        x0 = self._through(self.down0, self.first(latents, gate), gate)
        x1 = self._through(self.down1, self.to1(x0, gate), gate)
        x2 = self._through(self.middle, self.to2(x1, gate), gate)
        x1 = x1 + self.from2(F.interpolate(x2, scale_factor=2.0, mode="nearest"), gate)
        x1 = self._through(self.up1, x1, gate)
        x0 = x0 + self.from1(F.interpolate(x1, scale_factor=2.0, mode="nearest"), gate)
        return self.last(self._through(self.up0, x0, gate), gate)

    @staticmethod
    def _through(blocks: nn.ModuleList, x: Tensor, gate: Tensor | bool) -> Tensor:
        for block in blocks:
            x = block(x, gate)
        return x


class MergedUNet(nn.Module):
    """latents [N,C,h,w] → ε_PiSA, or without `semantic` ε_pix, [N,C,h,w]; shares the weights of `unet`."""

    def __init__(self, unet: DeployedUNet, semantic: bool):
        super().__init__()
        self.unet = unet
        self.semantic = semantic

    def forward(self, latents: Tensor) -> Tensor:
        return self.unet(latents, self.semantic)
