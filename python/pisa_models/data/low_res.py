"""Degrades every training crop several times, ahead of training, so that the loader only reads memory.

    python -m pisa_models.data.low_res

Writes `<cache>/crops/{train,validation}-low-res.npy`: (V, N, 48, 48, 3) uint8 RGB, V variants of crop N.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import cv2
import numpy as np

from pisa_models.data.crops import load_crops, save_array
from pisa_models.degradation import BICUBIC, HEAVY, REAL_ESRGAN_PAPER, CameraConfig, degrade
from pisa_models.paths import cache_dir

VARIANTS = 8
SEED = 4_711
# PiSA-SR trains on Real-ESRGAN's pipeline alone, in a milder setting than REAL_ESRGAN_PAPER (see there). Half of what
# that draws leaves next to nothing to restore: a small model learns little from it. So mostly its bad but restorable
# half is drawn, and plain camera faults weigh more than that: a soft lens with sensor noise and one JPEG, and a
# thumbnail that is soft or compressed but has no noise. Those and a clean part keep it from taking all faint texture
# for noise. Nearly clean samples are few: while they were half, the model was shy of everything.
# All JPEGs are 4:2:0, so noise that is another in each channel at full resolution, as a scan or a developed raw photo
# has it, needs samples without JPEG: a model that never saw it amplifies it.
CAMERA = CameraConfig(
    blur_sigma=(0.5, 2.5),
    read_noise=(1.0, 6.5),
    shot_noise=(2.0, 12.5),
    chroma_smoothing=0.8,
    jpeg_quality=(70.0, 95.0),
)
SLIGHTLY_SMOOTHED = replace(CAMERA, chroma_smoothing=0.4)
UNSMOOTHED = replace(CAMERA, blur_sigma=(0.1, 2.5), chroma_smoothing=0.0, jpeg_quality=None)
SOFT = CameraConfig(blur_sigma=(0.1, 1.5), jpeg_quality=(55.0, 90.0))
MIXTURE = (
    (REAL_ESRGAN_PAPER, 0.05),
    (HEAVY, 0.28),
    (CAMERA, 0.20),
    (SLIGHTLY_SMOOTHED, 0.04),
    (UNSMOOTHED, 0.09),
    (SOFT, 0.27),
    (BICUBIC, 0.07),
)

FADED_SHARE, FADED_CONTRAST = 0.2, (0.4, 0.9)


def faded(crop: np.ndarray, split: str, variant: int, index: int) -> np.ndarray:
    """The HQ crop (H, W, 3) uint8 as it was before variant `variant` was degraded: some have less contrast.

    Before, so that noise and JPEG keep their full strength: that is what a faint weave or a hazy sky looks like.
    Turning contrast down afterwards would weaken them alike. Validation is left as it is.
    """
    rng = np.random.default_rng((SEED, 2, variant, index))
    if split != "train" or rng.random() >= FADED_SHARE:
        return crop
    mean = crop.reshape(-1, 3).mean(0)
    return np.rint(mean + rng.uniform(*FADED_CONTRAST) * (crop - mean)).astype(np.uint8)


def low_res_variant(crop: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Degrade (H, W, 3) uint8 → (H/4, W/4, 3) uint8 with a degradation drawn from the mixture."""
    rng = np.random.default_rng(seed)
    config = MIXTURE[rng.choice(len(MIXTURE), p=[share for _, share in MIXTURE])][0]
    return np.clip(degrade(crop, rng, config) * 255 + 0.5, 0, 255).astype(np.uint8)


def _work(args: tuple[str, int, int, int]) -> np.ndarray:
    split, variant, start, stop = args
    cv2.setNumThreads(1)
    crops = load_crops(split)
    key = 0 if split == "train" else 1
    return np.stack(
        [low_res_variant(faded(crops[i], split, variant, i), (SEED, key, variant, i)) for i in range(start, stop)]
    )


def load_low_res(split: str) -> np.ndarray:
    """Memory-map (V, N, 48, 48, 3) uint8. Raises FileNotFoundError."""
    path = cache_dir("crops") / f"{split}-low-res.npy"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `make data` first")
    return np.load(path, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="replace what is there")
    again = parser.parse_args().again
    for split in ("validation", "train"):
        path = cache_dir("crops") / f"{split}-low-res.npy"
        if path.exists() and not again:
            print(f"{path} exists already; --again degrades anew")
            continue
        count = len(load_crops(split))
        jobs = [(split, v, i, min(i + 64, count)) for v in range(VARIANTS) for i in range(0, count, 64)]
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(_work, jobs))
        result = np.concatenate(parts).reshape(VARIANTS, count, *parts[0].shape[1:])
        save_array(path, result)
        print(f"{split}: {result.shape}", flush=True)


if __name__ == "__main__":
    main()
