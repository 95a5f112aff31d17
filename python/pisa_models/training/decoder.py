"""Stage d: the decoder's correction, trained on all that it will be given, with the UNet frozen.

    python -m pisa_models.training.decoder [--steps N] [--minutes M]

Three kinds of latents: a photo's own and a degraded picture's own, both of which must come back as they
were (pix = 0 shows the input), and those that the pixel LoRA predicts, which must come back as the photo.
The last are averages of what is possible, softer than any photo; a decoder trained on photos alone loses up
to 0.25 dB there and paints a faint grid.
"""

import torch
from torch import Tensor

from pisa_models.data.batches import Batches
from pisa_models.losses.grid import grid_penalty, grid_score
from pisa_models.networks.lora import PIXEL, set_gates
from pisa_models.training import prior, vae
from pisa_models.training.adapted import build_adapted, load_average
from pisa_models.training.loop import Trainer, bf16, parse_options
from pisa_models.training.pixel import LOG_WEIGHT, one_step

# Errors below this root mean square (46 dB) are good enough: else the almost exact ones rule the logarithm.
FLOOR = 0.01


def log_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Logarithm of the root mean square error of [N,3,H,W] pixels in [-1,1], [N]."""
    return 0.5 * ((found - wanted).square().flatten(1).mean(1) + FLOOR**2).log()


def main() -> None:
    options = parse_options(
        __doc__, steps=8000, batch=8, size=128, lr=5e-4, seed=6,
        extra={"grid": 10.0, "noise": 0.05},
    )  # fmt: skip
    torch.set_num_threads(options.threads)
    unet = build_adapted(prior.load())
    load_average(unet, PIXEL)
    set_gates(unet, pixel=1)
    unet = unet.requires_grad_(False).to(memory_format=torch.channels_last)
    model = vae.build(options.seed).to(memory_format=torch.channels_last)
    batches = Batches("train", options.seed, options.batch, options.size, low_res=True)
    trainer = Trainer("decoder", model.decoder, options)
    photos, inputs = options.batch // 8, options.batch // 8  # of every batch; the rest is predicted

    def latents_and_targets(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        a, b = photos, photos + inputs
        with torch.no_grad():
            known = model.encoder(torch.cat([high[:a], low[a:b]]))
            known = known + options.extra["noise"] * torch.rand(len(known), 1, 1, 1) * torch.randn_like(known)
            predicted = one_step(unet, model.encoder(low[b:]))
        return torch.cat([known, predicted]), torch.cat([high[:a], low[a:b], high[b:]])

    def loss_of(step: int):
        low, high = (x.contiguous(memory_format=torch.channels_last) for x in batches.pairs(step))
        latents, targets = latents_and_targets(low, high)
        with bf16():
            output = model.decoder(latents).float()
        error = log_error(output, targets)
        grid = grid_penalty(output, targets).mean()
        loss = LOG_WEIGHT * error.mean() + options.extra["grid"] * grid
        b = photos + inputs
        return loss, {"known": error[:b].mean().item(), "predicted": error[b:].mean().item(), "grid": grid.item()}

    held_out = Batches("validation", 96, 48, 192, low_res=True)

    def validate() -> dict[str, float]:
        low, high = held_out.pairs(0)
        found: dict[str, list[Tensor]] = {"photo": [], "input": [], "plain": [], "predicted": [], "grid_score": []}
        for a, b in zip(low.split(8), high.split(8), strict=True):
            with bf16():
                z = one_step(unet, model.encoder(a))
                predicted = model.decoder(z).float()
                found["photo"].append(vae.psnr(model.decoder(model.encoder(b)).float(), b))
                found["input"].append(vae.psnr(model.decoder(model.encoder(a)).float(), a.clamp(-1, 1)))
            found["plain"].append(vae.psnr(model.decoder.blocks(z), b))
            found["predicted"].append(vae.psnr(predicted, b))
            found["grid_score"].append(grid_score(predicted))
        return {name: torch.cat(values).mean().item() for name, values in found.items()}

    trainer.run(loss_of, validate)


if __name__ == "__main__":
    main()
