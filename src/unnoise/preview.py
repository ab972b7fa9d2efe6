"""What a model makes while it is trained: the same seeds again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unnoise.data.dataset import Dataset
from unnoise.log import Logger, say
from unnoise.model import Model

COUNT = 40
"""Samples in a grid."""


def preview(model: Model, folder: Path | None, seen: int, data: Dataset, loggers: Sequence[Logger]) -> None:
    """Write a grid of samples as <seen>.png, where the codec has something to look at.

    Args:
        model: with the weights to look at.
        folder: where to; None: nowhere, for a process that only takes part in the sampling by a sharded network.
        seen: samples seen.
        data: whose first held-out items (or else training items) give the conditions that have no default.
        loggers: to show it to.
    """
    if not hasattr(model.codec, "grid"):
        return
    columns = data.held_out if len(data.held_out["x"]) else data.train
    needed: dict[str, Any] = {k: columns[k][:COUNT] for k in getattr(model.conditioner, "needs", ())}
    try:
        samples = model.sample(COUNT, **needed)
    except FloatingPointError:
        if folder is not None:
            say("the samples are not finite: training diverges, or has not found its feet; a lower optim.lr helps")
        return
    if folder is None:
        return
    samples.save(folder / f"{seen:09d}.png")
    for logger in loggers:
        logger.image(seen, "samples", model.codec.grid(samples.raw))
