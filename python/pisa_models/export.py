"""Exports the trained networks as the bundle `models/pisa-tiny`: three ONNX graphs and a manifest.

    python -m pisa_models.export [--output FOLDER]

Weights are stored as float16 with a Cast to float32 in front, which ONNX Runtime folds when it loads the
graph: half the size on disk, float32 arithmetic, no float16 operator needed from the provider.
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
from torch import nn

from pisa_models.data.fetch import licence_lines
from pisa_models.networks import unet as unet_module
from pisa_models.networks.autoencoder import (
    DOWNSCALE,
    LATENT_CHANNELS,
    RADIUS,
    Autoencoder,
)
from pisa_models.networks.deployed import DeployedUNet
from pisa_models.paths import BUNDLE
from pisa_models.training import vae
from pisa_models.training.adapted import load_adapted, trained_steps

OPSET = 18
# A 512 px output is one tile of each graph. A larger tile of the UNet computes less twice (a tenth fewer cells at 384
# for a 2048 px output), but a job that is canceled, or waits for its turn, waits for a tile to end.
TILE_LATENTS = {"encoder": 256, "unet": 256, "decoder": 256}
OVERLAP_LATENTS = {"encoder": 4, "unet": 32, "decoder": 4}
SMALL = 1024  # elements: smaller tensors (biases, shapes, the autoencoder) stay float32


def halve_weights(model: onnx.ModelProto) -> None:
    """Store large float32 initialisers as float16 followed by a Cast to float32, in place."""
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALL:
            continue
        name = tensor.name
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name + "_f16"))
        casts.append(helper.make_node("Cast", [name + "_f16"], [name], to=TensorProto.FLOAT, name=name + "_cast"))
    for index, cast in enumerate(casts):
        graph.node.insert(index, cast)


def export_graph(module: nn.Module, example: dict[str, torch.Tensor], output: str, path: Path) -> None:
    """Trace `module` and write it with N, height and width dynamic."""
    spatial = {0: "N", 2: "height", 3: "width"}
    axes = {name: (spatial if value.dim() == 4 else {0: "N"}) for name, value in example.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(example.values()), str(path), dynamo=False, opset_version=OPSET,
            input_names=list(example), output_names=[output], dynamic_axes=axes | {output: spatial},
        )  # fmt: skip
    model = onnx.load(path)
    halve_weights(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def graph_entry(path: Path, name: str, radius: int | None) -> dict:
    data = path.read_bytes()
    return {
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
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
    export_graph(
        DeployedUNet(unet), {"latents": latents, "semantic": torch.tensor([0.0, 1.0])}, "residual", folder / "unet.onnx"
    )
    export_graph(autoencoder.decoder, {"latents": latents}, "pixels", folder / "decoder.onnx")
    manifest = {
        "schemaVersion": 1,
        "name": "pisa-tiny",
        "version": "0.8.0",
        "license": "Apache-2.0",
        "source": "trained from scratch by python/pisa_models of this project; see models/pisa-tiny/README.md",
        "description": "A small PiSA-SR model: pixel-level and semantic-level adjustable x4 restoration on a CPU.",
        "scale": 4,
        "latents": {"channels": LATENT_CHANNELS, "downscale": DOWNSCALE},
        "multipleOf": DOWNSCALE * unet_module.DOWNSCALE,
        "graphs": {
            "encoder": graph_entry(folder / "encoder.onnx", "encoder", RADIUS),
            "unet": graph_entry(folder / "unet.onnx", "unet", None),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=BUNDLE)
    folder = parser.parse_args().output
    try:
        autoencoder, unet = vae.load(), load_adapted()
    except FileNotFoundError as error:
        sys.exit(f"{error}: train first (`make train`)")
    manifest = export(autoencoder, unet, folder, trained_steps())
    total = sum(graph["bytes"] for graph in manifest["graphs"].values())
    print(f"{folder}: {total / 1e6:.1f} MB, steps {manifest['training']['steps']}")


if __name__ == "__main__":
    main()
