"""Stage b: the prior, a latent-diffusion UNet that predicts ε, told whether the picture is good or degraded.

    python -m pisa_models.training.prior [--steps N] [--minutes M]

It is the frozen base of both LoRAs (evaluated at t = 1) and the teacher of CSD (t in [0.02 T, 0.5 T]), so
only timesteps below 0.6 T are trained: nothing ever asks for the others.
"""

import torch
import torch.nn.functional as F

from pisa_models.data.batches import Batches
from pisa_models.networks.autoencoder import Encoder
from pisa_models.networks.unet import DEGRADED, HIGH, NULL, UNet
from pisa_models.paths import cache_dir
from pisa_models.schedule import TIMESTEPS, add_noise, alphas_cumprod
from pisa_models.training import vae
from pisa_models.training.loop import Trainer, bf16, parse_options

LAST_TIMESTEP = int(0.6 * TIMESTEPS)
NULL_SHARE = 0.25  # of samples whose quality is withheld, so that the null condition is learned too


def build(seed: int = 1) -> UNet:
    torch.manual_seed(seed)
    return UNet()


def load() -> UNet:
    """The trained prior with averaged weights, frozen. Raises FileNotFoundError before training."""
    unet = build()
    state = torch.load(cache_dir("checkpoints") / "prior.pt", weights_only=True)
    unet.load_state_dict(state["average"])
    return unet.requires_grad_(False)


def encoder() -> Encoder:
    return vae.load().encoder


def main() -> None:
    options = parse_options(__doc__, steps=12000, batch=16, size=128, lr=5e-4, seed=2)
    torch.set_num_threads(options.threads)
    unet = build(options.seed).to(memory_format=torch.channels_last)
    encode, alphas = encoder(), alphas_cumprod()
    batches = Batches("train", options.seed, options.batch, options.size)
    trainer = Trainer("prior", unet, options, decay=0.999, base_of=("pixel", "semantic"))

    def noisy_batch(source: Batches, step: int):
        low, high = source.pairs(step)
        n = len(high)
        quality = torch.where(torch.rand(n) < 0.6, HIGH, DEGRADED)
        pixels = torch.where((quality == HIGH)[:, None, None, None], high, low)
        with torch.no_grad():
            latents = encode(pixels)
        timestep = torch.randint(0, LAST_TIMESTEP, (n,))
        noise = torch.randn_like(latents)
        shown = torch.where(torch.rand(n) < NULL_SHARE, torch.full_like(quality, NULL), quality)
        return add_noise(latents, noise, alphas[timestep]), timestep, shown, quality, noise

    def loss_of(step: int):
        noisy, timestep, shown, _, noise = noisy_batch(batches, step)
        with bf16():
            eps = unet(noisy.contiguous(memory_format=torch.channels_last), timestep, shown).float()
        return F.mse_loss(eps, noise), {}

    held_out = Batches("validation", 99, 64, options.size)

    def validate() -> dict[str, float]:
        torch.manual_seed(0)
        noisy, timestep, _, quality, noise = noisy_batch(held_out, 0)
        found = {}
        for name, told in (("right", quality), ("null", torch.full_like(quality, NULL)), ("wrong", 1 - quality)):
            with bf16():
                found[f"mse_{name}"] = F.mse_loss(unet(noisy, timestep, told).float(), noise).item()
        return found

    trainer.run(loss_of, validate)


if __name__ == "__main__":
    main()
