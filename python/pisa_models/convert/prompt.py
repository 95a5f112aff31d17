"""The embedding of the empty prompt, which is all that is ever needed of the text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from pisa_models.convert.base import TEXT, Base, fill, read_config, read_weights
from pisa_models.convert.errors import ConversionError, reason

START, END = "<|startoftext|>", "<|endoftext|>"
# Saved along with CLIP's text model by some versions and not part of it.
_NOT_WEIGHTS = {"embeddings.position_ids", "text_projection.weight", "logit_scale"}


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConversionError(f"Cannot read {path} ({reason(error)}). Fetch it again.") from error
    return value if isinstance(value, dict) else {}


def _text(token: object) -> str | None:
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def prompt_ids(base: Base, length: int) -> list[int]:
    """Token ids of '' as CLIP's tokenizer pads it: start, end, then `length` − 2 times the pad token.

    Stable Diffusion 2 pads with '!', id 0, and 1 with the end token; which one is the tokenizer's to say.
    """
    folder = base.folder / "tokenizer"
    if (folder / "vocab.json").is_file():
        vocabulary = _json(folder / "vocab.json")
    elif (folder / "tokenizer.json").is_file():
        whole = _json(folder / "tokenizer.json")
        try:
            vocabulary = {t["content"]: t["id"] for t in whole.get("added_tokens", [])} | whole["model"]["vocab"]
        except (AttributeError, KeyError, TypeError) as error:
            raise ConversionError(
                f"{folder / 'tokenizer.json'} holds no vocabulary ({reason(error)}). Fetch the tokenizer again."
            ) from error
    else:
        raise ConversionError(f"{folder} holds neither vocab.json nor tokenizer.json. Fetch the tokenizer.")
    pad = None
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if pad is None and (folder / name).is_file():
            pad = _text(_json(folder / name).get("pad_token"))
    if pad is None:
        raise ConversionError(
            f"{folder} names no pad_token: neither special_tokens_map.json nor tokenizer_config.json does. "
            "Fetch the tokenizer again."
        )
    absent = [token for token in (START, END, pad) if not isinstance(vocabulary.get(token), int)]
    if absent:
        raise ConversionError(f"The vocabulary in {folder} lacks {', '.join(absent)}. Fetch the tokenizer again.")
    return [vocabulary[START], vocabulary[END]] + [vocabulary[pad]] * (length - 2)


def empty_prompt(base: Base) -> Tensor:
    """[length, width] float32, the last hidden state for the empty prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, logging

    logging.set_verbosity_error()
    folder = base.folder / "text_encoder"
    try:
        config = CLIPTextConfig.from_dict(read_config(folder / "config.json"))
        with torch.device("meta"):
            encoder = CLIPTextModel(config)
    except ConversionError:
        raise
    except Exception as error:  # whatever a constructor says about sizes that do not go together
        raise ConversionError(f"{folder / 'config.json'} makes no CLIP text model ({reason(error)}).") from error
    prefix = "" if any(name.startswith("text_model.") for name in encoder.state_dict()) else "text_model."
    tensors = {name.removeprefix(prefix): value for name, value in read_weights(folder, TEXT).items()}
    fill(encoder, {name: value for name, value in tensors.items() if name not in _NOT_WEIGHTS}, folder)
    for module in encoder.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            # A buffer that is not saved, so it is still without values.
            module.position_ids = torch.arange(config.max_position_embeddings)[None]
    ids = prompt_ids(base, config.max_position_embeddings)
    if max(ids) >= config.vocab_size:
        raise ConversionError(
            f"Token {max(ids)} of {base.folder / 'tokenizer'} is beyond vocab_size {config.vocab_size} of {folder}. "
            "Fetch tokenizer and text encoder of one model."
        )
    with torch.no_grad():
        return encoder(input_ids=torch.tensor([ids]))[0][0]
