"""Locks of files: who is refused, and who is not."""

import os
from pathlib import Path

import pytest

from unnoise.errors import UserError
from unnoise.lock import alone


def test_where_nothing_can_be_locked_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("")
    with alone(tmp_path / "none" / "lock", "x"), alone(Path("/proc/version"), "x"):
        assert not (tmp_path / "none").exists()
    with alone(tmp_path, "x is made"):
        with pytest.raises(UserError, match=r"^x is made by another process: wait for it, or stop it$"):
            alone(tmp_path, "x is made").__enter__()
        with alone(tmp_path / "lock", "y"):
            assert (tmp_path / "lock").read_text() == str(os.getpid())
