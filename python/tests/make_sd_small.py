"""Write the small random bundles in the shape of Stable Diffusion that the service's tests run, and what the plain
PyTorch pipeline makes of an image with the same weights.

    cd python && .venv/bin/python tests/make_sd_small.py
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pisa_models.convert.bundle import Options, convert
from pisa_models.evaluate.bundle import to_levels
from pisa_models.parity.plain_pipeline import PlainPipeline
from pisa_models.parity.random_model import OTHER, make_base, make_lora
from pisa_models.paths import REPOSITORY

FOLDER = REPOSITORY / "test" / "fixtures" / "stages"
SIZES = replace(
    OTHER, unet=OTHER.unet | {"block_out_channels": (8, 16), "layers_per_block": 1, "use_linear_projection": True}
)
TILES = {"encoder": 64, "unet": 64, "decoder": 64}


UNET_OVERLAP = 32
# 188 × 192 pixels of output: padded, and more than one tile on both axes. Expected images by name: dials, colour fix.
LOW_RES = (47, 48)
PLAIN = {"default": (1.0, 1.0, "adain"), "adjustable": (0.6, 1.4, "wavelet"), "pixel-only": (1.0, 0.0, "none")}


def save_plain(folder: Path, base: Path, lora: Path, multiple: int) -> None:
    """The autoencoder sees the whole image; the UNet's tiles lie where the official code has them."""
    folder.mkdir()
    y, x = np.mgrid[: LOW_RES[0], : LOW_RES[1]] / LOW_RES[0]
    waves = np.stack([np.sin(9 * x + c * y * (4 + 6 * x)) for c in range(3)], -1)
    low_res = to_levels(0.5 + 0.3 * waves + np.random.default_rng(0).normal(0, 0.06, waves.shape))
    Image.fromarray(low_res).save(folder / "low-res.png")
    pipeline = PlainPipeline(base, lora)
    for name, (pix, sem, color_fix) in PLAIN.items():
        tiles = (TILES["unet"], UNET_OVERLAP)
        image = pipeline.restore(low_res.astype(np.float32) / 255, pix, sem, multiple, color_fix, tiles)
        Image.fromarray(to_levels(image)).save(folder / f"{name}.png")


def main() -> None:
    torch.set_num_threads(1)  # networks this small are slower on several
    with tempfile.TemporaryDirectory() as name:
        base, lora, made = (Path(name) / part for part in ("base", "pisa_sr.pkl", "made"))
        make_base(base, SIZES)
        make_lora(lora, SIZES)
        for out, dtype in (("sd-small", "float32"), ("sd-small-fp16", "float16")):
            manifest = convert(Options(str(base), lora, made / out, dtype, license="Apache-2.0", tiles=TILES))
        save_plain(made / "plain", base, lora, manifest["multipleOf"])
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(made, FOLDER)


if __name__ == "__main__":
    main()
