"""Classifier score distillation in latents (PiSA-SR, Eq. 5 and supplement Eq. S4)."""

from collections.abc import Callable

import torch
from torch import Tensor

from pisa_models.schedule import TIMESTEPS, add_noise, predict_clean

LAMBDA_CFG = 7.5
FIRST_T, LAST_T = int(0.02 * TIMESTEPS), int(0.5 * TIMESTEPS)
CONTRAST_CHANNELS = 3  # the leading principal components: brightness and colour of a cell


def csd_direction(clean_uncond: Tensor, clean_cfg: Tensor, latents: Tensor) -> Tensor:
    """(f(z_t, ε_u) − f(z_t, ε^cfg)) / mean|z_H − f(z_t, ε^cfg)|, the mean per sample; [N,C,h,w]."""
    scale = (latents - clean_cfg).abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-4)
    return (clean_uncond - clean_cfg) / scale


def keep_statistics(direction: Tensor, latents: Tensor, channels: int = CONTRAST_CHANNELS) -> Tensor:
    """Remove from the leading channels what would change their mean or contrast, to first order.

    Guidance at λ = 7.5 exaggerates, and the cheapest exaggeration is contrast: without its mean and its
    component along the centred latents, the direction can only move patterns.
    """
    head, z = direction[:, :channels], latents[:, :channels]
    head = head - head.mean((2, 3), keepdim=True)
    z = z - z.mean((2, 3), keepdim=True)
    along = (head * z).mean((2, 3), keepdim=True) / z.square().mean((2, 3), keepdim=True).clamp_min(1e-4)
    return torch.cat([head - along * z, direction[:, channels:]], 1)


@torch.no_grad()
def csd_gradient(
    latents: Tensor,
    alphas: Tensor,
    teacher: Callable[[Tensor, Tensor, bool], Tensor],
    lambda_cfg: float = LAMBDA_CFG,
) -> Tensor:
    """CSD's gradient for z_H = latents [N,C,h,w].

    `teacher(z_t, t, good)` gives the prior's ε for the HQ condition (good) or the degraded one, which
    takes the place of the unconditional prediction as the official code's negative prompt does.
    """
    timestep = torch.randint(FIRST_T, LAST_T + 1, (len(latents),))
    alpha_bar = alphas[timestep]
    noisy = add_noise(latents, torch.randn_like(latents), alpha_bar)
    eps_uncond, eps_cond = teacher(noisy, timestep, False), teacher(noisy, timestep, True)
    eps_cfg = eps_uncond + lambda_cfg * (eps_cond - eps_uncond)
    clean_uncond = predict_clean(noisy, eps_uncond, alpha_bar)
    clean_cfg = predict_clean(noisy, eps_cfg, alpha_bar)
    return csd_direction(clean_uncond, clean_cfg, latents)


def csd_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """mse(z_H, stopgrad(z_H − gradient)) per sample, [N]; its derivative is proportional to `gradient`."""
    return (latents - (latents - gradient).detach()).square().flatten(1).mean(1)
