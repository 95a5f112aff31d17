"""Stage a: the autoencoder, encoder and inverse both computed, nothing trained.

    python -m pisa_models.training.vae

Principal components of the training crops give the encoder, and their transpose the decoder.
"""

import numpy as np
import torch
from torch import Tensor

from pisa_models.data.batches import to_pixels
from pisa_models.data.crops import load_crops
from pisa_models.losses.grid import grid_score
from pisa_models.networks.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from pisa_models.paths import cache_dir

COMPONENT_CROPS = 1000


def principal_components(crops: np.ndarray, channels: int = LATENT_CHANNELS) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of 4 x 4 x 3 blocks, rows ordered (channel, y, x), of (N, H, W, 3) uint8 crops.

    → mean [48], components [48, channels], standard deviations [channels], of pixels in [-1, 1].
    """
    n, h, w, _ = crops.shape
    d = DOWNSCALE
    blocks = crops.reshape(n, h // d, d, w // d, d, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3 * d * d)
    blocks = blocks.astype(np.float64) / 127.5 - 1
    values, vectors = np.linalg.eigh(np.cov(blocks.T))
    order = np.argsort(values)[::-1][:channels]
    vectors = vectors[:, order] * np.sign(vectors[:, order].sum(0) + 1e-12)  # a fixed sign: reproducible
    return tuple(
        torch.from_numpy(np.ascontiguousarray(a)).float() for a in (blocks.mean(0), vectors, values[order] ** 0.5)
    )


def load() -> Autoencoder:
    """The autoencoder, frozen; its components are computed once and kept with the checkpoints."""
    path = cache_dir("checkpoints") / "components.pt"
    if not path.exists():
        torch.save(principal_components(load_crops("train")[:COMPONENT_CROPS]), path)
    model = Autoencoder()
    components = torch.load(path, weights_only=True)
    model.encoder.set_components(*components)
    model.decoder.set_components(*components)
    return model.requires_grad_(False).eval()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """RGB PSNR in dB of [-1,1] pixels, [N]."""
    return 10 * torch.log10(4 / (a.clamp(-1, 1) - b).square().flatten(1).mean(1).clamp_min(1e-10))


def main() -> None:
    held_out = to_pixels(load_crops("validation")[:48])
    with torch.no_grad():
        output = load()(held_out)
    print(f"validation psnr {psnr(output, held_out).mean():.2f} dB, grid score {grid_score(output).mean():.4f}")


if __name__ == "__main__":
    main()
