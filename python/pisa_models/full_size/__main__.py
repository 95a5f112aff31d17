"""Make the paper's model in full size with random weights, convert it, run it, and compare with PyTorch.

    make full-size FLAGS="--work FOLDER"

Each step is a process of its own, and one model is in memory at a time. Service and PyTorch take turns; each process
computes the image --repeat times, and a side's time is the shortest of all. What a step found is kept in
FOLDER/results.json: the command, run again, goes on after the last finished step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pisa_models.full_size import report
from pisa_models.full_size.model import SIZES
from pisa_models.full_size.processes import Cost, measured
from pisa_models.paths import REPOSITORY

RESULT = REPOSITORY / "bench" / "results" / "full-size.md"
DTYPES = ("float32", "float16")
SETTINGS = "settings"
SERVICE = REPOSITORY / ".bench" / "bench" / "full-size.js"


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"pisa_models.{module}", *map(str, arguments)]


class Run:
    def __init__(self, folder: Path, threads: int, repeat: int):
        self.folder, self.threads, self.repeat = folder, threads, repeat
        self.base, self.lora, self.low_res = folder / "base", folder / "pisa_sr.pkl", folder / "low-res.png"
        self.results = folder / "results.json"

    def step(self, name: str, work: Callable[[], object]) -> None:
        """Keeps what `work` returns; does nothing if that was done before."""
        done = json.loads(self.results.read_text()) if self.results.exists() else {}
        if name not in done:
            done[name] = work()
            self.results.write_text(json.dumps(done, indent=1))
            print(f"{name}: {done[name]}", flush=True)

    def settle(self, sizes: str) -> None:
        """Keeps beside the results what they are of. Raises SystemExit where they are of something else."""
        mine = {"sizes": sizes, "threads": self.threads}
        done = json.loads(self.results.read_text()) if self.results.exists() else {SETTINGS: mine}
        kept = done.get(SETTINGS)
        if kept != mine:
            said = f"of --sizes {kept['sizes']} --threads {kept['threads']}" if kept else "of unknown sizes and threads"
            advice = "Give the same" if kept else "Remove it"
            raise SystemExit(f"{self.results} is {said}. {advice}, or another --work.")
        self.results.write_text(json.dumps(done, indent=1))

    def run(self, command: list, **environment: str) -> Cost:
        threads = {"OMP_NUM_THREADS": str(self.threads), "TMPDIR": str(self.folder)}
        return measured(command, REPOSITORY / "python", threads | environment)

    def bundle(self, dtype: str) -> Path:
        return self.folder / f"full-{dtype}"

    def make(self, sizes: str) -> list:
        cost = self.run(python("full_size.model", "--sizes", sizes, "--out", self.folder))
        return [cost.seconds, cost.peak_bytes]

    def convert(self, dtype: str) -> list:
        """Seconds, peak, and bytes of the bundle."""
        out = self.bundle(dtype)
        if out.exists():
            shutil.rmtree(out)
        options = ("--base", self.base, "--lora", self.lora, "--dtype", dtype, "--out", out)
        cost = self.run(python("convert", *options))
        print(cost.output, flush=True)
        return [cost.seconds, cost.peak_bytes, sum(file.stat().st_size for file in out.iterdir())]

    def unet_memory(self, path: Path) -> dict[str, int]:
        return _lines(self.run(python("full_size.unet_memory", path)))[-1]

    def compare(self, dtype: str, sem: float, pairs: int) -> dict:
        """A report.Comparison."""
        service, plain = report.Side(), report.Side()
        images = [self.folder / f"{side}.png" for side in ("service", "plain")]
        for _ in range(pairs):
            command = ["node", SERVICE, self.bundle(dtype), self.low_res, images[0], 1, sem, self.repeat, self.threads]
            cost = self.run(command)
            _note(service, cost, {name: (key, 1e-3) for name, (key, _) in report.STAGES.items()})
            options = ("--base", self.base, "--lora", self.lora, "--input", self.low_res, "--output", images[1])
            cost = self.run(
                python("full_size.plain", *options, "--sem", sem, "--repeat", self.repeat, "--threads", self.threads)
            )
            _note(plain, cost, {name: (name, 1) for name in report.STAGES})
            print(f"service {service}, PyTorch {plain}", flush=True)
        pixels = [np.asarray(Image.open(image), np.float64) for image in images]
        decibels = 10 * np.log10(255**2 / max(np.mean((pixels[0] - pixels[1]) ** 2), 1e-9))
        return asdict(report.Comparison(1 if sem == 1 else 2, service, plain, float(decibels)))


def _lines(cost: Cost) -> list[dict]:
    return [json.loads(line) for line in cost.output.splitlines() if line.startswith("{")]


def _note(side: report.Side, cost: Cost, stages: dict[str, tuple[str, float]]) -> None:
    for line in _lines(cost):
        side.seconds.append(round(line["seconds"], 2))
        side.cpu_seconds.append(round(line["cpuSeconds"], 2))
        side.stages.append({name: line["stages"][key] * factor for name, (key, factor) in stages.items()})
    side.peak_bytes = max(side.peak_bytes, cost.peak_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="full", help="medium: a twentieth, to try the command")
    parser.add_argument("--work", type=Path, help="a folder to keep (default: a temporary one, removed)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", type=int, default=2, help="turns of service and PyTorch (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=2, help="images of each turn (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="measure nothing; write what --work has")
    parser.add_argument("--out", type=Path, default=RESULT, help="the page to write (default: %(default)s)")
    given = parser.parse_args()
    if given.report and not given.work:
        parser.error("--report needs --work")
    if not SERVICE.is_file():
        parser.error(f"{SERVICE} is missing: run `make full-size` in {REPOSITORY}, which compiles it")
    if given.work:
        _measure(given, given.work.absolute())
        return
    with tempfile.TemporaryDirectory(prefix="pisa-full-size-") as name:
        _measure(given, Path(name))


def _measure(given: argparse.Namespace, folder: Path) -> None:
    run = Run(folder, given.threads, given.repeat)
    unets = {"plain": run.base / "unet"} | {dtype: run.bundle(dtype) / "unet.onnx" for dtype in DTYPES}
    steps = (
        {"model": partial(run.make, given.sizes)}
        | {f"convert {dtype}": partial(run.convert, dtype) for dtype in DTYPES}
        | {f"UNet, {name}": partial(run.unet_memory, path) for name, path in unets.items()}
        | {
            "default, float32": partial(run.compare, "float32", 1, given.pairs),
            "adjustable, float32": partial(run.compare, "float32", 0.5, 1),
            "default, float16 files": partial(run.compare, "float16", 1, 1),
        }
    )
    run.settle(given.sizes)
    if not given.report:
        for name, work in steps.items():
            run.step(name, work)
    found = json.loads(run.results.read_text())
    page = report.page(found, [name for name in steps if name not in found], given.threads, given.sizes)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
