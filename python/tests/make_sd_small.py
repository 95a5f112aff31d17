"""Write the small random bundles in the shape of Stable Diffusion that the service's tests run.

    cd python && .venv/bin/python tests/make_sd_small.py
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from pisa_models.convert.bundle import Options, convert
from pisa_models.parity.random_model import OTHER, make_base, make_lora
from pisa_models.paths import REPOSITORY

FOLDER = REPOSITORY / "test" / "fixtures" / "stages"
SIZES = replace(
    OTHER, unet=OTHER.unet | {"block_out_channels": (8, 16), "layers_per_block": 1, "use_linear_projection": True}
)
TILES = {"encoder": 64, "unet": 64, "decoder": 64}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        base = make_base(Path(name) / "base", SIZES)
        lora = make_lora(Path(name) / "pisa_sr.pkl", SIZES)
        for out, dtype in (("sd-small", "float32"), ("sd-small-fp16", "float16")):
            convert(Options(str(base), lora, FOLDER / out, dtype, license="Apache-2.0", tiles=TILES))


if __name__ == "__main__":
    main()
