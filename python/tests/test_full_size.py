"""The folder of `make full-size` holds results of one setting."""

import json

import pytest

from pisa_models.full_size.__main__ import Run


def test_results_of_other_sizes_are_not_mixed(tmp_path):
    run = Run(tmp_path, threads=2, repeat=1)
    run.settle("medium")
    run.step("model", lambda: [1.0, 2])
    run.settle("medium")
    for other, sizes in ((run, "full"), (Run(tmp_path, threads=4, repeat=1), "medium")):
        with pytest.raises(SystemExit, match="is of --sizes medium --threads 2. Give the same, or another --work"):
            other.settle(sizes)
    assert json.loads(run.results.read_text())["model"] == [1.0, 2]


def test_results_that_do_not_say_their_sizes_are_not_gone_on_with(tmp_path):
    run = Run(tmp_path, threads=2, repeat=1)
    run.results.write_text('{"model": [1.0, 2]}')
    with pytest.raises(SystemExit, match="of unknown sizes and threads. Remove it, or another --work"):
        run.settle("full")
