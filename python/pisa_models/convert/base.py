"""Reads Stable Diffusion in diffusers layout: configs, then weights that must fit them name by name.

Nothing is loaded by `from_pretrained`, which fills what is missing with random numbers and only warns.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pisa_models.convert.errors import ConversionError, mismatch, reason

LAYOUT = "unet/, vae/, text_encoder/ and tokenizer/, as Stable Diffusion 2.1-base has them in diffusers layout"
SCHEDULER = Path("scheduler", "scheduler_config.json")
_PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
DIFFUSION = ("diffusion_pytorch_model", "diffusion_pytorch_model")
TEXT = ("model", "pytorch_model")

# The values of these keys are all that the served networks know; any other would change the arithmetic.
_UNET_KNOWN = {
    "center_input_sample": (False,),
    "only_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "attention_type": ("default",),
    "cross_attention_norm": (None,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
}
_UNET_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
_VAE_KNOWN = {"shift_factor": (None, 0, 0.0), "latents_mean": (None,), "latents_std": (None,), "in_channels": (3,)}
_VAE_BLOCKS = {"DownEncoderBlock2D", "UpDecoderBlock2D"}
# Names of the attention layers in autoencoders saved before diffusers 0.13.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass
class Base:
    """A folder in diffusers layout, and what to call it."""

    folder: Path
    name: str


def open_base(base: str) -> Base:
    """`base` is a folder or the id of a model on the Hugging Face hub, whose files are fetched.

    Raises ConversionError when it is neither, or the layout is another one.
    """
    if not base.strip():
        raise ConversionError(f"No base model is given. Give --base (make: BASE=…) a folder with {LAYOUT}.")
    folder = Path(base).expanduser()
    name = folder.resolve().name
    if not folder.is_dir():
        if folder.exists() or base.startswith((".", "/", "~")) or base.count("/") != 1:
            raise ConversionError(f"{base} is no folder. Give a folder with {LAYOUT}, or the id of a hub model.")
        folder, name = _fetch(base), base
    missing = [part for part in ("unet", "vae", "text_encoder") if not (folder / part / "config.json").is_file()]
    if missing:
        lacking = ", ".join(f"{part}/config.json" for part in missing)
        raise ConversionError(f"{base} lacks {lacking}. Give a folder with {LAYOUT}.")
    _check_prediction(folder)
    return Base(folder, name)


def _check_prediction(folder: Path) -> None:
    """What the UNet was trained to predict is told by the scheduler's config alone; shapes do not differ."""
    path = folder / SCHEDULER
    kind = read_config(path).get("prediction_type", "epsilon") if path.is_file() else "epsilon"
    if kind != "epsilon":
        raise ConversionError(
            f"The UNet predicts {kind!r}, says {path}, and PiSA-SR's LoRAs are of one that predicts 'epsilon'. "
            "Give Stable Diffusion 2.1-base (512 pixels), not 2.1."
        )


def _fetch(model_id: str) -> Path:
    from huggingface_hub import snapshot_download  # imported here: only a hub id needs the network

    def patterns(ending: str) -> list[str]:
        # A hub model often has the same weights in several formats; a single one of them is fetched.
        whole = [f"{part}/*{stem}.{ending}" for part, stem in _PARTS.items()]
        shards = [f"{part}/*{stem}-*-of-*.{ending}" for part, stem in _PARTS.items()]
        indices = [f"{name}.index.json" for name in whole]
        return ["*/config.json", str(SCHEDULER), "tokenizer/*", *whole, *shards, *indices]

    try:
        folder = Path(snapshot_download(model_id, allow_patterns=patterns("safetensors")))
        if not all(list((folder / part).glob("*.safetensors")) for part in _PARTS):
            folder = Path(snapshot_download(model_id, allow_patterns=patterns("bin")))
        return folder
    except Exception as error:  # every kind of network, name and permission fault, of several libraries
        raise ConversionError(
            f"{model_id} is no folder, and the hub did not give it ({reason(error)}). "
            f"Download the model yourself and give its folder: {LAYOUT}."
        ) from error


def read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConversionError(f"Cannot read {path} ({reason(error)}). Fetch it again.") from error
    if not isinstance(config, dict):
        raise ConversionError(f"Expected an object in {path} but received {type(config).__name__}. Fetch it again.")
    return config


def _weight_files(folder: Path, stems: tuple[str, str]) -> list[Path]:
    """One file or several shards; `stems` are the names in safetensors and in PyTorch's own format."""
    safe, pickled = stems
    names = [f"{safe}.safetensors", f"{pickled}.bin", f"{safe}.fp16.safetensors", f"{pickled}.fp16.bin"]
    for name in names:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                return [folder / shard for shard in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
            except (ValueError, KeyError, AttributeError) as error:
                raise ConversionError(f"Cannot read {index} ({reason(error)}). Fetch it again.") from error
    raise ConversionError(f"{folder} holds no weights. Fetch one of {', '.join(names)} into it.")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of one file, mapped into memory where the format allows it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConversionError(f"{path} is missing. Fetch it again.") from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise ConversionError(f"Cannot read {path} ({reason(error)}). It is damaged: fetch it again.") from error
    except Exception as error:  # pickle.UnpicklingError and what hostile pickles raise
        raise ConversionError(
            f"{path} is no plain file of weights ({reason(error)}), and code in it is not run. Fetch it again."
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConversionError(f"{path} is no dictionary of tensors. Fetch it again.")
    return loaded


def read_weights(folder: Path, stems: tuple[str, str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder, stems):
        tensors.update(_read_tensors(path))
    return tensors


def fill(module: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Give `module`, made on the meta device, its weights: the same names and shapes, as float32.

    Raises ConversionError listing what is missing, left over and of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    other = [
        f"{name} {list(shapes[name])} instead of {list(wanted[name])}"
        for name in wanted.keys() & shapes.keys()
        if shapes[name] != wanted[name]
    ]
    lists = {
        "missing": wanted.keys() - shapes.keys(),
        "left over": shapes.keys() - wanted.keys(),
        "of another shape": other,
    }
    error = mismatch(f"The weights in {where} do not fit its config.json", lists, "Fetch the folder again.")
    if error:
        raise error
    module.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    module.eval().requires_grad_(False)


def _check_known(config: dict, known: dict[str, tuple], blocks: set[str], where: Path) -> None:
    faults = [
        f"{key} = {config[key]!r}" for key, values in known.items() if key in config and config[key] not in values
    ]
    for key in ("down_block_types", "up_block_types"):
        faults += [f"{key} has {kind}" for kind in config.get(key) or () if kind not in blocks]
    if faults:
        raise ConversionError(
            f"{where / 'config.json'} describes another architecture: {'; '.join(faults)}. "
            "This converter knows the family of Stable Diffusion 1 and 2."
        )


def _make(kind: type, config: dict, where: Path) -> nn.Module:
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    try:
        with torch.device("meta"):
            return kind.from_config({key: value for key, value in config.items() if not key.startswith("_")})
    except Exception as error:  # whatever a constructor says about sizes that do not go together
        raise ConversionError(f"{where / 'config.json'} makes no {kind.__name__} ({reason(error)}).") from error


def load_unet(base: Base) -> nn.Module:
    """diffusers' UNet2DConditionModel with the base's weights, float32."""
    from diffusers import UNet2DConditionModel

    folder = base.folder / "unet"
    config = read_config(folder / "config.json")
    _check_known(config, _UNET_KNOWN, _UNET_BLOCKS, folder)
    unet = _make(UNet2DConditionModel, config, folder)
    fill(unet, read_weights(folder, DIFFUSION), folder)
    return unet


def _renamed(name: str) -> str:
    """Today's name of an autoencoder's tensor."""
    parts = name.split(".")
    if "attentions" in parts and len(parts) > 2 and parts[-2] in _OLD_ATTENTION:
        parts[-2] = _OLD_ATTENTION[parts[-2]]
    return ".".join(parts)


def load_vae(base: Base) -> nn.Module:
    """diffusers' AutoencoderKL with the base's weights, float32."""
    from diffusers import AutoencoderKL

    folder = base.folder / "vae"
    config = read_config(folder / "config.json")
    _check_known(config, _VAE_KNOWN, _VAE_BLOCKS, folder)
    vae = _make(AutoencoderKL, config, folder)
    scaling = vae.config.scaling_factor
    if not isinstance(scaling, int | float) or not scaling > 0:
        raise ConversionError(
            f"{folder / 'config.json'} has scaling_factor {scaling!r}, which is no positive number. "
            "Fetch the folder again; it is 0.18215 for Stable Diffusion 1 and 2."
        )
    wanted = vae.state_dict()
    tensors = {_renamed(name): value for name, value in read_weights(folder, DIFFUSION).items()}
    for name, value in tensors.items():
        # Older autoencoders hold the attention's linear layers as 1 x 1 convolutions.
        if name in wanted and wanted[name].dim() == 2 and value.dim() == 4 and value.shape[2:] == (1, 1):
            tensors[name] = value[:, :, 0, 0]
    fill(vae, tensors, folder)
    return vae
