"""The exported graphs against PyTorch, and the committed bundle against its manifest and promises."""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pisa_models.evaluate.bundle import graph_files
from pisa_models.export import OPSET, SMALL, export
from pisa_models.networks.autoencoder import LATENT_CHANNELS, Autoencoder
from pisa_models.networks.deployed import DeployedUNet
from pisa_models.networks.lora import PIXEL, SEMANTIC, add_adapters
from pisa_models.networks.unet import UNet
from pisa_models.paths import BUNDLE

PARITY = 2e-3  # largest allowed |ONNX Runtime − PyTorch| for outputs of about unit size, float16 weights included


def session(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, **feeds: np.ndarray) -> np.ndarray:
    return graph.run(None, feeds)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A randomly initialised model, rounded to float16 as the export does, and its bundle."""
    torch.manual_seed(0)
    autoencoder, unet = Autoencoder(), UNet()
    add_adapters(unet, PIXEL, lambda _: 4)
    add_adapters(unet, SEMANTIC, lambda _: 4)
    with torch.no_grad():
        for module in (autoencoder, unet):
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    folder = tmp_path_factory.mktemp("bundle")
    manifest = export(autoencoder.requires_grad_(False), unet.requires_grad_(False), folder, {"vae": 1})
    return autoencoder, unet, folder, manifest


@pytest.mark.parametrize("shape", [(1, 16, 24), (2, 12, 8), (3, 4, 4)])
def test_graphs_equal_pytorch(exported, shape):
    autoencoder, unet, folder, _ = exported
    n, h, w = shape
    pixels = torch.rand(n, 3, 4 * h, 4 * w) * 2 - 1
    latents = torch.randn(n, LATENT_CHANNELS, h, w)
    semantic = torch.linspace(0, 1, n)
    cases = {
        "encoder": (autoencoder.encoder(pixels), {"pixels": pixels}),
        "unet": (DeployedUNet(unet)(latents, semantic), {"latents": latents, "semantic": semantic}),
        "decoder": (autoencoder.decoder(latents), {"latents": latents}),
    }
    for name, (expected, feeds) in cases.items():
        found = run(session(folder / f"{name}.onnx"), **{k: v.numpy() for k, v in feeds.items()})
        error = np.abs(found - expected.numpy()).max()
        assert found.dtype == np.float32 and found.shape == tuple(expected.shape)
        assert error < PARITY * max(1.0, expected.abs().max().item()), f"{name}: {error}"


def test_merged_graphs_equal_the_gated_one(exported):
    _, _, folder, manifest = exported
    latents = np.random.default_rng(0).standard_normal((2, LATENT_CHANNELS, 12, 8)).astype(np.float32)
    gated = session(folder / "unet.onnx")
    residuals = {}
    for semantic, (name, entry) in enumerate(manifest["graphs"]["unet"]["merged"].items()):
        residuals[name] = run(session(folder / entry["file"]), latents=latents)
        wanted = run(gated, latents=latents, semantic=np.full(2, semantic, np.float32))
        assert np.abs(residuals[name] - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.abs(residuals["pix"] - residuals["pisa"]).max() > 0.01


def test_merged_graphs_have_no_branch_left_when_loaded(committed, tmp_path):
    """The merged weights are computed when a session is opened, once, and not at every run."""
    for entry in committed[0]["graphs"]["unet"]["merged"].values():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / entry["file"])
        onnxruntime.InferenceSession(str(BUNDLE / entry["file"]), options, providers=["CPUExecutionProvider"])
        operators = {node.op_type for node in onnx.load(tmp_path / entry["file"], load_external_data=False).graph.node}
        assert "Conv" in operators
        assert operators.isdisjoint({"Cast", "MatMul", "Mul"})


def test_no_convolution_is_padded_on_one_side(exported, committed, uneven_padding):
    """cuDNN 9 has no plan for one."""
    for folder, manifest in (exported[2:], (BUNDLE, committed[0])):
        for graph in manifest["graphs"].values():
            for entry in [graph, *graph.get("merged", {}).values()]:
                assert uneven_padding(folder / entry["file"]) == []


def test_manifest_describes_the_files(exported):
    _, _, folder, manifest = exported
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    check_files(folder, manifest)


def check_files(folder, manifest) -> None:
    assert manifest["schemaVersion"] == 1 and manifest["scale"] == 4
    assert manifest["latents"] == {"channels": LATENT_CHANNELS, "downscale": 4}
    names = {
        "encoder": (["pixels"], "latents"),
        "unet": (["latents", "semantic"], "residual"),
        "decoder": (["latents"], "pixels"),
    }
    assert set(manifest["graphs"]) == set(names)
    for name, (inputs, output) in names.items():
        graph = manifest["graphs"][name]
        check_graph(folder / graph["file"], inputs, output)
        for entry in graph.get("merged", {}).values():
            check_graph(folder / entry["file"], ["latents"], output)
        for entry in graph_files(graph):
            data = (folder / entry["file"]).read_bytes()
            assert entry["bytes"] == len(data)
            assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def check_graph(path, inputs: list[str], output: str) -> None:
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == inputs
    assert [o.name for o in model.graph.output] == [output]
    assert model.opset_import[0].version == OPSET <= 21
    big = [t for t in model.graph.initializer if np.prod(t.dims) >= SMALL]
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in big)
    assert all(i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for i in model.graph.input)


@pytest.fixture(scope="module")
def committed():
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    return manifest, {name: session(BUNDLE / entry["file"]) for name, entry in manifest["graphs"].items()}


def picture(height: int, width: int) -> np.ndarray:
    """Smooth shapes, edges and texture, [1,3,H,W] float32 in [-1,1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 40
    base = np.sin(x + 0.3 * y) * 0.4 + 0.4 * (np.hypot(x - 2, y - 2) < 1.2) - 0.2
    texture = 0.05 * rng.standard_normal((3, height, width))
    return np.clip(base[None] * np.array([1, 0.8, 0.6])[:, None, None] + texture, -1, 1)[None].astype(np.float32)


def test_committed_bundle_matches_its_manifest(committed):
    check_files(BUNDLE, committed[0])
    total = sum(entry["bytes"] for graph in committed[0]["graphs"].values() for entry in graph_files(graph))
    assert total < 40_000_000
    assert committed[0]["multipleOf"] == 16


def test_committed_autoencoder_reconstructs(committed):
    pixels = picture(160, 192)
    graphs = committed[1]
    found = run(graphs["decoder"], latents=run(graphs["encoder"], pixels=pixels))
    mse = np.mean((np.clip(found, -1, 1) - pixels) ** 2)
    assert 10 * np.log10(4 / mse) > 26  # the texture here is white noise, half of which no latent holds


def test_committed_latents_are_scaled(committed):
    latents = run(committed[1]["encoder"], pixels=picture(256, 256))
    assert 0.2 < latents.std() < 3


def tiled_unet(graph, latents: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """Gaussian-blended tiles of the width, as the service does it."""
    width = latents.shape[3]
    starts = list(range(0, max(1, width - tile), tile - overlap)) + [width - tile]
    offset = np.arange(tile) - (tile - 1) / 2
    weight = np.exp(-(offset**2) / (2 * tile**2 * 0.01))
    total, norm = np.zeros_like(latents), np.zeros(width)
    for x in starts:
        part = run(graph, latents=latents[..., x : x + tile], semantic=np.ones(1, np.float32))
        total[..., x : x + tile] += part * weight
        norm[x : x + tile] += weight
    return total / norm


def test_committed_unet_tiles_agree_with_the_whole(committed):
    """At least 50 dB between pixels decoded from tiled and from whole residuals."""
    manifest, graphs = committed
    entry = manifest["graphs"]["unet"]
    latents = run(graphs["encoder"], pixels=picture(64, 4 * (entry["tileLatents"] + 96)))
    whole = run(graphs["unet"], latents=latents, semantic=np.ones(1, np.float32))
    tiled = tiled_unet(graphs["unet"], latents, entry["tileLatents"], entry["overlapLatents"])
    a, b = (run(graphs["decoder"], latents=(latents - e).astype(np.float32)) for e in (whole, tiled))
    mse = np.mean((np.clip(a, -1, 1) - np.clip(b, -1, 1)) ** 2)
    assert 10 * np.log10(4 / max(mse, 1e-12)) > 50


def test_committed_decoder_tiles_equal_the_whole(committed):
    manifest, graphs = committed
    radius = manifest["graphs"]["decoder"]["receptiveRadiusLatents"]
    latents = run(graphs["encoder"], pixels=picture(64, 256))
    whole = run(graphs["decoder"], latents=latents)
    part = run(graphs["decoder"], latents=np.ascontiguousarray(latents[..., : 32 + radius]))
    assert np.abs(part[..., : 32 * 4] - whole[..., : 32 * 4]).max() < 1e-4
