"""Writes a network as an ONNX file, with its weights beside it when one protobuf cannot hold them.

The network is traced without its weights, which are then appended one by one: no second copy of all of
them is ever in memory as PyTorch's exporter would make.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from pisa_models.convert.layers import PromptAttention, SelfAttention

OPSET = 18
CONTRIB = "com.microsoft"
INLINE_LIMIT = 2_000_000_000  # bytes; a protobuf ends at 2^31 − 1, and the graph itself needs a little
_ALIGNMENT = 4096  # so that ONNX Runtime can map a weight into memory instead of reading it
_SMALL = 1024  # bytes: shapes and biases stay inside the graph, where shape inference reads them
_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}


def _spatial_axes(example: dict[str, Tensor], output: str) -> dict[str, dict[int, str]]:
    spatial = {0: "N", 2: "height", 3: "width"}
    axes = {name: (spatial if value.dim() == 4 else {0: "N"}) for name, value in example.items()}
    # Heights and widths of output and input are different numbers where pixels become latents.
    axes[output] = {0: "N", 2: "out_height", 3: "out_width"} if output != "residual" else spatial
    return axes


def _trace(
    network: nn.Module, example: dict[str, Tensor], outputs: list[str], axes: dict[str, dict[int, str]]
) -> onnx.ModelProto:
    """The graph; weights are inputs without values."""
    attends = any(isinstance(module, (SelfAttention, PromptAttention)) for module in network.modules())
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, tuple(example.values()), buffer, dynamo=False, opset_version=OPSET, export_params=False,
            do_constant_folding=False,
            input_names=list(example), output_names=outputs, dynamic_axes=axes,
            custom_opsets={CONTRIB: 1} if attends else {},
        )  # fmt: skip
    model = onnx.load_model_from_string(buffer.getvalue())
    model.producer_name, model.producer_version = "pisa_models.convert", "1"
    return model


def _take_weight_inputs(graph: onnx.GraphProto, example: dict[str, Tensor]) -> list[str]:
    """Removes the inputs that are weights; returns their names."""
    names = [value.name for value in graph.input if value.name not in example]
    for value in [value for value in graph.input if value.name in names]:
        graph.input.remove(value)
    return names


def _write_inside(graph: onnx.GraphProto, names: list[str], weights: dict[str, Tensor]) -> None:
    for name in names:
        proto, array = _tensor(name, weights[name])
        proto.raw_data = array.tobytes()
        graph.initializer.append(proto)


def to_bytes(
    network: nn.Module, example: dict[str, Tensor], outputs: list[str], axes: dict[str, dict[int, str]]
) -> bytes:
    """Trace `network` with the given dynamic axes; all weights are inside."""
    model = _trace(network, example, outputs, axes)
    _write_inside(model.graph, _take_weight_inputs(model.graph, example), network.state_dict())
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _tensor(name: str, value: Tensor) -> tuple[TensorProto, np.ndarray]:
    array = np.ascontiguousarray(value.detach().numpy())
    proto = TensorProto(name=name, dims=array.shape, data_type=_TYPES[value.dtype])
    return proto, array


def write(network: nn.Module, example: dict[str, Tensor], output: str, path: Path, limit: int = INLINE_LIMIT) -> None:
    """Trace `network` with N, height and width dynamic; `<path>.data` is written too beyond `limit` bytes.

    Inputs are named as in `example`, and what the trace shows as further inputs are weights of the network.
    """
    model = _trace(network, example, [output], _spatial_axes(example, output))
    weights = network.state_dict()
    graph = model.graph
    names = _take_weight_inputs(graph, example)
    if sum(weights[name].nbytes for name in names) <= limit:
        _write_inside(graph, names, weights)
    else:
        _write_beside(graph, names, weights, path.with_name(path.name + ".data"))
    path.write_bytes(model.SerializeToString())
    # By path: the checker reads the weights beside the file, and takes no protobuf beyond 2 GB.
    onnx.checker.check_model(str(path))


def _write_beside(graph: onnx.GraphProto, names: list[str], weights: dict[str, Tensor], data: Path) -> None:
    with data.open("wb") as file:
        for name in names:
            proto, array = _tensor(name, weights[name])
            graph.initializer.append(proto)
            stored = graph.initializer[-1]
            if array.nbytes < _SMALL:
                stored.raw_data = array.tobytes()
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            stored.data_location = TensorProto.EXTERNAL
            place = {"location": data.name, "offset": file.tell(), "length": array.nbytes}
            for key, value in place.items():
                stored.external_data.add(key=key, value=str(value))
            file.write(memoryview(array).cast("B"))
