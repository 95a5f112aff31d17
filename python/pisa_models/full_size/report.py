"""The table of `make full-size`, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pisa_models.full_size.model import SIZES, arithmetic

STAGES = {
    "encode": ("encode_latents", "encoder"),
    "residual": ("predict_residual", "UNet"),
    "decode": ("decode_latents", "decoder"),
}
"""PyTorch's stage → the service's, and what it is called in the table."""


@dataclass
class Side:
    """All images of one kind of process."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all threads: what a busy machine leaves alone."""
    stages: list[dict[str, float]] = field(default_factory=list)
    """Seconds, under PyTorch's names."""
    peak_bytes: int = 0

    def best_of(self, stage: str) -> float:
        return min(stages[stage] for stages in self.stages)


@dataclass
class Comparison:
    evaluations: int
    service: Side
    plain: Side
    decibels: float

    @staticmethod
    def of(found: dict) -> Comparison:
        """From what `asdict` made."""
        return Comparison(**found | {side: Side(**found[side]) for side in ("service", "plain")})


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def conversions(rows: dict[str, tuple[float, int, int]]) -> str:
    """Seconds, peak and size of the bundle, by type."""
    head = ["conversion", "time", "peak memory", "bundle"]
    return table(head, [[name, f"{s:.0f} s", gigabytes(p), gigabytes(b)] for name, (s, p, b) in rows.items()])


def unets(found: dict[str, dict[str, int]]) -> str:
    """Of `plain` and each type, what unet_memory.py printed; a float16 file is compared with half of the plain one."""
    lines = []
    for name, measured in found.items():
        one = found["plain"]["fileBytes"] / (2 if name == "float16" else 1)
        values = [measured["fileBytes"] / one, measured["residentBytes"] / found["plain"]["residentBytes"]]
        title = "plain, float32, one residual" if name == "plain" else f"served, {name}, both residuals"
        lines.append(
            [title, gigabytes(measured["fileBytes"]), f"{values[0]:.2f}", gigabytes(measured["residentBytes"]),
             f"{values[1]:.2f}", gigabytes(measured["anonymousBytes"])]
        )  # fmt: skip
    head = [
        "UNet", "weights on disk", "of a plain one of its type", "resident once loaded", "of the plain float32 one",
        "of it, not backed by a file",
    ]  # fmt: skip
    return table(head, lines)


def times(found: dict[str, Comparison], gmac: dict[str, float]) -> str:
    rows = []
    for title, one in found.items():
        work = {name: count * (one.evaluations if name == "residual" else 1) for name, count in gmac.items()}
        service, plain, total = one.service, one.plain, sum(work.values())
        cpu = min(service.cpu_seconds), min(plain.cpu_seconds)
        rows.append(
            [title, f"{total:.0f}", f"{min(service.seconds):.1f} s, {total / min(service.seconds):.0f}",
             f"{min(plain.seconds):.1f} s, {total / min(plain.seconds):.0f}",
             f"{min(plain.seconds) / min(service.seconds):.2f}", f"{cpu[0]:.0f} s", f"{cpu[1]:.0f} s",
             f"{cpu[1] / cpu[0]:.2f}", gigabytes(service.peak_bytes), gigabytes(plain.peak_bytes),
             f"{one.decibels:.1f} dB"]
        )  # fmt: skip
        for stage, (_, label) in STAGES.items():
            mine, other = service.best_of(stage), plain.best_of(stage)
            rows.append(
                [f"– {label}", f"{work[stage]:.0f}", f"{mine:.1f} s, {work[stage] / mine:.0f}",
                 f"{other:.1f} s, {work[stage] / other:.0f}", f"{other / mine:.2f}", *[""] * 6]
            )  # fmt: skip
    head = [
        "512² output", "GMAC", "service, GMAC/s", "PyTorch, GMAC/s", "PyTorch / service", "CPU time, service",
        "CPU time, PyTorch", "PyTorch / service", "peak, service", "peak, PyTorch", "service against PyTorch",
    ]  # fmt: skip
    return table(head, rows)


def page(found: dict[str, Any], missing: list[str], threads: int, sizes: str) -> str:
    """found: by step, what the steps of __main__.py return; `missing` are the others."""
    converted = {name.removeprefix("convert "): value for name, value in found.items() if name.startswith("convert ")}
    memory = {name.removeprefix("UNet, "): value for name, value in found.items() if name.startswith("UNet, ")}
    compared = {name: Comparison.of(value) for name, value in found.items() if name.startswith(("default", "adjust"))}
    parts = [
        "# The paper's model in full size",
        f"`make full-size`, {datetime.now(UTC).isoformat(timespec='seconds')}, {threads} threads, "
        f"sizes `{sizes}`, random weights. PyTorch is diffusers in float32; what the columns are is said in "
        "[docs/models.md](../../docs/models.md#the-full-size).",
        f"No figures yet of these steps: {'; '.join(missing)}." if missing else "",
        conversions(converted) if converted else "",
        unets(memory) if "plain" in memory else "",
        times(compared, arithmetic(SIZES[sizes])) if compared else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
