"""How much memory a tile takes, and which tiles fit devices of several sizes: arithmetic, written into the manifest.

A run holds its largest tensor several times: in a residual block in float32 four times (the block's input, kept for
the sum; the normalised values; their sigmoid; the product), in float16 five times, since normalisation is computed
in float32 (the input, and two tensors of twice its size). The UNet's skips are held besides. Attention never holds
its matrix, and what cuDNN takes to work in is not counted: it is part of the fifth of a device that is left free.

ONNX Runtime's arena on a GPU grows by regions that double, so it may hold twice what is live, and each session has its
own. A strip of a larger image is one more run, of a session of its own, beside those that keep their memory.

docs/models.md has the table and says what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

# Devices, in units of 10⁹ bytes, and what models may take of them (src/worker/device-memory.ts has the same share).
DEVICES = (6, 12, 24, 80)
SHARE = 0.8
# What an arena holds of what is live (src/pipeline/bundle-memory.ts has the same factor).
ARENA = 2
COPIES = {"float32": 4, "float16": 5}
BYTES = {"float32": 4, "float16": 2}
# Beyond these a larger tile saves little: the UNet's is the official code's, the others' are images of 2048².
LARGEST = {"encoder": 256, "unet": 96, "decoder": 256}
BATCH = {"encoder": 1, "unet": 2, "decoder": 1}


def _vae_elements(widths: list[int], decoder: bool) -> int:
    """Values of the largest tensor for each latent cell."""
    last = len(widths) - 1
    # Level 0 has the image's resolution. A level of the decoder begins with the channels of the one before.
    level_widths = [widths[min(level + 1, last)] if decoder else width for level, width in enumerate(widths)]
    return max(width * 4 ** (last - level) for level, width in enumerate(level_widths))


def _unet_elements(widths: list[int], layers: int) -> tuple[int, int]:
    """Values of the largest tensor, and of all skips, for each latent cell."""
    # A transformer's gated feed-forward is 2 × 4 times as wide as its block; level 0 is the finest.
    largest = 8 * widths[0]
    skips = widths[0] + sum(layers * width / 4**level for level, width in enumerate(widths))
    skips += sum(width / 4 ** (level + 1) for level, width in enumerate(widths[:-1]))
    return largest, round(skips)


def bytes_per_cell(vae: Mapping, unet: Mapping, dtypes: Mapping[str, str]) -> dict[str, int]:
    """Memory of one run for each latent cell of its tile, batch 1, from the two `config.json`.

    `dtypes`: float32 or float16 for each of encoder, unet, decoder.
    """
    layers = unet["layers_per_block"]  # one number, or one for each level
    deepest = layers if isinstance(layers, int) else max(layers)
    largest, skips = _unet_elements(list(unet["block_out_channels"]), deepest)
    elements = {
        "encoder": (_vae_elements(list(vae["block_out_channels"]), False), 0),
        "unet": (largest, skips),
        "decoder": (_vae_elements(list(vae["block_out_channels"]), True), 0),
    }
    return {
        name: BYTES[dtypes[name]] * (COPIES[dtypes[name]] * of_run + kept) for name, (of_run, kept) in elements.items()
    }


def live_bytes(tiles: Mapping[str, int], cells: Mapping[str, int]) -> int:
    """Activations of a tile of each graph, and of a strip: as many cells as the larger of encoder's and decoder's."""
    runs = {name: cells[name] * BATCH[name] * tiles[name] ** 2 for name in BATCH}
    return sum(runs.values()) + max(runs["encoder"], runs["decoder"])


def _tile(name: str, room: float, cell: int, step: int) -> int:
    """The largest tile of `room` bytes, a multiple of `step`."""
    fitting = int((room / (cell * BATCH[name])) ** 0.5) // step * step
    return min(fitting, LARGEST[name] // step * step)


def tiles_by_memory(weights: int, cells: Mapping[str, int], least: Mapping[str, int], step: int) -> list[dict]:
    """The manifest's `tilesByMemory`: a row for each of DEVICES that has room.

    weights: bytes of all files; cells: `bytes_per_cell`; least: smallest tile that advances, for each graph.
    The UNet gets up to a third of what the weights leave, encoder, decoder and a strip a third of the rest each: each
    session keeps the memory of its largest run. Where that is too little for one of them, all get the least.
    """
    rows = []
    for gigabytes in DEVICES:
        room = (SHARE * gigabytes * 1e9 - weights) / ARENA
        if room <= 0:
            continue
        tiles = {"unet": _tile("unet", room / 3, cells["unet"], step)}
        rest = (room - cells["unet"] * BATCH["unet"] * tiles["unet"] ** 2) / 3
        for name in ("encoder", "decoder"):
            tiles[name] = _tile(name, rest, cells[name], step)
        if any(tiles[name] < least[name] for name in tiles):
            tiles = dict(least)
        if live_bytes(tiles, cells) <= room:
            rows.append({"gigabytes": gigabytes} | {name: tiles[name] for name in ("encoder", "unet", "decoder")})
    return rows
