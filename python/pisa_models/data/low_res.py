"""Degrades every training crop several times, ahead of training, so that the loader only reads memory.

    python -m pisa_models.data.low_res

Writes `<cache>/crops/{train,validation}-low-res.npy`: (V, N, 48, 48, 3) uint8 RGB, V variants of crop N.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from pisa_models.data.crops import load_crops, save_array
from pisa_models.degradation import BICUBIC, REAL_ESRGAN_PAPER, CameraConfig, degrade
from pisa_models.paths import cache_dir

VARIANTS = 4
SEED = 4_711
# The paper trains on Real-ESRGAN degradations alone, which are heavy. A part of plain camera faults
# (little blur, sensor noise, one JPEG) keeps the small model from softening inputs that are nearly clean,
# and so does a part that is soft or compressed but has next to no noise: without it all faint texture is noise.
CAMERA = CameraConfig(
    blur_sigma=(0.1, 2.5),
    read_noise=(0.0, 6.0),
    shot_noise=(0.0, 12.0),
    chroma_smoothing=0.6,
    jpeg_quality=(40.0, 95.0),
)
SOFT = CameraConfig(blur_sigma=(0.1, 2.5), read_noise=(0.0, 1.5), jpeg_quality=(50.0, 98.0))
MIXTURE = ((REAL_ESRGAN_PAPER, 0.40), (CAMERA, 0.20), (SOFT, 0.25), (BICUBIC, 0.15))


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
    return np.stack([low_res_variant(crops[i], (SEED, key, variant, i)) for i in range(start, stop)])


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
