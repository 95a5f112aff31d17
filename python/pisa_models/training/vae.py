"""Stage a: the autoencoder. The encoder is computed (principal components), the decoder is trained.

    python -m pisa_models.training.vae [--steps N] [--minutes M]

The latents get a little noise, so that the decoder forgives a UNet that is not exact.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pisa_models.data.batches import Batches, to_pixels
from pisa_models.data.crops import load_crops
from pisa_models.losses.grid import grid_penalty, grid_score
from pisa_models.losses.perceptual import PerceptualDistance, random_rescale
from pisa_models.networks.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from pisa_models.paths import cache_dir
from pisa_models.training.loop import Trainer, bf16, parse_options

COMPONENT_CROPS = 1000
PERCEPTUAL_EVERY = 4  # steps: that term costs more than the decoder, and weighs little here


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


def build(seed: int = 1) -> Autoencoder:
    """The untrained autoencoder with its computed encoder, which is stored beside the crops."""
    torch.manual_seed(seed)
    path = cache_dir("checkpoints") / "components.pt"
    if not path.exists():
        torch.save(principal_components(load_crops("train")[:COMPONENT_CROPS]), path)
    model = Autoencoder()
    model.encoder.set_components(*torch.load(path, weights_only=True))
    model.encoder.requires_grad_(False)
    return model


def load(device_path=None) -> Autoencoder:
    """The trained autoencoder with averaged weights. Raises FileNotFoundError before training."""
    model = build()
    state = torch.load(device_path or cache_dir("checkpoints") / "vae.pt", weights_only=True)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, value in state["average"].items():
            parameters[key].copy_(value)
    return model.requires_grad_(False).eval()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """RGB PSNR in dB of [-1,1] pixels, [N]."""
    return 10 * torch.log10(4 / (a.clamp(-1, 1) - b).square().flatten(1).mean(1).clamp_min(1e-10))


def main() -> None:
    options = parse_options(
        __doc__, steps=8000, batch=8, size=128, lr=6e-4,
        extra={"perceptual": 0.02, "grid": 2000.0, "noise": 0.05},
    )  # fmt: skip
    torch.set_num_threads(options.threads)
    model = build(options.seed).to(memory_format=torch.channels_last)
    perceptual = PerceptualDistance().to(memory_format=torch.channels_last)
    batches = Batches("train", options.seed, options.batch, options.size, low_res=False)
    held_out = to_pixels(load_crops("validation")[:48])
    trainer = Trainer("vae", model, options)

    def loss_of(step: int):
        pixels = batches.crops(step).contiguous(memory_format=torch.channels_last)
        latents = model.encoder(pixels)
        level = options.extra["noise"] * torch.rand(len(latents), 1, 1, 1)
        with bf16():
            output = model.decoder(latents + level * torch.randn_like(latents)).float()
            near = F.l1_loss(output, pixels)
            if step % PERCEPTUAL_EVERY == 0:
                seen = perceptual(*random_rescale(output, pixels)).mean() * PERCEPTUAL_EVERY
            else:
                seen = near * 0
        grid = grid_penalty(output, pixels).mean()
        loss = near + options.extra["perceptual"] * seen + options.extra["grid"] * grid
        return loss, {"l1": near.item(), "perceptual": seen.item(), "grid": grid.item()}

    def validate() -> dict[str, float]:
        with bf16():
            output = torch.cat([model(part).float() for part in held_out.split(8)])
        return {"psnr": psnr(output, held_out).mean().item(), "grid_score": grid_score(output).mean().item()}

    trainer.run(loss_of, validate)


if __name__ == "__main__":
    main()
