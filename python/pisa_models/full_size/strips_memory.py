"""Peak memory of the service where encoder and decoder run in strips, and on the whole image at once.

    make strips-memory

A random autoencoder of Stable Diffusion's depth, a quarter as wide, through the service's pipeline with both dials at
0, so that the UNet is not run. Each size and way is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from pisa_models.full_size.__main__ import SERVICE, python
from pisa_models.full_size.processes import measured
from pisa_models.full_size.report import table
from pisa_models.paths import REPOSITORY

RESULT = REPOSITORY / "bench" / "results" / "strips-memory.md"
TILE = 64
EDGES = (512, 1024, 2048)
THREADS = 2


def _whole(bundle: Path, cells: int) -> Path:
    """A copy of the bundle that runs images of up to cells² at once."""
    folder = bundle.parent / f"{cells}" / bundle.name
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for graph in manifest["graphs"].values():
        graph["tileLatents"] = cells
        graph.pop("strips", None)
    manifest.pop("tilesByMemory", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _run(bundle: Path, edge: int, folder: Path) -> tuple[int, float, np.ndarray]:
    """Peak in bytes, seconds, and the image."""
    low_res, output = folder / f"{edge}.png", folder / "out.png"
    y, x = np.mgrid[: edge // 4, : edge // 4] / edge
    noise = np.random.default_rng(0).normal(0, 8, (edge // 4, edge // 4, 3))
    waves = 128 + 90 * np.stack([np.sin(40 * x + 9 * y * c) for c in range(3)], -1)
    Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)).save(low_res)
    command = ["node", SERVICE, bundle, low_res, output, 0, 0, 1, THREADS]
    cost = measured(command, REPOSITORY, {"TMPDIR": str(folder)})
    return cost.peak_bytes, cost.seconds, np.asarray(Image.open(output), np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES, help="of the outputs, in pixels")
    parser.add_argument("--out", type=Path, default=RESULT, help="the page to write (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pisa-strips-memory-") as name:
        folder = Path(name)
        measured(python("full_size.model", "--sizes", "medium", "--out", folder), REPOSITORY / "python")
        bundle = folder / "bundle"
        tiles = [f"--{graph}-tile={TILE}" for graph in ("encoder", "unet", "decoder")]
        inputs = ("--base", folder / "base", "--lora", folder / "pisa_sr.pkl", "--dtype", "float32")
        measured(python("convert", *inputs, "--out", bundle, *tiles), REPOSITORY / "python")
        rows = []
        for edge in given.edges:
            peak, seconds, image = _run(bundle, edge, folder)
            whole_peak, whole_seconds, whole = _run(_whole(bundle, edge // 8), edge, folder)
            decibels = 10 * np.log10(255**2 / max(np.mean((image - whole) ** 2), 1e-9))
            same = "identical" if decibels > 100 else f"{decibels:.1f} dB"
            rows.append(
                [f"{edge}²", f"{peak / 1e6:.0f} MB", f"{whole_peak / 1e6:.0f} MB", f"{seconds:.0f} s",
                 f"{whole_seconds:.0f} s", same]
            )  # fmt: skip
            print(rows[-1], flush=True)
    head = ["output", "peak in strips", "peak at once", "time in strips", "time at once", "strips against at once"]
    page = (
        "# Memory of strips\n\n"
        f"`make strips-memory`, {datetime.now(UTC).isoformat(timespec='seconds')}. A random autoencoder of "
        f"Stable Diffusion's depth, a quarter as wide, float32, encoder and decoder, tiles of {TILE}² latent cells; "
        "an output of 512² is one tile. Peaks are of the whole process, which holds all weights, a UNet's "
        "among them.\n\n" + table(head, rows) + "\n"
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
