"""Shared by all tests: a fixed seed, and a cache folder of their own."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(2)
    torch.manual_seed(0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of its own."""
    monkeypatch.setenv("PISA_CACHE", str(tmp_path))
    return tmp_path
