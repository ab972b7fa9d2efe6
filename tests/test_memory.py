"""Too little memory ends in one line that says what to do: a real allocation that really fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from programs import Python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc/meminfo are Linux's")

SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from unnoise.cli import main
sys.exit(main(["train", "digits", "--device", "cpu", "--out", sys.argv[1], "-s", "batch=400000"]))
"""


def test_a_batch_that_a_host_cannot_hold_is_not_tried(python: Python, tmp_path: Path) -> None:
    """It would end the process without a word: a few rows tell. One batch of these takes hundreds of gigabytes."""
    settings = ("-s", "batch=200000", "-s", "model.net.width=256", "--samples", "200000")
    done = python.run("-m", "unnoise", "train", "digits", "--device", "cpu", "--out", tmp_path / "run", *settings)
    assert done.returncode == 2, done.stderr
    assert "out of memory with batches of 200000" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_out_of_memory_names_batch_size_and_three_remedies(python: Python, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = python.run("-c", SCRIPT, out)
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("unnoise:")]
    assert "Traceback" not in done.stderr
    for part in ("400000", "(1, 8, 8)", "micro=2", "batch=200000", "--precision bf16"):
        assert part in line
    assert not out.exists()
