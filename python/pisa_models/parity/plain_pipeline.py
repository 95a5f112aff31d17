"""PiSA-SR in plain diffusers and peft, float32, the whole image at once: what bundles are compared to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils.peft_utils import set_weights_and_activate_adapters
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from pisa_models.evaluate import stages
from pisa_models.parity.random_model import PARTS, lora_config

SCALE, SCALING = 4, 0.18215


class PlainPipeline:
    """A folder in diffusers layout and an official pickle, as they are."""

    def __init__(self, base: Path, lora: Path):
        self.prompt = self._prompt(base)  # first: its network is gone before the others come
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet").eval()
        self.vae = AutoencoderKL.from_pretrained(base / "vae").eval()
        saved = torch.load(lora, weights_only=True)
        for kind in ("pix", "sem"):
            for part in PARTS:
                self.unet.add_adapter(lora_config(saved, part, kind), adapter_name=f"default_{part}_{kind}")
        with torch.no_grad():
            for name, parameter in self.unet.named_parameters():
                if "lora" in name:
                    parameter.copy_(saved["state_dict_unet"][name])
        self.unet.requires_grad_(False)
        self.merged = False

    @staticmethod
    def _prompt(base: Path) -> torch.Tensor:
        """[1,length,width] of '': start, end, and id 0 up to the length."""
        files = base / "text_encoder"
        path = files / "model.safetensors"
        tensors = load_file(path) if path.exists() else torch.load(files / "pytorch_model.bin", weights_only=True)
        config = CLIPTextConfig.from_pretrained(files)
        encoder = CLIPTextModel(config).eval()
        short = {name.removeprefix("text_model."): value for name, value in tensors.items()}
        encoder.load_state_dict({k: v for k, v in short.items() if "position_ids" not in k}, strict=True)
        length = config.max_position_embeddings
        ids = [config.vocab_size - 2, config.vocab_size - 1] + [0] * (length - 2)
        with torch.no_grad():
            return encoder(torch.tensor([ids]))[0]

    def select(self, *kinds: str) -> None:
        names = [f"default_{part}_{kind}" for kind in kinds for part in PARTS]
        set_weights_and_activate_adapters(self.unet, names, [1.0] * len(names))

    def merge(self) -> None:
        """Both LoRAs into the weights for good, as the official code does when the dials are at their defaults."""
        self.select("pix", "sem")
        self.unet.fuse_lora()
        self.unet.unload_lora()
        self.merged = True

    @torch.no_grad()
    def residual(self, latents: torch.Tensor, *kinds: str) -> torch.Tensor:
        """[N,C,h,w]; ε_pix for `pix`, ε_PiSA for `pix`, `sem`."""
        if not self.merged:
            self.select(*kinds)
        elif kinds != ("pix", "sem"):
            raise ValueError("The LoRAs are merged: there is one residual only.")
        return self.unet(latents, 1, encoder_hidden_states=self.prompt.expand(len(latents), -1, -1)).sample

    def tiled_residual(self, latents: torch.Tensor, tile: int, overlap: int, *kinds: str) -> torch.Tensor:
        """[1,C,h,w], from tiles blended by the official Gaussian weights, each tile run by itself.

        Their places are those of the official code: `tile` − `overlap` apart, the last one at the edge.
        """
        height, width = latents.shape[2:]
        total, weights = np.zeros(latents.shape), np.zeros((height, width))
        blend = stages.tile_weights(min(tile, height), min(tile, width))
        for y in _starts(height, tile, overlap):
            for x in _starts(width, tile, overlap):
                part = np.s_[..., y : y + tile, x : x + tile]
                total[part] += blend * self.residual(latents[part].contiguous(), *kinds).double().numpy()
                weights[part] += blend
        return torch.from_numpy(total / weights).float()

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.mode() * SCALING

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents / SCALING).sample

    def restore(
        self,
        low_res: np.ndarray,
        pix: float,
        sem: float,
        multiple: int,
        color_fix: str,
        unet_tile: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """(h, w, 3) in [0, 1] → (4h, 4w, 3): bicubic, padded, one step of Eq. 8, cropped, colours fixed.

        unet_tile: edge and overlap of the UNet's tiles in latent cells; None runs the whole at once.
        """
        height, width = (SCALE * side for side in low_res.shape[:2])
        resampled = stages.resample(low_res.transpose(2, 0, 1), height, width)
        pixels = torch.from_numpy(stages.pad_to_multiple(np.clip(resampled, 0, 1), multiple)[None] * 2 - 1)
        z = self.encode(pixels)
        decoded = self.decode(z - self._combined(z, pix, sem, unet_tile))
        image = np.clip((decoded[0, :, :height, :width].numpy() + 1) / 2, 0, 1)
        if color_fix != "none":
            image = {"adain": stages.adain, "wavelet": stages.wavelet}[color_fix](image, np.clip(resampled, 0, 1))
        return np.clip(image, 0, 1).transpose(1, 2, 0)

    def _combined(self, z: torch.Tensor, pix: float, sem: float, unet_tile: tuple[int, int] | None) -> torch.Tensor:
        """ε of Eq. 8; equal dials need one evaluation."""

        def residual(*kinds: str) -> torch.Tensor:
            return self.tiled_residual(z, *unet_tile, *kinds) if unet_tile else self.residual(z, *kinds)

        eps_pisa = residual("pix", "sem")
        if pix == sem:
            return pix * eps_pisa
        eps_pix = residual("pix")
        return pix * eps_pix + sem * (eps_pisa - eps_pix)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]
