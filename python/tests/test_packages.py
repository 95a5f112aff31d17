"""Packages of the registries: nothing of another than the pinned one is used, or even run."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pisa_models.packages import Package, fetch, read

# Builds nothing; that it was run leaves a file behind.
BACKEND = """
from pathlib import Path
Path({mark!r}).touch()
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = Path(directory, "tiny-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    return folder.name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def tiny(tmp_path, cache, mark, monkeypatch) -> Package:
    """A source distribution in a registry of its own."""
    registry = tmp_path / "registry"
    registry.mkdir()
    files = {"backend.py": BACKEND.format(mark=str(mark)), "pyproject.toml": PYPROJECT, "weights.txt": "7"}
    with tarfile.open(registry / "tiny-1.0.tar.gz", "w:gz") as tarball:
        for name, text in files.items():
            member = tarfile.TarInfo(f"tiny-1.0/{name}")
            member.size = len(text)
            tarball.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    digest = hashlib.sha256((registry / "tiny-1.0.tar.gz").read_bytes()).hexdigest()
    return Package("pypi", "tiny", "1.0", "tiny-1.0.tar.gz", digest, "CC0")


def test_a_source_distribution_is_read(tiny):
    assert read(tiny, "tiny-1.0/weights.txt") == b"7"


def test_what_is_not_the_pinned_one_is_not_run(tiny, cache, mark):
    with pytest.raises(RuntimeError):
        fetch(replace(tiny, sha256="0" * 64))
    assert not mark.exists() and list((cache / "packages").iterdir()) == []


def test_a_file_that_changed_since_is_refused(tiny, cache):
    fetch(tiny).write_bytes(b"changed")
    with pytest.raises(RuntimeError, match="delete the file"):
        fetch(tiny)
