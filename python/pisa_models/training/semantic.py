"""Stage d: the semantic LoRA, with prior and pixel LoRA frozen: ℓ2 + LPIPS + CSD (paper, stage 2).

    python -m pisa_models.training.semantic [--steps N] [--minutes M]

To the paper's three terms comes an adversarial one: CSD draws detail out of the prior, and a prior of a few million
parameters knows too little of it. LPIPS is taken at half size, too, where a dither does not count. Guards are for what
none of them sees: penalties on detail beyond the original's strength and on lack of it, on a 4-pixel grid, at `sem` 1
and turned up, and on each channel's mean and contrast.

The weights were set by the size of each term's gradient in the LoRA's weights over some dozens of crops: what counts
is not how far a term pulls one picture but how far it pulls the same way in all. At the start LPIPS has 0.09 there at
weight 1, the grid penalties have 0.01 to 0.05, CSD 0.09, contrast 0.10; earlier versions, whose grid weights of 60 and
30 left LPIPS a fifth of the gradient, did not get nearer to the original at all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pisa_models.data.batches import Batches
from pisa_models.losses.adversary import Discriminator, discriminator_loss, generator_loss
from pisa_models.losses.csd import csd_gradient, csd_loss, keep_statistics
from pisa_models.losses.grid import grid_penalty, grid_score, local_grid_penalty, squared_grid_score
from pisa_models.lpips import LPIPS, can_compile
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


def strength_difference(found: Tensor, wanted: Tensor, first: int = 3, cells: int = 4) -> tuple[Tensor, Tensor]:
    """By how much the fine latent channels are locally stronger than the original's, and weaker; [N,C,h,w] → [N] each.

    Strength is the root mean square of each channel from `first` on in windows of `cells` x `cells` (16 px). LPIPS is
    content with a regular dither where the original has grain: excess is where the dither is the stronger of the two.
    All others are content with grass wiped off as noise: that is lack.
    """

    def strength(latents: Tensor) -> Tensor:
        return (F.avg_pool2d(latents[:, first:].square(), cells, cells // 2) + 1e-3).sqrt()

    difference = strength(found) - strength(wanted)
    return difference.relu().mean((1, 2, 3)), (-difference).relu().mean((1, 2, 3))


def random_window(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same window, of three quarters of each side, of both: VGG16's pools meet the picture at any phase.

    Shrunk views come on top, never instead: with half of the views at 0.4 to 0.8 of the size, the distance at full size
    did not fall.
    """
    height, width = (side * 3 // 4 for side in a.shape[2:])
    y, x = (torch.randint(0, side // 4 + 1, ()).item() for side in a.shape[2:])
    window = (..., slice(y, y + height), slice(x, x + width))
    return a[window], b[window]


def mean_difference(found: Tensor, wanted: Tensor) -> Tensor:
    """|Δ mean| of each colour channel, averaged, [N,3,H,W] → [N]."""
    return (found.mean((2, 3)) - wanted.mean((2, 3))).abs().mean(1)


def contrast_difference(found: Tensor, wanted: Tensor, window: int = 32) -> Tensor:
    """|Δ standard deviation| of each colour channel in windows of `window` px, averaged, [N,3,H,W] → [N].

    ℓ2 wants the expected picture, which is weaker than any original by what the input does not tell. This asks for the
    median strength, in whatever pattern the other terms like best.
    """

    def deviation(image: Tensor) -> Tensor:
        mean, square = (F.avg_pool2d(x, window, window // 2) for x in (image, image.square()))
        return (square - mean.square()).clamp_min(1e-5).sqrt()

    return (deviation(found) - deviation(wanted)).abs().mean((1, 2, 3))


def deviation_difference(found: Tensor, wanted: Tensor) -> Tensor:
    """|ln(σ / σ wanted)| of each colour channel over the whole crop, averaged, [N,3,H,W] → [N].

    What the evaluation asks of whole pictures. `contrast_difference` is absolute and in windows, where the strongest
    edges have the say; this weighs a soft picture like a hard one.
    """

    def log_deviation(image: Tensor) -> Tensor:
        return image.var((2, 3)).clamp_min(4e-4).log() / 2

    return (log_deviation(found) - log_deviation(wanted)).abs().mean(1)


def main() -> None:
    options = parse_options(
        __doc__, steps=6000, batch=8, size=128, lr=3e-4, seed=5,
        extra={
            "fidelity": 0.15, "lpips": 1.0, "lpips_half": 0.25, "adversarial": 0.03, "excess": 5.0, "lack": 0.35,
            "csd": 0.05, "grid": 20.0, "squared_grid": 4.0, "local_grid": 4.0, "mean": 0.5, "contrast": 1.0,
            "deviation": 0.3,
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
    lpips = LPIPS("vgg16", compiled=can_compile()).to(memory_format=torch.channels_last)
    discriminator = Discriminator().to(memory_format=torch.channels_last)
    opponent = Opponent(discriminator, DISCRIMINATOR_LR)
    batches = Batches("train", options.seed, options.batch, options.size)
    trainer = Trainer(SEMANTIC, unet, options, opponent=opponent)

    def teacher(noisy: Tensor, timestep: Tensor, good: bool) -> Tensor:
        quality = torch.full_like(timestep, HIGH if good else DEGRADED)
        with bf16():
            return unet(noisy, timestep, quality).float()

    def against_discriminator(photos: list[Tensor], results: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Train the discriminator on VGG16's features of both; its loss, and then the results' loss by it."""
        if not weights["adversarial"]:
            return torch.zeros(()), torch.zeros(())
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
        view, wanted = random_window(pixels, high)
        with bf16():
            seen = lpips.features(view)
            with torch.no_grad():
                seen_high = lpips.features(wanted)
            half = lpips(F.avg_pool2d(view, 2), F.avg_pool2d(wanted, 2))
        judged, fooled = against_discriminator(seen_high, seen)
        distilled = z.new_zeros(())
        if step % CSD_EVERY == 0:
            set_gates(unet)  # the bare prior judges
            gradient = keep_statistics(csd_gradient(z.detach(), alphas, teacher), z.detach())
            distilled = csd_loss(z, gradient).mean() * CSD_EVERY
        excess, lack = strength_difference(z, z_high)
        terms = {
            "fidelity": pixel_rmse(z, z_high, variances).log().mean(),
            "lpips": lpips.distance(seen, seen_high).mean(),
            "lpips_half": half.mean(),
            "adversarial": fooled,
            "excess": excess.mean(),
            "lack": lack.mean(),
            "csd": distilled,
            "grid": (grid_penalty(pixels, high) + grid_penalty(turned_up, high)).mean() / 2,
            "squared_grid": (squared_grid_score(pixels) + squared_grid_score(turned_up)).mean() / 2,
            "local_grid": local_grid_penalty(turned_up, high).mean(),
            "mean": mean_difference(pixels, high).mean(),
            "contrast": contrast_difference(pixels, high).mean(),
            "deviation": deviation_difference(pixels, high).mean(),
        }
        loss = sum(weights[name] * value for name, value in terms.items())
        return loss, {name: value.item() for name, value in (terms | {"discriminator": judged}).items()}

    held_out = Batches("validation", 97, 24, 128)
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
