"""Reads ncnn's model format (`.param` text, `.bin` weights) and rebuilds the network as ONNX.

Only what Real-ESRGAN's networks have. The format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pisa_models.evaluate.image_graph import image_model, nearest_resize

MAGIC = "7767517"
_FLOAT16 = 0x01306B47  # the tag before weights that are stored in 16 bits
_LEAKY_RELU = 2


@dataclass(frozen=True)
class Layer:
    """One line of the `.param` file; `options` are its numbered parameters, a list where ncnn has an array."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    options: dict[int, float | list[float]]


def parse(param: str) -> list[Layer]:
    """Layers in the order of the file, which is an order of evaluation. Raises ValueError for another format."""
    lines = param.split("\n")
    if lines[0].strip() != MAGIC:
        raise ValueError(f"Expected an ncnn model ({MAGIC}) but received {lines[0]!r}.")
    layers = []
    for line in filter(None, lines[2:]):
        kind, name, inputs, outputs, *rest = line.split()
        names, values = rest[: int(inputs) + int(outputs)], rest[int(inputs) + int(outputs) :]
        names = [f"blob/{blob}" for blob in names]  # one may be called `output`, as the graph's own is
        options: dict[int, float | list[float]] = {}
        for key, value in (part.split("=") for part in values):
            if int(key) <= -23300:  # an array: its length, then its entries
                options[-23300 - int(key)] = [float(entry) for entry in value.split(",")[1:]]
            else:
                options[int(key)] = float(value)
        layers.append(Layer(kind, name, names[: int(inputs)], names[int(inputs) :], options))
    return layers


class _Weights:
    """Reads the `.bin` file from front to back."""

    def __init__(self, data: bytes):
        self.data, self.offset = data, 0

    def floats(self, count: int) -> np.ndarray:
        found = np.frombuffer(self.data, "<f4", count, self.offset).copy()
        self.offset += 4 * count
        return found

    def tagged(self, count: int) -> np.ndarray:
        """Weights behind a tag; 16-bit ones are padded to whole 32-bit words."""
        tag = int.from_bytes(self.data[self.offset : self.offset + 4], "little")
        self.offset += 4
        if tag != _FLOAT16:
            raise ValueError(f"Expected 16-bit weights but received the tag {tag:#x}.")
        found = np.frombuffer(self.data, "<f2", count, self.offset).astype(np.float32)
        self.offset += (2 * count + 3) // 4 * 4
        return found

    def end(self) -> None:
        if self.offset != len(self.data):
            raise ValueError(f"Expected {self.offset} bytes of weights but received {len(self.data)}.")


def _convolution(layer: Layer, weights: _Weights) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    options, (output,) = layer.options, layer.outputs
    channels, size, count = int(options[0]), int(options[1]), int(options[6])
    kernel = weights.tagged(count).reshape(channels, -1, size, size)
    constants = [
        numpy_helper.from_array(kernel, f"{output}/kernel"),
        numpy_helper.from_array(weights.floats(channels), f"{output}/bias"),
    ]
    activation = int(options.get(9, 0))
    if activation not in (0, _LEAKY_RELU):
        raise ValueError(f"Expected a leaky ReLU or none after {layer.name} but received {activation}.")
    before = f"{output}/linear" if activation else output
    pads = [int(options.get(4, 0))] * 4
    nodes = [helper.make_node("Conv", [*layer.inputs, f"{output}/kernel", f"{output}/bias"], [before], pads=pads)]
    if activation:
        nodes.append(helper.make_node("LeakyRelu", [before], [output], alpha=options[10][0]))
    return nodes, constants


def _weighted_sum(layer: Layer) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    (output,), factors = layer.outputs, layer.options[1]
    nodes, constants, terms = [], [], []
    for index, (name, factor) in enumerate(zip(layer.inputs, factors, strict=True)):
        if factor == 1:
            terms.append(name)
            continue
        constants.append(numpy_helper.from_array(np.float32(factor).reshape(()), f"{output}/factor{index}"))
        terms.append(f"{output}/term{index}")
        nodes.append(helper.make_node("Mul", [name, f"{output}/factor{index}"], [terms[-1]]))
    return [*nodes, helper.make_node("Add", terms, [output])], constants


def _nodes(layer: Layer, weights: _Weights) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    kind, options, (output, *others) = layer.kind, layer.options, layer.outputs
    if kind == "Convolution":
        return _convolution(layer, weights)
    if kind == "Split":
        return [helper.make_node("Identity", layer.inputs, [name]) for name in (output, *others)], []
    if kind == "Concat":
        return [helper.make_node("Concat", layer.inputs, [output], axis=1)], []
    if kind == "Eltwise" and options[0] == 1:
        return _weighted_sum(layer)
    if kind == "BinaryOp" and options.get(0, 0) == 0:
        return [helper.make_node("Add", layer.inputs, [output])], []
    if kind == "Interp" and options[0] == 1:
        resize, scales = nearest_resize(layer.inputs[0], output, (options[1], options[2]))
        return [resize], [scales]
    raise ValueError(f"Expected a layer of Real-ESRGAN but received {kind} ({layer.name}).")


def ncnn_to_onnx(param: str, weights: bytes, name: str) -> onnx.ModelProto:
    """ONNX of an ncnn model: `input` (1, 3, h, w) → `output`, both in the model's own range.

    Raises ValueError for layers and formats that Real-ESRGAN's networks do not have.
    """
    nodes, constants, reader = [], [], _Weights(weights)
    for layer in parse(param):
        if layer.kind == "Input":
            nodes.append(helper.make_node("Identity", ["input"], layer.outputs))
            continue
        new_nodes, new_constants = _nodes(layer, reader)
        nodes += new_nodes
        constants += new_constants
        last = layer.outputs[0]
    reader.end()
    return image_model(name, nodes, constants, last)
