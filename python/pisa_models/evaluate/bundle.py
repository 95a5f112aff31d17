"""Runs a model bundle by ONNX Runtime, stage by stage as the service does on a CPU, on whole images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from pisa_models.evaluate import stages

SCALE = 4
THREADS = 2
GRAPHS = ("encoder", "unet", "decoder")
MERGED = ("pix", "pisa")
"""The merged UNets of a manifest, by the value of `semantic` that they stand for."""


@dataclass
class Prepared:
    """All that does not depend on (pix, sem), for one low-resolution image."""

    height: int
    width: int
    resampled: np.ndarray
    """(3, H, W) in [0, 1], unclipped, before padding."""
    latents: np.ndarray
    """(1, C, h, w)"""
    eps_pix: np.ndarray
    eps_pisa: np.ndarray


def graph_files(graph: dict) -> list[dict]:
    """Every file of a graph of the manifest: `file` and `sha256`."""
    strips = [graph["strips"]] if graph.get("strips") else []
    return [graph, *graph.get("externalData", []), *strips, *graph.get("merged", {}).values()]


class Bundle:
    """A bundle folder: `manifest.json` and its ONNX graphs."""

    def __init__(self, folder: Path, threads: int = THREADS) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        if self.manifest["schemaVersion"] != 1:
            raise ValueError(f"Expected schemaVersion 1 but received {self.manifest['schemaVersion']}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for entry in self.files():
            with (folder / entry["file"]).open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != entry["sha256"]:
                raise ValueError(f"Expected sha256 {entry['sha256']} for {entry['file']} but received {found}.")
        graphs = self.manifest["graphs"]
        # By path, as a graph may keep its weights in a file beside it.
        paths = {name: folder / graphs[name]["file"] for name in GRAPHS}
        merged = graphs["unet"].get("merged")
        if merged:
            paths |= {name: folder / entry["file"] for name, entry in merged.items()}
            del paths["unet"]
        self._sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in paths.items()
        }

    def files(self) -> list[dict]:
        return [entry for name in GRAPHS for entry in graph_files(self.manifest["graphs"][name])]

    @property
    def sha256(self) -> str:
        """One hash for all files."""
        return hashlib.sha256("".join(entry["sha256"] for entry in self.files()).encode()).hexdigest()

    def _run(self, name: str, output: str, **feeds: np.ndarray) -> np.ndarray:
        """float32 in and out, converted for a float16 graph as the service does."""
        graphs = self.manifest["graphs"]
        dtype = np.dtype(graphs[name if name in graphs else "unet"].get("dtype", "float32"))
        result = self._sessions[name].run([output], {key: value.astype(dtype) for key, value in feeds.items()})[0]
        return result.astype(np.float32)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) f32 RGB [−1, 1] → (1, C, h, w) f32 scaled latents."""
        return self._run("encoder", "latents", pixels=pixels)

    def residual(self, latents: np.ndarray, semantic: Sequence[int]) -> np.ndarray:
        """(1, C, h, w) → (n, C, h, w): for each of the n `semantic` values ε_pix (0) or ε_PiSA (1)."""
        if "unet" not in self._sessions:
            return np.concatenate([self._run(MERGED[which], "residual", latents=latents) for which in semantic])
        batch = np.repeat(latents, len(semantic), axis=0)
        return self._run("unet", "residual", latents=batch, semantic=np.array(semantic, np.float32))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """(1, C, h, w) f32 scaled latents → (1, 3, H, W) f32 RGB, about [−1, 1]."""
        return self._run("decoder", "pixels", latents=latents)

    def to_pixels(self, low_res: np.ndarray, scale: float = SCALE) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 3) f32 RGB [0, 1] → (3, H, W) [0, 1] resampled, and (1, 3, H', W') [−1, 1] padded."""
        height, width = (round(side * scale) for side in low_res.shape[:2])
        resampled = stages.resample(low_res.transpose(2, 0, 1), height, width)
        padded = stages.pad_to_multiple(np.clip(resampled, 0, 1), self.manifest["multipleOf"])
        return resampled, (padded * np.float32(2) - np.float32(1))[None]

    def prepare(self, low_res: np.ndarray) -> Prepared:
        """(h, w, 3) f32 RGB [0, 1] → latents and both residuals."""
        resampled, pixels = self.to_pixels(low_res)
        latents = self.encode(pixels)
        eps = self.residual(latents, [0, 1])
        return Prepared(resampled.shape[1], resampled.shape[2], resampled, latents, eps[:1], eps[1:])

    def restore(self, prepared: Prepared, pix: float, sem: float, color_fix: str | None = None) -> np.ndarray:
        """(H, W, 3) f32 RGB [0, 1]; `color_fix` none, adain, wavelet, or the manifest's by default."""
        latents = stages.combine(prepared.latents, prepared.eps_pix, prepared.eps_pisa, pix, sem)
        return self.finish(self.decode(latents), prepared, color_fix)

    def finish(self, decoded: np.ndarray, prepared: Prepared, color_fix: str | None = None) -> np.ndarray:
        """Crop the padding, fix the colours, clip: (1, 3, H', W') [−1, 1] → (H, W, 3) [0, 1]."""
        image = (decoded[0, :, : prepared.height, : prepared.width] + np.float32(1)) / np.float32(2)
        chosen = color_fix or self.manifest["colorFix"]
        fixes = {"none": lambda target, _: target, "adain": stages.adain, "wavelet": stages.wavelet}
        image = fixes[chosen](np.clip(image, 0, 1), np.clip(prepared.resampled, 0, 1))
        return np.clip(image, 0, 1).transpose(1, 2, 0)


def to_levels(image: np.ndarray) -> np.ndarray:
    """[0, 1] → uint8, rounded to the nearest."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
