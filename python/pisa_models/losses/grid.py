"""The 4-pixel grid that decoders of stride-4 latents tend to paint: a score and a penalty."""

import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def high_pass(pixels: Tensor) -> Tensor:
    """Luma minus its 3 x 3 mean, [N,3,H,W] → [N,1,H−2,W−2]."""
    weight = pixels.new_tensor(_LUMA).view(1, 3, 1, 1)
    luma = F.conv2d(pixels, weight)
    return luma[:, :, 1:-1, 1:-1] - F.avg_pool2d(luma, 3, stride=1)


def phase_means(image: Tensor, period: int = 4) -> Tensor:
    """Means over the phases (x mod period, y mod period), [N,1,H,W] → [N, period²]."""
    n, _, h, w = image.shape
    image = image[:, 0, : h // period * period, : w // period * period]
    return image.reshape(n, h // period, period, w // period, period).mean((1, 3)).flatten(1)


def grid_score(pixels: Tensor) -> Tensor:
    """Standard deviation of the 16 phase means of the high-pass over its standard deviation, [N,3,H,W] → [N].

    Photos have 0.006–0.02 at 512 px; a visible grid has 0.05 and more.
    """
    detail = high_pass(pixels)
    return phase_means(detail).std(1, unbiased=False) / detail.flatten(1).std(1, unbiased=False).clamp_min(1e-6)


def local_grid_penalty(pixels: Tensor, target: Tensor, window: int = 4) -> Tensor:
    """`grid_penalty` within windows of `window` x `window` cells of 4 px, averaged over them; [N,3,H,W] → [N].

    Along an edge the pattern's sign is the edge's: over a whole picture it cancels, and is seen all the same.
    """
    added = high_pass(pixels) - high_pass(target)
    height, width = (side // 4 * 4 for side in added.shape[2:])
    phases = F.pixel_unshuffle(added[:, :, :height, :width], 4)  # (N, 16, h, w)
    means = F.avg_pool2d(phases, window, window // 2)
    means = means - means.mean(1, keepdim=True)
    chance = F.avg_pool2d(phases.square().mean(1, keepdim=True), window, window // 2) / window**2
    excess = F.relu(means.square().mean(1, keepdim=True) - 2 * chance).mean((1, 2, 3))
    return excess / high_pass(target).square().mean((1, 2, 3)).clamp_min(1e-4)


def grid_penalty(pixels: Tensor, target: Tensor) -> Tensor:
    """Squared grid score of what the output adds to the target, as far as chance does not explain it; → [N].

    A pattern locked to the grid has a phase mean of its full height, any other difference one of its deviation
    over √cells. Without the latter's allowance the penalty would fall on all invented texture, grid or not.
    In units of the target's high-pass variance.
    """
    added = high_pass(pixels) - high_pass(target)
    cells = (added.shape[2] // 4) * (added.shape[3] // 4)
    chance = added.square().mean((1, 2, 3)) / cells
    excess = F.relu(phase_means(added).square().mean(1) - 2 * chance)
    return excess / high_pass(target).square().mean((1, 2, 3)).clamp_min(1e-4)


def squared_grid_score(pixels: Tensor) -> Tensor:
    """Squared grid score of each picture, for training: a stronger high-pass is no way out; [N,3,H,W] → [N].

    Without an allowance for chance: averaged over crops, what is left of its gradient points at what is locked to the
    grid, however far it is below the chance of one crop. A chance that is subtracted instead (the phase means of one
    half of a picture times those of the other) is exploited within 600 steps: a grid of opposite sign in each half.
    """
    detail = high_pass(pixels)
    variance = detail.detach().square().mean((1, 2, 3)).clamp_min(1e-6)
    return phase_means(detail).var(1, unbiased=False) / variance
