"""Downloads and unpacks the Debian packages whose photographs the model is trained on.

    python -m pisa_models.data.fetch            # download, unpack, print the licences
    python -m pisa_models.data.fetch --licences # only print the list

Nothing is installed: `apt-get download` and `dpkg-deb -x` into the cache.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pisa_models.paths import cache_dir

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class PhotoPackage:
    """A Debian package, what it holds, and the licence its copyright file states."""

    name: str
    holds: str
    licence: str
    version: str  # of Debian 12: what the shipped model and its figures are from
    photos: bool = True  # False: textures, cut-outs; used for training only, never for validation
    archives: tuple[str, ...] = ()  # patterns of the .pk3 (zip) and .rcc files inside that hold the pictures
    shrink: float | None = None  # first scale of its photos where the packer compressed them hard
    most: int | None = None  # detailed crops of one photo, where many photos are of one kind


PACKAGES = (
    PhotoPackage("plasma-workspace-wallpapers", "wallpapers, photographed and drawn", "GPL-2+", "4:5.27.5-2"),
    PhotoPackage("mate-backgrounds", "photographs and drawn backgrounds", "GPL-2+, CC-BY-SA-4.0", "1.26.0-1"),
    PhotoPackage("lomiri-wallpapers", "a wallpaper", "CC-BY-SA-3.0", "20.04.0-2"),
    PhotoPackage("lomiri-wallpapers-16.04", "photographs", "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0", "20.04.0-2"),
    PhotoPackage("lomiri-wallpapers-20.04", "photographs", "CC-BY-SA-3.0", "20.04.0-2"),
    PhotoPackage("ukui-wallpapers", "photographs", "CC-BY-SA-3.0", "20.04.3-1.1"),
    PhotoPackage("palapeli-data", "photographs (puzzle motifs)", "GPL-2+", "4:22.12.3-1"),
    PhotoPackage(
        "supertuxkart-data",
        "photographic textures",
        "CC-BY-SA-3.0, CC-BY-SA-4.0, CC-BY-3.0, CC0-1.0, GPL-2+, public domain",
        "1.4+dfsg-2",
        photos=False,
    ),
    PhotoPackage("tuxpaint-stamps-default", "photo cut-outs", "GPL-2", "2022.06.04-1", photos=False),
    PhotoPackage("lxqt-themes", "photographs and drawn wallpapers", "LGPL-2.1+, LGPL-3, CC-BY-SA-3.0", "1.2.0-1"),
    PhotoPackage(
        "gcompris-qt-data",
        "photographs of animals, landscapes and monuments",
        "GPL-3+, CC-BY-1.0, CC-BY-3.0, CC-BY-SA-2.0, CC-BY-SA-2.5, CC-BY-SA-3.0, CC-BY-SA-4.0, GFDL-1.2, public domain",
        "3.1-2",
        archives=("erase.rcc", "explore_*.rcc", "details.rcc"),
        shrink=0.5,
    ),
    PhotoPackage(
        "ufoai-textures",
        "photographic textures",
        "GPL-2+, GPL-2, GPL-3+, CC-BY-3.0, CC-BY-SA-3.0, Expat, public domain",
        "2.5-2",
        photos=False,
        archives=("*.pk3",),
    ),
    PhotoPackage("krank", "photographs of corals and fish", "public domain", "0.7+dfsg2-4", most=100),
    PhotoPackage(
        "gnome-control-center-data",
        "photographs of animals, plants and things",
        "GPL-2+, GPL-3+, LGPL-2.1+, LGPL-2+, Expat, CC0-1.0",
        "1:43.6-2~deb12u1",
    ),
)


def unpacked(package: PhotoPackage) -> Path:
    """Folder of the package's unpacked files, empty until fetched."""
    return cache_dir("raw", package.name)


def rcc_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of the uncompressed files of a Qt binary resource file, format version 2 or 3.

    Layout: Qt's `rcc.cpp`. A tree of 22-byte nodes: name offset (4), flags (2), then for a folder the number
    (4) and index (4) of its children, for a file locale (4) and data offset (4). Compressed members are
    skipped: pictures are stored as they are. Raises ValueError if `data` is of no such format.
    """

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(data[at : at + size], "big")

    if data[:4] != b"qres" or number(4) not in (2, 3):
        raise ValueError("no Qt resource file of version 2 or 3")
    tree, contents, names = number(8), number(12), number(16)
    folders = [(0, "")]
    while folders:
        index, path = folders.pop()
        node = tree + 22 * index
        for child in range(number(node + 10), number(node + 10) + number(node + 6)):
            at = tree + 22 * child
            name_at, flags = names + number(at), number(at + 4, 2)
            name = path + data[name_at + 6 : name_at + 6 + 2 * number(name_at, 2)].decode("utf-16-be")
            if flags & 2:
                folders.append((child, name + "/"))
            elif not flags & (1 | 4):
                start = contents + number(at + 10)
                yield name, data[start + 4 : start + 4 + number(start)]


def zip_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a zip archive, which a game's .pk3 is."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and Path(info.filename).suffix.lower() in IMAGE_SUFFIXES:
                yield info.filename, archive.read(info)


def unpack_archives(package: PhotoPackage, target: Path) -> None:
    """Lay the pictures inside the package's archives out as files under `target/archives`."""
    for pattern in package.archives:
        for path in sorted((target / "usr").rglob(pattern)):
            members = rcc_members(path.read_bytes()) if path.suffix == ".rcc" else zip_members(path)
            for name, content in members:
                file = (target / "archives" / path.stem / name).resolve()
                inside = file.is_relative_to((target / "archives").resolve())
                if inside and file.suffix.lower() in IMAGE_SUFFIXES:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)


def downloaded(package: PhotoPackage) -> Path:
    """The newest archive of the package, fetched if there is none. Raises RuntimeError with what to do about it."""
    folder = cache_dir("debs")
    if not list(folder.glob(f"{package.name}_*.deb")):
        # apt-get writes under the last name from the first byte on, and leaves the half of it when it is stopped.
        partial = cache_dir("debs", f".{package.name}.partial")
        for left in partial.iterdir():
            left.unlink()
        command = ["apt-get", "download", package.name]
        if subprocess.run(command, cwd=partial).returncode:
            raise RuntimeError(f"`{' '.join(command)}` failed; run `apt-get update` and try again")
        for archive in partial.glob("*.deb"):
            archive.replace(folder / archive.name)
        partial.rmdir()
    return sorted(folder.glob(f"{package.name}_*.deb"))[-1]


def fetch(package: PhotoPackage) -> None:
    """Download and unpack one package. Raises RuntimeError with what to do about it."""
    target = unpacked(package)
    if (target / "usr").is_dir():
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise RuntimeError("apt-get and dpkg-deb are needed (a Debian or Ubuntu system)")
    archive = downloaded(package)
    version = archive.name.split("_")[1].replace("%3a", ":")
    if version != package.version:
        print(
            f"{package.name}: this is version {version}; the figures in the docs are from {package.version}, "
            "and may come out otherwise if its photos are others",
            file=sys.stderr,
        )
    # In another folder first: `usr` in its place says that all of it was unpacked.
    partial = target.with_name(f".{package.name}.partial")
    for folder in (partial, target):
        shutil.rmtree(folder, ignore_errors=True)
    if subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)]).returncode:
        raise RuntimeError(f"dpkg-deb could not unpack {archive}; delete it if it is damaged, and try again")
    unpack_archives(package, partial)
    partial.rename(target)


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
