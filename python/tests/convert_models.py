"""Small random models in the shape of Stable Diffusion with the official names, and the plain pipeline.

The reference is diffusers and peft alone, as the official code uses them; nothing of pisa_models.convert.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils.peft_utils import set_weights_and_activate_adapters
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from pisa_models.evaluate import stages

WIDTH, VOCABULARY, LENGTH = 32, 64, 9
SCALING = 0.18215
PARTS = ("encoder", "decoder", "others")
# What the official training greps for, in its order.
PATTERNS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out",
    "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
UNET = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4, 4),  # in Stable Diffusion 2's configs, a number of heads
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "scaling_factor": SCALING,
}
# As Stable Diffusion 1 has it: convolutions around the attention, and one block fewer.
OTHER_UNET = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 4,
    "use_linear_projection": False,
}
OTHER_VAE = VAE | {"block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
                   "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4}  # fmt: skip


def _stir(module: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms away from 0 and 1, so that nothing is right by chance."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval().requires_grad_(False)


def make_base(folder: Path, unet: dict = UNET, vae: dict = VAE, safe: bool = True, change=None) -> Path:
    """`change(unet, vae)` may alter the random models before they are saved."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    networks = _stir(UNet2DConditionModel(**unet)), _stir(AutoencoderKL(**vae))
    if change:
        change(*networks)
    networks[0].save_pretrained(folder / "unet", safe_serialization=safe)
    networks[1].save_pretrained(folder / "vae", safe_serialization=safe)
    _make_text_encoder(folder, safe)
    words = ["!", *(f"word{i}" for i in range(VOCABULARY - 3)), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    return folder


def _make_text_encoder(folder: Path, safe: bool) -> None:
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, hidden_act="gelu", bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    encoder = _stir(CLIPTextModel(config))
    encoder.save_pretrained(folder / "text_encoder")
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path)
    # The names of the published weights, and the buffer that older versions saved with them.
    published = {f"text_model.{name.removeprefix('text_model.')}": value.clone() for name, value in tensors.items()}
    path.unlink()
    if safe:
        save_file(published, path)
    else:
        published["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
        torch.save(published, folder / "text_encoder/pytorch_model.bin")


def target_modules(unet: torch.nn.Module) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for name, _ in unet.named_parameters():
        if "bias" in name or "norm" in name or not any(pattern in name for pattern in PATTERNS):
            continue
        down, up = "down_blocks" in name or "conv_in" in name, "up_blocks" in name or "conv_out" in name
        found["encoder" if down else "decoder" if up else "others"].append(name.replace(".weight", ""))
    return found


def _config(saved: dict, part: str, kind: str, rank: int) -> LoraConfig:
    """As the official code has it: no alpha, so peft's default."""
    targets = saved[f"unet_lora_{part}_modules_{kind}"]
    return LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=targets)


def make_lora(path: Path, base: Path, rank_pix: int = 4, rank_sem: int = 4) -> Path:
    """Random LoRAs saved as the official `save_model` does, their tensors named by peft."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    saved: dict = {}
    for part, names in target_modules(unet).items():
        saved |= {f"unet_lora_{part}_modules_{kind}": list(names) for kind in ("pix", "sem")}
    for kind, rank in (("pix", rank_pix), ("sem", rank_sem)):
        for part in PARTS:
            unet.add_adapter(_config(saved, part, kind, rank), adapter_name=f"default_{part}_{kind}")
        saved[f"lora_rank_unet_{kind}"] = rank
    saved["state_dict_unet"] = {
        name: torch.randn_like(value) * 0.08 for name, value in unet.state_dict().items() if "lora" in name
    }
    torch.save(saved, path)
    return path


class Reference:
    """The plain pipeline in float32, whole images at once."""

    def __init__(self, base: Path, lora: Path):
        self.unet = UNet2DConditionModel.from_pretrained(base / "unet").eval()
        self.vae = AutoencoderKL.from_pretrained(base / "vae").eval()
        self.prompt = self._prompt(base)
        saved = torch.load(lora, weights_only=True)
        for kind in ("pix", "sem"):
            for part in PARTS:
                config = _config(saved, part, kind, saved[f"lora_rank_unet_{kind}"])
                self.unet.add_adapter(config, adapter_name=f"default_{part}_{kind}")
        with torch.no_grad():
            for name, parameter in self.unet.named_parameters():
                if "lora" in name:
                    parameter.copy_(saved["state_dict_unet"][name])
        self.unet.requires_grad_(False)

    @staticmethod
    def _prompt(base: Path) -> torch.Tensor:
        files = base / "text_encoder"
        path = files / "model.safetensors"
        tensors = load_file(path) if path.exists() else torch.load(files / "pytorch_model.bin", weights_only=True)
        encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(files)).eval()
        short = {name.removeprefix("text_model."): value for name, value in tensors.items()}
        encoder.load_state_dict({k: v for k, v in short.items() if "position_ids" not in k}, strict=True)
        ids = [VOCABULARY - 2, VOCABULARY - 1] + [0] * (LENGTH - 2)
        with torch.no_grad():
            return encoder(torch.tensor([ids]))[0]

    def select(self, *kinds: str) -> None:
        names = [f"default_{part}_{kind}" for kind in kinds for part in PARTS]
        set_weights_and_activate_adapters(self.unet, names, [1.0] * len(names))

    @torch.no_grad()
    def residual(self, latents: torch.Tensor, *kinds: str) -> torch.Tensor:
        """ε_pix for `pix`, ε_PiSA for `pix`, `sem`."""
        self.select(*kinds)
        return self.unet(latents, 1, encoder_hidden_states=self.prompt.expand(len(latents), -1, -1)).sample

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.mode() * SCALING

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents / SCALING).sample

    def restore(self, low_res: np.ndarray, pix: float, sem: float, multiple: int, color_fix: str) -> np.ndarray:
        """(h, w, 3) in [0, 1] → (4h, 4w, 3): bicubic, padded, one step of Eq. 8, cropped, colours fixed."""
        height, width = (4 * side for side in low_res.shape[:2])
        resampled = stages.resample(low_res.transpose(2, 0, 1), height, width)
        pixels = torch.from_numpy(stages.pad_to_multiple(np.clip(resampled, 0, 1), multiple)[None] * 2 - 1)
        z = self.encode(pixels)
        eps_pix, eps_pisa = self.residual(z, "pix"), self.residual(z, "pix", "sem")
        decoded = self.decode(z - (pix * eps_pix + sem * (eps_pisa - eps_pix)))
        image = np.clip((decoded[0, :, :height, :width].numpy() + 1) / 2, 0, 1)
        if color_fix != "none":
            image = {"adain": stages.adain, "wavelet": stages.wavelet}[color_fix](image, np.clip(resampled, 0, 1))
        return np.clip(image, 0, 1).transpose(1, 2, 0)


class Bomb:
    """A pickle with code in it; what it would run leaves a file behind."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def bomb(path: Path, mark: Path) -> Path:
    path.write_bytes(pickle.dumps({"state_dict_unet": Bomb(mark)}))
    return path
