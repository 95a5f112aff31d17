"""What the model must show, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pisa_models.evaluate.averages import Row, dial_records, mean, select
from pisa_models.evaluate.measure import OURS, Record, Stability
from pisa_models.evaluate.photos import CLEAN, COLOUR_NOISE, DEGRADED

PEERS = {
    "esrgan-thick": "7 M parameters",
    "esrgan-medium": "0.7 M parameters; not asked, being smaller",
    "realesrgan-x4plus": "17 M parameters",
}


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
    add("(1, 0): PSNR-Y at least 1.0 dB over bicubic, degraded sets", f"{gain:+.3f} dB ({groups})", gain >= 1)
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

    found += _stability_claims(stability)
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


def _stability_claims(stability: Sequence[Stability]) -> list[Claim]:
    """Of grid and colour on every result of the degraded sets; those of the other two are stated beside them."""
    degraded = [entry for entry in stability if entry.degradation in DEGRADED]
    beside = {
        label: [entry for entry in stability if entry.degradation == name]
        for name, label in ((CLEAN, "clean reduction: "), (COLOUR_NOISE, "colour noise: "))
    }
    if not degraded:
        return []

    def described(read: Callable[[Stability], float], unit: str, limit: float, show: str = ".1f") -> str:
        """Worst, median and how many are above the limit."""
        parts = []
        for name, entries in ({"": degraded} | beside).items():
            values = [read(entry) for entry in entries]
            if values:
                parts.append(
                    f"{name}worst {max(values):{show}}{unit}, median {statistics.median(values):{show}}{unit}, "
                    f"{sum(value > limit for value in values)} of {len(values)} above"
                )
        return "; ".join(parts)

    def grid(entry: Stability) -> float:
        return max(entry.grid_sem_1, entry.grid_sem_1_5)

    def off(ratio: float) -> float:
        return 100 * abs(ratio - 1)

    means = max(entry.mean_levels for entry in stability)
    inputs = [off(entry.input_deviation_ratio) for entry in degraded]
    return [
        Claim(
            "grid score at (1, 1) and (1, 1.5) at most 0.03 on every result, degraded sets",
            described(grid, "", 0.03, ".4f"),
            max(map(grid, degraded)) <= 0.03,
        ),
        Claim("(1, 1), no colour fix: channel means within 2 levels of the input's", f"{means:.2f}", means <= 2),
        Claim(
            "(1, 1), no colour fix: channel deviations within 5 % of the original's on every result",
            described(lambda entry: off(entry.deviation_ratio), " %", 5)
            + f" (inputs of the degraded sets: worst {max(inputs):.1f} %, median {statistics.median(inputs):.1f} %, "
            f"{sum(value > 5 for value in inputs)} above)",
            all(off(entry.deviation_ratio) <= 5 for entry in stability),
        ),
    ]


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
    # Beside the mean, which one picture with a value of 30 can turn.
    medians = [statistics.median(record.niqe for record in by_dial[(1.0, position)]) for position in sem]
    best_sem = sem[lpips.index(min(lpips))]
    pix, pix_psnr = series(lambda row: row.psnr_y, "pix")
    best_pix = pix[pix_psnr.index(max(pix_psnr))]
    return [
        Claim("sem up: PSNR-Y falls steadily", " ".join(f"{value:.2f}" for value in psnr), _falls(psnr)),
        Claim(
            "sem up: NIQE improves from 0 to 1",
            " ".join(f"{value:.2f}" for value in niqe) + "; medians " + " ".join(f"{value:.2f}" for value in medians),
            niqe[sem.index(1.0)] < niqe[0],
        ),
        Claim("best LPIPS at sem in [0.4, 1.2]", f"sem {best_sem:g}", 0.4 <= best_sem <= 1.2),
        Claim("best PSNR-Y at pix in (0.3, 1.1), sem 1", f"pix {best_pix:g}", 0.3 < best_pix < 1.1),
    ]
