"""A bundle comes to its place whole or not at all, whatever ends the conversion."""

import os
import signal
import subprocess
import sys

import pytest

from pisa_models.convert.errors import ConversionError
from pisa_models.convert.publish import check_out, complete_or_nothing
from pisa_models.paths import REPOSITORY

# Fills the folder of a bundle, says so, and waits for a line.
FILL = """
import sys
from pathlib import Path
from pisa_models.convert.publish import complete_or_nothing
with complete_or_nothing(Path(sys.argv[1]), True) as folder:
    (folder / "manifest.json").write_text("new")
    print("filled", flush=True)
    sys.stdin.readline()
"""
# The converter's command, whose conversion does that. `ignore` first, it runs as under `nohup`.
COMMAND = """
import signal, sys
from pathlib import Path
from pisa_models.convert import __main__ as command
from pisa_models.convert.publish import complete_or_nothing
def convert(options):
    with complete_or_nothing(options.out, options.replace) as folder:
        (folder / "manifest.json").write_text("new")
        print("filled", flush=True)
        sys.stdin.readline()
    return {"graphs": {}}
command.convert = convert
if sys.argv[2:] == ["ignore"]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
command.main(["--base", "b", "--lora", "l", "--out", sys.argv[1]])
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "models" / "small"


@pytest.fixture
def started():
    """Starts one of the scripts and returns it when its folder is filled; ends what a test leaves running."""
    running = []

    def start(script: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        running.append(subprocess.Popen(command, text=True, cwd=REPOSITORY / "python", **pipes))
        assert running[-1].stdout.readline() == "filled\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def bundle(folder, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)


def hidden(out) -> list:
    return [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_the_folder_of_a_killed_conversion_is_removed_by_the_next(out, started):
    killed = started(FILL, out)
    killed.kill()
    killed.wait()
    assert len(hidden(out)) == 1
    other = out.with_name("small.partial-a")
    living, another = started(FILL, out), started(FILL, other)
    assert check_out(out, False) == out
    assert len(hidden(out)) == 2  # those still being filled
    for process in (living, another):
        process.communicate("\n")
    assert hidden(out) == [] and (out / "manifest.json").read_text() == "new"


def test_a_bundle_that_a_killed_conversion_took_away_comes_back(out):
    left = out.parent / ".small.partial-abcdefgh"
    bundle(left / "replaced", "old")
    bundle(left / "small", "new")
    with pytest.raises(ConversionError, match="exists"):
        check_out(out, False)
    assert (out / "manifest.json").read_text() == "old" and hidden(out) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_stop_leaves_nothing(out, started, number):
    process = started(COMMAND, out)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert list(out.parent.iterdir()) == []


def test_a_conversion_under_nohup_goes_on(out, started):
    process = started(COMMAND, out, "ignore")
    process.send_signal(signal.SIGHUP)
    process.communicate("\n")
    assert process.returncode == 0 and (out / "manifest.json").read_text() == "new"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SystemExit(143)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_old_bundle_comes_back_when_the_new_one_cannot_be_put_there(out, monkeypatch, error, when):
    """Before or after the old one was taken away."""
    bundle(out, "old")
    rename = os.rename

    def failing(source, target) -> None:
        taken = str(target).endswith("replaced")
        if taken and when == "after":
            rename(source, target)
        if taken:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises((ConversionError, SystemExit)), complete_or_nothing(out, True) as folder:
        (folder / "manifest.json").write_text("new")
    assert (out / "manifest.json").read_text() == "old" and hidden(out) == []


def test_a_bundle_that_came_meanwhile_is_replaced_only_if_asked(out):
    with pytest.raises(ConversionError, match="exists"), complete_or_nothing(out, False) as folder:
        (folder / "manifest.json").write_text("new")
        bundle(out, "another's")
    assert (out / "manifest.json").read_text() == "another's" and hidden(out) == []
    with complete_or_nothing(out, True) as folder:
        (folder / "manifest.json").write_text("new")
    assert (out / "manifest.json").read_text() == "new" and hidden(out) == []


def test_what_is_no_bundle_by_then_is_not_replaced(out):
    with pytest.raises(ConversionError, match="is no bundle"), complete_or_nothing(out, True) as folder:
        (folder / "manifest.json").write_text("new")
        out.mkdir()
        (out / "precious.txt").write_text("mine")
    assert (out / "precious.txt").read_text() == "mine" and hidden(out) == []
