"""The bundle runner on graphs with known results, and on the committed bundle."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pisa_models.evaluate import measure
from pisa_models.evaluate.bundle import Bundle, to_levels
from pisa_models.evaluate.photos import EvaluationPhoto


def toy_bundle(folder, color_fix="none"):
    """Latents are 4×4 averages ×2; ε is 0.1, plus 0.2 where semantic is 1; the decoder repeats 4×4."""

    def save(name, nodes, inputs, outputs, constants=()):
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info(*entry) for entry in inputs],
            [helper.make_tensor_value_info(*entry) for entry in outputs],
            list(constants),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
        content = (folder / f"{name}.onnx").read_bytes()
        return {"file": f"{name}.onnx", "sha256": hashlib.sha256(content).hexdigest()}

    image, latents = ["n", 3, "H", "W"], ["n", 3, "h", "w"]
    number = lambda name, value: numpy_helper.from_array(np.float32(value), name)  # noqa: E731
    graphs = {
        "encoder": save(
            "encoder",
            [
                helper.make_node("AveragePool", ["pixels"], ["mean"], kernel_shape=[4, 4], strides=[4, 4]),
                helper.make_node("Mul", ["mean", "two"], ["latents"]),
            ],
            [("pixels", TensorProto.FLOAT, image)],
            [("latents", TensorProto.FLOAT, latents)],
            [number("two", 2)],
        ),
        "unet": save(
            "unet",
            [
                helper.make_node("Mul", ["latents", "zero"], ["flat"]),
                helper.make_node("Reshape", ["semantic", "shape"], ["gate"]),
                helper.make_node("Mul", ["gate", "point2"], ["extra"]),
                helper.make_node("Add", ["extra", "point1"], ["eps"]),
                helper.make_node("Add", ["flat", "eps"], ["residual"]),
            ],
            [("latents", TensorProto.FLOAT, latents), ("semantic", TensorProto.FLOAT, ["n"])],
            [("residual", TensorProto.FLOAT, latents)],
            [
                number("zero", 0),
                number("point1", 0.1),
                number("point2", 0.2),
                numpy_helper.from_array(np.array([-1, 1, 1, 1]), "shape"),
            ],
        ),
        "decoder": save(
            "decoder",
            [
                helper.make_node("Mul", ["latents", "half"], ["scaled"]),
                helper.make_node("Resize", ["scaled", "", "sizes"], ["pixels"], mode="nearest"),
            ],
            [("latents", TensorProto.FLOAT, latents)],
            [("pixels", TensorProto.FLOAT, image)],
            [number("half", 0.5), numpy_helper.from_array(np.float32([1, 1, 4, 4]), "sizes")],
        ),
    }
    manifest = {"schemaVersion": 1, "name": "toy", "version": "1", "multipleOf": 16, "colorFix": color_fix}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "graphs": graphs}))
    return folder


@pytest.mark.parametrize(("pix", "sem"), [(0, 0), (1, 0), (1, 1), (0.6, 1.4)])
def test_dials_move_a_flat_image_by_the_known_residual(tmp_path, pix, sem):
    bundle = Bundle(toy_bundle(tmp_path))
    low_res = np.full((5, 7, 3), 0.5, np.float32)
    prepared = bundle.prepare(low_res)
    assert prepared.latents.shape == (1, 3, 8, 8)  # 20×28 px padded to 32×32
    restored = bundle.restore(prepared, pix, sem)
    assert restored.shape == (20, 28, 3)
    # Model range: −(0.1·pix + 0.2·sem)·½ in the decoder, ·½ again to [0, 1].
    assert np.allclose(restored, 0.5 - (0.1 * pix + 0.2 * sem) / 4, atol=1e-6)


def test_adain_by_manifest_or_argument_takes_the_shift_back(tmp_path):
    bundle = Bundle(toy_bundle(tmp_path, color_fix="adain"))
    prepared = bundle.prepare(np.full((8, 8, 3), 0.5, np.float32))
    assert np.allclose(bundle.restore(prepared, 1, 1), 0.5, atol=1e-5)
    assert np.allclose(bundle.restore(prepared, 1, 1, "wavelet"), 0.5, atol=1e-5)
    assert np.allclose(bundle.restore(prepared, 1, 1, "none"), 0.425, atol=1e-5)


def test_reconstruction_psnr_of_the_toy_autoencoder(tmp_path):
    """It keeps 4×4 means: exact on a flat photo, about the block's own deviation on noise."""
    bundle = Bundle(toy_bundle(tmp_path))
    image = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    blocks = image.reshape(16, 4, 16, 4, 3)
    error = np.mean((blocks - blocks.mean(axis=(1, 3), keepdims=True)) ** 2)
    photo = EvaluationPhoto("p", "unseen", image)
    expected = -10 * np.log10(error)
    assert measure.reconstruction_psnr(photo, bundle) == pytest.approx(expected, abs=0.01)


def test_stability_sees_shift_and_contrast_of_the_toy(tmp_path):
    bundle = Bundle(toy_bundle(tmp_path))
    image = np.random.default_rng(0).random((256, 256, 3), dtype=np.float32)
    found = measure.stability(EvaluationPhoto("p", "unseen", image), bundle, "bicubic")
    assert found.mean_levels == pytest.approx(255 * 0.3 / 4, abs=0.5)
    assert found.deviation_ratio < 0.5


def test_stability_sees_a_grid_that_sem_adds(tmp_path, monkeypatch):
    bundle = Bundle(toy_bundle(tmp_path))
    restore = bundle.restore

    def with_grid(prepared, pix, sem, color_fix=None):
        image = restore(prepared, pix, sem, color_fix).copy()
        image[:, ::4] += 0.02 * sem
        return image

    monkeypatch.setattr(bundle, "restore", with_grid)
    image = np.random.default_rng(0).random((256, 256, 3), dtype=np.float32)
    found = measure.stability(EvaluationPhoto("p", "unseen", image), bundle, "bicubic")
    assert found.grid_sem_1 > 5 * found.grid_original
    assert found.grid_sem_1_5 > found.grid_sem_1


def test_a_changed_graph_is_refused(tmp_path):
    folder = toy_bundle(tmp_path)
    with (folder / "decoder.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="sha256 .* for decoder"):
        Bundle(folder)


def test_to_levels_rounds_and_clips():
    assert to_levels(np.float32([-0.1, 0.5, 1.2, 1.4 / 255, 1.6 / 255])).tolist() == [0, 128, 255, 1, 2]
