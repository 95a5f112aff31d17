"""Measures a bundle: tables, JSON and sheets.

python -m pisa_models.evaluate                   # everything; tables to the screen, files to the cache
python -m pisa_models.evaluate --quick           # a few crops, one or two minutes
python -m pisa_models.evaluate --docs            # everything, and docs/evaluation.md, docs/images

The peers' measures are kept in the cache, because they do not change with the bundle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from pisa_models.evaluate import measure, peers, photos, report, sheets, subjects
from pisa_models.evaluate.bundle import THREADS, Bundle
from pisa_models.paths import BUNDLE, REPOSITORY, cache_dir

_MARKERS = ("<!-- tables: begin -->", "<!-- tables: end -->")
_IMAGES = REPOSITORY / "docs" / "images"
_PAGE = REPOSITORY / "docs" / "evaluation.md"
_CONTACT_SHEET_BYTES = 600_000
_BEFORE_AFTER_BYTES = 400_000
_QUICK_SIDE = 320  # pixels: the distance's network takes most of the time


def chosen_photos(per_group: int, limit: int) -> list[photos.EvaluationPhoto]:
    """The first `per_group` of each group, in turn; a note on the screen if the validation crops are missing."""
    validation = photos.validation(limit)
    if not validation:
        print("no validation photos (run `make data` first): unseen photos only", file=sys.stderr)
    unseen = photos.unseen(limit)[:per_group]
    # Alternating, so that a run which ends early has seen both groups.
    paired = [photo for pair in zip(unseen, validation, strict=False) for photo in pair]
    return paired + unseen[len(paired) // 2 :] + validation[len(paired) // 2 : per_group]


def run(
    bundle: Bundle,
    selection: list[photos.EvaluationPhoto],
    upscalers: dict[str, peers.Upscaler],
    quick: bool,
    seconds: float,
) -> list[measure.Record]:
    """Measure every photo at (1, 0) and (1, 1), then sweep the dials photo by photo.

    When `seconds` are over, no further photo is begun: the tables then hold fewer photos, and say so.
    A sweep is of one degradation, in turn.
    """
    end = time.monotonic() + seconds
    cache = measure.BaselineCache(cache_dir("evaluation") / "baselines.json")
    plain = [(1.0, 0.0), (1.0, 1.0)]
    rest = [dial for dial in measure.DIALS if dial not in plain]
    passes = [("measure", plain, upscalers)] + ([] if quick else [("sweep", rest, {})])
    records: list[measure.Record] = []
    for what, dials, compared in passes:
        for index, photo in enumerate(selection):
            if time.monotonic() > end:
                print(f"time is over: no {what} from {photo.name} on", file=sys.stderr)
                break
            swept = photos.DEGRADED[index % len(photos.DEGRADED)]
            degradations = [swept] if quick or what == "sweep" else photos.ALL
            print(f"{what} {index + 1}/{len(selection)} {photo.name}", file=sys.stderr, flush=True)
            records += measure.measure_photo(
                photo, bundle, degradations, dict.fromkeys(degradations, dials), compared, cache
            )
    return records


def heading(bundle: Bundle, records: list[measure.Record]) -> str:
    names = sorted({(record.group, record.photo) for record in records})
    listed = "; ".join(
        f"{group}: {', '.join(name for member, name in names if member == group)}"
        for group in sorted({group for group, _ in names})
    )
    return (
        f"Bundle {bundle.manifest['name']} {bundle.manifest['version']}, graphs {bundle.sha256[:12]}, "
        f"colour fix `{bundle.manifest['colorFix']}`, {THREADS} threads. {len(names)} photos. {listed}."
    )


def update_page(page: Path, tables: str) -> None:
    """Replace what is between the page's markers. Raises ValueError if they are missing."""
    text = page.read_text()
    begin, end = (text.find(marker) for marker in _MARKERS)
    if begin < 0 or end < begin:
        raise ValueError(f"Expected {' … '.join(_MARKERS)} in {page.name}.")
    page.write_text(f"{text[: begin + len(_MARKERS[0])]}\n{tables}{text[end:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="folder with manifest.json")
    parser.add_argument("--out", type=Path, default=None, help="folder for the files")
    parser.add_argument("--photos", type=int, default=None, help="at most this many per group (default all, quick 3)")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further photo after this")
    parser.add_argument("--quick", action="store_true", help="one degradation a photo, no dial sweep")
    parser.add_argument("--docs", action="store_true", help="also write docs/evaluation.md and docs/images")
    arguments = parser.parse_args()
    if arguments.quick and arguments.docs:
        parser.error("--docs needs the full evaluation, not --quick")
    if arguments.docs and arguments.bundle.resolve() != BUNDLE.resolve():
        parser.error(f"--docs is for the page of {BUNDLE.name}: leave --bundle or --docs out")

    torch.set_num_threads(THREADS)
    bundle = Bundle(arguments.bundle)
    out = arguments.out or cache_dir("evaluation", f"{bundle.manifest['name']}-{bundle.sha256[:12]}")
    out.mkdir(parents=True, exist_ok=True)

    # Sheets first: they take seconds, and a look at them often says more than the tables.
    contact = subjects.contact_sheet(bundle)
    contact.save(out / "contact-sheet.png")
    comparison = subjects.before_after(bundle)
    comparison.save(out / "before-after.png")
    print(f"sheets in {out}", file=sys.stderr)

    per_group = arguments.photos or (3 if arguments.quick else sys.maxsize)
    upscalers = measure.baselines()
    if arguments.quick:
        upscalers = {name: upscalers[name] for name in ("bicubic", "esrgan-medium")}
    limit = _QUICK_SIDE if arguments.quick else photos.SIDE
    selection = chosen_photos(per_group, limit)
    records = run(bundle, selection, upscalers, arguments.quick, arguments.minutes * 60)
    # The grid score of a small crop is mostly chance: always whole photos here.
    whole = chosen_photos(per_group, photos.SIDE)
    stability = [
        measure.stability(photo, bundle, degradation)
        for index, photo in enumerate(whole)
        for degradation in ([photos.DEGRADED[index % len(photos.DEGRADED)]] if arguments.quick else photos.ALL)
    ]
    times = measure.times(bundle, upscalers)
    reconstruction = {
        group: statistics.fmean(
            measure.reconstruction_psnr(photo, bundle) for photo in selection if photo.group == group
        )
        for group in sorted({photo.group for photo in selection})
    }

    name = bundle.manifest["name"]
    tables = report.full_report(records, stability, times, reconstruction, heading(bundle, records), name)
    print(tables)
    (out / "report.md").write_text(tables)
    document = {
        "manifest": bundle.manifest,
        "records": [asdict(record) for record in records],
        "stability": [asdict(entry) for entry in stability],
        "timesSeconds": times,
        "reconstructionPsnr": reconstruction,
    }
    (out / "report.json").write_text(json.dumps(document, indent=1))
    if arguments.docs:
        update_page(_PAGE, tables)
        sheets.save_jpeg(contact, _IMAGES / "contact-sheet.jpg", _CONTACT_SHEET_BYTES)
        sheets.save_jpeg(comparison, _IMAGES / "before-after.jpg", _BEFORE_AFTER_BYTES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
