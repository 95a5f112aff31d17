"""Stable Diffusion 2.1-base and PiSA-SR's LoRAs with random weights, as the converter takes them.

python -m pisa_models.full_size.model --sizes full --out FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from pisa_models.parity.random_model import FULL, MEDIUM, Sizes, make_base, make_lora

SIZES = {"full": FULL, "medium": MEDIUM}
LOW_RES_EDGE = 128


def arithmetic(sizes: Sizes, edge: int = 4 * LOW_RES_EDGE) -> dict[str, float]:
    """GMAC of encoder, UNet (one residual) and decoder for an output of edge² pixels, as diffusers computes them.

    Counted by PyTorch on shapes alone. What the service leaves out (the text encoder, and keys and values of the
    prompt) is not in it, as far as it is no part of the three networks.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet, autoencoder = UNet2DConditionModel(**sizes.unet), AutoencoderKL(**sizes.vae)
        cells = edge // 2 ** (len(autoencoder.config.block_out_channels) - 1)
        pixels, latents = torch.empty(1, 3, edge, edge), torch.empty(1, 4, cells, cells)
        prompt = torch.empty(1, sizes.text["max_position_embeddings"], sizes.text["hidden_size"])
    runs = {
        "encode": lambda: autoencoder.encoder(pixels),
        "residual": lambda: unet(latents, torch.ones(1, device="meta"), encoder_hidden_states=prompt),
        "decode": lambda: autoencoder.decoder(latents),
    }
    counts = {}
    for name, run in runs.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counts[name] = counter.get_total_flops() / 2e9
    return counts


def make_photo(path: Path) -> None:
    """Waves of several lengths and some noise, RGB."""
    y, x = np.mgrid[:LOW_RES_EDGE, :LOW_RES_EDGE] / LOW_RES_EDGE
    waves = [np.sin(2 * np.pi * (3 * c + 2) * (x + (c - 1) * y * y)) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 0.05, (LOW_RES_EDGE, LOW_RES_EDGE, 3))
    image = 0.5 + 0.35 * np.stack(waves, -1) + noise
    Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="full")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    make_base(given.out / "base", SIZES[given.sizes])
    make_lora(given.out / "pisa_sr.pkl", SIZES[given.sizes])
    make_photo(given.out / "low-res.png")


if __name__ == "__main__":
    main()
