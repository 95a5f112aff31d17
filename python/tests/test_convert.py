"""The converter against plain diffusers + peft: weights, graphs, whole images; and what it writes."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel

from pisa_models.convert import vae
from pisa_models.convert.adapters import Adapter, Adapters, read_adapters
from pisa_models.convert.base import load_unet, load_vae, open_base
from pisa_models.convert.bundle import Options, convert, files_of
from pisa_models.convert.layers import CHANNEL_BLOCK, Gate, GatedConv, GatedLinear, PhaseUpsample, replace, to_half
from pisa_models.convert.prompt import empty_prompt, prompt_ids
from pisa_models.convert.unet import ServedUNet
from pisa_models.evaluate.bundle import Bundle
from pisa_models.parity.plain_pipeline import PlainPipeline
from pisa_models.parity.random_model import OTHER, make_base, make_lora, target_modules
from pisa_models.paths import REPOSITORY

RELATIVE = {"float32": 1e-4, "float16": 2e-2}
DECIBELS = {"float32": 50, "float16": 40}
MULTIPLE = 16


def relative(found, expected) -> float:
    found, expected = (np.asarray(torch.as_tensor(value).detach(), np.float64) for value in (found, expected))
    assert found.shape == expected.shape and np.isfinite(found).all()
    return np.abs(found - expected).max() / np.abs(expected).max()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(1 / np.mean((a.astype(np.float64) - b) ** 2)))


def test_the_yardsticks_see_a_small_change():
    a = np.linspace(0.1, 1, 100)
    assert relative(a + 2e-4, a) > 1e-4 and psnr(a, a + 0.004) < 50 and psnr(a, a + 0.012) < 40


@pytest.fixture(autouse=True)
def _one_thread(_seeded):
    """Networks this small are slower on several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder, LoRA and reference of a Stable Diffusion 2 in small."""
    folder = tmp_path_factory.mktemp("sd2")
    base = make_base(folder / "base")
    lora = make_lora(folder / "pisa_sr.pkl")
    return base, lora, PlainPipeline(base, lora)


@pytest.fixture(scope="module")
def bundles(model, tmp_path_factory):
    """Manifest and folder of each type; the float32 one with its weights in files beside the graphs."""
    folder, made = tmp_path_factory.mktemp("bundles"), {}
    for dtype, limit in (("float32", 100_000), ("float16", 2_000_000_000)):
        out = folder / f"small-{dtype}"
        options = Options(str(model[0]), model[1], out, dtype, inline_limit=limit, say=lambda _: None)
        made[dtype] = convert(options), out, Bundle(out, threads=1)
    return made


def served(base, lora):
    opened = open_base(str(base))
    unet = load_unet(opened)
    return ServedUNet(unet, read_adapters(lora, unet), empty_prompt(opened))


def merged_weight(network, name):
    """Of a served layer, as the original one has it."""
    if ".upsamplers." in name:
        phases = network.get_submodule(name.removesuffix(".conv")).phases
        # Four corners of the original, and what was added to them.
        upper, lower = (columns_of(phases[2 * row].weight, phases[2 * row + 1].weight) for row in (0, 1))
        return torch.stack([upper[:, :, 0], upper[:, :, 1] - lower[:, :, 1], lower[:, :, 1]], 2)
    layer = network.get_submodule(name.removesuffix(".0") if name.endswith("to_out.0") else name)
    assert isinstance(layer, (GatedLinear, GatedConv))
    return layer.weight.T if isinstance(layer, GatedLinear) else layer.weight


def columns_of(even, odd):
    """[O,I,2,2] twice → [O,I,2,3]"""
    return torch.stack([even[..., 0], even[..., 1] - odd[..., 1], odd[..., 1]], -1)


def test_merged_weights_are_pefts(model):
    base, lora, reference = model
    network = served(base, lora)
    reference.select("pix")
    layers = dict(reference.unet.named_modules())
    checked = 0
    for name in sum(target_modules(UNet2DConditionModel.from_pretrained(base / "unet")).values(), []):
        layer = layers[name]
        expected = layer.base_layer.weight + sum(
            layer.get_delta_weight(adapter) for adapter in layer.active_adapters if adapter in layer.lora_A
        )
        assert not torch.equal(expected, layer.base_layer.weight)
        if re.search(r"attn2\.to_[kv]$", name):
            continue  # folded into the prompt's keys and values
        assert relative(merged_weight(network, name), expected) < 1e-6, name
        checked += 1
    assert checked > 100


def test_prompt_is_the_padded_empty_one(model):
    base, _, reference = model
    opened = open_base(str(base))
    assert prompt_ids(opened, 9) == [62, 63, 0, 0, 0, 0, 0, 0, 0]
    assert relative(empty_prompt(opened), reference.prompt[0]) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_upsampling_without_the_enlarged_image(size):
    """Repeated cells, then a gated 3 × 3 convolution: the same by four 2 × 2 ones."""
    gate = Gate()
    gate.set(torch.tensor([0.0, 1.0]))
    adapter = Adapter(torch.randn(4, 6, 3, 3), torch.randn(5, 4), 2.0)
    conv = GatedConv(torch.nn.Conv2d(6, 5, 3, padding=1), None, adapter, gate)
    x = torch.randn(2, 6, *size)
    expected = conv(torch.nn.functional.interpolate(x, scale_factor=2.0))
    assert relative(PhaseUpsample(conv)(x), expected.detach()) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(2, 16, 24), (1, 8, 8), (3, 4, 20)])
def test_graphs_equal_pytorch(model, bundles, dtype, shape):
    _, _, reference = model
    bundle = bundles[dtype][2]
    n, h, w = shape
    latents = torch.randn(n, 4, h, w)
    pixels = torch.rand(n, 3, 4 * h, 4 * w) * 2 - 1
    bound = RELATIVE[dtype]
    assert relative(bundle.encode(pixels.numpy()), reference.encode(pixels)) < bound
    assert relative(bundle.decode(latents.numpy()), reference.decode(latents)) < bound
    one = latents[:1]
    pair = bundle.residual(one.numpy(), [0.0, 1.0])
    eps_pix, eps_pisa = reference.residual(one, "pix"), reference.residual(one, "pix", "sem")
    assert relative(pair[:1], eps_pix) < bound and relative(pair[1:], eps_pisa) < bound
    assert relative(eps_pix, eps_pisa) > 0.1  # the gate does something


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_convolution_is_padded_on_one_side(bundles, uneven_padding, dtype):
    """cuDNN 9 has no plan for one; neither as written, nor by what ONNX Runtime makes of Pad and Conv."""
    manifest, folder, _ = bundles[dtype]
    for graph in manifest["graphs"].values():
        assert uneven_padding(folder / graph["file"]) == []
        if strips := graph.get("strips"):
            stages = (folder / strips["file"]).read_bytes()
            places = [(stage["offset"], stage["offset"] + stage["bytes"]) for stage in strips["stages"]]
            convolve = [stages[start:end] for start, end in places if b"Conv" in stages[start:end]]
            assert len(convolve) == len(places) - 2  # attention has two stages
            assert [fault for stage in convolve for fault in uneven_padding(stage)] == []


def test_one_sided_padding_is_seen(uneven_padding):
    value, weight = onnx.helper.make_tensor_value_info, np.zeros((16, 16, 3, 3), np.float32)
    nodes = [
        onnx.helper.make_node("Pad", ["x", "pads", "zero"], ["padded"]),
        onnx.helper.make_node("Conv", ["padded", "w"], ["y"]),
    ]
    constants = {"w": weight, "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "zero": np.zeros((), np.float32)}
    graph = onnx.helper.make_graph(
        nodes, "pad", [value("x", onnx.TensorProto.FLOAT, [1, 16, None, None])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    assert uneven_padding(model.SerializeToString()) == ["Conv [0, 0, 1, 1]"]


def test_gate_acts_per_sample(model, bundles):
    """A batch of different images, each with its own gate."""
    _, _, reference = model
    latents = torch.randn(3, 4, 8, 8)
    path = str(bundles["float32"][1] / "unet.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"latents": latents.numpy(), "semantic": np.array([1, 0, 1], np.float32)})[0]
    pisa, pix = reference.residual(latents, "pix", "sem").numpy(), reference.residual(latents, "pix").numpy()
    assert relative(found, np.stack([pisa[0], pix[1], pisa[2]])) < RELATIVE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dials", [(1.0, 1.0), (0.6, 1.4), (1.0, 0.0)])
@pytest.mark.parametrize("size, color_fix", [((16, 20), "adain"), ((13, 11), "wavelet"), ((9, 16), "none")])
def test_whole_image_equals_the_plain_pipeline(model, bundles, dtype, dials, size, color_fix):
    _, _, reference = model
    low_res = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    manifest, _, bundle = bundles[dtype]
    assert manifest["multipleOf"] == MULTIPLE
    found = bundle.restore(bundle.prepare(low_res), *dials, color_fix)
    expected = reference.restore(low_res, *dials, MULTIPLE, color_fix)
    assert found.shape == expected.shape == (4 * size[0], 4 * size[1], 3)
    assert psnr(found, expected) > DECIBELS[dtype]


def test_other_sizes_old_files_and_ranks(tmp_path):
    """Stable Diffusion 1's layout in PyTorch's own format, other ranks for the two LoRAs."""
    base = make_base(tmp_path / "base", OTHER, safe=False)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = base / "vae/diffusion_pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    for new, name in old.items():
        tensors = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v for key, v in tensors.items()}
    assert any("proj_attn" in key for key in tensors)
    lora = make_lora(tmp_path / "lora.pkl", OTHER, rank_pix=3, rank_sem=5)
    reference = PlainPipeline(base, lora)
    torch.save(tensors, path)
    manifest = convert(Options(str(base), lora, tmp_path / "sd1", "float32", say=lambda _: None))
    assert manifest["latents"] == {"channels": 4, "downscale": 2} and manifest["multipleOf"] == 4
    assert manifest["training"]["lora"]["rankPix"] == 3 and manifest["training"]["lora"]["rankSem"] == 5
    bundle = Bundle(tmp_path / "sd1", threads=1)
    latents = torch.randn(1, 4, 12, 8)
    pair = bundle.residual(latents.numpy(), [0.0, 1.0])
    assert relative(pair[:1], reference.residual(latents, "pix")) < RELATIVE["float32"]
    assert relative(pair[1:], reference.residual(latents, "pix", "sem")) < RELATIVE["float32"]
    assert relative(bundle.decode(latents.numpy()), reference.decode(latents)) < RELATIVE["float32"]
    pixels = torch.rand(1, 3, 16, 24) * 2 - 1
    assert relative(bundle.encode(pixels.numpy()), reference.encode(pixels)) < RELATIVE["float32"]


def test_true_float16_arithmetic_has_no_nan(model):
    """ONNX Runtime's CPU computes float16 graphs in float32 where it can; PyTorch rounds every value."""
    base, lora, reference = model
    autoencoder = load_vae(open_base(str(base)))
    decoder, unet = to_half(vae.ServedDecoder(autoencoder)), to_half(served(base, lora))
    for latents in (torch.randn(1, 4, 8, 8), 5 * torch.randn(1, 4, 8, 8).sign()):
        with torch.no_grad():
            pixels = decoder(latents.half())
            residual = unet(latents.half(), torch.ones(1).half())
        assert pixels.dtype == residual.dtype == torch.float16
        assert relative(pixels, reference.decode(latents)) < RELATIVE["float16"]
        assert relative(residual, reference.residual(latents, "pix", "sem")) < RELATIVE["float16"]


def _loud(unet, autoencoder) -> None:
    """Attention logits beyond 65504, and a decoder whose activations are."""
    with torch.no_grad():
        attention = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
        attention.to_q.weight *= 400
        attention.to_k.weight *= 400
        autoencoder.decoder.conv_in.weight *= 30000


def test_what_float16_cannot_hold_stays_float32(tmp_path):
    base = make_base(tmp_path / "base", OTHER, change=_loud)
    lora = make_lora(tmp_path / "lora.pkl", OTHER)
    said: list[str] = []
    manifest = convert(Options(str(base), lora, tmp_path / "loud", "float16", say=said.append))
    assert {name: graph["dtype"] for name, graph in manifest["graphs"].items()} == {
        "encoder": "float16", "unet": "float16", "decoder": "float32",
    }  # fmt: skip
    assert any("decoder: activations reach" in line and "kept in float32" in line for line in said)
    reference, latents = PlainPipeline(base, lora), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        half = to_half(served(base, lora))(latents.half(), torch.ones(1).half())
    assert relative(half, reference.residual(latents, "pix", "sem")) < RELATIVE["float16"]
    assert relative(Bundle(tmp_path / "loud").decode(latents.numpy()), reference.decode(latents)) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_manifest_describes_the_files(bundles, dtype):
    manifest, folder, _ = bundles[dtype]
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert manifest["name"] == folder.name and manifest["schemaVersion"] == 1
    assert {file["file"] for file in files_of(manifest)} | {"manifest.json"} == {f.name for f in folder.iterdir()}
    for file in files_of(manifest):
        data = (folder / file["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])
    step = manifest["multipleOf"] // manifest["latents"]["downscale"]
    for graph in manifest["graphs"].values():
        assert graph["dtype"] == dtype and ("externalData" in graph) == (dtype == "float32")
        assert graph["tileLatents"] % step == 0 and graph["tileLatents"] - graph["overlapLatents"] >= step
        assert graph["activationBytesPerCell"] > 0
    assert [tiles["gigabytes"] for tiles in manifest["tilesByMemory"]] == [6, 12, 24, 80]
    for tiles in manifest["tilesByMemory"]:
        for name, graph in manifest["graphs"].items():
            assert tiles[name] % step == 0 and tiles[name] > graph["overlapLatents"]
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_reach_of_stable_diffusions_autoencoder():
    """115 pixels and 18 latent cells, as known of its encoder and decoder."""
    config = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    assert vae.encoder_reach(config) == 15 and 14 * 8 < 115 <= 15 * 8
    assert vae.decoder_reach(config) == 18
    assert vae.downscale(config) == 8


class Untouched(torch.nn.Module):
    def forward(self, x, **_ignored):
        return x


def test_reach_bounds_what_an_output_depends_on(tmp_path):
    """Gradients of one output, with everything global taken out."""
    base = make_base(tmp_path / "base")
    autoencoder = load_vae(open_base(str(base)))
    config = dict(autoencoder.config)
    reaches = vae.encoder_reach(config), vae.decoder_reach(config)
    networks = vae.ServedEncoder(autoencoder), vae.ServedDecoder(autoencoder)
    for network in networks:
        for name, module in list(network.named_modules()):
            if type(module).__name__ in ("Float32Norm", "SelfAttention"):
                replace(network, name, Untouched())
    pixels = torch.rand(1, 3, 256, 256, requires_grad=True)
    networks[0](pixels)[0, :, 32, 32].sum().backward()
    rows = pixels.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    spread = max(4 * 32 - int(rows.min()), int(rows.max()) - 4 * 32)
    assert 4 * (reaches[0] - 1) < spread <= 4 * reaches[0]
    latents = torch.rand(1, 4, 64, 64, requires_grad=True)
    networks[1](latents)[0, :, 128, :].sum().backward()
    rows = latents.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert reaches[1] - 1 <= max(32 - int(rows.min()), int(rows.max()) - 32) <= reaches[1]


def weights_of(path) -> int:
    """Bytes of all weights of an ONNX file, wherever they are stored."""
    sizes = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2}
    stored = onnx.load(path, load_external_data=False).graph.initializer
    return sum(int(np.prod(tensor.dims)) * sizes[tensor.data_type] for tensor in stored)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_files_hold_one_set_of_weights(model, bundles, dtype):
    """No larger than the plain UNet and the semantic LoRA at its full 16 channels, graph and alignment aside."""
    base, lora, _ = model
    manifest, folder, _ = bundles[dtype]
    plain = sum(p.numel() for p in UNet2DConditionModel.from_pretrained(base / "unet").parameters())
    saved = torch.load(lora, weights_only=True)["state_dict_unet"]
    semantic = sum(value.numel() for name, value in saved.items() if "sem" in name)
    weights = weights_of(folder / "unet.onnx")
    assert weights < (plain + CHANNEL_BLOCK // 4 * semantic) * np.dtype(dtype).itemsize
    graph = manifest["graphs"]["unet"]
    stored = graph["bytes"] + sum(file["bytes"] for file in graph.get("externalData", []))
    assert weights < stored < weights + 1_500_000


def test_both_residuals_of_stable_diffusion_weigh_less_than_one_unet():
    """Its true sizes, counted without weights: 258 modules, 4.056 M per LoRA, at most 1.06 of the UNet."""
    sizes = {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20)}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes, cross_attention_dim=1024, use_linear_projection=True)
        plain = sum(parameter.numel() for parameter in unet.parameters())
        weights = {name: unet.get_submodule(name).weight for name in sum(target_modules(unet).values(), [])}

        def adapters() -> dict[str, Adapter]:
            shapes = {name: (weight.shape[0], weight.shape[1:]) for name, weight in weights.items()}
            return {n: Adapter(torch.empty(4, *rest), torch.empty(out, 4), 2.0) for n, (out, rest) in shapes.items()}

        semantic = adapters()
        network = ServedUNet(unet, Adapters(adapters(), semantic), torch.empty(77, 1024))
    assert plain == 865_910_724 and len(semantic) == 258
    assert sum(adapter.down.numel() + adapter.up.numel() for adapter in semantic.values()) == 4_055_712
    to_half(network)
    stored = sum(value.nbytes for value in network.state_dict().values())
    assert stored < 1.0 * 2 * plain


def test_attention_never_holds_the_square_of_its_length(tmp_path):
    """16,384 cells, as a 1024 px image has in the middle of the autoencoder: the matrix would be 1.07 GB."""
    script = """
import resource, sys
import numpy as np, onnxruntime
from onnx import TensorProto as T, helper as h
value = lambda name: h.make_tensor_value_info(name, T.FLOAT, [1, None, 16])
node = h.make_node("MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", num_heads=1)
graph = h.make_graph([node], "attention", [value(n) for n in "qkv"], [value("y")])
opsets = [h.make_opsetid("", 18), h.make_opsetid("com.microsoft", 1)]
data = h.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
x = np.random.default_rng(0).standard_normal((1, 16384, 16)).astype(np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = session.run(None, {n: x for n in "qkv"})[0]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
logits = x[0, :4] @ x[0].T / 4
weights = np.exp(logits - logits.max(1, keepdims=True))
assert np.abs(y[0, :4] - weights @ x[0] / weights.sum(1, keepdims=True)).max() < 1e-4
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert int(run.stdout) < 150e6


def test_attention_of_the_graphs_is_that_operator_in_float32(bundles):
    for dtype in ("float32", "float16"):
        for name in ("encoder", "unet", "decoder"):
            model = onnx.load(bundles[dtype][1] / f"{name}.onnx", load_external_data=False)
            kinds = [node.op_type for node in model.graph.node]
            assert kinds.count("MultiHeadAttention") >= 1 and "Softmax" not in kinds
            if dtype == "float16":
                # What the operator reads comes from a Cast to float32, or from a sum of float32 constants.
                made = {output: node for node in model.graph.node for output in node.output}
                constants = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
                for node in model.graph.node:
                    if node.op_type == "MultiHeadAttention":
                        for source in (made[value] for value in node.input):
                            cast = source.op_type == "Cast" and source.attribute[0].i == onnx.TensorProto.FLOAT
                            assert cast or (source.op_type == "Add" and constants & set(source.input))
