"""Exports the trained networks as the bundle `models/pisa-tiny`: ONNX graphs, their weights and a manifest.

    python -m pisa_models.export [--output FOLDER]

Weights are stored as float16 with a Cast to float32 in front, which ONNX Runtime folds when it loads the
graph: half the size on disk, float32 arithmetic, no float16 operator needed from the provider.

The UNet is there three times: with the semantic LoRA gated, for a batch of both residuals, and merged for each of
them, for a device that computes them one after the other. The three share one file of weights: W + U·D, the merged
weight, is computed in the graph from constants, and so folded as well.
"""

import argparse
import hashlib
import json
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from torch import nn

from pisa_models.data.fetch import licence_lines
from pisa_models.networks import unet as unet_module
from pisa_models.networks.autoencoder import (
    DOWNSCALE,
    LATENT_CHANNELS,
    RADIUS,
    Autoencoder,
)
from pisa_models.networks.deployed import DeployedUNet, MergedUNet
from pisa_models.paths import BUNDLE
from pisa_models.training import vae
from pisa_models.training.adapted import load_adapted, trained_steps

OPSET = 18
# A 512 px output is one tile of each graph, a 2048 px one four of the UNet, where 256 cells would make six. A larger
# tile computes less twice (a twentieth fewer cells at 384), but a job that is canceled, or waits for its turn, waits
# for a tile to end, and each of the two merged UNets keeps the memory of one.
TILE_LATENTS = {"encoder": 256, "unet": 288, "decoder": 256}
OVERLAP_LATENTS = {"encoder": 4, "unet": 32, "decoder": 4}
WEIGHTS = "unet.onnx.data"
SMALL = 1024  # elements: smaller tensors (biases, shapes, the autoencoder) stay float32


class SharedWeights:
    """A file of weights for several graphs of one folder, each tensor in it once."""

    ALIGNMENT = 64

    def __init__(self, path: Path):
        self.path = path
        self._content = bytearray()
        self._offsets: dict[bytes, int] = {}

    def take(self, tensor: onnx.TensorProto) -> None:
        """Move the data of `tensor` into the file."""
        data = tensor.raw_data
        if data not in self._offsets:
            self._content.extend(bytes(-len(self._content) % self.ALIGNMENT))
            self._offsets[data] = len(self._content)
            self._content.extend(data)
        set_external_data(tensor, self.path.name, offset=self._offsets[data], length=len(data))
        tensor.ClearField("raw_data")

    def write(self) -> None:
        self.path.write_bytes(self._content)


def halve_weights(model: onnx.ModelProto, shared: SharedWeights | None) -> None:
    """Store large float32 initialisers as float16 followed by a Cast to float32, in place or in `shared`."""
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALL:
            continue
        name = tensor.name
        graph.initializer.remove(tensor)
        halved = numpy_helper.from_array(values.astype(np.float16), name + "_f16")
        if shared:
            shared.take(halved)
        graph.initializer.append(halved)
        casts.append(helper.make_node("Cast", [name + "_f16"], [name], to=TensorProto.FLOAT, name=name + "_cast"))
    for index, cast in enumerate(casts):
        graph.node.insert(index, cast)


def export_graph(
    module: nn.Module,
    example: dict[str, torch.Tensor],
    output: str,
    path: Path,
    shared: SharedWeights | None = None,
) -> None:
    """Trace `module` and write it with N, height and width dynamic; large weights into `shared`, if there is one."""
    spatial = {0: "N", 2: "height", 3: "width"}
    axes = {name: (spatial if value.dim() == 4 else {0: "N"}) for name, value in example.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(example.values()), str(path), dynamo=False, opset_version=OPSET,
            input_names=list(example), output_names=[output], dynamic_axes=axes | {output: spatial},
            # What is merged of shared weights is left to the runtime to fold.
            do_constant_folding=shared is None,
        )  # fmt: skip
    model = onnx.load(path)
    halve_weights(model, shared)
    path.write_bytes(model.SerializeToString())
    if shared:
        shared.write()
    onnx.checker.check_model(path, full_check=True)


def export_unet(unet: unet_module.UNet, folder: Path) -> None:
    """Write the UNet gated and merged, `unet.onnx`, `unet-pix.onnx` and `unet-pisa.onnx`, and their weights."""
    latents = torch.randn(2, LATENT_CHANNELS, 16, 16)
    deployed = DeployedUNet(unet)
    shared = SharedWeights(folder / WEIGHTS)
    gated = {"latents": latents, "semantic": torch.tensor([0.0, 1.0])}
    export_graph(deployed, gated, "residual", folder / "unet.onnx", shared)
    for name, semantic in (("pix", False), ("pisa", True)):
        merged = MergedUNet(deployed, semantic)
        export_graph(merged, {"latents": latents}, "residual", folder / f"unet-{name}.onnx", shared)


def file_entry(path: Path) -> dict:
    data = path.read_bytes()
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def graph_entry(path: Path, name: str, radius: int | None) -> dict:
    return file_entry(path) | {
        "dtype": "float32",
        "tileLatents": TILE_LATENTS[name],
        "overlapLatents": OVERLAP_LATENTS[name],
        "receptiveRadiusLatents": radius,
    }


def export(autoencoder: Autoencoder, unet: unet_module.UNet, folder: Path, steps: dict[str, int]) -> dict:
    """Write the bundle into `folder` and return its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    latents = torch.randn(2, LATENT_CHANNELS, 16, 16)
    export_graph(autoencoder.encoder, {"pixels": torch.rand(2, 3, 64, 64) * 2 - 1}, "latents", folder / "encoder.onnx")
    export_unet(unet, folder)
    export_graph(autoencoder.decoder, {"latents": latents}, "pixels", folder / "decoder.onnx")
    manifest = {
        "schemaVersion": 1,
        "name": "pisa-tiny",
        "version": "0.10.0",
        "license": "Apache-2.0",
        "source": "trained from scratch by python/pisa_models of this project; see models/pisa-tiny/README.md",
        "description": "A small PiSA-SR model: pixel-level and semantic-level adjustable x4 restoration on a CPU.",
        "scale": 4,
        "latents": {"channels": LATENT_CHANNELS, "downscale": DOWNSCALE},
        "multipleOf": DOWNSCALE * unet_module.DOWNSCALE,
        "graphs": {
            "encoder": graph_entry(folder / "encoder.onnx", "encoder", RADIUS),
            "unet": graph_entry(folder / "unet.onnx", "unet", None)
            | {
                "externalData": [file_entry(folder / WEIGHTS)],
                "merged": {name: file_entry(folder / f"unet-{name}.onnx") for name in ("pix", "pisa")},
            },
            "decoder": graph_entry(folder / "decoder.onnx", "decoder", RADIUS),
        },
        "colorFix": "none",
        "training": {
            "data": licence_lines(),
            "method": "PiSA-SR (CVPR 2025) on a small prior: pixel LoRA (L2), semantic LoRA (L2, LPIPS, CSD, GAN)",
            "steps": steps,
            "date": datetime.now(UTC).date().isoformat(),
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def unet_gigamacs(unet: unet_module.UNet, edge: int = 512) -> tuple[float, float]:
    """10⁹ multiply-accumulates of one residual for an output of edge² pixels, by convolutions: merged, and gated."""
    deployed = DeployedUNet(unet)
    merged = gated = 0

    def count(conv: nn.Conv2d, of_semantic: bool, output: torch.Tensor) -> None:
        nonlocal merged, gated
        operations = conv.weight.numel() * output.shape[2] * output.shape[3]
        gated += operations
        merged += 0 if of_semantic else operations

    for name, module in deployed.named_modules():
        if isinstance(module, nn.Conv2d):
            of_semantic = not name.endswith(".main")
            module.register_forward_hook(lambda conv, _, output, s=of_semantic: count(conv, s, output))
    cells = edge // DOWNSCALE
    with torch.no_grad():
        deployed(torch.zeros(1, LATENT_CHANNELS, cells, cells), torch.ones(1))
    return merged / 1e9, gated / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=BUNDLE)
    folder = parser.parse_args().output
    try:
        autoencoder, unet = vae.load(), load_adapted()
    except FileNotFoundError as error:
        sys.exit(f"{error}: train first (`make train`)")
    manifest = export(autoencoder, unet, folder, trained_steps())
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {total / 1e6:.1f} MB, steps {manifest['training']['steps']}")
    merged, gated = unet_gigamacs(unet)
    print(f"UNet, a residual of 512²: {merged:.1f} GMAC merged, {gated:.1f} gated")


if __name__ == "__main__":
    main()
