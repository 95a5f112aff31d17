"""What the peers' graphs share once they are ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def nearest_resize(source: str, output: str, factors: Sequence[float]) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """Node and initialiser that repeat pixels; factors (vertical, horizontal)."""
    scales = numpy_helper.from_array(np.float32([1, 1, *factors]), f"{output}/scales")
    node = helper.make_node(
        "Resize",
        [source, "", scales.name],
        [output],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return node, scales


def image_model(
    name: str, nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto], result: str
) -> onnx.ModelProto:
    """A checked model of `nodes`, which read `input` (1, 3, h, w); `result` becomes `output` (1, 3, H, W)."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [result], ["output"])],
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        constants,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(built)
    return built
