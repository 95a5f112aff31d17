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

from pisa_models.paths import REPOSITORY, cache_dir, written_beside

SNAPSHOT = REPOSITORY / "python" / "checkpoints" / "pisa-tiny.npz"
STAGES = ("prior", "pixel", "semantic")
COMPONENTS = "components"  # of the autoencoder, on which all stages rest
PARTS = (COMPONENTS, *STAGES)

Arrays = dict[str, np.ndarray]


def _checkpoint(part: str) -> Path:
    return cache_dir("checkpoints") / f"{part}.pt"


def _arrays(part: str) -> Arrays:
    """What a snapshot holds of a part, by key, from its checkpoint."""
    state = torch.load(_checkpoint(part), weights_only=True)
    if part == COMPONENTS:
        return {f"{part}/{i}": value.numpy() for i, value in enumerate(state)}  # float32: it is tiny
    average = {f"{part}/average/{key}": value.numpy().astype(np.float16) for key, value in state["average"].items()}
    return {f"{part}/step": np.array(state["step"])} | average


def _of(part: str, arrays: Arrays) -> Arrays:
    return {key: value for key, value in arrays.items() if key.startswith(f"{part}/")}


def save(path: Path = SNAPSHOT) -> list[str]:
    """Write every stage that has a checkpoint; returns their names.

    Raises ValueError where there is none, or one is missing that an earlier snapshot at `path` has.
    """
    found = [part for part in PARTS if _checkpoint(part).exists()]
    folder = cache_dir("checkpoints")
    if not set(found) & set(STAGES):
        raise ValueError(f"{folder} holds no stage: train one, or `restore` a snapshot.")
    if path.exists():
        with np.load(path) as earlier:
            had = {key.split("/")[0] for key in earlier.files}
        lost = [part for part in PARTS if part in had and part not in found]
        if lost:
            raise ValueError(
                f"{path} has {', '.join(lost)} and {folder} has not. `restore` that first, or give another --file."
            )
    arrays = {key: value for part in found for key, value in _arrays(part).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return [part for part in found if part in STAGES]


def restore(path: Path = SNAPSHOT) -> list[str]:
    """Write checkpoints from the snapshot where there are none; returns the names of those written.

    Each rests on those before it, so where any is written, those that are kept must be the snapshot's.

    Raises FileNotFoundError without a snapshot, ValueError where a checkpoint is of another training.
    """
    with np.load(path) as stored:
        arrays = dict(stored)
    missing = [part for part in PARTS if not _checkpoint(part).exists() and _of(part, arrays)]
    kept = [part for part in PARTS if _checkpoint(part).exists()]
    foreign = [part for part in kept if missing and not _equal(_arrays(part), _of(part, arrays))]
    if foreign:
        files = ", ".join(str(_checkpoint(part)) for part in foreign)
        raise ValueError(
            f"{', '.join(missing)} of {path} would be mixed with another training's: {files}. "
            "Move those away, or set PISA_CACHE to another folder."
        )
    for part in missing:
        with written_beside(_checkpoint(part)) as partial:
            torch.save(_state(part, arrays), partial)
    return [part for part in missing if part in STAGES]


def _equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def _state(part: str, arrays: Arrays) -> dict | tuple:
    """The checkpoint of a part."""
    if part == COMPONENTS:
        return tuple(torch.from_numpy(value) for value in _of(part, arrays).values())
    weights = _of(f"{part}/average", arrays)
    average = {key.removeprefix(f"{part}/average/"): torch.from_numpy(weights[key]).float() for key in weights}
    return {"step": int(arrays[f"{part}/step"]), "seconds": 0.0, "parameters": average, "average": average}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("--file", type=Path, default=SNAPSHOT)
    options = parser.parse_args()
    try:
        stages = save(options.file) if options.action == "save" else restore(options.file)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing")
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"stages: {', '.join(stages) or 'none'}; {options.file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
