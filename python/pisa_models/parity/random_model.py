"""Random models in the shape of Stable Diffusion, saved with the official names: small ones, and the full size.

`make_base` writes a folder as diffusers does, `make_lora` a pickle as the official training does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

SCALING = 0.18215
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "!"
PARTS = ("encoder", "decoder", "others")
# What the official training greps for, in its order.
PATTERNS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out",
    "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Configs of the parts, as diffusers and transformers take them."""

    unet: dict
    vae: dict
    text: dict
    lora_deviation: float = 0.08
    """Of the LoRAs' random weights: what they add must be of the order of the weights, which shrink with the width."""


def _vae(widths: tuple[int, ...], groups: int, layers: int) -> dict:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": layers,
        "latent_channels": 4,
        "norm_num_groups": groups,
        "scaling_factor": SCALING,
    }


_TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 9, "hidden_act": "gelu", "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
SMALL = Sizes(
    unet={
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": (2, 4, 4),  # in Stable Diffusion 2's configs, a number of heads
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "use_linear_projection": True,
    },
    vae=_vae((16, 32, 32), groups=8, layers=1),
    text=_TEXT,
)
# As Stable Diffusion 1 has it: convolutions around the attention, and one block fewer.
OTHER = Sizes(
    unet={
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": 2,
        "cross_attention_dim": 32,
        "norm_num_groups": 4,
        "use_linear_projection": False,
    },
    vae=_vae((8, 16), groups=4, layers=1),
    text=_TEXT,
)
# Stable Diffusion 2.1-base: 866 M parameters, 84 M and 340 M.
FULL = Sizes(
    unet={
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "norm_num_groups": 32,
        "use_linear_projection": True,
    },
    vae=_vae((128, 256, 512, 512), groups=32, layers=2) | {"sample_size": 768},
    text=_TEXT | {
        "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
        "num_attention_heads": 16, "max_position_embeddings": 77,
    },
    lora_deviation=0.02,
)  # fmt: skip
# The full size's depth and kinds of layers, a quarter as wide: what is tried on the way to the full size.
MEDIUM = replace(
    FULL,
    unet=FULL.unet | {"block_out_channels": (96, 160, 320, 320), "attention_head_dim": (2, 3, 5, 5)},
    vae=_vae((32, 64, 128, 128), groups=32, layers=2),
    text=_TEXT | {"hidden_size": 1024, "intermediate_size": 1024, "num_attention_heads": 16},
    lora_deviation=0.04,
)


def _stir(module: nn.Module) -> nn.Module:
    """Biases and norms away from 0 and 1, so that nothing is right by chance."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval().requires_grad_(False)


def make_base(folder: Path, sizes: Sizes = SMALL, safe: bool = True, change: Callable | None = None) -> Path:
    """A folder in diffusers layout; one part at a time is in memory.

    safe: as safetensors, else in PyTorch's own format. `change(unet, vae)` may alter the random models before
    they are saved, and has both in memory.
    """
    torch.manual_seed(1)
    parts = {
        "unet": lambda: _stir(UNet2DConditionModel(**sizes.unet)),
        "vae": lambda: _stir(AutoencoderKL(**sizes.vae)),
    }
    if change:
        networks = {name: make() for name, make in parts.items()}
        change(networks["unet"], networks["vae"])
        parts = {name: lambda network=network: network for name, network in networks.items()}
    for name, make in parts.items():
        make().save_pretrained(folder / name, safe_serialization=safe)
    _make_text_encoder(folder, sizes.text, safe)
    _make_tokenizer(folder, sizes.text["vocab_size"])
    return folder


def _make_text_encoder(folder: Path, config: dict, safe: bool) -> None:
    _stir(CLIPTextModel(CLIPTextConfig(**config))).save_pretrained(folder / "text_encoder")
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path)
    # The names of the published weights, and the buffer that older versions saved with them.
    published = {f"text_model.{name.removeprefix('text_model.')}": value.clone() for name, value in tensors.items()}
    path.unlink()
    if safe:
        save_file(published, path)
    else:
        published["text_model.embeddings.position_ids"] = torch.arange(config["max_position_embeddings"])[None]
        torch.save(published, folder / "text_encoder/pytorch_model.bin")


def _make_tokenizer(folder: Path, vocabulary: int) -> None:
    words = [PAD, *(f"word{i}" for i in range(vocabulary - 3)), START, END]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": PAD}))


def target_modules(unet: nn.Module) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for name, _ in unet.named_parameters():
        if "bias" in name or "norm" in name or not any(pattern in name for pattern in PATTERNS):
            continue
        down, up = "down_blocks" in name or "conv_in" in name, "up_blocks" in name or "conv_out" in name
        found["encoder" if down else "decoder" if up else "others"].append(name.replace(".weight", ""))
    return found


def lora_config(saved: dict, part: str, kind: str) -> LoraConfig:
    """As the official code has it: no alpha, so peft's default."""
    targets = saved[f"unet_lora_{part}_modules_{kind}"]
    return LoraConfig(r=saved[f"lora_rank_unet_{kind}"], init_lora_weights="gaussian", target_modules=targets)


def make_lora(path: Path, sizes: Sizes = SMALL, rank_pix: int = 4, rank_sem: int = 4) -> Path:
    """Random LoRAs saved as the official `save_model` does, their tensors named by peft."""
    torch.manual_seed(2)
    with torch.device("meta"):  # names and shapes are all that is wanted of the UNet
        unet = UNet2DConditionModel(**sizes.unet)
        saved: dict = {"lora_rank_unet_pix": rank_pix, "lora_rank_unet_sem": rank_sem}
        for part, names in target_modules(unet).items():
            saved |= {f"unet_lora_{part}_modules_{kind}": list(names) for kind in ("pix", "sem")}
        for kind in ("pix", "sem"):
            for part in PARTS:
                unet.add_adapter(lora_config(saved, part, kind), adapter_name=f"default_{part}_{kind}")
    saved["state_dict_unet"] = {
        name: torch.randn(value.shape) * sizes.lora_deviation
        for name, value in unet.state_dict().items()
        if "lora" in name
    }
    torch.save(saved, path)
    return path
