"""The data that the training draws: photos unpacked and cut into crops, degraded, batched."""

import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pisa_models.data import crops, fetch
from pisa_models.data.batches import Batches, change_colours
from pisa_models.data.crops import (
    CROP,
    VALIDATION_PHOTOS,
    Job,
    crops_of,
    is_detailed,
    is_soft,
    photo_id,
    working_scales,
)
from pisa_models.data.fetch import PACKAGES, PhotoPackage, licence_lines, rcc_members, unpack_archives
from pisa_models.data.low_res import MIXTURE, faded, low_res_variant
from pisa_models.data.resample import bicubic, bicubic_matrix


@pytest.mark.parametrize("sizes", [(12, 48), (7, 28), (5, 8), (48, 12), (1, 4)])
def test_bicubic_matrix_is_pillows(sizes):
    rng = np.random.default_rng(0)
    row = rng.random((1, sizes[0]), dtype=np.float32)
    expected = np.asarray(Image.fromarray(row, "F").resize((sizes[1], 1), Image.Resampling.BICUBIC))
    assert np.allclose(row @ bicubic_matrix(*sizes).numpy().T, expected, atol=1e-5)


def test_bicubic_resamples_both_axes():
    image = torch.rand(2, 3, 6, 10)
    found = bicubic(image, 24, 40)
    plane = Image.fromarray(image[1, 2].numpy(), "F").resize((40, 24), Image.Resampling.BICUBIC)
    assert np.allclose(found[1, 2].numpy(), np.asarray(plane), atol=1e-5)


def fake_crops(cache, count=5, split="train") -> None:
    folder = cache / "crops"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, CROP // 4, CROP // 4, 3), dtype=np.uint8)
    np.save(folder / f"{split}.npy", small.repeat(4, 1).repeat(4, 2))
    np.save(folder / f"{split}-low-res.npy", small[None])


def test_batches_are_a_function_of_seed_and_step(cache):
    fake_crops(cache)
    batches = Batches("train", 3, 4, 96)
    low, high = batches.pairs(11)
    again_low, again_high = Batches("train", 3, 4, 96).pairs(11)
    assert low.shape == high.shape == (4, 3, 96, 96)
    assert torch.equal(low, again_low) and torch.equal(high, again_high)
    assert not torch.equal(high, batches.pairs(12)[1])


def test_pairs_show_the_same_place(cache):
    """Crop, turn and flip must agree between the two sizes: block means of HQ are the LR pixels."""
    fake_crops(cache)
    low, high = Batches("train", 3, 8, 96).pairs(2)
    means = torch.nn.functional.avg_pool2d(high, 4)
    inside = torch.nn.functional.avg_pool2d(low, 4)
    for a, b in zip(means, inside, strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.9


def test_colours_change_alike_within_range():
    rng = np.random.default_rng(5)
    high = torch.rand(200, 3, 8, 8) * 1.6 - 0.7
    high[:20] = high[:20].sign()  # no headroom at all
    low, changed = change_colours(high.clone(), high, rng)
    assert changed.min() >= -1 and changed.max() <= 1
    assert torch.allclose(low, changed, atol=1e-5)
    same_place = (changed - high).abs().amax((1, 2, 3)) < 1e-6
    assert (
        0.1 < same_place.float().mean() < 0.5
    )  # a quarter is neither permuted nor changed, a few permutations are none
    spread = (changed.amax(1) - changed.amin(1)).amax((1, 2))
    assert 0.05 < (spread < 1e-5).float().mean() < 0.2  # black and white
    grey = high[:, :1].expand(-1, 3, -1, -1)  # whose contrast nothing else changes
    _, changed = change_colours(grey.clone(), grey, rng)
    contrast = changed.flatten(1).std(1) / grey.flatten(1).std(1)
    assert contrast.min() > 0.59 and contrast.max() < 1.11 and contrast.std() > 0.05


def test_some_crops_are_faded_before_they_are_degraded():
    crop = np.random.default_rng(0).integers(0, 256, (CROP, CROP, 3), dtype=np.uint8)
    found = [faded(crop, "train", 1, index) for index in range(60)]
    strength = np.array([f.std() / crop.std() for f in found])
    assert 0.65 < np.mean(strength > 0.999) < 0.95 and 0.39 < strength.min() < 0.8
    assert all(np.allclose(f.mean((0, 1)), crop.mean((0, 1)), atol=0.1) for f in found)
    assert np.array_equal(found[3], faded(crop, "train", 1, 3))
    assert all(faded(crop, "validation", 1, index) is crop for index in range(60))


def test_validation_keeps_its_colours(cache):
    fake_crops(cache, split="validation")
    crops = np.load(cache / "crops" / "validation.npy")
    _, high = Batches("validation", 3, 4, CROP).pairs(0)
    means = {tuple(np.round(crop.mean((0, 1)) / 127.5 - 1, 4)) for crop in crops}
    for sample in high:
        found = sample.mean((1, 2)).numpy()
        assert min(np.abs(found - np.array(mean)).max() for mean in means) < 1e-3


def test_mixture_is_a_distribution():
    assert sum(share for _, share in MIXTURE) == pytest.approx(1)


def test_low_res_variant_is_deterministic():
    crop = np.random.default_rng(0).integers(0, 256, (CROP, CROP, 3), dtype=np.uint8)
    one, two = low_res_variant(crop, (1, 2)), low_res_variant(crop, (1, 2))
    assert one.shape == (48, 48, 3) and one.dtype == np.uint8
    assert np.array_equal(one, two)
    assert not np.array_equal(one, low_res_variant(crop, (1, 3)))


def test_flat_crops_are_dropped():
    flat = np.full((CROP, CROP, 3), 90, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, (CROP, CROP, 3), dtype=np.uint8)
    corner = flat.copy()
    corner[:48, :48] = noisy[:48, :48]
    assert is_detailed(noisy) and not is_detailed(flat) and not is_detailed(corner)


def test_textures_are_cut_at_a_coarser_scale_too():
    assert working_scales(Path("grass.jpg"), 1024, photos=False) == [0.75, 0.375]
    assert working_scales(Path("small.jpg"), 1000, photos=True) == [0.75]
    assert working_scales(Path("large.jpg"), 3000, photos=True) == [0.5, 0.35, 0.225]


def test_soft_crops_hold_structure():
    rng = np.random.default_rng(0)
    flat = np.full((CROP, CROP, 3), 90, np.uint8)
    ramp = np.broadcast_to(np.linspace(60, 130, CROP)[None, :, None], (CROP, CROP, 3)).astype(np.uint8)
    noise = np.clip(90 + rng.normal(0, 2, (CROP, CROP, 3)), 0, 255).astype(np.uint8)
    blurred = cv2.GaussianBlur(rng.normal(0, 1, (CROP, CROP)), (0, 0), 2.5)
    weave = np.repeat(np.clip(90 + blurred / blurred.std() * 5, 0, 255).astype(np.uint8)[..., None], 3, 2)
    normals = weave.copy()
    normals[..., 0], normals[..., 1], normals[..., 2] = 128, 128, 160 + weave[..., 2] // 2
    assert is_soft(weave) and not is_detailed(weave)
    assert not any(is_soft(crop) for crop in (flat, ramp, noise, normals))


def test_a_package_limits_the_crops_of_each_photo(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (CROP * 2, CROP * 2, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "coral.png"), picture)

    def count(most: int | None) -> int:
        job = Job("p/coral", tmp_path / "coral.png", PhotoPackage("p", "pictures", "CC0", "1-1", most=most))
        return len(crops_of(job, np.random.default_rng(1))[0])

    assert count(None) == 9  # every half crop
    assert count(4) == 4


def test_crops_cut_halfway_are_not_taken_for_all(cache, monkeypatch):
    fake_crops(cache)
    fake_crops(cache, split="validation")
    new = {name: [np.full((CROP, CROP, 3), 7, np.uint8)] * 2 for name in ("train", "validation")}
    save, saved = crops.save_array, []

    def break_off(path, array) -> None:
        if saved:
            raise KeyboardInterrupt
        save(path, array)
        saved.append(path.name)

    monkeypatch.setattr(crops, "save_array", break_off)
    with pytest.raises(KeyboardInterrupt):
        crops.save_split(cache / "crops", new)
    # No mark, so the command cuts again; and no low resolution of other crops.
    assert [path.name for path in (cache / "crops").iterdir()] == saved == ["validation.npy"]
    monkeypatch.undo()
    crops.save_split(cache / "crops", new)
    assert np.load(cache / "crops/train.npy").shape == (2, CROP, CROP, 3)


def test_a_package_unpacked_halfway_is_unpacked_again(cache, monkeypatch):
    package = PhotoPackage("p", "pictures", "CC0", "1-1")
    (cache / "debs").mkdir()
    (cache / "debs" / "p_1-1_all.deb").write_bytes(b"")
    monkeypatch.setattr(fetch.shutil, "which", lambda name: name)
    broken = True

    def unpack(command):
        (Path(command[3]) / "usr").mkdir(parents=True)
        (Path(command[3]) / "usr" / "one.jpg").write_bytes(b"one")
        if broken:
            raise KeyboardInterrupt
        (Path(command[3]) / "usr" / "two.jpg").write_bytes(b"two")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fetch.subprocess, "run", unpack)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(package)
    assert list(fetch.unpacked(package).iterdir()) == []
    broken = False
    fetch.fetch(package)
    assert {path.name for path in fetch.unpacked(package).rglob("*.jpg")} == {"one.jpg", "two.jpg"}
    assert [path.name for path in (cache / "raw").iterdir()] == ["p"]


def test_a_package_downloaded_halfway_is_downloaded_again(cache, monkeypatch):
    package = PhotoPackage("p", "pictures", "CC0", "1-1")
    monkeypatch.setattr(fetch.shutil, "which", lambda name: name)
    contents = [b"half", b"whole"]
    unpacked = []

    def command(words, cwd=None):
        if words[0] == "apt-get":
            (cwd / "p_1-1_all.deb").write_bytes(contents.pop(0))
            if len(contents) == 1:
                raise KeyboardInterrupt
        else:
            unpacked.append(Path(words[2]).read_bytes())
            (Path(words[3]) / "usr").mkdir(parents=True)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(fetch.subprocess, "run", command)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(package)
    fetch.fetch(package)
    assert unpacked == [b"whole"]
    assert [path.name for path in (cache / "debs").iterdir()] == ["p_1-1_all.deb"]


def test_a_damaged_package_is_said_to_be(cache, monkeypatch):
    package = PhotoPackage("p", "pictures", "CC0", "1-1")
    (cache / "debs").mkdir()
    (cache / "debs" / "p_1-1_all.deb").write_bytes(b"half")
    monkeypatch.setattr(fetch.shutil, "which", lambda name: name)
    monkeypatch.setattr(fetch.subprocess, "run", lambda words: subprocess.CompletedProcess(words, 2))
    with pytest.raises(RuntimeError, match=r"p_1-1_all\.deb; delete it"):
        fetch.fetch(package)


def rcc_file(content: bytes) -> bytes:
    """A resource file of one folder `a` with one file `b.jpg`, as Qt's `rcc` lays it out (version 3)."""

    def number(value: int, size: int = 4) -> bytes:
        return value.to_bytes(size, "big")

    names = b"".join(number(len(n), 2) + number(0) + n.encode("utf-16-be") for n in ("a", "b.jpg"))
    second = 2 + 4 + 2  # behind the name "a"
    nodes = (
        number(0) + number(2, 2) + number(1) + number(1) + bytes(8),
        number(0) + number(2, 2) + number(1) + number(2) + bytes(8),
        number(second) + number(0, 2) + number(0) + number(0) + bytes(8),
    )
    data = number(len(content)) + content
    start = 24
    head = b"qres" + number(3) + number(start + len(data) + len(names)) + number(start) + number(start + len(data))
    return head + number(0) + data + names + b"".join(nodes)


def test_archives_give_their_pictures(tmp_path):
    assert list(rcc_members(rcc_file(b"picture"))) == [("a/b.jpg", b"picture")]
    with pytest.raises(ValueError, match="no Qt resource file"):
        list(rcc_members(b"PK"))
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "one.rcc").write_bytes(rcc_file(b"picture"))
    with zipfile.ZipFile(tmp_path / "usr" / "two.pk3", "w") as archive:
        archive.writestr("rock.png", b"rock")
        archive.writestr("readme.txt", b"text")
        archive.writestr("../../outside.png", b"outside")
    unpack_archives(PhotoPackage("p", "pictures", "CC0", "1-1", archives=("*.rcc", "*.pk3")), tmp_path)
    found = {str(p.relative_to(tmp_path / "archives")): p.read_bytes() for p in tmp_path.rglob("*.*g") if p.is_file()}
    assert found == {"one/a/b.jpg": b"picture", "two/rock.png": b"rock"}


def test_sizes_of_one_photo_share_an_id(tmp_path):
    plasma, stk = PACKAGES[0], next(p for p in PACKAGES if p.name == "supertuxkart-data")
    a = tmp_path / "wallpapers/Kay/contents/images/5120x2880.png"
    b = tmp_path / "wallpapers/Kay/contents/images_dark/1080x1920.png"
    assert photo_id(plasma, a) == photo_id(plasma, b) == "plasma-workspace-wallpapers/kay"
    assert photo_id(stk, tmp_path / "abyss/rock.png") != photo_id(stk, tmp_path / "mines/rock.png")


def test_every_package_states_a_licence_and_validation_photos_name_one():
    assert len(licence_lines()) == len(PACKAGES) and all(p.licence for p in PACKAGES)
    assert {photo.split("/")[0] for photo in VALIDATION_PHOTOS} <= {p.name for p in PACKAGES if p.photos}
