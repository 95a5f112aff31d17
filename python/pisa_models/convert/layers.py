"""The layers of the served networks, put in the place of diffusers' own in a loaded model.

Activations have the type of the graph, float32 or float16. What sums over many values or exponentiates,
that is normalisation and attention, is computed in float32 in either.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.convert.adapters import Adapter


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
            self.down = _parameter(sem.down)
            self.up = _parameter((sem.scaling * sem.up)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if self.down is None:
            return y
        few = self.few(F.conv2d(x, self.down, None, self.stride, self.padding))
        return y + F.conv2d(few * self.gate.cells, self.up)


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
