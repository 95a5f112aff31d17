"""The autoencoder's halves once more, cut at every normalisation, for images that do not fit in one run.

GroupNorm needs mean and variance of the whole image, and those of one layer depend on all layers before it.
So the network becomes a list of stages, each from one normalisation to the next. A stage is run on strips,
some rows of the image at a time over its whole width, and its results are stored; their statistics are known
when its last strip is done, and are inputs of the next stage. That computes what the whole graph computes,
not an estimate, and a strip reads one row beyond its own for each convolution, where a tile of the whole
network would read its receptive radius.

    rows [H,C,W], mean [G], variance [G], edges [2] → result [H',C',W'], mean_out [G], variance_out [G]

Rows come first, so that a strip is one piece of the stored tensor. `edges` is 1 where the strip ends at the top
and bottom of the image: zero padding belongs there only. One image at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pisa_models.convert import onnx_file
from pisa_models.convert.layers import Float32Norm, GatedConv, PhaseUpsample, SelfAttention, attend

EXAMPLE_EDGE = 8  # rows and columns of the trace; the graph takes any


@dataclass
class Read:
    """One input of a stage: rows of a stored tensor, with `above` and `below` more where the image has them."""

    input: str
    tensor: int
    above: int = 0
    below: int = 0
    whole: bool = False


@dataclass
class Write:
    output: str
    tensor: int
    channels: int
    tokens: bool = False
    """[H,W,C] instead of [H,C,W]: flattened, that is attention's order."""
    statistics: bool = False


@dataclass
class Stage:
    network: nn.Module
    reads: list[Read]
    writes: list[Write]
    statistics: int | None = None
    """The tensor whose mean and variance it takes."""
    padded: bool = False
    """Takes `edges`."""
    scale: float = 1
    """Rows written for each row read."""

    def facts(self, offset: int, size: int) -> dict:
        return {
            "offset": offset,
            "bytes": size,
            "scale": self.scale,
            "reads": [vars(read) for read in self.reads],
            "statistics": self.statistics,
            "padded": self.padded,
            "writes": [vars(write) for write in self.writes],
        }


class _Pad(torch.autograd.Function):
    """Zeros around [N,C,h,w], pads as ONNX has them for four axes; how many is known at run time."""

    @staticmethod
    def forward(ctx, x: Tensor, pads: Tensor) -> Tensor:
        return F.pad(x, (int(pads[3]), int(pads[7]), int(pads[2]), int(pads[6])))

    @staticmethod
    def symbolic(g, x, pads):
        return g.op("Pad", x, pads).setType(x.type())


def _pad(x: Tensor, edges: Tensor, above: int, below: int, left: int = 0, right: int = 0) -> Tensor:
    """`above` and `below` rows of zeros at the image's edges, elsewhere none; the columns in every strip."""
    top = torch.tensor([0, 0, above, 0, 0, 0, 0, 0])
    bottom = torch.tensor([0, 0, 0, 0, 0, 0, below, 0])
    always = torch.tensor([0, 0, 0, left, 0, 0, 0, right])
    at = edges.to(torch.int64)
    return _Pad.apply(x, at[0:1] * top + at[1:2] * bottom + always)


def _conv(conv: GatedConv, x: Tensor, edges: Tensor) -> Tensor:
    rows, columns = conv.padding
    padded = _pad(x, edges, rows, rows) if rows else x
    return F.conv2d(padded, conv.weight, conv.bias, conv.stride, (0, columns))


def _normalised(norm: Float32Norm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """GroupNorm of [1,C,h,w] by the given statistics [G], in float32, to the type of x."""
    affine = norm.norm
    per_group = affine.weight.reshape(affine.num_groups, -1)
    scale = per_group * torch.rsqrt(variance + affine.eps)[:, None]
    centre = mean[:, None] + torch.zeros_like(per_group)
    y = (x.float() - centre.reshape(1, -1, 1, 1)) * scale.reshape(1, -1, 1, 1) + affine.bias.reshape(1, -1, 1, 1)
    return y.to(x.dtype)


def _image(rows: Tensor) -> Tensor:
    return rows.permute(1, 0, 2)[None]


class _Stage(nn.Module):
    """What all stages do with their result: rows first, and its statistics where something asks for them."""

    def __init__(self, groups: int, statistics: bool):
        super().__init__()
        self.groups, self.statistics = groups, statistics

    def finish(self, y: Tensor) -> tuple[Tensor, ...]:
        rows = y[0].permute(1, 0, 2)
        if not self.statistics:
            return (rows,)
        groups = y.float().reshape(self.groups, -1)
        mean = groups.mean(1)
        return rows, mean, ((groups - mean[:, None]) ** 2).mean(1)


class _Layers(_Stage):
    """Convolutions in front; the first ones are 1 × 1."""

    def __init__(self, convs: list[nn.Module], groups: int):
        super().__init__(groups, True)
        self.convs = nn.ModuleList(convs)

    def forward(self, rows: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        x = _image(rows)
        for conv in self.convs:
            x = _conv(conv, x, edges)
        return self.finish(x)


class _NormConv(_Stage):
    """Normalisation, activation, convolution: the first half of a residual block, or the network's end."""

    def __init__(self, norm: nn.Module, act: nn.Module, conv: nn.Module, groups: int, statistics: bool):
        super().__init__(groups, statistics)
        self.norm, self.act, self.conv = norm, act, conv

    def result(self, rows: Tensor, mean: Tensor, variance: Tensor, edges: Tensor) -> Tensor:
        return _conv(self.conv, self.act(_normalised(self.norm, _image(rows), mean, variance)), edges)

    def forward(self, rows: Tensor, mean: Tensor, variance: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        return self.finish(self.result(rows, mean, variance, edges))


class _SecondHalf(_NormConv):
    """The second half of a residual block, which adds the block's input `skip`."""

    def __init__(self, resnet: nn.Module, groups: int, statistics: bool):
        super().__init__(resnet.norm2, resnet.nonlinearity, resnet.conv2, groups, statistics)
        self.shortcut, self.rescale = resnet.conv_shortcut, resnet.output_scale_factor

    def forward(self, rows: Tensor, skip: Tensor, mean: Tensor, variance: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        x = _image(skip)
        y = self.result(rows, mean, variance, edges) + (x if self.shortcut is None else self.shortcut(x))
        return self.finish(y if self.rescale == 1 else y / self.rescale)


class _Tokens(_Stage):
    """Attention's normalised cells of a strip, [1,T,C]."""

    def __init__(self, attention: SelfAttention, groups: int):
        super().__init__(groups, True)
        self.attention = attention

    def tokens(self, rows: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return _normalised(self.attention.norm, _image(rows), mean, variance).flatten(2).transpose(1, 2)


class _KeysAndValues(_Tokens):
    def forward(self, rows: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        tokens = self.tokens(rows, mean, variance)
        shape = (rows.shape[0], rows.shape[2], -1)
        return self.attention.to_k(tokens).reshape(shape), self.attention.to_v(tokens).reshape(shape)


class _Attend(_Tokens):
    """Every cell of the strip looks at every cell of the image."""

    def forward(self, rows: Tensor, key: Tensor, value: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        layer, x = self.attention, _image(rows)
        query = layer.to_q(self.tokens(rows, mean, variance))
        y = attend(query, key.flatten(0, 1)[None], value.flatten(0, 1)[None], layer.heads)
        y = layer.to_out(y).transpose(1, 2).reshape(x.shape)
        if layer.residual:
            y = y + x
        return self.finish(y if layer.rescale == 1 else y / layer.rescale)


class _Up(_Stage):
    """Each row read gives two: the even one looks at the row above, the odd one at the row below."""

    def __init__(self, upsample: PhaseUpsample, groups: int):
        super().__init__(groups, True)
        self.upsample = upsample

    def forward(self, rows: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        return self.finish(self.upsample.enlarge(_pad(_image(rows), edges, 1, 1, left=1, right=1)))


class _Down(_Stage):
    """Stride 2, padded on the right and at the bottom only."""

    def __init__(self, conv: nn.Module, groups: int):
        super().__init__(groups, True)
        self.conv = conv

    def forward(self, rows: Tensor, edges: Tensor) -> tuple[Tensor, ...]:
        x = _pad(_image(rows), edges, 0, 1, right=1)
        return self.finish(F.conv2d(x, self.conv.weight, self.conv.bias, self.conv.stride))


@dataclass
class Plan:
    """The stages of one half. Tensor 0 is its input and the last one its output."""

    groups: int
    channels: list[int]
    """Of each tensor."""
    stages: list[Stage] = field(default_factory=list)

    def add(self, network: nn.Module, reads: list[Read], channels: int, **more) -> int:
        """A stage with one result; returns its tensor."""
        tensor = len(self.channels)
        self.channels.append(channels)
        write = Write("result", tensor, channels, statistics=getattr(network, "statistics", False))
        self.stages.append(Stage(network, reads, [write], **more))
        return tensor

    def resnet(self, resnet: nn.Module, x: int, statistics: bool = True) -> int:
        first = _NormConv(resnet.norm1, resnet.nonlinearity, resnet.conv1, self.groups, True)
        width = len(resnet.conv1.weight)
        y = self.add(first, [Read("rows", x, 1, 1)], width, statistics=x, padded=True)
        second = _SecondHalf(resnet, self.groups, statistics)
        return self.add(second, [Read("rows", y, 1, 1), Read("skip", x)], width, statistics=y, padded=True)

    def attention(self, attention: SelfAttention, x: int) -> int:
        width, key = self.channels[x], len(self.channels)
        self.channels += [width, width]
        writes = [Write(name, key + i, width, tokens=True) for i, name in enumerate(("key", "value"))]
        self.stages.append(Stage(_KeysAndValues(attention, self.groups), [Read("rows", x)], writes, statistics=x))
        reads = [Read("rows", x), Read("key", key, whole=True), Read("value", key + 1, whole=True)]
        return self.add(_Attend(attention, self.groups), reads, width, statistics=x)

    def middle(self, block: nn.Module, x: int) -> int:
        x = self.resnet(block.resnets[0], x)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if attention is not None:
                x = self.attention(attention, x)
            x = self.resnet(resnet, x)
        return x

    def end(self, half: nn.Module, x: int) -> None:
        network = _NormConv(half.conv_norm_out, half.conv_act, half.conv_out, self.groups, False)
        channels = len(half.conv_out.weight)
        self.add(network, [Read("rows", x, 1, 1)], channels, statistics=x, padded=True)


def _groups(network: nn.Module) -> int:
    found = {norm.num_groups for norm in network.modules() if isinstance(norm, nn.GroupNorm)}
    assert len(found) == 1, found  # the family has one setting for all
    return found.pop()


def plan_encoder(network: nn.Module) -> Plan:
    """pixels [H,3,W] → latents [h,C,w]; of a ServedEncoder, whose modules it shares."""
    half = network.encoder
    plan = Plan(_groups(half), [half.conv_in.weight.shape[1]])
    x = plan.add(_Layers([half.conv_in], plan.groups), [Read("rows", 0, 1, 1)], len(half.conv_in.weight), padded=True)
    for block in half.down_blocks:
        downsamplers = list(block.downsamplers or [])
        for resnet in block.resnets:
            x = plan.resnet(resnet, x, statistics=not downsamplers or resnet is not block.resnets[-1])
        for down in downsamplers:
            layer = _Down(down.conv, plan.groups)
            x = plan.add(layer, [Read("rows", x, 0, 1)], plan.channels[x], padded=True, scale=0.5)
    plan.end(half, plan.middle(half.mid_block, x))
    return plan


def plan_decoder(network: nn.Module) -> Plan:
    """latents [h,C,w] → pixels [H,3,W]; of a ServedDecoder, whose modules it shares."""
    half = network.decoder
    convs = [half.conv_in] if network.post_quant_conv is None else [network.post_quant_conv, half.conv_in]
    plan = Plan(_groups(half), [convs[0].weight.shape[1]])
    x = plan.add(_Layers(convs, plan.groups), [Read("rows", 0, 1, 1)], len(half.conv_in.weight), padded=True)
    x = plan.middle(half.mid_block, x)
    for block in half.up_blocks:
        upsamplers = list(block.upsamplers or [])
        for resnet in block.resnets:
            x = plan.resnet(resnet, x, statistics=not upsamplers or resnet is not block.resnets[-1])
        for up in upsamplers:
            layer = _Up(up, plan.groups)
            x = plan.add(layer, [Read("rows", x, 1, 1)], len(up.phases[0].weight), padded=True, scale=2)
    plan.end(half, x)
    return plan


def _example(plan: Plan, stage: Stage, dtype: torch.dtype) -> dict[str, Tensor]:
    example = {}
    edge = EXAMPLE_EDGE
    for read in stage.reads:
        channels = plan.channels[read.tensor]
        shape = (edge, edge, channels) if read.whole else (edge, channels, edge)
        example[read.input] = torch.zeros(shape, dtype=dtype)
    if stage.statistics is not None:
        example |= {"mean": torch.zeros(plan.groups), "variance": torch.ones(plan.groups)}
    if stage.padded:
        example["edges"] = torch.ones(2)
    return example


def _axes(stage: Stage) -> dict[str, dict[int, str]]:
    axes = {}
    for read in stage.reads:
        # Attention's keys and values are of the whole image, whatever the strip.
        rows = "all_rows" if read.whole else f"{read.input}_height"
        axes[read.input] = {0: rows, 1: "width"} if read.whole else {0: rows, 2: "width"}
    for write in stage.writes:
        axes[write.output] = {0: "out_height", 1 if write.tokens else 2: "out_width"}
    return axes


def write(plan: Plan, dtype: torch.dtype, path) -> dict:
    """All stages as ONNX graphs, one after the other in one file; returns what the manifest says of them."""
    entries = []
    with path.open("wb") as file:
        for stage in plan.stages:
            outputs = [write.output for write in stage.writes]
            if stage.writes[0].statistics:
                outputs += ["mean_out", "variance_out"]
            graph = onnx_file.to_bytes(stage.network, _example(plan, stage, dtype), outputs, _axes(stage))
            entries.append(stage.facts(file.tell(), len(graph)))
            file.write(graph)
    return {"groups": plan.groups, "channels": plan.channels[0], "stages": entries}


def pooled(parts: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of all from (count, mean, variance) of parts: Σn·(v + (m − M)²)/Σn, in float64."""
    counts = np.array([count for count, _, _ in parts], np.float64)[:, None] / sum(count for count, _, _ in parts)
    means, variances = (np.stack([part[i] for part in parts]).astype(np.float64) for i in (1, 2))
    mean = (counts * means).sum(0)
    return mean, (counts * (variances + (means - mean) ** 2)).sum(0)


def _strips(height: int, rows: int, scale: float) -> Iterator[tuple[int, int]]:
    # A row that is read gives whole rows.
    rows = max(1, int(rows // scale * scale), int(scale))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


class Runner:
    """Runs the stages of a written file as the service does, for checks and tests; tensors stay in memory."""

    def __init__(self, path, facts: dict, dtype: str, open_session: Callable[[bytes], object]):
        data = path.read_bytes()
        self.facts, self.dtype = facts, np.dtype(dtype)
        self.sessions = [
            open_session(data[stage["offset"] : stage["offset"] + stage["bytes"]]) for stage in facts["stages"]
        ]

    def run(self, image: np.ndarray, rows: int) -> np.ndarray:
        """[1,C,H,W] float32 → [1,C',H',W'] float32; `rows` are written by each run of a stage."""
        tensors = {0: np.ascontiguousarray(image[0].transpose(1, 0, 2)).astype(self.dtype)}
        statistics: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for stage, session in zip(self.facts["stages"], self.sessions, strict=True):
            height = tensors[stage["reads"][0]["tensor"]].shape[0]
            parts: list[list[np.ndarray]] = []
            seen = []
            for start, end in _strips(int(height * stage["scale"]), rows, stage["scale"]):
                outputs = session.run(None, self._feeds(stage, tensors, statistics, start, end, height))
                count = len(stage["writes"])
                parts.append(outputs[:count])
                seen.append((outputs[0].size, *outputs[count:]))
            for i, write in enumerate(stage["writes"]):
                tensors[write["tensor"]] = np.concatenate([part[i] for part in parts])
                if write["statistics"]:
                    statistics[write["tensor"]] = pooled(seen)
        return tensors[stage["writes"][0]["tensor"]].astype(np.float32).transpose(1, 0, 2)[None]

    @staticmethod
    def _feeds(stage: dict, tensors: dict, statistics: dict, start: int, end: int, height: int) -> dict:
        # Of the rows read, those that the strip's own rows come from.
        first, last = int(start / stage["scale"]), int(end / stage["scale"])
        feeds = {}
        for read in stage["reads"]:
            tensor = tensors[read["tensor"]]
            above, below = max(0, first - read["above"]), min(height, last + read["below"])
            feeds[read["input"]] = tensor if read["whole"] else tensor[above:below]
        if stage["statistics"] is not None:
            mean, variance = statistics[stage["statistics"]]
            feeds |= {"mean": mean.astype(np.float32), "variance": variance.astype(np.float32)}
        if stage["padded"]:
            feeds["edges"] = np.array([first == 0, last == height], np.float32)
        return feeds
