"""Stage c: the pixel LoRA on the frozen prior at t = 1, z_H = z_L − ε_pix(z_L), trained by ℓ2 (paper, stage 1).

    python -m pisa_models.training.pixel [--steps N] [--minutes M]

The encoder is orthonormal up to the scale of each channel, so ℓ2 in pixels is ℓ2 in latents weighted by
the channels' variances. Decoded is for one guard alone: ℓ2 does not see a 4-pixel grid of a tenth of a level on
smooth pictures.
"""

import torch
from torch import Tensor

from pisa_models.data.batches import Batches
from pisa_models.losses.grid import squared_grid_score
from pisa_models.networks.autoencoder import Encoder
from pisa_models.networks.lora import PIXEL, set_gates, train_only
from pisa_models.networks.unet import NULL, UNet
from pisa_models.schedule import ONE_STEP
from pisa_models.training import prior, vae
from pisa_models.training.adapted import build_adapted
from pisa_models.training.loop import Trainer, bf16, parse_options

# The loss is the logarithm of the error, which is PSNR: with plain ℓ2 the few crops that are damaged most
# decide, and nearly clean ones get softened (a first run lost 0.7 dB on clean bicubic input that way). But the
# logarithm alone would have all texture flattened that could be noise: a noisy crop of a wall gains 10 dB by it, grass
# loses 3. So errors far below 36 dB count as 36 dB, and what a crop loses against its input counts again.
LOG_WEIGHT = 0.1
LOG_FLOOR = 1e-3  # mean square error in pixels of [-1,1]
HARM_WEIGHT, HARM_FLOOR = 3.0, 5e-4
GRID_WEIGHT = 0.05  # its gradient in the LoRA's weights is then as large as the error's, averaged over 640 crops


def one_step(unet: UNet, low: Tensor) -> Tensor:
    """z_H = z_L − ε(z_L) at t = 1 with the gates as they are set; [N,C,h,w] → [N,C,h,w]."""
    n = len(low)
    with bf16():
        eps = unet(low, torch.full((n,), ONE_STEP), torch.full((n,), NULL))
    return low - eps.float()


def channel_variances(encoder: Encoder) -> Tensor:
    """Pixel variance that a unit of each latent channel stands for, [1,C,1,1]: rows of W are vᵢ/σᵢ."""
    return 1 / encoder.project.weight.flatten(1).square().sum(1).view(1, -1, 1, 1)


def pixel_rmse(found: Tensor, wanted: Tensor, variances: Tensor) -> Tensor:
    """Root mean square error in pixels of [-1,1], per sample, from latents; [N].

    The root keeps hard samples from outweighing the easy ones.
    """
    square = ((found - wanted).square() * variances).sum(1).mean((1, 2)) / 48
    return (square + 1e-6).sqrt()


def pixel_loss(error: Tensor, before: Tensor) -> Tensor:
    """Logarithm of the error, and again of what it is above the input's, mean over samples.

    error, before: root mean square errors of outputs and inputs in pixels of [-1,1], [N] → scalar.
    """

    def level(rmse: Tensor, floor: float) -> Tensor:
        return 0.5 * (rmse.square() + floor).log()

    harm = (level(error, HARM_FLOOR) - level(before, HARM_FLOOR)).relu()
    return LOG_WEIGHT * (level(error, LOG_FLOOR) + HARM_WEIGHT * harm).mean()


def main() -> None:
    options = parse_options(__doc__, steps=6000, batch=8, size=128, lr=6e-4, seed=4)
    torch.set_num_threads(options.threads)
    unet = build_adapted(prior.load()).to(memory_format=torch.channels_last)
    train_only(unet, PIXEL)
    set_gates(unet, pixel=1)
    autoencoder = vae.load().to(memory_format=torch.channels_last)
    encode, decode = autoencoder.encoder, autoencoder.decoder
    variances = channel_variances(encode)
    batches = Batches("train", options.seed, options.batch, options.size)
    trainer = Trainer(PIXEL, unet, options)

    def latents_of(source: Batches, step: int) -> tuple[Tensor, Tensor]:
        low, high = source.pairs(step)
        with torch.no_grad():
            return encode(low).contiguous(memory_format=torch.channels_last), encode(high)

    def loss_of(step: int):
        low, high = latents_of(batches, step)
        found = one_step(unet, low)
        rmse, before = (pixel_rmse(latents, high, variances) for latents in (found, low))
        grid = squared_grid_score(decode(found)).mean()
        harmed = (rmse > before).float().mean()
        loss = pixel_loss(rmse, before) + GRID_WEIGHT * grid
        return loss, {"rmse": rmse.mean().item(), "harmed": harmed.item(), "grid": grid.item()}

    held_out = Batches("validation", 98, 64, 192)

    def validate() -> dict[str, float]:
        low, high = latents_of(held_out, 0)
        found = torch.cat([one_step(unet, part) for part in low.split(16)])

        def psnr(x: Tensor) -> float:
            return (-20 * torch.log10(pixel_rmse(x, high, variances) / 2)).mean().item()

        return {"psnr_input": psnr(low), "psnr": psnr(found)}

    trainer.run(loss_of, validate)


if __name__ == "__main__":
    main()
