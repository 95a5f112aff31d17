"""Turns the records into Markdown tables and into the list of what the model must show."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pisa_models.evaluate.measure import DIALS, OURS, Record, Stability
from pisa_models.evaluate.photos import CLEAN, DEGRADED

METHODS = ("bicubic", "lanczos", "esrgan-medium", "esrgan-thick", "realesrgan-x4plus")
PEERS = {
    "esrgan-thick": "7 M parameters, ours 6 M",
    "esrgan-medium": "0.7 M parameters; not asked, being smaller",
    "realesrgan-x4plus": "17 M parameters",
}
_MEASURES = ("psnr_y", "ssim_y", "lpips", "efficientnet", "niqe", "grid")


@dataclass(frozen=True)
class Row:
    """Means over photos."""

    psnr_y: float
    ssim_y: float
    lpips: float
    efficientnet: float
    niqe: float
    grid: float
    count: int


def mean(records: Sequence[Record]) -> Row:
    """Mean of every measure. Raises ValueError for no records."""
    if not records:
        raise ValueError("Expected records to average but received none.")
    values = {name: statistics.fmean(getattr(record, name) for record in records) for name in _MEASURES}
    return Row(**values, count=len(records))


def select(
    records: Sequence[Record],
    method: str,
    degradations: Sequence[str],
    pix: float | None = None,
    sem: float | None = None,
) -> list[Record]:
    return [
        record
        for record in records
        if record.method == method
        and record.degradation in degradations
        and (method != OURS or (record.pix, record.sem) == (pix, sem))
    ]


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
)


def _seconds(times: dict[str, float], key: str) -> str:
    return f"{times[key]:.2f} s" if key in times else "–"


def methods_table(records: Sequence[Record], degradations: Sequence[str], times: dict[str, float]) -> str:
    """One row per method over the given degradations, with the time for 128² → 512²."""
    bicubic = mean(select(records, "bicubic", degradations))
    rows = []
    for method in METHODS:
        found = select(records, method, degradations)
        if found:
            rows.append([method, *_cells(mean(found), bicubic), _seconds(times, method)])
    for pix, sem, key in ((1.0, 0.0, "pisa, one evaluation"), (1.0, 1.0, "pisa, one evaluation")):
        found = select(records, OURS, degradations, pix, sem)
        if found:
            name = f"**pisa-tiny ({pix:g}, {sem:g})**"
            rows.append([name, *_cells(mean(found), bicubic), _seconds(times, key)])
    return table(("method", *_HEADER, "time"), rows)


def dial_records(records: Sequence[Record]) -> dict[tuple[float, float], list[Record]]:
    """Records per (pix, sem) over the photos and degradations where every pair was measured."""
    by_dial: dict[tuple[float, float], dict[tuple[str, str], Record]] = {dial: {} for dial in DIALS}
    for record in records:
        if record.method == OURS and (record.pix, record.sem) in by_dial:
            by_dial[(record.pix, record.sem)][(record.photo, record.degradation)] = record
    shared = set.intersection(*(set(found) for found in by_dial.values()))
    return {dial: [found[key] for key in sorted(shared)] for dial, found in by_dial.items()}


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


@dataclass(frozen=True)
class Claim:
    """One thing that the model must show."""

    text: str
    measured: str
    holds: bool


def _falls(values: Sequence[float]) -> bool:
    return all(b < a for a, b in zip(values, values[1:], strict=False))


def claims(
    records: Sequence[Record],
    stability: Sequence[Stability],
    times: dict[str, float],
    reconstruction: dict[str, float],
) -> list[Claim]:
    """What was asked of the model, each with the measured value."""
    found: list[Claim] = []

    def add(text: str, measured: str, holds: bool) -> None:
        found.append(Claim(text, measured, bool(holds)))

    if "validation" in reconstruction:
        add(
            "autoencoder reconstructs validation photos at 34 dB or more",
            ", ".join(f"{group} {psnr:.1f} dB" for group, psnr in reconstruction.items()),
            reconstruction["validation"] >= 34,
        )
    bicubic = mean(select(records, "bicubic", DEGRADED))
    pixel = mean(select(records, OURS, DEGRADED, 1.0, 0.0))
    default = mean(select(records, OURS, DEGRADED, 1.0, 1.0))

    gain = pixel.psnr_y - bicubic.psnr_y
    groups = ", ".join(f"{group} {value:+.2f}" for group, value in _gains_by_group(records).items())
    add("(1, 0): PSNR-Y at least 1.0 dB over bicubic, degraded sets", f"{gain:+.2f} dB ({groups})", gain >= 1)
    ratio, second = default.lpips / bicubic.lpips, default.efficientnet / bicubic.efficientnet
    add(
        "(1, 1): LPIPS at most 0.65 × bicubic's",
        f"{ratio:.2f} × (by EfficientNet-Lite0 {second:.2f} ×)",
        ratio <= 0.65,
    )
    add(
        "(1, 1): NIQE clearly lower than bicubic's (by 10 % or more)",
        f"{default.niqe:.2f} against {bicubic.niqe:.2f}",
        default.niqe <= 0.9 * bicubic.niqe,
    )
    loss = default.psnr_y - bicubic.psnr_y
    add("(1, 1): PSNR-Y at most 0.3 dB below bicubic's", f"{loss:+.2f} dB", loss >= -0.3)

    if stability:
        grids = [max(entry.grid_sem_1, entry.grid_sem_1_5) for entry in stability]
        add(
            "grid score at (1, 1) and (1, 1.5) at most 0.03 on every image",
            f"worst {max(grids):.4f}, median {statistics.median(grids):.4f}, "
            f"{sum(value > 0.03 for value in grids)} of {len(grids)} above",
            max(grids) <= 0.03,
        )
        mean_shift = max(entry.mean_levels for entry in stability)
        add(
            "(1, 1), no colour fix: channel means within 2 levels of the input's",
            f"{mean_shift:.2f}",
            mean_shift <= 2,
        )
        spreads = [100 * abs(entry.deviation_ratio - 1) for entry in stability]
        inputs = [100 * abs(entry.input_deviation_ratio - 1) for entry in stability]
        add(
            "(1, 1), no colour fix: channel deviations within 5 % of the original's",
            f"worst {max(spreads):.1f} % (input {max(inputs):.1f} %), "
            f"median {statistics.median(spreads):.1f} % (input {statistics.median(inputs):.1f} %)",
            max(spreads) <= 5,
        )

    found += _dial_claims(dial_records(records))

    one = times["pisa, one evaluation"]
    add("128² → 512² under 1.0 s on two threads, one evaluation", f"{one:.2f} s", one < 1)
    for peer, size in PEERS.items():
        measured = select(records, peer, DEGRADED)
        if measured:
            lpips = mean(measured).lpips
            add(
                f"{peer} ({size}) beaten: better LPIPS and faster",
                f"{default.lpips:.4f} against {lpips:.4f}, {one:.2f} s against {times[peer]:.2f} s",
                default.lpips < lpips and one < times[peer],
            )
    return found


def _gains_by_group(records: Sequence[Record]) -> dict[str, float]:
    """PSNR-Y at (1, 0) over bicubic's, dB, on the degraded photos of each group."""

    def psnr(method: str, group: str) -> float:
        found = [record for record in select(records, method, DEGRADED, 1.0, 0.0) if record.group == group]
        return mean(found).psnr_y

    groups = sorted({record.group for record in records})
    return {group: psnr(OURS, group) - psnr("bicubic", group) for group in groups}


def _dial_claims(by_dial: dict[tuple[float, float], list[Record]]) -> list[Claim]:
    if not all(by_dial.values()):
        return []
    rows = {dial: mean(measured) for dial, measured in by_dial.items()}

    def series(read: Callable[[Row], float], along: str) -> tuple[list[float], list[float]]:
        """(dial positions, values) with the other dial at 1."""
        if along == "sem":
            positions = sorted(sem for pix, sem in rows if pix == 1)
            return positions, [read(rows[(1.0, sem)]) for sem in positions]
        positions = sorted(pix for pix, sem in rows if sem == 1)
        return positions, [read(rows[(pix, 1.0)]) for pix in positions]

    sem, psnr = series(lambda row: row.psnr_y, "sem")
    _, lpips = series(lambda row: row.lpips, "sem")
    _, niqe = series(lambda row: row.niqe, "sem")
    best_sem = sem[lpips.index(min(lpips))]
    pix, pix_psnr = series(lambda row: row.psnr_y, "pix")
    best_pix = pix[pix_psnr.index(max(pix_psnr))]
    return [
        Claim("sem up: PSNR-Y falls steadily", " ".join(f"{value:.2f}" for value in psnr), _falls(psnr)),
        Claim(
            "sem up: NIQE improves from 0 to 1",
            " ".join(f"{value:.2f}" for value in niqe),
            niqe[sem.index(1.0)] < niqe[0],
        ),
        Claim("best LPIPS at sem in [0.4, 1.2]", f"sem {best_sem:g}", 0.4 <= best_sem <= 1.2),
        Claim("best PSNR-Y at pix in (0.3, 1.1), sem 1", f"pix {best_pix:g}", 0.3 < best_pix < 1.1),
    ]


def claims_table(found: Sequence[Claim]) -> str:
    rows = [[claim.text, claim.measured, "yes" if claim.holds else "**no**"] for claim in found]
    return table(("asked", "measured", "holds"), rows)


def full_report(
    records: Sequence[Record],
    stability: Sequence[Stability],
    times: dict[str, float],
    reconstruction: dict[str, float],
    heading: str,
) -> str:
    """All tables as Markdown."""
    present = {record.degradation for record in records}
    parts = [heading]
    degraded = [name for name in DEGRADED if name in present]
    if set(degraded) == set(DEGRADED):
        parts += [
            "### What was asked",
            claims_table(claims(records, stability, times, reconstruction)),
            "### All three degradations",
            methods_table(records, DEGRADED, times),
        ]
    for name in (*degraded, CLEAN):
        if name in present:
            parts += [f"### {name}", methods_table(records, [name], times)]
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
