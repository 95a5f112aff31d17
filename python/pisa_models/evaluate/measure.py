"""Runs the bundle and its peers over the photos and records every measure of every result."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from pisa_models.evaluate import metrics, niqe, peers, perceptual
from pisa_models.evaluate.bundle import Bundle, Prepared, to_levels
from pisa_models.evaluate.photos import EvaluationPhoto

DIALS = tuple((pix, 1.0) for pix in (0.0, 0.2, 0.5, 0.8, 1.0, 1.2, 1.5)) + tuple(
    (1.0, sem) for sem in (0.0, 0.2, 0.5, 0.8, 1.2, 1.5)
)
"""The (pix, sem) pairs of the paper's Table 1."""

OURS = "pisa"


@dataclass(frozen=True)
class Record:
    """Measures of one result."""

    photo: str
    group: str
    degradation: str
    method: str
    """A name of `baselines`, or `pisa`."""
    pix: float | None
    sem: float | None
    color_fix: str | None
    psnr_y: float
    ssim_y: float
    lpips: float
    efficientnet: float
    niqe: float
    grid: float
    contrast_off: float
    """|deviation − the original's| / the original's, of the channel that is farthest from it."""


def as_stored(image: np.ndarray) -> np.ndarray:
    """Rounded to 8 bits."""
    return to_levels(image).astype(np.float32) / np.float32(255)


def measure(image: np.ndarray, photo: EvaluationPhoto, reference: perceptual.Seen, **labels: object) -> Record:
    """All measures of `image` as it would be stored. `reference` is of the original."""
    stored = as_stored(image)
    distances = perceptual.distances(stored, reference)
    return Record(
        photo=photo.name,
        group=photo.group,
        psnr_y=metrics.psnr_y(stored, photo.original),
        ssim_y=metrics.ssim_y(stored, photo.original),
        lpips=distances.lpips,
        efficientnet=distances.efficientnet,
        niqe=niqe.niqe(stored),
        grid=metrics.grid_score(stored),
        contrast_off=abs(metrics.deviation_ratio(stored, photo.original) - 1),
        **{"pix": None, "sem": None, "color_fix": None, **labels},
    )


MEASURES_VERSION = 2
"""To be raised when a measure is computed in another way: what was kept of the old one is then not used."""


class BaselineCache:
    """Measures in a JSON file: those of the peers never change, ours only with the pixels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = self._read()

    def _read(self) -> dict[str, dict]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(
        self,
        photo: EvaluationPhoto,
        degradation: str,
        low_res: np.ndarray,
        method: str,
        make: Callable[[], Record],
    ) -> Record:
        """What `make` gives of the photo, degraded to `low_res`; from the file where that has it."""
        measures = [entry.name for entry in fields(Record)]
        conditions = repr([MEASURES_VERSION, perceptual.JUDGES, measures])
        seen = photo.original.tobytes() + low_res.tobytes()
        stamp = hashlib.sha256(seen + conditions.encode()).hexdigest()[:16]
        key = "/".join([photo.name, degradation, method, stamp])
        if key not in self._records:
            record = asdict(make())
            # Another run may have written meanwhile; a reader must never see half a file.
            self._records = {**self._read(), key: record}
            fresh = self.path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(self._records))
            fresh.replace(self.path)
        return Record(**self._records[key])


def baselines() -> dict[str, peers.Upscaler]:
    return {
        "bicubic": peers.bicubic,
        "lanczos": peers.lanczos,
        "esrgan-medium": peers.esrgan_medium(),
        "esrgan-thick": peers.esrgan_thick(),
        "realesrgan-x4plus": peers.realesrgan_x4plus(),
    }


def measure_photo(
    photo: EvaluationPhoto,
    bundle: Bundle,
    degradations: Iterable[str],
    dials: dict[str, list[tuple[float, float]]],
    upscalers: dict[str, peers.Upscaler],
    cache: BaselineCache,
) -> list[Record]:
    """Records of one photo: each peer at each degradation, and ours at `dials[degradation]`."""
    reference = perceptual.look(photo.original)
    records = []
    for degradation in degradations:
        low_res = photo.low_res(degradation)
        for method, upscale in upscalers.items():
            records.append(
                cache.get(
                    photo,
                    degradation,
                    low_res,
                    method,
                    lambda upscale=upscale, low_res=low_res, degradation=degradation, method=method: measure(
                        upscale(low_res), photo, reference, degradation=degradation, method=method
                    ),
                )
            )
        prepared = bundle.prepare(low_res)
        for pix, sem in dials[degradation]:
            image = bundle.restore(prepared, pix, sem)
            # Another bundle often differs in one dial only: equal pixels need no second measurement.
            pixels = hashlib.sha256(to_levels(image).tobytes()).hexdigest()[:16]
            record = cache.get(
                photo,
                degradation,
                low_res,
                f"{OURS}/{pixels}",
                lambda image=image, degradation=degradation: measure(
                    image, photo, reference, degradation=degradation, method=OURS
                ),
            )
            records.append(replace(record, pix=pix, sem=sem, color_fix=bundle.manifest["colorFix"]))
    return records


@dataclass(frozen=True)
class Stability:
    """Grid and colour of one result without any colour fix, as it would be stored."""

    photo: str
    degradation: str
    grid_original: float
    grid_sem_1: float
    grid_sem_1_5: float
    mean_levels: float
    deviation_ratio: float
    input_deviation_ratio: float
    """The same of the bicubic input: what the degradation itself did to the contrast."""


def stability(photo: EvaluationPhoto, bundle: Bundle, degradation: str) -> Stability:
    """At (1, 1) and (1, 1.5), colour fix `none`."""
    prepared = bundle.prepare(photo.low_res(degradation))
    plain = as_stored(bundle.restore(prepared, 1, 1, "none"))
    strong = as_stored(bundle.restore(prepared, 1, 1.5, "none"))
    resampled = np.clip(prepared.resampled, 0, 1).transpose(1, 2, 0)
    shift = metrics.channel_shift(plain, resampled, photo.original)
    return Stability(
        photo=photo.name,
        degradation=degradation,
        grid_original=metrics.grid_score(photo.original),
        grid_sem_1=metrics.grid_score(plain),
        grid_sem_1_5=metrics.grid_score(strong),
        mean_levels=shift.mean_levels,
        deviation_ratio=shift.deviation_ratio,
        input_deviation_ratio=metrics.channel_shift(resampled, resampled, photo.original).deviation_ratio,
    )


def reconstruction_psnr(photo: EvaluationPhoto, bundle: Bundle) -> float:
    """RGB PSNR in dB of the autoencoder alone: the photo encoded and decoded."""
    _, pixels = bundle.to_pixels(photo.original, scale=1)
    latents = bundle.encode(pixels)
    height, width = photo.original.shape[:2]
    prepared = Prepared(height, width, photo.original.transpose(2, 0, 1), latents, latents, latents)
    decoded = bundle.finish(bundle.decode(latents), prepared, "none")
    return float(-10 * np.log10(np.mean((decoded.astype(np.float64) - photo.original) ** 2)))


def interleaved_medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each run; in turn, so that what else the machine does falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number > 0:  # the first run of a shape allocates
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def times(bundle: Bundle, upscalers: dict[str, peers.Upscaler], repeats: int = 7) -> dict[str, float]:
    """Median seconds for 128² → 512² on the session's threads, image coding left out."""
    low_res = np.random.default_rng(0).random((128, 128, 3), dtype=np.float32)

    def ours(semantic: list[float]) -> None:
        resampled, pixels = bundle.to_pixels(low_res)
        latents = bundle.encode(pixels)
        eps = bundle.residual(latents, semantic)
        prepared = Prepared(*resampled.shape[1:], resampled, latents, eps[:1], eps[-1:])
        bundle.restore(prepared, 1, 1, "adain")

    runs: dict[str, Callable[[], object]] = {
        "pisa, one evaluation": lambda: ours([1]),
        "pisa, two evaluations": lambda: ours([0, 1]),
    }
    for method, upscale in upscalers.items():
        runs[method] = lambda upscale=upscale: upscale(low_res)
    return interleaved_medians(runs, repeats)
