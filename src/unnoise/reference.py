"""Real data in the features of a reader, which samples are compared with; made once for all that they follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise import cache
from unnoise.data.dataset import Dataset, permutation
from unnoise.metrics import Moments
from unnoise.trial import Trial
from unnoise.version import __version__

CHUNK = 1024
"""Items that are read at a time."""


class Reader(Protocol):
    """Features of raw data, by their names: {"1280": [N, 1280]}; rows do not depend on each other."""

    @property
    def key(self) -> Mapping[str, Any]:
        """JSON: all that features depend on: weights, preprocessing."""
        ...

    def named(self, raw: Tensor, /) -> Mapping[str, Tensor]:
        """float32 [N, D] by name, on the CPU."""
        ...


@dataclass(frozen=True, eq=False)
class Reference:
    """Real data in the features of one reader.

    Args:
        moments: of all training items.
        train: features of training items, all or some, in a random order, [M, D].
        held_out: features of held-out items, all or some, in a random order, [H, D].
    """

    moments: Moments
    train: Tensor
    held_out: Tensor


def references(reader: Reader, data: Dataset, most: int, trial: Trial) -> dict[str, Reference]:
    """Real data in each of the reader's features; kept on disk, by the content of all that they follow from.

    Args:
        reader: makes features.
        data: what was learned from, and what was not.
        most: items at most of either part that are kept as features.
        trial: whose processes share the work.

    Raises:
        UserError: where a file says that it was made of something else than its name does.
    """
    key = {
        "train": cache.digest_of({"x": data.train["x"]}),
        "held_out": cache.digest_of({"x": data.held_out["x"]}),
        "features": dict(reader.key),
        "count": most,
        "unnoise": __version__,
    }
    made = cache.tensors("features", key, lambda: _features(reader, data, most, trial), trial.run)
    names = sorted(k.removesuffix("/mean") for k in made if k.endswith("/mean"))
    return {
        k: Reference(
            Moments(int(made[f"{k}/count"]), made[f"{k}/mean"], made[f"{k}/scatter"]),
            made[f"{k}/train"],
            made[f"{k}/held_out"],
        )
        for k in names
    }


def _features(reader: Reader, data: Dataset, most: int, trial: Trial) -> dict[str, Tensor]:
    trial.say(f"features of {len(data):,} real items, and of {len(data.held_out['x']):,} to stand beside samples")
    found: dict[str, Tensor] = {}
    for part, columns in (("train", data.train), ("held_out", data.held_out)):
        n = len(columns["x"])
        if not n:
            found |= {k.replace("/train", "/held_out"): v[:0].clone() for k, v in found.items() if k.endswith("/train")}
            continue
        chosen = permutation(n, 3)[:most]
        for name, x in mapped(reader, columns["x"], trial).items():
            found[f"{name}/{part}"] = x[chosen].clone()
            if part == "train":
                moments = Moments.empty(x.shape[1])
                for block in torch.split(x, CHUNK):
                    moments = moments.update(block)
                found |= {
                    f"{name}/count": torch.tensor(n),
                    f"{name}/mean": moments.mean,
                    f"{name}/scatter": moments.scatter,
                }
    return found


def mapped(reader: Reader, column: Any, trial: Trial) -> dict[str, Tensor]:
    """Features of a whole column, each process reading its share, a block at a time; with progress on a terminal."""
    n = len(column)
    rows = trial.run.share(n)
    starts = range(rows.start, rows.stop, CHUNK) if rows.start < rows.stop else [0]
    bar = tqdm(starts, desc="features", unit=" k", leave=False, disable=None if trial.run.is_main else True)
    blocks = [reader.named(column[torch.arange(i, min(i + CHUNK, max(rows.stop, 1)))]) for i in bar]
    own = {k: torch.cat([b[k] for b in blocks])[: rows.stop - rows.start] for k in blocks[0]}
    return {k: trial.run.gather(v, n) for k, v in own.items()}
