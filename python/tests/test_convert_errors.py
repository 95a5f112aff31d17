"""What the converter says when its input or the machine is at fault: one line, and no half-written bundle."""

import json
import pickle
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pisa_models.convert import base as base_module
from pisa_models.convert.__main__ import main
from pisa_models.parity.random_model import OTHER, make_base, make_lora


class Bomb:
    """A pickle with code in it; what it would run leaves a file behind."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def bomb(path: Path, mark: Path) -> Path:
    path.write_bytes(pickle.dumps({"state_dict_unet": Bomb(mark)}))
    return path


@pytest.fixture(autouse=True)
def _one_thread(_seeded):
    """Networks this small are slower on several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    base = make_base(folder / "base", OTHER)
    return base, make_lora(folder / "pisa_sr.pkl", OTHER)


@pytest.fixture
def ours(good, tmp_path):
    """A copy to damage, and where the bundle would go."""
    shutil.copytree(good[0], tmp_path / "base")
    shutil.copy(good[1], tmp_path / "pisa_sr.pkl")
    return tmp_path


def fault(folder, *more: str, base=None, lora=None) -> str:
    """Run the command, which must fail by one line and leave nothing behind; returns the line."""
    models = folder / "models"
    before = sorted(models.rglob("*")) if models.exists() else []
    arguments = ["--base", str(base or folder / "base"), "--lora", str(lora or folder / "pisa_sr.pkl")]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(models / "pisa-small"), *more])
    message = stop.value.code
    assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message
    assert message.endswith(".")  # ends with what to do
    assert (sorted(models.rglob("*")) if models.exists() else []) == before
    return message


def resave(path, change) -> None:
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


def test_a_folder_of_something_else(ours, tmp_path):
    assert "lacks unet/config.json, vae/config.json, text_encoder/config.json" in fault(ours, base=tmp_path)
    assert "is no folder" in fault(ours, base=tmp_path / "nowhere")
    assert "No base model is given" in fault(ours, base=" ")
    assert "is a folder" in fault(ours, lora=tmp_path)


def test_a_hub_that_does_not_answer(ours, monkeypatch):
    import huggingface_hub

    def refuse(*_args, **_kwargs):
        raise ConnectionError("no route to host\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    message = fault(ours, base="someone/stable-diffusion-2-1-base")
    assert "no route to host" in message and "Download the model yourself" in message


def test_a_hub_model_is_fetched_in_one_format(good, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, allow_patterns: asked.append(allow_patterns) or str(good[0])
    )
    opened = base_module.open_base("someone/a-model")
    assert opened.name == "someone/a-model" and opened.folder == good[0]
    assert len(asked) == 1 and not any(pattern.endswith(".bin") for pattern in asked[0])
    assert "scheduler/scheduler_config.json" in asked[0]


def test_missing_files(ours):
    assert "pisa_sr2.pkl is missing" in fault(ours, lora=ours / "pisa_sr2.pkl")
    vocabulary = ours / "base/tokenizer/vocab.json"
    vocabulary.unlink()
    assert "neither vocab.json nor tokenizer.json" in fault(ours)
    (ours / "base/unet/diffusion_pytorch_model.safetensors").unlink()
    message = fault(ours)
    assert "holds no weights" in message and "diffusion_pytorch_model.safetensors" in message


def test_a_missing_shard(ours):
    unet = ours / "base/unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "00001-of-00002.safetensors is missing" in fault(ours)


def test_damaged_files(ours):
    path = ours / "pisa_sr.pkl"
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        assert "It is damaged: fetch it again" in fault(ours) or "plain weights" in fault(ours)
    path.write_bytes(whole)
    for part in ("vae", "unet"):
        weights = ours / f"base/{part}/diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-50])
        assert "It is damaged" in fault(ours)
    (ours / "base/unet/config.json").write_text('{"block_out')
    assert "Cannot read" in fault(ours) and "config.json" in fault(ours)


def test_a_pickle_with_code_is_not_run(ours):
    mark = ours / "ran"
    message = fault(ours, lora=bomb(ours / "bomb.pkl", mark))
    assert "code in it is not run" in message
    weights = ours / "base/vae"
    (weights / "diffusion_pytorch_model.safetensors").unlink()
    bomb(weights / "diffusion_pytorch_model.bin", mark)
    assert "code in it is not run" in fault(ours)
    assert not mark.exists()


def test_another_kind_of_checkpoint(ours):
    torch.save({"state_dict": {}}, ours / "other.pkl")
    message = fault(ours, lora=ours / "other.pkl")
    assert "missing 9: lora_rank_unet_pix" in message and "left over 1: state_dict" in message
    torch.save([1, 2], ours / "list.pkl")
    assert "no dictionary" in fault(ours, lora=ours / "list.pkl")


def test_the_lora_of_another_model(ours, tmp_path):
    other = replace(OTHER, unet=OTHER.unet | {"block_out_channels": (16, 16), "layers_per_block": 3})
    lora = make_lora(tmp_path / "other.pkl", other)
    message = fault(ours, lora=lora)
    assert "modules that the UNet does not have" in message and "down_blocks.0.attentions.2" in message
    assert "of another shape" in message and "instead of" in message


def test_names_missing_and_left_over_in_the_lora(ours):
    def change(saved) -> None:
        tensors = saved["state_dict_unet"]
        old = "conv_out.lora_A.default_decoder_pix.weight"
        tensors[old.replace("lora_A", "lora_C")] = tensors.pop(old)

    resave(ours / "pisa_sr.pkl", change)
    message = fault(ours)
    assert "missing 1: conv_out.lora_A.default_decoder_pix.weight" in message
    assert "left over 1: conv_out.lora_C.default_decoder_pix.weight" in message


def test_a_module_that_the_lists_do_not_name(ours):
    """Its tensors would otherwise be dropped without a word."""
    resave(ours / "pisa_sr.pkl", lambda saved: saved["unet_lora_encoder_modules_sem"].remove("conv_in"))
    assert "left over 2: conv_in.lora_A.default_encoder_sem.weight, conv_in.lora_B" in fault(ours)


def test_a_wrong_rank_is_not_taken_from_the_tensors(ours):
    resave(ours / "pisa_sr.pkl", lambda saved: saved.update(lora_rank_unet_pix=8))
    assert "of another shape" in fault(ours)
    resave(ours / "pisa_sr.pkl", lambda saved: saved.update(lora_rank_unet_pix=0))
    assert "Expected a positive lora_rank_unet_pix" in fault(ours)


def test_weights_that_do_not_fit_their_config(ours):
    path = ours / "base/unet/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "layers_per_block": 1}))
    assert "left over" in fault(ours) and "config.json" in fault(ours)
    path.write_text(json.dumps({**config, "layers_per_block": 3}))
    assert "missing" in fault(ours)
    path.write_text(json.dumps({**config, "class_embed_type": "timestep"}))
    assert "another architecture: class_embed_type = 'timestep'" in fault(ours)


def test_a_base_that_predicts_something_else(ours):
    """Stable Diffusion 2.1 at 768 pixels has the shapes of 2.1-base."""
    path = ours / "base/scheduler/scheduler_config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"prediction_type": "v_prediction"}))
    message = fault(ours)
    assert "predicts 'v_prediction'" in message and "Stable Diffusion 2.1-base" in message
    path.write_text("{")
    assert "Cannot read" in fault(ours)
    for config in ({"prediction_type": "epsilon"}, {}):  # Stable Diffusion 1's names none
        path.write_text(json.dumps(config))
        assert base_module.open_base(str(ours / "base")).folder == ours / "base"


def test_parts_of_different_models(ours):
    path = ours / "base/tokenizer/vocab.json"
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps({**vocabulary, "<|endoftext|>": 49407}))
    assert "Token 49407" in fault(ours)


def test_a_tokenizer_without_a_vocabulary(ours):
    folder = ours / "base/tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<|endoftext|>": "2"}))
    assert "lacks <|endoftext|>" in fault(ours)
    (folder / "vocab.json").unlink()
    for whole in ({}, {"model": {"vocab": [["a", 0]]}}, {"added_tokens": [1], "model": {"vocab": {}}}):
        (folder / "tokenizer.json").write_text(json.dumps(whole))
        assert "tokenizer.json holds no vocabulary" in fault(ours)


@pytest.mark.parametrize("scaling", [None, "0.18", 0])
def test_an_autoencoder_without_a_scaling_factor(ours, scaling):
    path = ours / "base/vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scaling_factor": scaling}))
    assert f"scaling_factor {scaling!r}, which is no positive number" in fault(ours)


def test_places_where_a_bundle_cannot_go(ours):
    message = fault(ours, "--out", str(ours / "models/Pisa SR"))
    assert "Choose another --out" in message
    out = ours / "models/pisa-small"
    out.mkdir(parents=True)
    (out / "precious.txt").write_text("mine")
    assert "exists" in fault(ours)
    assert "is no bundle, so it is not replaced" in fault(ours, "--replace")
    assert (out / "precious.txt").read_text() == "mine"
    (ours / "file").write_text("")
    assert "Cannot write" in fault(ours, "--out", str(ours / "file/pisa-small"))


def test_a_full_disk_leaves_the_old_bundle(ours):
    """A limit on the size of files stands in for the disk's end; both are errors of write."""
    out = ours / "models/pisa-small"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        message = fault(ours, "--replace")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "is full" in message and "Free space" in message
    assert (out / "manifest.json").read_text() == "{}"


def test_too_little_space_is_said_before_the_work(ours, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert "GB are free" in fault(ours)


def test_a_bundle_is_replaced_when_the_new_one_is_ready(ours, capsys):
    out = ours / "models/pisa-small"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("{}")
    arguments = ["--base", str(ours / "base"), "--lora", str(ours / "pisa_sr.pkl"), "--out", str(out)]
    main([*arguments, "--replace", "--unet-tile", "64", "--dtype", "float32"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["name"] == "pisa-small" and manifest["graphs"]["unet"]["tileLatents"] == 64
    assert [path.name for path in out.parent.iterdir()] == ["pisa-small"]
    assert "MB in 5 files" in capsys.readouterr().out
