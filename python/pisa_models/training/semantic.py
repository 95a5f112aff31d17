"""Stage d: the semantic LoRA, with prior and pixel LoRA frozen: ℓ2 + perceptual + CSD (paper, stage 2).

    python -m pisa_models.training.semantic [--steps N] [--minutes M]

To the paper's three terms come two that ask for detail of the right strength (MS-SSIM's contrast and structure
in pixels, local strength in latents), and guards for what all of those do not see: a penalty on a 4-pixel grid, one on
each channel's mean and standard deviation, and, for the dial above 1, ones on a grid and on fine patterns there.

The weights were set by the size of each term's gradient in the latents at the start: perceptual and
fidelity alike there, but fidelity pulls on the leading channels (brightness, colour) and hardly on the
fine ones; CSD pulls on all channels alike, at its weight about as hard as the perceptual term on the fine.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pisa_models.data.batches import Batches
from pisa_models.losses.csd import csd_gradient, csd_loss, keep_statistics
from pisa_models.losses.grid import grid_penalty, grid_score, local_grid_penalty
from pisa_models.losses.perceptual import PerceptualDistance, random_view
from pisa_models.losses.structure import structure_loss
from pisa_models.networks.lora import PIXEL, SEMANTIC, set_gates, train_only
from pisa_models.networks.unet import DEGRADED, HIGH
from pisa_models.schedule import alphas_cumprod
from pisa_models.training import prior, vae
from pisa_models.training.adapted import build_adapted, load_average
from pisa_models.training.loop import Trainer, bf16, parse_options
from pisa_models.training.pixel import channel_variances, one_step, pixel_rmse

TURNED_UP = 1.5  # the `sem` above 1 at which the result must be free of patterns, too
CSD_EVERY = 4  # steps: it is a third of a step's time for a noisy gradient


def local_strength(latents: Tensor, first: int = 3, cells: int = 4) -> Tensor:
    """Root mean square of the channels from `first` on, over windows of `cells` x `cells` (16 px)."""
    return (F.avg_pool2d(latents[:, first:].square(), cells, cells // 2) + 1e-3).sqrt()


def texture_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Difference of the local strength of the fine latent channels, [N,C,h,w] → [N].

    An average of possible textures is weak; this asks for their strength, not for their phase.
    """
    return (local_strength(found) - local_strength(wanted)).abs().mean((1, 2, 3))


def excess_strength(found: Tensor, wanted: Tensor) -> Tensor:
    """By how much the fine latent channels are locally stronger than the original's, [N,C,h,w] → [N].

    The finest are patterns of dots, which turning `sem` up would draw along every edge.
    """
    return (local_strength(found) - local_strength(wanted)).relu().mean((1, 2, 3))


def statistics_penalty(found: Tensor, wanted: Tensor) -> Tensor:
    """|Δ mean| + |Δ standard deviation| of each colour channel, [N,3,H,W] → [N]."""
    mean = (found.mean((2, 3)) - wanted.mean((2, 3))).abs()
    deviation = (found.std((2, 3)) - wanted.std((2, 3))).abs()
    return (mean + deviation).mean(1)


def main() -> None:
    options = parse_options(
        __doc__, steps=6000, batch=8, size=128, lr=4e-4, seed=5,
        extra={
            "fidelity": 0.1, "perceptual": 4.0, "structure": 2.0, "csd": 0.05, "texture": 0.4,
            "excess": 2.0, "grid": 60.0, "local_grid": 30.0, "statistics": 3.0,
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
    perceptual = PerceptualDistance().to(memory_format=torch.channels_last)
    batches = Batches("train", options.seed, options.batch, options.size, low_res=True)
    trainer = Trainer(SEMANTIC, unet, options, decay=0.998)

    def teacher(noisy: Tensor, timestep: Tensor, good: bool) -> Tensor:
        quality = torch.full_like(timestep, HIGH if good else DEGRADED)
        with bf16():
            return unet(noisy, timestep, quality).float()

    def loss_of(step: int):
        low, high = (x.contiguous(memory_format=torch.channels_last) for x in batches.pairs(step))
        z_low, z_high = encode(low), encode(high)
        set_gates(unet, pixel=1)
        with torch.no_grad():
            z_pixel = one_step(unet, z_low)
        set_gates(unet, pixel=1, semantic=1)
        z = one_step(unet, z_low)
        z_turned_up = z_pixel + TURNED_UP * (z - z_pixel)  # Eq. 8
        pixels = decode(z)
        some = slice(0, (len(pixels) + 1) // 2)  # a sample's VGG16 costs twice its UNet
        with bf16():
            seen = perceptual(*random_view(pixels[some], high[some])).mean()
        fidelity = pixel_rmse(z, z_high, variances).log().mean()
        distilled = fidelity * 0
        if step % CSD_EVERY == 0:
            set_gates(unet)  # the bare prior judges
            gradient = keep_statistics(csd_gradient(z.detach(), alphas, teacher), z.detach())
            distilled = csd_loss(z, gradient).mean() * CSD_EVERY
        texture = texture_distance(z, z_high).mean()
        structure = structure_loss(pixels, high).mean()
        turned_up = decode(z_turned_up)
        grid = (grid_penalty(pixels, high) + grid_penalty(turned_up, high)).mean() / 2
        local_grid = local_grid_penalty(turned_up, high).mean()
        excess = excess_strength(z_turned_up, z_high).mean()
        shift = statistics_penalty(pixels, high).mean()
        terms = {
            "fidelity": fidelity,
            "perceptual": seen,
            "structure": structure,
            "csd": distilled,
            "texture": texture,
            "excess": excess,
            "grid": grid,
            "local_grid": local_grid,
            "statistics": shift,
        }
        loss = sum(weights[name] * value for name, value in terms.items())
        return loss, {name: value.item() for name, value in terms.items()}

    held_out = Batches("validation", 97, 24, 128, low_res=True)
    without: dict[str, float] = {}  # the measures at sem = 0, which this stage does not change

    def measured(gate: float) -> dict[str, float]:
        torch.manual_seed(0)
        low, high = held_out.pairs(0)
        set_gates(unet, pixel=1, semantic=gate)
        with bf16():
            pixels = torch.cat([decode(one_step(unet, encode(x))) for x in low.split(8)])
            distance = torch.cat([perceptual(a, b) for a, b in zip(pixels.split(8), high.split(8), strict=True)])
        found = {
            "psnr": vae.psnr(pixels, high).mean(),
            "distance": distance.mean(),
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
