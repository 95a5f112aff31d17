"""Shared by all tests: a fixed seed, and a cache folder of their own."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(2)
    torch.manual_seed(0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of its own."""
    monkeypatch.setenv("PISA_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def uneven_padding(tmp_path) -> Callable[[Path | bytes], list[str]]:
    """Lists the nodes padded differently on opposite sides in a graph as ONNX Runtime made it over to run it."""

    def found(model: Path | bytes) -> list[str]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        source = model if isinstance(model, bytes) else str(model)
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
        assert any(node.op_type == "Conv" for node in nodes)
        pads = [(node.op_type, list(a.ints)) for node in nodes for a in node.attribute if a.name == "pads"]
        return [f"{kind} {values}" for kind, values in pads if values[: len(values) // 2] != values[len(values) // 2 :]]

    return found
