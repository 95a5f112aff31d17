"""Reads `pisa_sr.pkl`, what PiSA-SR's training saves: a pixel and a semantic LoRA of the UNet.

Keys: `unet_lora_{encoder,decoder,others}_modules_{pix,sem}`, lists of module names;
`lora_rank_unet_{pix,sem}`; `state_dict_unet`, tensors such as `conv_in.lora_A.default_encoder_pix.weight`.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pisa_models.convert.errors import ConversionError, mismatch, reason

PIX, SEM = "pix", "sem"
PARTS = ("encoder", "decoder", "others")
ALPHA = 8  # peft's default lora_alpha, which the official code leaves alone
_ADVICE = "Give the pisa_sr.pkl that belongs to this base model."


@dataclass
class Adapter:
    """ΔW = scaling · up · down for one module."""

    down: Tensor
    """[rank, in] or [rank, in, k, k]"""
    up: Tensor
    """[out, rank]"""
    scaling: float

    def delta(self) -> Tensor:
        """float64, of the weight's shape: scaling · Σ_r up[o,r] · down[r,…]."""
        product = self.up.double() @ self.down.double().flatten(1)
        return self.scaling * product.reshape(len(self.up), *self.down.shape[1:])


@dataclass
class Adapters:
    """By module name."""

    pix: dict[str, Adapter]
    sem: dict[str, Adapter]


def _load(path: Path) -> dict:
    if path.is_dir():
        raise ConversionError(f"{path} is a folder. Give --lora (make: LORA=…) the path of pisa_sr.pkl.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConversionError(f"{path} is missing. Give the path of pisa_sr.pkl.") from error
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} holds something other than plain weights ({reason(error)}); code in it is not run. "
            "Fetch pisa_sr.pkl from its authors again."
        ) from error
    except Exception as error:  # truncated, empty, a folder, no pickle at all: torch raises many kinds
        raise ConversionError(f"Cannot read {path} ({reason(error)}). It is damaged: fetch it again.") from error
    wanted = {f"unet_lora_{part}_modules_{kind}" for part in PARTS for kind in (PIX, SEM)}
    wanted |= {f"lora_rank_unet_{kind}" for kind in (PIX, SEM)} | {"state_dict_unet"}
    if not isinstance(loaded, dict):
        raise ConversionError(f"{path} is no dictionary as PiSA-SR saves it. {_ADVICE}")
    names = {str(key) for key in loaded}
    error = mismatch(
        f"{path} is no checkpoint of PiSA-SR", {"missing": wanted - names, "left over": names - wanted}, _ADVICE
    )
    if error:
        raise error
    tensors = loaded["state_dict_unet"]
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ConversionError(f"state_dict_unet in {path} is no dictionary of tensors. {_ADVICE}")
    return loaded


def _rank(loaded: dict, kind: str, path: Path) -> int:
    rank = loaded[f"lora_rank_unet_{kind}"]
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ConversionError(f"Expected a positive lora_rank_unet_{kind} in {path} but received {rank!r}. {_ADVICE}")
    return rank


def _targets(loaded: dict, kind: str, path: Path) -> dict[str, str]:
    """Module name → adapter name, e.g. `conv_in` → `default_encoder_pix`."""
    targets: dict[str, str] = {}
    for part in PARTS:
        key = f"unet_lora_{part}_modules_{kind}"
        names = loaded[key]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ConversionError(f"{key} in {path} is no list of module names. {_ADVICE}")
        twice = [name for name in names if name in targets or names.count(name) > 1]
        if twice:
            raise ConversionError(f"{path} lists modules twice for {kind}: {', '.join(sorted(set(twice)))}. {_ADVICE}")
        targets |= dict.fromkeys(names, f"default_{part}_{kind}")
    if not targets:
        raise ConversionError(f"{path} lists no module for {kind}. {_ADVICE}")
    return targets


def _shapes(weight: Tensor, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ones = (1,) * (weight.dim() - 2)
    return (rank, *weight.shape[1:]), (weight.shape[0], rank, *ones)


def read_adapters(path: Path, unet: nn.Module) -> Adapters:
    """Both LoRAs of the file, which must fit `unet` (with its original module names) completely.

    Raises ConversionError listing modules the UNet does not have, tensors missing, left over or misshapen.
    """
    loaded = _load(path)
    tensors = dict(loaded["state_dict_unet"])
    modules = {name: m for name, m in unet.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    result: dict[str, dict[str, Adapter]] = {}
    unknown, missing, misshapen, used = set(), set(), set(), set()
    for kind in (PIX, SEM):
        rank = _rank(loaded, kind, path)
        result[kind] = {}
        for name, adapter in _targets(loaded, kind, path).items():
            keys = [f"{name}.lora_{side}.{adapter}.weight" for side in "AB"]
            used |= set(keys)
            if name not in modules:
                unknown.add(name)
                continue
            absent = {key for key in keys if key not in tensors}
            missing |= absent
            if absent:
                continue
            shapes = _shapes(modules[name].weight, rank)
            wrong = [
                f"{key} {list(tensors[key].shape)} instead of {list(shape)}"
                for key, shape in zip(keys, shapes, strict=True)
                if tuple(tensors[key].shape) != shape
            ]
            misshapen |= set(wrong)
            if not wrong:
                down, up = (tensors[key].float() for key in keys)
                result[kind][name] = Adapter(down, up.flatten(1), ALPHA / rank)
    lists = {
        "modules that the UNet does not have": unknown,
        "missing": missing,
        "left over": tensors.keys() - used,
        "of another shape": misshapen,
    }
    error = mismatch(f"The LoRAs in {path} do not fit the UNet", lists, _ADVICE)
    if error:
        raise error
    return Adapters(result[PIX], result[SEM])
