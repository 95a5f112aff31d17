"""Settings of the degradations: every range and probability, with its unit and its source.

Noise sigmas are in units of 8-bit levels (0…255), blur sigmas in pixels of the image that is
blurred, JPEG quality in libjpeg's 1…100, angles in radians.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Range = tuple[float, float]

SCALE = 4
"""Low resolution is the high resolution divided by this, on both axes."""


@dataclass(frozen=True)
class KernelConfig:
    """How to draw one random blur kernel.

    `probabilities` go with `kernels.KERNEL_TYPES` (iso, aniso, generalized_iso,
    generalized_aniso, plateau_iso, plateau_aniso); with `sinc_probability` a sinc is drawn instead.
    """

    sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_probability: float = 0.1
    sigma: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)


@dataclass(frozen=True)
class StageConfig:
    """One round of blur → resize → noise → JPEG of the second-order model."""

    kernel: KernelConfig
    blur_probability: float
    resize_probabilities: tuple[float, float, float]
    """Of enlarging, shrinking and keeping the size."""
    resize: Range
    """Smallest and largest factor; relative to the input (first) or to the final size (second)."""
    gaussian_noise_probability: float
    """Otherwise the noise is Poisson."""
    gaussian_sigma: Range
    poisson_scale: Range
    gray_noise_probability: float
    jpeg_quality: Range


@dataclass(frozen=True)
class SecondOrderConfig:
    """Real-ESRGAN's second-order degradation (Wang et al. 2021, section 3)."""

    first: StageConfig
    second: StageConfig
    final_sinc_probability: float


@dataclass(frozen=True)
class CameraConfig:
    """A plain camera: lens blur, an anti-aliased ×4 reduction, sensor noise, one JPEG.

    The variance of the noise is `read² + shot² · y` (both in 8-bit levels, y the clean value in
    [0, 1]): constant read noise plus shot noise that grows with the light. `chroma_smoothing` is
    the sigma in pixels of a blur on the colour part of the noise, which a demosaicking phone
    leaves as coarse blotches; a scan or a raw photo that was never smoothed has 0. Ranges that are
    None switch the step off.
    """

    blur_sigma: Range | None = None
    read_noise: Range | None = None
    shot_noise: Range | None = None
    chroma_smoothing: float = 0.0
    jpeg_quality: Range | None = None


DegradationConfig = SecondOrderConfig | CameraConfig


REAL_ESRGAN_PAPER = SecondOrderConfig(
    first=StageConfig(
        kernel=KernelConfig(),
        blur_probability=1.0,
        resize_probabilities=(0.2, 0.7, 0.1),
        resize=(0.15, 1.5),
        gaussian_noise_probability=0.5,
        gaussian_sigma=(1.0, 30.0),
        poisson_scale=(0.05, 3.0),
        gray_noise_probability=0.4,
        jpeg_quality=(30.0, 95.0),
    ),
    second=StageConfig(
        kernel=KernelConfig(sigma=(0.2, 1.5)),
        blur_probability=0.8,
        resize_probabilities=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        gaussian_noise_probability=0.5,
        gaussian_sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
        gray_noise_probability=0.4,
        jpeg_quality=(30.0, 95.0),
    ),
    final_sinc_probability=0.8,
)
"""Real-ESRGAN's own strength, as `params_realesrgan.yml` of the OSEDiff code base has it.

PiSA-SR's paper names Real-ESRGAN's pipeline and no values. Its code trains on `params.yml`, which is milder: resize 0.3
to 1.5, noise 1 to 15, Poisson 0.05 to 2 and JPEG 60 to 95 first; blur in half of the cases, resize 0.6 to 1.2, noise 1
to 12, Poisson 0.05 to 1 and JPEG 60 to 100 second; kernels and the other probabilities are these. Nothing of ours was
trained on that.
"""

HEAVY = SecondOrderConfig(
    first=replace(
        REAL_ESRGAN_PAPER.first,
        kernel=KernelConfig(sigma=(1.0, 3.0)),
        resize_probabilities=(0.1, 0.8, 0.1),
        resize=(0.25, 1.2),
        gaussian_sigma=(5.0, 20.0),
        poisson_scale=(0.5, 2.0),
        jpeg_quality=(40.0, 70.0),
    ),
    second=replace(
        REAL_ESRGAN_PAPER.second,
        kernel=KernelConfig(sigma=(0.4, 1.2)),
        resize=(0.5, 1.2),
        gaussian_sigma=(3.0, 12.0),
        poisson_scale=(0.3, 1.2),
        jpeg_quality=(40.0, 75.0),
    ),
    final_sinc_probability=0.8,
)
"""The bad half of `REAL_ESRGAN_PAPER`: no sample is nearly clean, none is beyond its range. Beyond what PiSA-SR itself
trains on, where JPEG begins at 60 and noise ends at 15."""

MILD_JPEG = CameraConfig(blur_sigma=(0.2, 1.2), jpeg_quality=(60.0, 85.0))
"""A thumbnail from the web: slightly soft, one JPEG compression, no noise."""

PHONE_NOISE = CameraConfig(
    blur_sigma=(0.8, 2.4),
    read_noise=(2.0, 6.0),
    shot_noise=(4.0, 12.0),
    chroma_smoothing=0.8,
    jpeg_quality=(75.0, 92.0),
)
"""A phone at dusk: soft lens, shot and read noise with coarse colour blotches, then JPEG."""

COLOUR_NOISE = CameraConfig(blur_sigma=(0.4, 1.6), read_noise=(2.0, 6.0), shot_noise=(4.0, 12.0))
"""A scan or a raw photo, stored as PNG or TIFF: noise of its own in each channel, which nothing has smoothed."""

BICUBIC = CameraConfig()
"""The classical clean ×4: an anti-aliased bicubic reduction and nothing else."""

NAMED_CONFIGS: dict[str, DegradationConfig] = {
    "bicubic": BICUBIC,
    "mild-jpeg": MILD_JPEG,
    "phone-noise": PHONE_NOISE,
    "colour-noise": COLOUR_NOISE,
    "heavy": HEAVY,
    "real-esrgan": REAL_ESRGAN_PAPER,
}
