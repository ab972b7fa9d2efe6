"""Batches that are read for a GPU; run by hand where there is one: python -m pytest tests/gpu."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.data import stream
from unnoise.data.dataset import View
from unnoise.data.stream import batches, stage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")


def take(columns: dict[str, Any], **options: Any) -> list[dict[str, Tensor]]:
    with contextlib.closing(batches(columns, 64, seed=1, device=GPU, **options)) as source:
        return list(itertools.islice(source, 12))


def columns() -> dict[str, Tensor]:
    x = torch.arange(300 * 3 * 8 * 8).remainder(251).to(torch.uint8).reshape(300, 3, 8, 8)
    return {"x": x, "label": torch.arange(300)}


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_lazy_columns_arrive_on_the_gpu_as_those_that_live_there(workers: int) -> None:
    found = columns()
    lazy = {**found, "x": View(found["x"], torch.arange(300))}  # whatever has rows
    for here, read in zip(take(found), take(lazy, workers=workers), strict=True):
        assert here.keys() == read.keys()
        for k in here:
            assert read[k].device.type == "cuda" and torch.equal(here[k], read[k])


def test_tensors_that_do_not_fit_are_read_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = columns()
    home, away = stage(found, GPU, limit=0.0)
    assert not home and away.keys() == found.keys()
    fit = take(found)
    monkeypatch.setattr(stream, "stage", lambda columns, device: stage(columns, device, 0.0))
    for here, read in zip(fit, take(found, workers=2), strict=True):
        assert all(read[k].device.type == "cuda" and torch.equal(here[k], read[k]) for k in here)
