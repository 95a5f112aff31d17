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
from pisa_models.networks.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder, BorderFilter, lapped_filter
from pisa_models.paths import cache_dir, written_beside

COMPONENT_CROPS = 1000


def principal_components(crops: np.ndarray, channels: int = LATENT_CHANNELS) -> tuple[Tensor, Tensor, Tensor]:
    """PCA of 4 x 4 x 3 cells after the filter across their borders, of (N, H, W, 3) uint8 crops.

    → mean [48], components [48, channels], standard deviations [channels], of pixels in [-1, 1], rows ordered (channel,
    y, x). The first three are the cells' mean colours, the others have none: a flat area, of any colour, is then held
    exactly. Without that rule a thousandth of a flat colour leaks into channels that are left out, which paints a faint
    grid.
    """
    n, h, w, _ = crops.shape
    d = DOWNSCALE
    lap = BorderFilter(lapped_filter())
    filtered = torch.cat([lap(to_pixels(part)) for part in np.array_split(crops, max(1, n // 50))])
    cells = filtered.double().numpy().reshape(n, 3, h // d, d, w // d, d).transpose(0, 2, 4, 1, 3, 5)
    cells = cells.reshape(-1, 3 * d * d)
    colours = np.kron(np.eye(3), np.full((d * d, 1), 1 / d))  # (48, 3), orthonormal
    flat = colours @ colours.T  # the projection onto flat cells
    detail = np.eye(len(flat)) - flat
    covariance = np.cov(cells.T)
    found = [leading(flat @ covariance @ flat, 3), leading(detail @ covariance @ detail, channels - 3)]
    values, vectors = (np.concatenate(part, -1) for part in zip(*found, strict=True))
    mean = flat @ cells.mean(0)
    return tuple(torch.from_numpy(np.ascontiguousarray(a)).float() for a in (mean, vectors, values**0.5))


def leading(covariance: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [count] of a symmetric matrix and their vectors [n, count], reproducible.

    The entry of largest magnitude is positive; of several that rounding alone tells apart, the first.
    """
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:count]
    vectors = vectors[:, order]
    size = np.abs(vectors)
    first = (size > (1 - 1e-6) * size.max(0)).argmax(0)
    return values[order], vectors * np.sign(vectors[first, np.arange(count)])


def load() -> Autoencoder:
    """The autoencoder, frozen; its components are computed once and kept with the checkpoints."""
    path = cache_dir("checkpoints") / "components.pt"
    if not path.exists():
        with written_beside(path) as partial:
            torch.save(principal_components(load_crops("train")[:COMPONENT_CROPS]), partial)
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
