"""Columns that are not on the device, read ahead of the training that takes them.

Processes read, each whole batches: `torch.utils.data.DataLoader`. Threads do not keep up with small pictures, which
spend more time in Python, under its lock, than in the decoder: on two cores, two threads read PNG or JPEG files of 64
pixels no faster than one, two processes 1.2 and 1.5 times as fast; of JPEG files of 500 pixels both read twice as many.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import warnings
from collections.abc import Generator, Iterable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Indexed

from unnoise.data.dataset import Column, Columns, Lazy, View
from unnoise.errors import UserError

EACH = 2
"""Batches that each process reads ahead."""
AHEAD = 2**30
"""Bytes of all batches that are read ahead: of very large ones fewer processes read."""
GRACE = 60
"""Seconds that a process lives on after the system has asked it to end: training saves first, and ends it."""


def default_workers() -> int:
    """The cores that this process may use and does not share with others of its run, less one for training; 0..16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(0, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def read_ahead(
    columns: Columns, batches: Iterable[Int64[Tensor, " _"]], size: int, workers: int, pin: bool
) -> Generator[dict[str, Shaped[Tensor, "_ ..."]], None, None]:
    """The rows of every column at each of `batches`, in their order, whatever the number of workers.

    Args:
        columns: tensors in memory, or lazy ones.
        batches: int64 indices of the rows of a batch; drawn on as batches are taken, and a bounded number before that.
        size: rows of a batch.
        workers: processes that read; 0: this one does, without reading ahead. They end with the generator.
        pin: put batches into pinned memory, from which a copy to a GPU is not waited for.

    Raises:
        UserError: at the batch that cannot be read, naming what and where; for fewer than 0 workers.
    """
    if workers < 0:
        raise UserError(f"the number of workers is at least 0, got {workers}")
    per_batch = size * sum(math.prod(v.shape[1:]) * v.dtype.itemsize for v in columns.values())
    workers = min(workers, max(1, AHEAD // max(1, EACH * per_batch)))
    with _quiet():
        loader = DataLoader(
            _Rows(columns),
            batch_size=None,
            sampler=_Indices(batches),
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
            worker_init_fn=_begin,
            prefetch_factor=EACH if workers else None,
            generator=torch.Generator(),  # or it would draw a seed from the global one
        )
        iterator = iter(loader)
    if workers:
        _without_signals(iterator)
    try:
        while True:
            try:
                found = next(iterator, None)
            except (EOFError, OSError, RuntimeError) as e:  # of what a reader was sending, or of its end
                if isinstance(e, RuntimeError) and "DataLoader worker (pid" not in str(e):
                    raise
                raise _lost(e) from e
            if found is None:
                return
            if isinstance(found, str):
                raise UserError(found)
            yield found
    finally:
        if workers:  # now, and not when nothing holds the iterator any more: a traceback may
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def _without_signals(iterator: Any) -> None:
    """Have the end of a process told of where its batch is waited for, which is looked at every 5 seconds.

    Else the signal of its end raises in whatever line it finds this process: what that line opens stays open, what it
    writes stays half written.
    """
    _remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False  # or they would be removed again at the end


def _lost(e: Exception) -> UserError:
    return UserError(
        f"a process that reads data ended by itself ({' '.join(str(e).split()) or type(e).__name__}): it was killed, "
        "or found too little memory, of its own or shared (docker run --shm-size=2g); --workers 0 reads without such "
        "processes"
    )


class _Rows(Indexed[Any]):
    """Rows by index, as `DataLoader` asks for them; what cannot be read becomes the message that says so."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __getitem__(self, index: npt.NDArray[np.int64]) -> dict[str, Tensor] | str:
        rows = torch.from_numpy(index)
        try:
            return {k: _read(v, k, rows) for k, v in self.columns.items()}
        except UserError as e:
            return str(e)


def _read(column: Column, name: str, rows: Tensor) -> Tensor:
    """Some rows, of the shape and type that the column promises, finite; Raises UserError."""
    if isinstance(column, Tensor):
        return column[rows]  # checked as a whole
    try:
        found = column[rows]
    except (OSError, EOFError, ValueError) as e:
        raise UserError(f"column {name!r} cannot be read{_where(column, rows)}: {e}") from e
    promised, given = (len(rows), *column.shape[1:]), tuple(found.shape)
    if given != promised or found.dtype != column.dtype:
        raise UserError(
            f"column {name!r} promises {column.dtype} {list(promised)} and gives {found.dtype} {list(given)}"
        )
    if found.is_floating_point() and not bool(found.isfinite().all()):
        bad = [_origin(column, int(i)) for i, x in zip(rows, found, strict=True) if not bool(x.isfinite().all())]
        raise UserError(f"column {name!r} holds NaN or infinity in item {bad[0]}: remove it or repair the file")
    return found


def _where(column: Lazy, rows: Tensor) -> str:
    """The first of the rows that cannot be read alone."""
    for row in rows:
        try:
            column[row[None]]
        except (OSError, EOFError, ValueError):
            return f" in item {_origin(column, int(row))}"
    return ""


def _origin(column: Column, item: int) -> int:
    """The number of an item in the column that a view is of."""
    return _origin(column.column, int(column.items[item])) if isinstance(column, View) else item


class _Indices:
    """Batches of indices as NumPy arrays, which go to another process without shared memory."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return (index.numpy() for index in self.batches)


def _as_it_is(rows: Any) -> Any:
    return rows


def _begin(number: int) -> None:
    """Signals are the main process's to answer: it stops after a step, saves and ends the readers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _later)


def _later(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    signal.alarm(GRACE)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The number of processes is the user's choice, and they are begun by a fork: nothing to warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        yield
