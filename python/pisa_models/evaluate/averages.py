"""Chooses records and averages them over photos."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from pisa_models.evaluate.measure import DIALS, OURS, Record


@dataclass(frozen=True)
class Row:
    """Means over photos."""

    psnr_y: float
    ssim_y: float
    lpips: float
    efficientnet: float
    niqe: float
    grid: float


def mean(records: Sequence[Record]) -> Row:
    """Mean of every measure. Raises ValueError for no records."""
    if not records:
        raise ValueError("Expected records to average but received none.")
    return Row(*(statistics.fmean(getattr(record, field.name) for record in records) for field in fields(Row)))


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


def dial_records(records: Sequence[Record]) -> dict[tuple[float, float], list[Record]]:
    """Records per (pix, sem) over the photos and degradations where every pair was measured."""
    by_dial: dict[tuple[float, float], dict[tuple[str, str], Record]] = {dial: {} for dial in DIALS}
    for record in records:
        if record.method == OURS and (record.pix, record.sem) in by_dial:
            by_dial[(record.pix, record.sem)][(record.photo, record.degradation)] = record
    shared = set.intersection(*(set(found) for found in by_dial.values()))
    return {dial: [found[key] for key in sorted(shared)] for dial, found in by_dial.items()}
