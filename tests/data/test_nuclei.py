"""Nuclei: tiles, their masks, and a split by micrograph."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import Nuclei
from unnoise.data.groups import split_groups
from unnoise.data.home import read_arrays
from unnoise.data.strips import read_strips
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")


@real
def test_nuclei_are_what_they_are_said_to_be() -> None:
    data, small = Nuclei().load(), Nuclei(size=64).load()
    parts = (data.train, data.held_out)
    assert sum(len(p["x"]) for p in parts) == 1274 and "CC0" in data.about
    for part, half in zip(parts, (small.train, small.held_out), strict=True):
        n = len(part["x"])
        assert part["x"].shape == (n, 3, 128, 128) and part["nuclei"].shape == (n, 1, 128, 128)
        assert part["x"].dtype == part["nuclei"].dtype == torch.uint8 and part["nuclei"].unique().tolist() == [0, 1]
        means = part["x"].numpy().reshape(n, 3, 64, 2, 64, 2).mean((3, 5))
        assert np.array_equal(half["x"].numpy(), np.round(means).astype(np.uint8))
        share = part["nuclei"].numpy().reshape(n, 1, 64, 2, 64, 2).mean((3, 5))
        assert np.array_equal(half["nuclei"].numpy(), share >= 0.5)
    gray = sum(int((p["x"][:, 0] == p["x"][:, 1]).flatten(1).all(1).sum()) for p in parts)
    assert gray == 1167
    assert sum(int((p["nuclei"].flatten(1).sum(1) == 0).sum()) for p in parts) == 39
    assert len(Nuclei(limit=10).load()) == 10


@real
def test_masks_fit_their_pictures() -> None:
    """On fluorescence nuclei are bright: a mask of another tile would not know where."""
    data = Nuclei(size=64).load().train
    gray = data["x"].double().mean(1)
    dark = (gray.flatten(1).median(1).values < 60) & (data["nuclei"].flatten(1).sum(1) > 0)
    assert int(dark.sum()) > 700
    mask = data["nuclei"][dark, 0].bool()

    def brighter(mask: torch.Tensor) -> torch.Tensor:
        values = gray[dark]
        inside = (values * mask).sum((1, 2)) / mask.sum((1, 2))
        return inside - (values * ~mask).sum((1, 2)) / (~mask).sum((1, 2))

    assert float((brighter(mask) > 0).double().mean()) > 0.98
    assert float(brighter(mask).mean()) > 3 * float(brighter(mask.roll(1, 0)).mean())


@real
def test_tiles_of_one_micrograph_are_in_one_part() -> None:
    folder = Path(os.environ["UNNOISE_DATA"], "nuclei")
    source = torch.from_numpy(read_arrays(folder / "nuclei128_masks.npz", "source")["source"].astype(np.int64))
    data = Nuclei().load()
    train, held_out = split_groups({"x": read_strips(folder / "nuclei128.tar", 128), "source": source}, source, 0.1, 0)
    assert torch.equal(train["x"], data.train["x"]) and torch.equal(held_out["x"], data.held_out["x"])
    there, away = set(train["source"].tolist()), set(held_out["source"].tolist())
    assert not there & away and len(there) + len(away) == 664 and len(away) == 66


def test_what_is_missing_or_wrong_is_named(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(UserError, match=r"no such file: .*nuclei128.tar"):
        Nuclei(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="size 64 or 128, got size=32"):
        Nuclei(size=32)
    with pytest.raises(UserError, match="got 0"):
        Nuclei(limit=0)
