"""The order in which samples are seen: a function of (seed, samples seen), with no state to save.

Position p of the stream is item `order(seed, p // N)[p mod N]` of N: each epoch is a fresh permutation. Where a run
stands is one number, so that going on costs nothing, whatever batch size or number of processes goes on with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from unnoise.data.dataset import Columns, permutation


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return permutation(n, seed, epoch)


def items(n: int, seed: int, positions: Int64[Tensor, " p"]) -> Int64[Tensor, " p"]:
    """Which item of n stands at each position (int64, >= 0, any order) of the stream of `seed`."""
    out = torch.empty_like(positions)
    epochs = positions.div(n, rounding_mode="floor")
    for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
        here = epochs == epoch
        out[here] = _order(n, seed, epoch)[positions[here] - epoch * n]
    return out


def stage(columns: Columns, device: torch.device, limit: float = 0.25) -> Columns:
    """The columns on `device` where they take at most `limit` of its memory; else as they are, pinned for copying."""
    if device.type != "cuda":
        return {k: v.to(device) for k, v in columns.items()}
    size = sum(v.numel() * v.element_size() for v in columns.values())
    if size <= limit * torch.cuda.get_device_properties(device).total_memory:
        return {k: v.to(device) for k, v in columns.items()}
    return {k: v.pin_memory() for k, v in columns.items()}


def _send(x: Tensor, device: torch.device) -> Tensor:
    """A copy to a GPU that the host does not wait for."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def batches(
    columns: Columns,
    batch: int,
    *,
    seed: int,
    seen: int = 0,
    rows: slice | None = None,
    device: torch.device | None = None,
) -> Iterator[dict[str, Shaped[Tensor, "b ..."]]]:
    """Batches without end from `seen` on: each column's rows, and "position" int64, their numbers in the stream.

    Args:
        columns: raw data.
        batch: rows of a global batch.
        seed: of the order.
        seen: samples seen so far.
        rows: this process's rows of each global batch.
        device: where batches go.
    """
    columns = stage(columns, device or torch.device("cpu"))
    n, home = len(columns["x"]), columns["x"].device
    while True:
        positions = torch.arange(seen, seen + batch)[rows or slice(None)]
        index = _send(items(n, seed, positions), home)
        chosen = {k: _send(v[index], device or home) for k, v in columns.items()}
        yield {**chosen, "position": _send(positions, device or home)}
        seen += batch
