"""Runs a command to its end and says what it cost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_bytes: int
    """Largest resident set, mapped files included."""
    output: str
    """What it printed, errors included."""


def measured(command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Raises SystemExit with what the command printed when it fails."""
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process.stdout:
        output = process.stdout.read()
    # wait4 alone tells the peak of this process, and not of all that were run before it.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise SystemExit(f"`{shown}` failed with {process.returncode}:\n{output}")
    return Cost(time.monotonic() - start, usage.ru_maxrss * 1024, output)
