"""Tables, claims and sheets from planted records: the right rows, and claims that can fail."""

from dataclasses import replace

import numpy as np
import pytest

from pisa_models.evaluate import __main__ as command
from pisa_models.evaluate import averages, photos, report, sheets
from pisa_models.evaluate.claims import claims
from pisa_models.evaluate.measure import DIALS, BaselineCache, Record, Stability, interleaved_medians

GOOD = Record("a", "unseen", "heavy", "pisa", 1.0, 1.0, "adain", 26.0, 0.8, 0.10, 0.2, 5.0, 0.01, 0.02)


def planted(**changes):
    """Records of a model that meets everything: `changes` go to every record of (1, 1)."""
    records = []
    for photo in ("a", "b"):
        for degradation in photos.ALL:
            base = replace(GOOD, photo=photo, degradation=degradation)
            for method, psnr, lpips in (
                ("bicubic", 26.0, 0.2),
                ("lanczos", 25.9, 0.19),
                ("esrgan-medium", 26.1, 0.18),
                ("esrgan-thick", 26.0, 0.17),
                ("realesrgan-x4plus", 25.0, 0.14),
            ):
                peer = replace(base, method=method, pix=None, sem=None, color_fix=None)
                records.append(replace(peer, psnr_y=psnr, lpips=lpips, niqe=9.0))
            for pix, sem in DIALS:
                psnr = 27.6 - 1.6 * sem - abs(pix - 0.8) * 1.5
                lpips = 0.1 + 0.03 * abs(sem - 0.8) + 0.01 * abs(pix - 1)
                record = replace(base, pix=pix, sem=sem, psnr_y=psnr, lpips=lpips, niqe=8 - 3 * sem)
                records.append(replace(record, **changes) if (pix, sem) == (1, 1) else record)
    return records


STABLE = [Stability("a", "heavy", 0.01, 0.012, 0.02, 0.5, 1.02, 0.99)]
RECONSTRUCTION = {"unseen": 31.0, "validation": 35.0}
TIMES = {
    "pisa, one evaluation": 0.6,
    "pisa, two evaluations": 0.8,
    "bicubic": 0.01,
    "lanczos": 0.01,
    "esrgan-medium": 0.7,
    "esrgan-thick": 2.0,
    "realesrgan-x4plus": 6.0,
}


def failing(records=None, stability=STABLE, times=TIMES, reconstruction=None):
    found = claims(records or planted(psnr_y=25.8), stability, times, reconstruction or RECONSTRUCTION)
    return [claim.text for claim in found if not claim.holds]


def test_a_model_that_meets_everything_has_no_failing_claim():
    assert failing() == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"reconstruction": {"unseen": 36.0, "validation": 33.0}}, "autoencoder"),
        ({"records": planted(psnr_y=25.0)}, "PSNR-Y at most 0.3"),
        ({"records": planted(psnr_y=25.8, lpips=0.15)}, "0.65"),
        ({"records": planted(psnr_y=25.8, niqe=8.9)}, "NIQE clearly"),
        ({"stability": [replace(STABLE[0], grid_sem_1_5=0.2)]}, "grid score"),
        ({"stability": [replace(STABLE[0], mean_levels=3.0)]}, "means"),
        ({"stability": [replace(STABLE[0], deviation_ratio=0.9)]}, "deviations"),
        ({"stability": [*STABLE, replace(STABLE[0], degradation="bicubic", deviation_ratio=0.9)]}, "deviations"),
        ({"times": {**TIMES, "pisa, one evaluation": 1.2}}, "under 1.0 s"),
        ({"times": {**TIMES, "esrgan-medium": 0.5}}, "not asked, being smaller) beaten"),
    ],
)
def test_each_claim_can_fail(arguments, word):
    assert any(word in text for text in failing(**arguments))


@pytest.mark.parametrize(("degradation", "label"), [("bicubic", "clean reduction"), ("colour-noise", "colour noise")])
def test_the_other_two_are_stated_beside_the_degraded_sets(degradation, label):
    other = replace(STABLE[0], degradation=degradation, grid_sem_1=0.04)
    claim = next(c for c in claims(planted(), [*STABLE, other], TIMES, RECONSTRUCTION) if c.text.startswith("grid"))
    assert claim.measured == (
        f"worst 0.0200, median 0.0200, 0 of 1 above; {label}: worst 0.0400, median 0.0400, 1 of 1 above"
    )
    assert claim.holds


def test_the_gain_of_the_pixel_dial_is_stated_for_each_group_and_can_fall_short():
    known = [replace(record, group="validation") if record.photo == "b" else record for record in planted()]
    worse = [replace(r, psnr_y=26.5) if (r.method, r.pix, r.sem, r.photo) == ("pisa", 1, 0, "a") else r for r in known]
    claim = next(c for c in claims(worse, STABLE, TIMES, RECONSTRUCTION) if c.text.startswith("(1, 0)"))
    assert claim.measured == "+0.900 dB (unseen +0.50, validation +1.30)"
    assert not claim.holds


def test_dial_claims_fail_on_a_dial_that_does_nothing():
    same = [replace(record, psnr_y=26.0, lpips=0.1, niqe=5.0) for record in planted()]
    texts = failing(same)
    assert any("PSNR-Y falls" in text for text in texts)
    assert any("NIQE improves" in text for text in texts)


def test_methods_table_averages_and_compares_to_bicubic():
    table = report.methods_table(planted(), ["heavy"], TIMES, "other")
    assert "| bicubic | 26.00 | +0.00 |" in table
    assert "| esrgan-thick | 26.00 | +0.00 | 0.8000 | 0.1700 | 0.85× | 0.2000 | 1.00× |" in table
    assert "**other (1, 0)**" in table and "**other (1, 1)**" in table
    assert "2.0 %, 0 of 2 | 2.00 s" in table
    strong = [replace(record, contrast_off=0.08 if record.photo == "a" else 0.02) for record in planted()]
    assert report.methods_table(strong, ["heavy"], TIMES, "other").count("5.0 %, 1 of 2") == 7


def test_dials_table_has_the_pairs_of_the_paper_and_uses_only_shared_photos():
    records = planted()
    assert len(report.dials_table(records).splitlines()) == 2 + len(DIALS)
    # A photo that lacks one pair is left out of all of them.
    lacking = [r for r in records if not (r.photo == "b" and (r.pix, r.sem) == (1.0, 0.5))]
    assert {r.photo for found in averages.dial_records(lacking).values() for r in found} == {"a"}
    assert report.dials_table([r for r in records if r.sem != 0.5]) == ""


def test_mean_refuses_nothing():
    with pytest.raises(ValueError, match="received none"):
        averages.mean([])


def test_full_report_holds_every_section():
    text = report.full_report(planted(), STABLE, TIMES, RECONSTRUCTION, "heading", "model")
    for section in ("What was asked", "All three", "heavy", "bicubic", "The dials", "Grid and colour", "Times"):
        assert section in text


def test_update_page_replaces_only_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables: begin -->\nold\n<!-- tables: end -->\nafter\n")
    command.update_page(page, "new\n")
    assert page.read_text() == "before\n<!-- tables: begin -->\nnew\n<!-- tables: end -->\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="tables: begin"):
        command.update_page(page, "new\n")


def test_baseline_cache_measures_once_per_image(tmp_path):
    photo = photos.EvaluationPhoto("p", "unseen", np.zeros((64, 64, 3), np.float32))
    low_res = np.zeros((16, 16, 3), np.float32)
    calls = []

    def make():
        calls.append(1)
        return GOOD

    for _ in range(2):
        cache = BaselineCache(tmp_path / "cache.json")  # read from disk again
        assert cache.get(photo, "heavy", low_res, "bicubic", make) == GOOD
    assert len(calls) == 1
    other = photos.EvaluationPhoto("p", "unseen", np.ones((64, 64, 3), np.float32))
    cache.get(other, "heavy", low_res, "bicubic", make)
    assert len(calls) == 2
    cache.get(photo, "mild-jpeg", low_res, "bicubic", make)
    assert len(calls) == 3
    # The same name and original, degraded in another way.
    cache.get(photo, "heavy", low_res + 1, "bicubic", make)
    assert len(calls) == 4


def test_photos_are_degraded_the_same_every_time_and_differently_by_name():
    image = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    first = photos.EvaluationPhoto("p", "unseen", image).low_res("heavy")
    assert np.array_equal(first, photos.EvaluationPhoto("p", "unseen", image).low_res("heavy"))
    assert not np.array_equal(first, photos.EvaluationPhoto("q", "unseen", image).low_res("heavy"))


def test_sheet_places_each_image_at_full_size():
    red, blue = np.zeros((2, 24, 32, 3), np.float32)
    red[..., 0] = 1
    blue[..., 2] = 1
    sheet = np.asarray(sheets.grid([[red, blue], [blue, red]], ["a", "b"], ["x", "y"], label_width=40))
    assert sheet.shape == (20 + 2 * 28, 40 + 2 * 36, 3)
    assert (sheet[20:44, 40:72] == [255, 0, 0]).all()
    assert (sheet[20:44, 76:108] == [0, 0, 255]).all()
    assert (sheet[48:72, 40:72] == [0, 0, 255]).all()
    assert sheet[:20].max() > 200  # the labels are drawn


def test_crop_stays_inside():
    image = np.arange(10 * 12 * 3, dtype=np.float32).reshape(10, 12, 3)
    assert np.array_equal(sheets.crop(image, 2, 3, 4, 5), image[3:8, 2:6])
    assert np.array_equal(sheets.crop(image, 100, -5, 4, 5), image[:5, 8:])


def test_save_jpeg_keeps_the_limit_or_says_so(tmp_path):
    noise = np.random.default_rng(0).random((128, 128, 3), dtype=np.float32)
    sheet = sheets.grid([[noise]], [""], [""])
    sheets.save_jpeg(sheet, tmp_path / "sheet.jpg", 60_000)
    assert (tmp_path / "sheet.jpg").stat().st_size <= 60_000
    with pytest.raises(ValueError, match="crops smaller"):
        sheets.save_jpeg(sheet, tmp_path / "sheet.jpg", 100)


def test_times_are_taken_in_turn_and_leave_out_the_first_round():
    order = []
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    found = interleaved_medians(runs, 3)
    assert order == ["a", "b"] * 4
    assert set(found) == {"a", "b"} and all(seconds >= 0 for seconds in found.values())
