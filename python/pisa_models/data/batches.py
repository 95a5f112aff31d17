"""Random training batches, a pure function of (seed, step), so that a resumed run sees the same data."""

import numpy as np
import torch
from torch import Tensor

from pisa_models.data.crops import load_crops
from pisa_models.data.low_res import faded, load_low_res
from pisa_models.data.resample import bicubic

CONTRAST = (0.6, 1.1)
MAX_SHIFT = 0.25  # of brightness, in units of [-1,1]
PALE_SHARE = 0.3  # of samples that lose a part of their colours, a third of them all: black-and-white photos
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_pixels(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 → [N,3,H,W] float32 RGB [-1,1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _turn(image: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight turns and flips of a square (H, W, 3)."""
    image = np.rot90(image, turn % 4)
    return image[:, ::-1] if turn >= 4 else image


def change_colours(low: Tensor, high: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Permute channels, fade colours, change contrast and brightness of a part of the samples, alike in both images.

    low, high: [N,3,H,W] [-1,1]. The few photos tie textures to colours and contrasts: a model that never saw
    a faint yellow weave takes it for noise. Contrast turns about the mean of the HQ sample, by 0.6 to 1.1 or
    by what leaves HQ within [-1,1]; the shift of brightness stays within the headroom that is left.
    """
    n = len(high)
    order = np.stack([rng.permutation(3) if rng.random() < 0.5 else np.arange(3) for _ in range(n)])
    order, each = torch.from_numpy(order), torch.arange(n)[:, None]
    low, high = low[each, order], high[each, order]
    pale = np.where(rng.random(n) < PALE_SHARE, np.minimum(1, rng.uniform(0, 1.5, n)), 0)
    pale = torch.from_numpy(pale).float().view(n, 1, 1, 1)
    luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
    low, high = (x + pale * ((x * luma).sum(1, keepdim=True) - x) for x in (low, high))
    flat = high.flatten(1)
    lowest, highest, mean = flat.amin(1).numpy(), flat.amax(1).numpy(), flat.mean(1).numpy()
    changed = rng.random(n) < 0.5
    contrast = np.minimum(rng.uniform(*CONTRAST, n), 2 / np.maximum(highest - lowest, 1e-3))
    lowest, highest = mean + contrast * (lowest - mean), mean + contrast * (highest - mean)
    down, up = np.maximum(-1 - lowest, -MAX_SHIFT), np.minimum(1 - highest, MAX_SHIFT)
    shift = down + rng.random(n) * (up - down)
    factor = torch.from_numpy(np.where(changed, contrast, 1.0)).float().view(n, 1, 1, 1)
    offset = torch.from_numpy(np.where(changed, mean * (1 - contrast) + shift, 0.0)).float().view(n, 1, 1, 1)
    return low * factor + offset, (high * factor + offset).clamp_(-1, 1)


class Batches:
    """`pairs(step)` gives (bicubic low-resolution, HQ) pixels."""

    def __init__(self, split: str, seed: int, batch: int, size: int):
        self.high = load_crops(split)
        self.low = load_low_res(split)
        self.split, self.seed, self.batch, self.size = split, seed, batch, size

    def pairs(self, step: int) -> tuple[Tensor, Tensor]:
        """(bicubic ×4 of the degraded crop, HQ crop), each [batch,3,size,size]; the first is not clamped.

        In training, the colours of both are changed alike; validation is left as it is.
        """
        rng = np.random.default_rng((self.seed, step))
        index = rng.integers(len(self.high), size=self.batch)
        corner = rng.integers((self.high.shape[1] - self.size) // 4 + 1, size=(self.batch, 2)) * 4
        turn = rng.integers(8, size=self.batch)
        variant = rng.integers(len(self.low), size=self.batch)
        s, high, low = self.size, [], []
        for i, v, (y, x), t in zip(index, variant, corner, turn, strict=True):
            high.append(_turn(faded(self.high[i], self.split, v, i)[y : y + s, x : x + s], t))
            low.append(_turn(self.low[v, i, y // 4 : (y + s) // 4, x // 4 : (x + s) // 4], t))
        low, high = bicubic(to_pixels(np.stack(low)), s, s), to_pixels(np.stack(high))
        return (low, high) if self.split == "validation" else change_colours(low, high, rng)
