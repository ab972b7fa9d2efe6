"""The order in which samples are seen: a function of (seed, samples seen), with no state to save.

Position p of the stream is item `order(seed, p // N)[p mod N]` of N: each epoch is a fresh permutation. Where a run
stands is one number, so that going on costs nothing, whatever batch size or number of processes goes on with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable
from functools import lru_cache

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from unnoise.data.dataset import Column, Columns, permutation
from unnoise.data.loader import default_workers, read_ahead


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


def stage(columns: Columns, device: torch.device, limit: float = 0.25) -> tuple[dict[str, Tensor], dict[str, Column]]:
    """Which columns stay on `device`, moved there, and which are read for every batch.

    The tensors stay, as the bytes that they are, where they take at most `limit` of a GPU's memory.
    """
    tensors = {k: v for k, v in columns.items() if isinstance(v, Tensor)}
    size = sum(v.numel() * v.element_size() for v in tensors.values())
    if device.type == "cuda" and size > limit * torch.cuda.get_device_properties(device).total_memory:
        tensors = {}
    return {k: v.to(device) for k, v in tensors.items()}, {k: v for k, v in columns.items() if k not in tensors}


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
    workers: int | None = None,
) -> Generator[dict[str, Shaped[Tensor, "b ..."]], None, None]:
    """Batches without end from `seen` on: each column's rows, and "position" int64, their numbers in the stream.

    What a batch holds depends on seed, `seen` and `rows` only. To close the generator ends the processes that read.

    Args:
        columns: raw data.
        batch: rows of a global batch.
        seed: of the order.
        seen: samples seen so far.
        rows: this process's rows of each global batch.
        device: where batches go.
        workers: processes that read ahead what is not on the device; None: `default_workers`. See `read_ahead`.

    Raises:
        UserError: at a batch that cannot be read.
    """
    device = device or torch.device("cpu")
    home, away = stage(columns, device)
    n, own = len(columns["x"]), rows or slice(None)
    places = (torch.arange(start, start + batch)[own] for start in itertools.count(seen, batch))
    here, ahead = itertools.tee((p, items(n, seed, p)) for p in places)
    read: Iterable[dict[str, Tensor]] = itertools.repeat({})
    if away:
        workers = default_workers() if workers is None else workers
        read = read_ahead(away, (i for _, i in ahead), len(range(batch)[own]), workers, pin=device.type == "cuda")
    else:
        del ahead  # or it would keep all that was
    for (positions, index), found in zip(here, read, strict=False):
        at = _send(index, device)
        chosen = {k: home[k][at] if k in home else _send(found[k], device) for k in columns}
        yield {**chosen, "position": _send(positions, device)}
