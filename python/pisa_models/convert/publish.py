"""Puts a bundle in its place whole or not at all.

It is made in a hidden folder beside its place and moved there when it is complete and checked. Who makes it holds a
lock in that folder, so that the folder of a process that was killed is known from one that is still being filled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pisa_models.convert.errors import ConversionError, reason

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_OUT_OF_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_LOCK, _REPLACED = "lock", "replaced"
_RANDOM = "?" * 8  # of mkdtemp, so that the folders of `a` are not those of `a.partial-b`


def check_out(out: Path, replace: bool) -> Path:
    """Where the bundle goes, absolute; first removes what killed conversions to the same place have left."""
    out = out.expanduser().absolute()
    if not _NAME.fullmatch(out.name):
        raise ConversionError(
            f"A bundle is named as its folder, in small letters, digits, '.', '_' and '-', not {out.name!r}. "
            "Choose another --out."
        )
    _remove_abandoned(out)
    _check_replaceable(out, replace)
    return out


def _check_replaceable(out: Path, replace: bool) -> None:
    if out.exists() and not replace:
        raise ConversionError(f"{out} exists. Choose another --out, or give --replace.")
    if out.exists() and not (out / "manifest.json").is_file():
        raise ConversionError(f"{out} is no bundle, so it is not replaced. Choose another --out.")


@contextmanager
def complete_or_nothing(out: Path, replace: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is gone with all in it when it does not."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _hidden_folder(out) as work:
            # One level down, so that nobody who lists bundles beside `out` sees a manifest before its time.
            made = work / out.name
            made.mkdir()
            yield made
            _check_replaceable(out, replace)
            if out.exists():
                os.rename(out, work / _REPLACED)
            os.rename(made, out)
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise ConversionError(
                f"The disk of {out.parent} is full ({reason(error)}). Free space, or choose an --out elsewhere."
            ) from error
        raise ConversionError(f"Cannot write {out} ({reason(error)}). Choose an --out that can be written.") from error


@contextmanager
def _hidden_folder(out: Path) -> Iterator[Path]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
        with contextlib.suppress(FileNotFoundError):  # taken for abandoned before it was locked
            lock = _lock(work, wait=True)
            break
    try:
        yield work
    finally:
        with lock:
            _discard(work, out)


def _lock(work: Path, wait: bool) -> IO[str]:
    """The open file that holds the lock. Raises BlockingIOError if another has it, FileNotFoundError if it is gone."""
    file = (work / _LOCK).open("a")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            # Where a file system has no locks, nobody can show that a folder is abandoned: it stays.
            if not wait or error.errno not in _NO_LOCKS:
                raise
        os.stat(work / _LOCK)
    except OSError:
        file.close()
        raise
    return file


def _discard(work: Path, out: Path) -> None:
    """Removes the folder; what was taken from `out` goes back unless something came in its place."""
    if (work / _REPLACED).exists() and not out.exists():
        os.rename(work / _REPLACED, out)
    shutil.rmtree(work, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    for work in out.parent.glob(f".{out.name}.partial-{_RANDOM}"):
        with contextlib.suppress(OSError), _lock(work, wait=False):  # another's, being filled or not ours to remove
            _discard(work, out)
