"""Stage d: the semantic LoRA, with prior and pixel LoRA frozen: ℓ2 + LPIPS + CSD (paper, stage 2).

    python -m pisa_models.training.semantic [--steps N] [--minutes M]

To the paper's three terms comes an adversarial one: CSD draws detail out of the prior, and a prior of a few million
parameters knows too little of it. Structure (MS-SSIM's contrast in pixels) holds the detail to the original's place.
Guards are for what none of those see: a penalty on a 4-pixel grid, at `sem` 1 and turned up, and one on each
channel's mean and standard deviation.
"""

import torch
from torch import Tensor

from pisa_models.data.batches import Batches
from pisa_models.losses.adversary import Discriminator, discriminator_loss, generator_loss
from pisa_models.losses.csd import csd_gradient, csd_loss, keep_statistics
from pisa_models.losses.grid import grid_penalty, grid_score, local_grid_penalty
from pisa_models.losses.perceptual import random_view
from pisa_models.losses.structure import structure_loss
from pisa_models.lpips import LPIPS
from pisa_models.networks.lora import PIXEL, SEMANTIC, set_gates, train_only
from pisa_models.networks.unet import DEGRADED, HIGH
from pisa_models.schedule import alphas_cumprod
from pisa_models.training import prior, vae
from pisa_models.training.adapted import build_adapted, load_average
from pisa_models.training.loop import Opponent, Trainer, bf16, parse_options
from pisa_models.training.pixel import channel_variances, one_step, pixel_rmse

TURNED_UP = 1.5  # the `sem` above 1 at which the result must be free of patterns, too
DISCRIMINATOR_LR = 2e-4
CSD_EVERY = 4  # steps: it is a third of a step's time for a noisy gradient


def statistics_penalty(found: Tensor, wanted: Tensor) -> Tensor:
    """|Δ mean| + |Δ standard deviation| of each colour channel, [N,3,H,W] → [N]."""
    mean = (found.mean((2, 3)) - wanted.mean((2, 3))).abs()
    deviation = (found.std((2, 3)) - wanted.std((2, 3))).abs()
    return (mean + deviation).mean(1)


def main() -> None:
    options = parse_options(
        __doc__, steps=6000, batch=8, size=128, lr=4e-4, seed=5,
        extra={
            "fidelity": 0.1, "lpips": 1.0, "adversarial": 0.05, "structure": 0.5, "csd": 0.05,
            "grid": 60.0, "local_grid": 30.0, "statistics": 3.0,
        },
    )  # fmt: skip
    weights = options.extra
    torch.set_num_threads(options.threads)
    unet = build_adapted(prior.load())
    load_average(unet, PIXEL)
    unet = unet.to(memory_format=torch.channels_last)
    train_only(unet, SEMANTIC)
    autoencoder = vae.load().to(memory_format=torch.channels_last)
    encode, decode, alphas = autoencoder.encoder, autoencoder.decoder, alphas_cumprod()
    variances = channel_variances(encode)
    lpips = LPIPS("vgg16").to(memory_format=torch.channels_last)
    discriminator = Discriminator().to(memory_format=torch.channels_last)
    opponent = Opponent(discriminator, DISCRIMINATOR_LR)
    batches = Batches("train", options.seed, options.batch, options.size, low_res=True)
    trainer = Trainer(SEMANTIC, unet, options, opponent=opponent)

    def teacher(noisy: Tensor, timestep: Tensor, good: bool) -> Tensor:
        quality = torch.full_like(timestep, HIGH if good else DEGRADED)
        with bf16():
            return unet(noisy, timestep, quality).float()

    def against_discriminator(photos: list[Tensor], results: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Train the discriminator on VGG16's features of both; its loss, and then the results' loss by it."""
        with bf16():
            found = discriminator_loss(discriminator(photos), discriminator([x.detach() for x in results]))
        opponent.advance(found)
        discriminator.requires_grad_(False)
        with bf16():
            fooled = generator_loss(discriminator(results))
        discriminator.requires_grad_(True)
        return found.detach(), fooled

    def loss_of(step: int):
        low, high = (x.contiguous(memory_format=torch.channels_last) for x in batches.pairs(step))
        z_low, z_high = encode(low), encode(high)
        set_gates(unet, pixel=1)
        with torch.no_grad():
            z_pixel = one_step(unet, z_low)
        set_gates(unet, pixel=1, semantic=1)
        z = one_step(unet, z_low)
        pixels, turned_up = decode(z), decode(z_pixel + TURNED_UP * (z - z_pixel))  # Eq. 8
        view, wanted, blocks = random_view(pixels, high)
        with bf16():
            seen = lpips.features(view, blocks)
            with torch.no_grad():
                seen_high = lpips.features(wanted, blocks)
        judged, fooled = against_discriminator(seen_high, seen)
        distilled = z.new_zeros(())
        if step % CSD_EVERY == 0:
            set_gates(unet)  # the bare prior judges
            gradient = keep_statistics(csd_gradient(z.detach(), alphas, teacher), z.detach())
            distilled = csd_loss(z, gradient).mean() * CSD_EVERY
        terms = {
            "fidelity": pixel_rmse(z, z_high, variances).log().mean(),
            "lpips": lpips.distance(seen, seen_high).mean(),
            "adversarial": fooled,
            "structure": structure_loss(pixels, high).mean(),
            "csd": distilled,
            "grid": (grid_penalty(pixels, high) + grid_penalty(turned_up, high)).mean() / 2,
            "local_grid": local_grid_penalty(turned_up, high).mean(),
            "statistics": statistics_penalty(pixels, high).mean(),
        }
        loss = sum(weights[name] * value for name, value in terms.items())
        return loss, {name: value.item() for name, value in (terms | {"discriminator": judged}).items()}

    held_out = Batches("validation", 97, 24, 128, low_res=True)
    without: dict[str, float] = {}  # the measures at sem = 0, which this stage does not change

    def measured(gate: float) -> dict[str, float]:
        torch.manual_seed(0)
        low, high = held_out.pairs(0)
        set_gates(unet, pixel=1, semantic=gate)
        with bf16():
            pixels = torch.cat([decode(one_step(unet, encode(x))) for x in low.split(8)])
            distance = torch.cat([lpips(a, b) for a, b in zip(pixels.split(8), high.split(8), strict=True)])
        found = {
            "psnr": vae.psnr(pixels, high).mean(),
            "lpips": distance.mean(),
            "grid": grid_score(pixels).mean(),
            "std": (pixels.std((2, 3)) / high.std((2, 3)).clamp_min(0.02)).mean(),
        }
        return {f"sem{gate:.0f}_{name}": value.item() for name, value in found.items()}

    def validate() -> dict[str, float]:
        without.update(without or measured(0.0))
        return without | measured(1.0)

    trainer.run(loss_of, validate)


if __name__ == "__main__":
    main()
