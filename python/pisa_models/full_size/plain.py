"""The same work in PyTorch and diffusers, float32, timed: one JSON line for each image.

    python -m pisa_models.full_size.plain --base FOLDER --lora FILE --input PNG --output PNG [--sem 1] [--repeat 2]

At equal dials both LoRAs are merged into the weights beforehand, as the official code does; else the UNet runs once
with the pixel LoRA and once with both, as peft's layers beside its own. Loading is not part of the times.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pisa_models.evaluate.bundle import to_levels
from pisa_models.parity.plain_pipeline import PlainPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "lora", "input", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pix", type=float, default=1)
    parser.add_argument("--sem", type=float, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pipeline = PlainPipeline(given.base, given.lora)
    if given.pix == given.sem:
        pipeline.merge()
    stages: dict[str, float] = {}
    for name in ("encode", "residual", "decode"):
        _time(pipeline, name, stages)
    for _ in range(given.repeat):
        stages.clear()
        start, cpu_start = time.perf_counter(), time.process_time()
        low_res = np.asarray(Image.open(given.input).convert("RGB"), np.float32) / 255
        image = pipeline.restore(low_res, given.pix, given.sem, multiple=64, color_fix="adain")
        Image.fromarray(to_levels(image)).save(given.output)
        spent = {"seconds": time.perf_counter() - start, "cpuSeconds": time.process_time() - cpu_start}
        print(json.dumps(spent | {"stages": stages}), flush=True)


def _time(pipeline: PlainPipeline, name: str, stages: dict[str, float]) -> None:
    run = getattr(pipeline, name)

    def timed(*arguments: object) -> torch.Tensor:
        start = time.perf_counter()
        result = run(*arguments)
        stages[name] = stages.get(name, 0) + time.perf_counter() - start
        return result

    setattr(pipeline, name, timed)


if __name__ == "__main__":
    main()
