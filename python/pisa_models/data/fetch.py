"""Downloads and unpacks the Debian packages whose photographs the model is trained on.

    python -m pisa_models.data.fetch            # download, unpack, print the licences
    python -m pisa_models.data.fetch --licences # only print the list

Nothing is installed: `apt-get download` and `dpkg-deb -x` into the cache.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pisa_models.paths import cache_dir


@dataclass(frozen=True)
class PhotoPackage:
    """A Debian package, what it holds, and the licence its copyright file states."""

    name: str
    holds: str
    licence: str
    photos: bool = True  # False: textures, cut-outs; used for training only, never for validation


PACKAGES = (
    PhotoPackage("plasma-workspace-wallpapers", "wallpapers, photographed and drawn", "GPL-2+"),
    PhotoPackage("mate-backgrounds", "photographs and drawn backgrounds", "GPL-2+, CC-BY-SA-4.0"),
    PhotoPackage("lomiri-wallpapers", "a wallpaper", "CC-BY-SA-3.0"),
    PhotoPackage("lomiri-wallpapers-16.04", "photographs", "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0"),
    PhotoPackage("lomiri-wallpapers-20.04", "photographs", "CC-BY-SA-3.0"),
    PhotoPackage("ukui-wallpapers", "photographs", "CC-BY-SA-3.0"),
    PhotoPackage("palapeli-data", "photographs (puzzle motifs)", "GPL-2+"),
    PhotoPackage(
        "supertuxkart-data",
        "photographic textures",
        "CC-BY-SA-3.0, CC-BY-SA-4.0, CC-BY-3.0, CC0-1.0, GPL-2+, public domain",
        photos=False,
    ),
    PhotoPackage("tuxpaint-stamps-default", "photo cut-outs", "GPL-2", photos=False),
)


def unpacked(package: PhotoPackage) -> Path:
    """Folder of the package's unpacked files, empty until fetched."""
    return cache_dir("raw", package.name)


def fetch(package: PhotoPackage) -> None:
    """Download and unpack one package. Raises RuntimeError with what to do about it."""
    target = unpacked(package)
    if (target / "usr").is_dir():
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise RuntimeError("apt-get and dpkg-deb are needed (a Debian or Ubuntu system)")
    downloads = cache_dir("debs")
    if not list(downloads.glob(f"{package.name}_*.deb")):
        command = ["apt-get", "download", package.name]
        if subprocess.run(command, cwd=downloads).returncode:
            raise RuntimeError(f"`{' '.join(command)}` failed; run `apt-get update` and try again")
    archive = sorted(downloads.glob(f"{package.name}_*.deb"))[-1]
    subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)


def licence_lines() -> list[str]:
    """One line per package, for the manifest, the README and the console."""
    return [f"{p.name} ({p.holds}): {p.licence}" for p in PACKAGES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--licences", action="store_true", help="only list packages and licences")
    if not parser.parse_args().licences:
        for package in PACKAGES:
            try:
                fetch(package)
            except RuntimeError as error:
                sys.exit(f"{package.name}: {error}")
    print("\n".join(licence_lines()))


if __name__ == "__main__":
    main()
