"""Where everything that is not source code lives: downloads, crops, checkpoints, logs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "models" / "pisa-tiny"


def cache_dir(*parts: str) -> Path:
    """Return `<cache>/<parts>` as an existing folder.

    The cache is `$PISA_CACHE`, else `$XDG_CACHE_HOME/pisa-serve`, else `~/.cache/pisa-serve`; it is
    outside the repository, so that a fresh clone finds earlier downloads and checkpoints again.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pisa-serve"
    folder = Path(os.environ.get("PISA_CACHE") or default).joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when the block ends well and is gone when it does not."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
