"""Random training batches, a pure function of (seed, step), so that a resumed run sees the same data."""

import numpy as np
import torch
from torch import Tensor

from pisa_models.data.crops import load_crops
from pisa_models.data.low_res import load_low_res
from pisa_models.data.resample import bicubic


def to_pixels(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 → [N,3,H,W] float32 RGB [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _turn(image: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight turns and flips of a square (H, W, 3)."""
    image = np.rot90(image, turn % 4)
    return image[:, ::-1] if turn >= 4 else image


class Batches:
    """`crops(step)` gives HQ pixels; `pairs(step)` gives (bicubic low-resolution, HQ) pixels."""

    def __init__(self, split: str, seed: int, batch: int, size: int, low_res: bool):
        self.high = load_crops(split)
        self.low = load_low_res(split) if low_res else None
        self.split, self.seed, self.batch, self.size = split, seed, batch, size

    def _choose(self, step: int):
        rng = np.random.default_rng((self.seed, step))
        index = rng.integers(len(self.high), size=self.batch)
        corner = rng.integers((self.high.shape[1] - self.size) // 4 + 1, size=(self.batch, 2)) * 4
        return rng, index, corner, rng.integers(8, size=self.batch)

    def crops(self, step: int) -> Tensor:
        """[batch,3,size,size] [-1,1], randomly placed and turned."""
        _, index, corner, turn = self._choose(step)
        s = self.size
        return to_pixels(
            np.stack(
                [_turn(self.high[i, y : y + s, x : x + s], t) for i, (y, x), t in zip(index, corner, turn, strict=True)]
            )
        )

    def pairs(self, step: int) -> tuple[Tensor, Tensor]:
        """(bicubic ×4 of the degraded crop, HQ crop), each [batch,3,size,size]; the first is not clamped."""
        rng, index, corner, turn = self._choose(step)
        variant = rng.integers(len(self.low), size=self.batch)
        s, high, low = self.size, [], []
        for i, v, (y, x), t in zip(index, variant, corner, turn, strict=True):
            high.append(_turn(self.high[i, y : y + s, x : x + s], t))
            low.append(_turn(self.low[v, i, y // 4 : (y + s) // 4, x // 4 : (x + s) // 4], t))
        return bicubic(to_pixels(np.stack(low)), s, s), to_pixels(np.stack(high))
