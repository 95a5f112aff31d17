"""The layers of the served networks, put in the place of diffusers' own in a loaded model.

Activations have the type of the graph, float32 or float16. What sums over many values or exponentiates,
that is normalisation and attention, is computed in float32 in either.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.convert.adapters import Adapter

# Convolutions of ONNX Runtime's CPU provider are blocked by 16 channels and much slower with fewer: LoRAs of a lower
# rank are filled up with zeros there (1 % of the UNet's weights at rank 4).
CHANNEL_BLOCK = 16


class Gate:
    """Where the gated layers of one network find `semantic` of the present run."""

    tokens: Tensor
    """[N,1,1]"""
    cells: Tensor
    """[N,1,1,1]"""

    def set(self, semantic: Tensor) -> None:
        self.tokens, self.cells = semantic.reshape(-1, 1, 1), semantic.reshape(-1, 1, 1, 1)


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.contiguous(), requires_grad=False)


class GatedLinear(nn.Module):
    """x [N,T,in] → W·x + b + s·up(down·x), s per sample. Weights are [in,out], as MatMul reads them."""

    def __init__(self, linear: nn.Linear, pix: Adapter | None, sem: Adapter | None, gate: Gate | None):
        super().__init__()
        weight = merged(linear.weight, pix)
        self.weight = _parameter(weight.T)
        self.bias = None if linear.bias is None else _parameter(linear.bias.detach())
        self.gate = gate
        self.down = self.up = None
        self.few = nn.Identity()  # where ranges.py looks
        if sem is not None:
            self.down, self.up = _parameter(sem.down.T), _parameter(sem.scaling * sem.up.T)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        if self.bias is not None:
            y = y + self.bias
        if self.down is None:
            return y
        return y + (self.few(x @ self.down) * self.gate.tokens) @ self.up


class GatedConv(nn.Module):
    """x [N,C,h,w] → W·x + b + s·up(down·x), s per sample; the gate is applied where the channels are few."""

    def __init__(self, conv: nn.Conv2d, pix: Adapter | None, sem: Adapter | None, gate: Gate | None):
        super().__init__()
        self.weight = _parameter(merged(conv.weight, pix))
        self.bias = None if conv.bias is None else _parameter(conv.bias.detach())
        self.stride, self.padding = conv.stride, conv.padding
        self.gate = gate
        self.down = self.up = None
        self.few = nn.Identity()  # where ranges.py looks
        if sem is not None:
            more = -len(sem.down) % CHANNEL_BLOCK
            self.down = _parameter(F.pad(sem.down, (0, 0, 0, 0, 0, 0, 0, more)))
            self.up = _parameter(F.pad(sem.scaling * sem.up, (0, more))[:, :, None, None])

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolve(x, self.weight, self.bias)
        if self.down is None:
            return y
        few = self.few(self.convolve(x, self.down, None))
        return y + F.conv2d(few * self.gate.cells, self.up)


# cuDNN 9 has no plan for a convolution padded differently on opposite sides, and ONNX Runtime's CUDA provider then
# fails instead of computing it elsewhere (microsoft/onnxruntime#26274). So what needs such a one is padded by `_Pad`
# and convolved without. A phase's share is cut out before its convolution, which so computes no cell too many; cut
# after it, ONNX Runtime's buffers are of odd sizes, and a decoder takes a fifth more memory.


class _Pad(torch.autograd.Function):
    """Zeros around [N,C,h,w]; pads as ONNX has them: top, left, bottom, right.

    With its axes named, Pad stays a node: ONNX Runtime would else make it the padding of the Conv that follows.
    """

    @staticmethod
    def forward(ctx, x: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
        top, left, bottom, right = pads
        return F.pad(x, (left, right, top, bottom))

    @staticmethod
    def symbolic(g, x, pads):
        sizes, axes = (g.op("Constant", value_t=torch.tensor(value)) for value in (pads, [2, 3]))
        zero = g.op("prim::Constant").setType(torch._C.OptionalType.ofTensor())  # left to its default
        return g.op("Pad", x, sizes, zero, axes).setType(x.type().with_sizes([None] * 4))


_END = torch.iinfo(torch.int64).max  # of an axis, to ONNX' Slice


class _Cut(torch.autograd.Function):
    """[N,C,h,w] → [N,C,h−1,w−1] from the given row and column on, each 0 or 1."""

    @staticmethod
    def forward(ctx, x: Tensor, row: int, column: int) -> Tensor:
        rows, columns = (slice(at, None if at else -1) for at in (row, column))
        return x[:, :, rows, columns]

    @staticmethod
    def symbolic(g, x, row, column):
        start, end = [row, column], [_END if at else -1 for at in (row, column)]
        values = [g.op("Constant", value_t=torch.tensor(value)) for value in (start, end, [2, 3])]
        return g.op("Slice", x, *values).setType(x.type().with_sizes([None] * 4))


class _Interleave(torch.autograd.Function):
    """Four [N,C,h,w], of the rows and columns that are (even, even), (even, odd), (odd, even), (odd, odd)."""

    @staticmethod
    def forward(ctx, *phases: Tensor) -> Tensor:
        n, c, h, w = phases[0].shape
        return torch.stack(phases, 1).reshape(n, 2, 2, c, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c, 2 * h, 2 * w)

    @staticmethod
    def symbolic(g, *phases):
        together = g.op("Concat", *phases, axis_i=1)
        y = g.op("DepthToSpace", together, blocksize_i=2, mode_s="DCR")
        return y.setType(phases[0].type().with_sizes([None] * 4))


def _apply(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """In a trace as its own operator; else by its forward alone, which PyTorch can differentiate."""
    return function.apply(*arguments) if torch.onnx.is_in_onnx_export() else function.forward(None, *arguments)


class PhaseConv(GatedConv):
    """What a 3 × 3 convolution of an image enlarged twice gives at every other row and column: a 2 × 2 one.

    Of the enlarged rows that it reads there, two are the same row of the image, so their weights are added.
    [N,I,h+1,w+1], with the row and column beside the image that it reads too, → [N,O,h,w].
    """

    def __init__(self, conv: GatedConv, row: int, column: int):
        nn.Module.__init__(self)
        self.row, self.column = row, column
        self.stride, self.padding = (1, 1), (0, 0)
        self.gate, self.bias, self.up, self.few = conv.gate, conv.bias, conv.up, nn.Identity()
        self.weight = _parameter(self._summed(conv.weight))
        self.down = None if conv.down is None else _parameter(self._summed(conv.down))

    def _summed(self, weight: Tensor) -> Tensor:
        """[O,I,3,3] → [O,I,2,2]"""
        double = weight.detach().double()
        for axis, odd in ((2, self.row), (3, self.column)):
            first, second, third = double.unbind(axis)
            double = torch.stack([first + second, third] if odd else [first, second + third], axis)
        return double.float()


class PhaseUpsample(nn.Module):
    """Enlarges twice by repeating cells, then convolves 3 × 3, as diffusers' Upsample2D; 4/9 of the multiplications."""

    def __init__(self, conv: GatedConv):
        super().__init__()
        self.phases = nn.ModuleList(PhaseConv(conv, row, column) for row in (0, 1) for column in (0, 1))

    def forward(self, x: Tensor, output_size: None = None) -> Tensor:
        return self.enlarge(_apply(_Pad, x, (1, 1, 1, 1)))

    def enlarge(self, padded: Tensor) -> Tensor:
        """[N,C,h+2,w+2], with a row and a column more on each side → [N,O,2h,2w]"""
        phases = [phase(_apply(_Cut, padded, phase.row, phase.column)) for phase in self.phases]
        return _apply(_Interleave, *phases)


def fold_upsampling(network: nn.Module) -> None:
    """In a network whose convolutions are GatedConv already."""
    for name, module in list(network.named_modules()):
        if type(module).__name__ == "Upsample2D":
            replace(network, name, PhaseUpsample(module.conv))


class Downsample(nn.Module):
    """Halves height and width by a 3 × 3 convolution padded below and on the right only, as diffusers' Downsample2D."""

    def __init__(self, conv: GatedConv):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_apply(_Pad, x, (0, 0, 1, 1)))


def keep_padding_apart(network: nn.Module) -> None:
    """Of diffusers' downsampling that pads on one side; in a network whose convolutions are GatedConv already."""
    for name, module in list(network.named_modules()):
        if type(module).__name__ == "Downsample2D" and module.use_conv and module.padding == 0:
            replace(network, name, Downsample(module.conv))


def merged(weight: Tensor, adapter: Adapter | None) -> Tensor:
    """W + scaling · up · down, rounded once."""
    weight = weight.detach()
    return weight if adapter is None else (weight.double() + adapter.delta()).float()


class Float32Norm(nn.Module):
    """A GroupNorm or LayerNorm in float32 whatever the type of its input."""

    def __init__(self, norm: nn.GroupNorm | nn.LayerNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


class _MultiHeadAttention(torch.autograd.Function):
    """ONNX Runtime's operator, whose kernels never hold the n × n matrix; in PyTorch, the same by itself."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

        attended = F.scaled_dot_product_attention(split(query), split(key), split(value))
        return attended.transpose(1, 2).reshape(query.shape)

    @staticmethod
    def symbolic(g, query, key, value, heads: int):
        attended = g.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads)
        attended.setType(torch._C.TensorType.create_from_tensor(torch.empty(1, 1, 1)).with_sizes([None] * 3))
        return attended


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[N,T,heads·d], [N,S,heads·d] twice → [N,T,heads·d] of the query's type; softmax(q·kᵀ/√d)·v in float32."""
    return _MultiHeadAttention.apply(query.float(), key.float(), value.float(), heads).to(query.dtype)


class SelfAttention(nn.Module):
    """diffusers' Attention over the cells of [N,C,h,w] (with its own norm and residual) or tokens [N,T,C]."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.heads = attention.heads
        self.residual, self.rescale = attention.residual_connection, attention.rescale_output_factor
        self.norm = attention.group_norm
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.to_out = attention.to_out[0]

    def forward(self, x: Tensor, **_ignored) -> Tensor:
        tokens = x if self.norm is None else self.norm(x)
        if x.dim() == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        y = self.to_out(attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), self.heads))
        if x.dim() == 4:
            y = y.transpose(1, 2).reshape(x.shape)
        if self.residual:
            y = y + x
        return y if self.rescale == 1 else y / self.rescale


class PromptAttention(nn.Module):
    """Cross-attention to one constant prompt: keys and values are constants too, K + s·ΔK and V + s·ΔV."""

    def __init__(self, attention: nn.Module, constants: dict[str, Tensor], gate: Gate):
        super().__init__()
        self.heads = attention.heads
        self.residual, self.rescale = attention.residual_connection, attention.rescale_output_factor
        self.to_q, self.to_out = attention.to_q, attention.to_out[0]
        self.gate = gate
        for name in ("key", "key_sem", "value", "value_sem"):
            # Kept in float32 by `to_half`: they are small, and attention is computed in float32.
            self.register_buffer(name, constants[name])

    def forward(self, x: Tensor, **_ignored) -> Tensor:
        s = self.gate.tokens.float()
        key, value = self.key + s * self.key_sem, self.value + s * self.value_sem
        y = self.to_out(attend(self.to_q(x), key, value, self.heads))
        if self.residual:
            y = y + x
        return y if self.rescale == 1 else y / self.rescale


def to_half(network: nn.Module) -> nn.Module:
    """float16 weights in place, except in normalisation and the constants of attention."""
    for module in network.modules():
        if isinstance(module, (GatedLinear, GatedConv)):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()
    return network


def replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
