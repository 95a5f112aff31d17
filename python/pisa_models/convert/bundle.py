"""The whole conversion: read and check everything, then write the graphs and the manifest.

`publish.py` makes sure that there is the whole bundle or none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pisa_models.convert import onnx_file, ranges, strips, tile_memory, vae
from pisa_models.convert.adapters import ALPHA, read_adapters
from pisa_models.convert.base import load_unet, load_vae, open_base
from pisa_models.convert.errors import ConversionError
from pisa_models.convert.layers import to_half
from pisa_models.convert.prompt import empty_prompt
from pisa_models.convert.publish import check_out, complete_or_nothing
from pisa_models.convert.unet import TIMESTEP, ServedUNet

SCALE = 4
# Largest relative error between a graph and PyTorch in float32, max |a − b| / max |b|.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
# Latent cells. The UNet's are the official code's; the others keep a float32 decoder near 2.5 GB (docs/models.md).
TILES = {"encoder": 128, "unet": 96, "decoder": 96}
CHECKED_ROWS = 13
UNET_OVERLAP = 32
LICENSE = "CreativeML Open RAIL++-M (Stable Diffusion 2.1) and Apache-2.0 (PiSA-SR)"


@dataclass
class Options:
    base: str
    lora: Path
    out: Path
    dtype: str = "float16"
    license: str = LICENSE
    version: str = "1.0.0"
    replace: bool = False
    tiles: dict[str, int] = field(default_factory=lambda: dict(TILES))
    inline_limit: int = onnx_file.INLINE_LIMIT
    """Bytes of weights beyond which a graph keeps them in a file beside it."""
    say: Callable[[str], None] = print


def _check_space(out: Path, networks: tuple[nn.Module, ...], dtype: str) -> None:
    """Before the work begins; what the check cannot foresee still ends cleanly."""
    parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
    # The autoencoder is written twice, whole and in stages.
    parameters += sum(parameter.numel() for parameter in networks[1].parameters())
    needed = parameters * (4 if dtype == "float32" else 2)
    folder = next(parent for parent in out.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConversionError(
            f"{needed / 1e9:.2f} GB are needed in {folder} but {free / 1e9:.2f} GB are free. "
            "Free space, or choose an --out elsewhere."
        )


def _cast(feed: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    return {name: value.to(getattr(torch, dtype)) for name, value in feed.items()}


def _smaller(feed: dict[str, torch.Tensor], divisor: int) -> dict[str, torch.Tensor]:
    """A corner of each image: tracing needs no more, and PyTorch is slow at float16 on most CPUs."""
    return {
        name: value[..., : value.shape[-2] // divisor, : value.shape[-1] // divisor] if value.dim() == 4 else value
        for name, value in feed.items()
    }


def _write(
    network: nn.Module, found: ranges.Probe, example: dict[str, torch.Tensor], output: str, path: Path, options: Options
) -> str:
    """Write one graph; returns its type, which is float32 where activations would not fit float16."""
    dtype = options.dtype
    if dtype == "float16" and not found.fits_half:
        options.say(
            f"{path.stem}: activations reach {found.largest:.3g} in {found.layer}, "
            "too much for float16: kept in float32"
        )
        dtype = "float32"
    if dtype == "float16":
        to_half(network)
    onnx_file.write(network, _cast(example, dtype), output, path, options.inline_limit)
    return dtype


def _open_session(model: str | bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may need the processor
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _worst_error(found: ranges.Probe, run: Callable[[dict[str, torch.Tensor]], np.ndarray]) -> float:
    """Largest error of `run` over the probe's inputs, relative to the largest value; infinite where not finite."""
    worst = 0.0
    for feed, expected in zip(found.feeds, found.outputs, strict=True):
        error = np.abs(run(feed).astype(np.float32) - expected.numpy()).max() / float(expected.abs().max() or 1)
        worst = max(worst, float(error)) if np.isfinite(error) else float("inf")
    return worst


def _check_error(name: str, worst: float, dtype: str) -> None:
    if worst > TOLERANCE[dtype]:
        advice = "Use --dtype float32." if dtype == "float16" else "Report this with the model's config.json files."
        raise ConversionError(
            f"{name} differs from PyTorch by {worst:.1e} of its largest value, more than {TOLERANCE[dtype]:.0e}. "
            + advice
        )


def _check_graph(path: Path, found: ranges.Probe, dtype: str, say: Callable[[str], None]) -> None:
    """Run the file on the probe's inputs: finite, and equal to PyTorch in float32 within TOLERANCE."""
    session = _open_session(str(path))

    def run(feed: dict[str, torch.Tensor]) -> np.ndarray:
        return session.run(None, {name: value.numpy() for name, value in _cast(feed, dtype).items()})[0]

    worst = _worst_error(found, run)
    size = sum(file.stat().st_size for file in (path, _beside(path)) if file.exists())
    say(f"{path.stem}: {size / 1e6:.1f} MB {dtype}, largest activation {found.largest:.3g}, relative error {worst:.1e}")
    _check_error(path.stem, worst, dtype)


def _write_strips(plan: strips.Plan, found: ranges.Probe, dtype: str, path: Path, say: Callable[[str], None]) -> dict:
    """Write one half's stages and check them in strips, as `_check_graph` does; returns their manifest entry."""
    facts = strips.write(plan, getattr(torch, dtype), path)
    runner = strips.Runner(path, facts, dtype, _open_session)

    def run(feed: dict[str, torch.Tensor]) -> np.ndarray:
        (images,) = feed.values()
        # Strips of odd and of other lengths than their neighbours'.
        return np.concatenate([runner.run(image[None].numpy(), CHECKED_ROWS) for image in images])

    worst = _worst_error(found, run)
    say(f"{path.stem} in {len(facts['stages'])} stages: relative error {worst:.1e}")
    _check_error(f"{path.stem} in strips", worst, dtype)
    return _facts(path) | facts


def _facts(path: Path) -> dict:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return {"file": path.name, "sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _beside(path: Path) -> Path:
    """Where the weights of a graph are that are too large for it."""
    return path.with_name(path.name + ".data")


def _entry(path: Path, dtype: str, stages: dict | None, tile: int, overlap: int, step: int) -> dict:
    """A graph of the manifest; tile and overlap in latent cells, made multiples of `step`."""
    overlap = _round_up(overlap, step)
    entry = _facts(path) | {
        "dtype": dtype,
        "tileLatents": max(_round_up(tile, step), overlap + 2 * step),
        "overlapLatents": overlap,
        # GroupNorm and attention see the whole tile.
        "receptiveRadiusLatents": None,
    }
    beside = _beside(path)
    if beside.exists():
        entry["externalData"] = [_facts(beside)]
    if stages:
        entry["strips"] = stages
    return entry


def _convert_unet(unet, adapters, prompt, folder: Path, options: Options) -> str:
    edge = max(8, 2 * 2 ** (len(unet.config.block_out_channels) - 1))
    channels = unet.config.in_channels
    network = ServedUNet(unet, adapters, prompt)
    feeds = ranges.latent_feeds(channels, edge, torch.Generator().manual_seed(0))
    for feed in feeds:
        feed["semantic"] = torch.tensor([0.0, 1.0])
    found = ranges.probe(network, feeds, "UNet")
    dtype = _write(network, found, _smaller(feeds[0], 2), "residual", folder / "unet.onnx", options)
    network.to("meta")  # ONNX Runtime is about to load all weights again
    _check_graph(folder / "unet.onnx", found, dtype, options.say)
    return dtype


def _convert_vae(autoencoder, folder: Path, options: Options) -> dict[str, tuple[str, dict]]:
    """Type and strips of each half."""
    config = dict(autoencoder.config)
    generator = torch.Generator().manual_seed(0)
    edge = 16
    pixels = ranges.pixel_feeds(edge * vae.downscale(config), generator)
    halves = {
        "encoder": (vae.ServedEncoder, strips.plan_encoder, pixels, "latents"),
        "decoder": (
            vae.ServedDecoder,
            strips.plan_decoder,
            ranges.latent_feeds(config["latent_channels"], edge, generator),
            "pixels",
        ),
    }
    written = {}
    for name, (kind, plan, feeds, output) in halves.items():
        path = folder / f"{name}.onnx"
        network = kind(autoencoder)
        found = ranges.probe(network, feeds, name)
        dtype = _write(network, found, _smaller(feeds[0], 4), output, path, options)
        _check_graph(path, found, dtype, options.say)
        strip_path = folder / f"{name}.stages"
        written[name] = dtype, _write_strips(plan(network), found, dtype, strip_path, options.say)
    return written


def convert(options: Options) -> dict:
    """Make the bundle `options.out` and return its manifest.

    Raises ConversionError, always before anything of `options.out` exists or changes.
    """
    out = check_out(options.out, options.replace)
    base = open_base(options.base)
    unet = load_unet(base)
    adapters = read_adapters(options.lora, unet)
    prompt = empty_prompt(base)
    autoencoder = load_vae(base)
    _check_fit(unet.config, autoencoder.config, prompt)
    _check_space(out, (unet, autoencoder), options.dtype)
    vae_config = dict(autoencoder.config)
    step = 2 ** (len(unet.config.block_out_channels) - 1)
    lora = _facts(options.lora)
    names = (len(adapters.pix), len(adapters.sem))
    options.say(f"{base.name}: LoRAs of {names[0]} (pixel) and {names[1]} (semantic) modules fit")
    ranks = [next(iter(kind.values())).down.shape[0] for kind in (adapters.pix, adapters.sem)]
    with complete_or_nothing(out, options.replace) as folder:
        written = _convert_vae(autoencoder, folder, options)
        del autoencoder
        written["unet"] = _convert_unet(unet, adapters, prompt, folder, options), None
        overlaps = {
            "encoder": 2 * vae.encoder_reach(vae_config),
            "unet": UNET_OVERLAP,
            "decoder": 2 * vae.decoder_reach(vae_config),
        }
        manifest = {
            "schemaVersion": 1,
            "name": out.name,
            "version": options.version,
            "license": options.license,
            "source": f"{base.name} and {lora['file']} (sha256 {lora['sha256']})",
            "description": "PiSA-SR: pixel-level and semantic-level adjustable restoration with Stable Diffusion.",
            "scale": SCALE,
            "latents": {"channels": vae_config["latent_channels"], "downscale": vae.downscale(vae_config)},
            "multipleOf": vae.downscale(vae_config) * step,
            "graphs": {
                name: _entry(folder / f"{name}.onnx", *written[name], options.tiles[name], overlaps[name], step)
                for name in ("encoder", "unet", "decoder")
            },
            "tilesByMemory": [],
            "colorFix": "adain",
            "training": {
                "method": "PiSA-SR (CVPR 2025), by its authors; converted, not trained here",
                "base": base.name,
                "lora": lora | {"rankPix": ranks[0], "rankSem": ranks[1], "alpha": ALPHA},
                "timestep": TIMESTEP,
                "prompt": "",
            },
        }
        _plan_tiles(manifest, vae_config, dict(unet.config), step)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _plan_tiles(manifest: dict, vae_config: dict, unet_config: dict, step: int) -> None:
    """Write into the manifest what a tile takes, and the tiles for devices of several sizes."""
    graphs = manifest["graphs"]
    dtypes = {name: graph["dtype"] for name, graph in graphs.items()}
    cells = tile_memory.bytes_per_cell(vae_config, unet_config, dtypes)
    for name, graph in graphs.items():
        graph["activationBytesPerCell"] = cells[name]
    least = {name: graph["overlapLatents"] + 2 * step for name, graph in graphs.items()}
    weights = sum(file["bytes"] for file in files_of(manifest))
    rows = tile_memory.tiles_by_memory(weights, cells, least, step)
    if rows:
        manifest["tilesByMemory"] = rows
    else:
        del manifest["tilesByMemory"]


def files_of(manifest: dict) -> list[dict]:
    """`file`, `sha256` and `bytes` of every file of the bundle but the manifest."""
    files = []
    for graph in manifest["graphs"].values():
        files += [graph, *graph.get("externalData", ()), *([graph["strips"]] if "strips" in graph else [])]
    return files


def _check_fit(unet, autoencoder, prompt: torch.Tensor) -> None:
    """The parts must be of one model."""
    latents = {
        "unet in_channels": unet.in_channels,
        "unet out_channels": unet.out_channels,
        "vae latent_channels": autoencoder.latent_channels,
    }
    if len(set(latents.values())) > 1:
        sizes = ", ".join(f"{name} {value}" for name, value in latents.items())
        raise ConversionError(f"unet and vae are of different models ({sizes}). Fetch the folder again.")
    width = unet.cross_attention_dim
    if {*(width if isinstance(width, (list, tuple)) else [width])} != {prompt.shape[-1]}:
        raise ConversionError(
            f"unet expects a prompt of width {width}, text_encoder gives {prompt.shape[-1]}: they are of different "
            "models. Fetch the folder again."
        )
