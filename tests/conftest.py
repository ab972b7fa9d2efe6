"""Run under jaxtyping: the shapes and types that annotations state are checked at every call of a test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Before anything of ours is imported. Networks are left out: their forward passes must be traceable in one graph.
hook = install_import_hook(
    ["unnoise.core", "unnoise.sample", "unnoise.guide", "unnoise.data", "unnoise.modality", "unnoise.metrics"],
    "beartype.beartype",
)

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_home() -> Path:
    """Where real data sets lie; tests that need them are skipped with a reason where there are none."""
    home = os.environ.get("UNNOISE_DATA", "")
    if not home or not Path(home).is_dir():
        pytest.skip("UNNOISE_DATA names no folder: the data sets are not here")
    return Path(home)
