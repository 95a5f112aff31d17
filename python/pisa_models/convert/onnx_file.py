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

OPSET = 18
CONTRIB = "com.microsoft"
INLINE_LIMIT = 2_000_000_000  # bytes; a protobuf ends at 2^31 − 1, and the graph itself needs a little
_ALIGNMENT = 4096  # so that ONNX Runtime can map a weight into memory instead of reading it
_SMALL = 1024  # bytes: shapes and biases stay inside the graph, where shape inference reads them
_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}


def _trace(network: nn.Module, example: dict[str, Tensor], output: str) -> onnx.ModelProto:
    """The graph; weights are inputs without values."""
    spatial = {0: "N", 2: "height", 3: "width"}
    axes = {name: (spatial if value.dim() == 4 else {0: "N"}) for name, value in example.items()}
    # Heights and widths of output and input are different numbers where pixels become latents.
    axes[output] = {0: "N", 2: "out_height", 3: "out_width"} if output != "residual" else spatial
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, tuple(example.values()), buffer, dynamo=False, opset_version=OPSET, export_params=False,
            do_constant_folding=False,
            input_names=list(example), output_names=[output], dynamic_axes=axes, custom_opsets={CONTRIB: 1},
        )  # fmt: skip
    return onnx.load_model_from_string(buffer.getvalue())


def _tensor(name: str, value: Tensor) -> tuple[TensorProto, np.ndarray]:
    array = np.ascontiguousarray(value.detach().numpy())
    proto = TensorProto(name=name, dims=array.shape, data_type=_TYPES[value.dtype])
    return proto, array


def write(network: nn.Module, example: dict[str, Tensor], output: str, path: Path, limit: int = INLINE_LIMIT) -> None:
    """Trace `network` with N, height and width dynamic; `<path>.data` is written too beyond `limit` bytes.

    Inputs are named as in `example`, and what the trace shows as further inputs are weights of the network.
    """
    model = _trace(network, example, output)
    weights = network.state_dict()
    graph = model.graph
    named = [value.name for value in graph.input]
    for value in [value for value in graph.input if value.name not in example]:
        graph.input.remove(value)
    names = [name for name in named if name not in example]
    total = sum(weights[name].nbytes for name in names)
    if total <= limit:
        for name in names:
            proto, array = _tensor(name, weights[name])
            proto.raw_data = array.tobytes()
            graph.initializer.append(proto)
    else:
        _write_beside(graph, names, weights, path.with_name(path.name + ".data"))
    model.producer_name, model.producer_version = "pisa_models.convert", "1"
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
