"""The arithmetic of tile memory: against numbers worked out by hand, and against what a run really takes."""

import subprocess
import sys

import torch
from diffusers import AutoencoderKL

from pisa_models.convert import onnx_file, tile_memory, vae

VAE = {"block_out_channels": [128, 256, 512, 512]}
UNET = {"block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
HALF = dict.fromkeys(("encoder", "unet", "decoder"), "float16")
SINGLE = dict.fromkeys(("encoder", "unet", "decoder"), "float32")
# Of Stable Diffusion 2.1 in float16: UNet, and the autoencoder whole and in stages (docs/models.md).
WEIGHTS = 1_650_000_000 + 2 * 167_000_000


def test_stable_diffusion_by_hand():
    # Decoder: 256 channels × 64 pixels = 16384 values, 64 kB in float32, four times. Encoder: 128 × 64.
    # UNet: 8 × 320 = 2560; skips 320 + 2·320 + 2·160 + 2·80 + 2·20, and 80 + 40 + 20 behind the downsamplers.
    cells = tile_memory.bytes_per_cell(VAE, UNET, SINGLE)
    assert cells == {"encoder": 4 * 4 * 8192, "unet": 4 * (4 * 2560 + 1620), "decoder": 4 * 4 * 16384}
    cells = tile_memory.bytes_per_cell(VAE, UNET, HALF)
    assert cells == {"encoder": 2 * 5 * 8192, "unet": 2 * (5 * 2560 + 1620), "decoder": 2 * 5 * 16384}
    mixed = tile_memory.bytes_per_cell(VAE, UNET, HALF | {"decoder": "float32"})
    assert mixed == cells | {"decoder": 4 * 4 * 16384}


def test_each_device_gets_the_largest_tiles_that_fit():
    cells = tile_memory.bytes_per_cell(VAE, UNET, HALF)
    least = {"encoder": 48, "unet": 48, "decoder": 56}
    rows = tile_memory.tiles_by_memory(WEIGHTS, cells, least, 8)
    assert [row["gigabytes"] for row in rows] == [6, 12, 24, 80]

    def taken(row):
        runs = [cells[name] * tile_memory.BATCH[name] * row[name] ** 2 for name in ("encoder", "unet", "decoder")]
        return WEIGHTS + 2 * (sum(runs) + max(runs[0], runs[2]))

    for before, row in zip([None, *rows], rows, strict=False):
        room = tile_memory.SHARE * row["gigabytes"] * 1e9
        assert taken(row) <= room
        for name in cells:
            assert row[name] % 8 == 0 and least[name] <= row[name] <= tile_memory.LARGEST[name]
            assert before is None or row[name] >= before[name]
        # One step more for both halves of the autoencoder would not fit, or is not worth it.
        more = row | {name: row[name] + 8 for name in ("encoder", "decoder")}
        largest = all(row[name] == tile_memory.LARGEST[name] for name in ("encoder", "decoder"))
        assert largest or taken(more) > room or row["encoder"] == tile_memory.LARGEST["encoder"]


def test_a_device_without_room_gets_no_row():
    cells = tile_memory.bytes_per_cell(VAE, UNET, HALF)
    least = {"encoder": 48, "unet": 48, "decoder": 56}
    assert [row["gigabytes"] for row in tile_memory.tiles_by_memory(5_000_000_000, cells, least, 8)] == [12, 24, 80]
    assert tile_memory.tiles_by_memory(100_000_000_000, cells, least, 8) == []


RUN = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 3, 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"latents": numpy.zeros((1, 4, int(sys.argv[2]), int(sys.argv[2])), "float32")})
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * int(peak.split()[1]))
"""


def test_a_decoder_takes_about_what_the_arithmetic_says(tmp_path):
    widths = [32, 64]
    config = {"block_out_channels": widths, "norm_num_groups": 8, "latent_channels": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    decoder = vae.ServedDecoder(AutoencoderKL(**config, **kinds))
    path = tmp_path / "decoder.onnx"
    onnx_file.write(decoder, {"latents": torch.zeros(1, 4, 8, 8)}, "pixels", path, onnx_file.INLINE_LIMIT)

    def peak(tile: int) -> int:
        run = subprocess.run([sys.executable, "-c", RUN, path, str(tile)], capture_output=True, text=True, check=True)
        return int(run.stdout)

    small, large = 64, 192
    measured = (peak(large) - peak(small)) / (large**2 - small**2)
    cell = tile_memory.bytes_per_cell(config, UNET, SINGLE)["decoder"]
    assert 0.6 < measured / cell < 1.4
