"""Blends a stage's checkpoint with the same stage of an earlier snapshot, from which it was trained on.

    python -m pisa_models.training.blend STAGE SNAPSHOT.npz --weight 0.3

Between the weights of a network and those it was fine-tuned to lie some that keep the good of both (Wortsman et al.
2022, "Robust fine-tuning of zero-shot models"): a dial between what two versions of a loss ask for, at no training.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from pisa_models.paths import cache_dir, written_beside
from pisa_models.training.snapshot import STAGES


def blend(stage: str, snapshot: Path, weight: float) -> None:
    """Write the stage's checkpoint anew: `weight` of the snapshot's average, the rest its own.

    The state of the optimiser belongs to neither and is dropped. Raises FileNotFoundError without either of them,
    KeyError if the snapshot has not all of the weights, ValueError if their shapes differ or `weight` is not in [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"Expected a weight in [0, 1] but received {weight}.")
    path = cache_dir("checkpoints") / f"{stage}.pt"
    state, earlier = torch.load(path, weights_only=True), np.load(snapshot)
    average = {}
    for key, value in state["average"].items():
        other = torch.from_numpy(earlier[f"{stage}/average/{key}"]).to(value)
        if other.shape != value.shape:
            raise ValueError(f"Expected {tuple(value.shape)} for {key} but the snapshot has {tuple(other.shape)}.")
        average[key] = value.lerp(other, weight)
    with written_beside(path) as partial:
        torch.save({"step": state["step"], "seconds": 0.0, "parameters": average, "average": average}, partial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("snapshot", type=Path)
    parser.add_argument("--weight", type=float, required=True, help="of the snapshot, 0 to 1")
    options = parser.parse_args()
    try:
        blend(options.stage, options.snapshot, options.weight)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing")
    except (KeyError, ValueError) as error:
        sys.exit(f"cannot blend {options.stage}: {error}")
    print(f"{options.stage}: {options.weight:g} of {options.snapshot}")


if __name__ == "__main__":
    main()
