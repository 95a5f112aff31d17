"""Stable Diffusion's noise schedule: scaled linear, 1000 steps (Rombach et al. 2022, `v1-inference.yaml`)."""

import torch
from torch import Tensor

TIMESTEPS = 1000
ONE_STEP = 1  # the constant timestep of PiSA-SR's single evaluation


def alphas_cumprod() -> Tensor:
    """ᾱ_t for t = 0 … 999, [1000] float32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """z_t = √ᾱ_t z + √(1−ᾱ_t) ε; latents, noise [N,C,h,w], alpha_bar [N]."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def predict_clean(noisy: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """f(z_t, ε) = (z_t − √(1−ᾱ_t) ε) / √ᾱ_t, the inverse of `add_noise` (PiSA-SR, supplement Eq. S4)."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return (noisy - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
