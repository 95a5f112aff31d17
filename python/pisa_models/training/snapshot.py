"""Keeps the averaged weights of all stages in one small committed file, for when the cache is gone.

    python -m pisa_models.training.snapshot save     # checkpoints → python/checkpoints/pisa-tiny.npz
    python -m pisa_models.training.snapshot restore  # and back, where a stage has no checkpoint
    python -m pisa_models.training.snapshot restore --file 0.5.0.npz  # of an earlier version

The exported bundle cannot serve for this: in it, pixel LoRA and prior are one. float16, without the state
of the optimiser: a restored stage goes on training from its average.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from pisa_models.paths import REPOSITORY, cache_dir

SNAPSHOT = REPOSITORY / "python" / "checkpoints" / "pisa-tiny.npz"
STAGES = ("prior", "pixel", "semantic")


def save(path: Path = SNAPSHOT) -> list[str]:
    """Write every stage that has a checkpoint; returns their names."""
    arrays: dict[str, np.ndarray] = {}
    components = cache_dir("checkpoints") / "components.pt"
    if components.exists():
        for index, value in enumerate(torch.load(components, weights_only=True)):
            arrays[f"components/{index}"] = value.numpy()  # float32: it is tiny, and all else rests on it
    found = []
    for stage in STAGES:
        checkpoint = cache_dir("checkpoints") / f"{stage}.pt"
        if not checkpoint.exists():
            continue
        state = torch.load(checkpoint, weights_only=True)
        arrays[f"{stage}/step"] = np.array(state["step"])
        for key, value in state["average"].items():
            arrays[f"{stage}/average/{key}"] = value.numpy().astype(np.float16)
        found.append(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return found


def restore(path: Path = SNAPSHOT) -> list[str]:
    """Write checkpoints from the snapshot where there are none; returns the names of those written.

    Raises FileNotFoundError without a snapshot.
    """
    arrays = np.load(path)
    folder = cache_dir("checkpoints")
    if not (folder / "components.pt").exists():
        torch.save(tuple(torch.from_numpy(arrays[f"components/{i}"]) for i in range(3)), folder / "components.pt")
    written = []
    for stage in STAGES:
        target = folder / f"{stage}.pt"
        prefix = f"{stage}/average/"
        average = {k[len(prefix) :]: torch.from_numpy(arrays[k]).float() for k in arrays.files if k.startswith(prefix)}
        if target.exists() or not average:
            continue
        step = int(arrays[f"{stage}/step"])
        torch.save({"step": step, "seconds": 0.0, "parameters": average, "average": average}, target)
        written.append(stage)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("--file", type=Path, default=SNAPSHOT)
    options = parser.parse_args()
    try:
        stages = save(options.file) if options.action == "save" else restore(options.file)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing")
    print(f"stages: {', '.join(stages) or 'none'}; {options.file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
