"""Turns the records into Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pisa_models.evaluate.averages import Row, dial_records, mean, select
from pisa_models.evaluate.claims import Claim, claims
from pisa_models.evaluate.measure import OURS, Record, Stability
from pisa_models.evaluate.photos import BESIDE, DEGRADED

METHODS = ("bicubic", "lanczos", "esrgan-medium", "esrgan-thick", "realesrgan-x4plus")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row, bicubic: Row) -> list[str]:
    return [
        f"{row.psnr_y:.2f}",
        f"{row.psnr_y - bicubic.psnr_y:+.2f}",
        f"{row.ssim_y:.4f}",
        f"{row.lpips:.4f}",
        f"{row.lpips / bicubic.lpips:.2f}×",
        f"{row.efficientnet:.4f}",
        f"{row.efficientnet / bicubic.efficientnet:.2f}×",
        f"{row.niqe:.2f}",
        f"{row.grid:.4f}",
    ]


def _contrast(records: Sequence[Record]) -> str:
    """By how much the contrast is off in the median, and how often by more than 5 %."""
    off = [record.contrast_off for record in records]
    return f"{100 * statistics.median(off):.1f} %, {sum(value > 0.05 for value in off)} of {len(off)}"


_HEADER = (
    "PSNR-Y ↑",
    "to bicubic",
    "SSIM-Y ↑",
    "LPIPS ↓",
    "of bicubic's",
    "EfficientNet ↓",
    "of bicubic's",
    "NIQE ↓",
    "grid score",
    "contrast off: median, on how many > 5 %",
)


def _seconds(times: dict[str, float], key: str) -> str:
    return f"{times[key]:.2f} s" if key in times else "–"


def methods_table(records: Sequence[Record], degradations: Sequence[str], times: dict[str, float], model: str) -> str:
    """One row per method over the given degradations, with the time for 128² → 512²."""
    bicubic = mean(select(records, "bicubic", degradations))
    rows = []
    for method in METHODS:
        found = select(records, method, degradations)
        if found:
            rows.append([method, *_cells(mean(found), bicubic), _contrast(found), _seconds(times, method)])
    for pix, sem, key in ((1.0, 0.0, "pisa, one evaluation"), (1.0, 1.0, "pisa, one evaluation")):
        found = select(records, OURS, degradations, pix, sem)
        if found:
            name = f"**{model} ({pix:g}, {sem:g})**"
            rows.append([name, *_cells(mean(found), bicubic), _contrast(found), _seconds(times, key)])
    return table(("method", *_HEADER, "time"), rows)


def dials_table(records: Sequence[Record]) -> str:
    """Like the paper's Table 1. Empty if no photo has every pair."""
    found = dial_records(records)
    rows = []
    for (pix, sem), measured in found.items():
        if not measured:
            return ""
        row = mean(measured)
        rows.append(
            [
                f"{pix:g}",
                f"{sem:g}",
                f"{row.psnr_y:.2f}",
                f"{row.ssim_y:.4f}",
                f"{row.lpips:.4f}",
                f"{row.efficientnet:.4f}",
                f"{row.niqe:.2f}",
                f"{row.grid:.4f}",
            ]
        )
    return table(("pix", "sem", "PSNR-Y ↑", "SSIM-Y ↑", "LPIPS ↓", "EfficientNet ↓", "NIQE ↓", "grid score"), rows)


def stability_table(found: Sequence[Stability]) -> str:
    rows = [
        [
            entry.photo,
            entry.degradation,
            f"{entry.grid_original:.4f}",
            f"{entry.grid_sem_1:.4f}",
            f"{entry.grid_sem_1_5:.4f}",
            f"{entry.mean_levels:.2f}",
            f"{100 * (entry.deviation_ratio - 1):+.1f} %",
            f"{100 * (entry.input_deviation_ratio - 1):+.1f} %",
        ]
        for entry in found
    ]
    header = ("photo", "degradation", "grid, original", "grid (1, 1)", "grid (1, 1.5)")
    return table((*header, "mean shift, levels", "contrast", "contrast of the input"), rows)


def claims_table(found: Sequence[Claim]) -> str:
    rows = [[claim.text, claim.measured, "yes" if claim.holds else "**no**"] for claim in found]
    return table(("asked", "measured", "holds"), rows)


def full_report(
    records: Sequence[Record],
    stability: Sequence[Stability],
    times: dict[str, float],
    reconstruction: dict[str, float],
    heading: str,
    model: str,
) -> str:
    """All tables as Markdown. `model`: the name of the bundle."""
    present = {record.degradation for record in records}
    parts = [heading]
    degraded = [name for name in DEGRADED if name in present]
    if set(degraded) == set(DEGRADED):
        parts += [
            "### What was asked",
            claims_table(claims(records, stability, times, reconstruction)),
            "### All three degradations",
            methods_table(records, DEGRADED, times, model),
        ]
    for name in (*degraded, *BESIDE):
        if name in present:
            parts += [f"### {name}", methods_table(records, [name], times, model)]
    dials = dials_table(records)
    if dials:
        parts += ["### The dials", dials]
    if stability:
        parts += ["### Grid and colour without colour fix", stability_table(stability)]
    parts += [
        "### Times for 128² → 512²",
        table(("what", "median"), [[name, f"{seconds:.2f} s"] for name, seconds in times.items()]),
    ]
    return "\n\n".join(parts) + "\n"
