"""Synthetic degradations that turn a high-resolution photo into a low-resolution one, ×4.

`degrade(hq, rng, config)` is the entry point; the named configurations are
`REAL_ESRGAN_PAPER` (training), `PHONE_NOISE`, `MILD_JPEG`, `COLOUR_NOISE` (evaluation), `HEAVY` and `BICUBIC` (both).
"""

from pisa_models.degradation.config import (
    BICUBIC,
    COLOUR_NOISE,
    HEAVY,
    MILD_JPEG,
    NAMED_CONFIGS,
    PHONE_NOISE,
    REAL_ESRGAN_PAPER,
    CameraConfig,
    DegradationConfig,
    KernelConfig,
    SecondOrderConfig,
    StageConfig,
)
from pisa_models.degradation.operations import bicubic_x4
from pisa_models.degradation.pipeline import degrade

__all__ = [
    "BICUBIC",
    "COLOUR_NOISE",
    "HEAVY",
    "MILD_JPEG",
    "NAMED_CONFIGS",
    "PHONE_NOISE",
    "REAL_ESRGAN_PAPER",
    "CameraConfig",
    "DegradationConfig",
    "KernelConfig",
    "SecondOrderConfig",
    "StageConfig",
    "bicubic_x4",
    "degrade",
]
