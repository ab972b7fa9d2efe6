"""The only sampling loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from unnoise.core.denoiser import EMPTY, Cond, Denoiser
from unnoise.core.level import Levels
from unnoise.core.process import Process
from unnoise.core.rng import Rng
from unnoise.core.sampler import Row, Sampler, Step
from unnoise.sample.plan import check_interval, held, plan

X = TypeVar("X")


def sample(
    sampler: Sampler[X],
    process: Process[X],
    denoise: Denoiser[X],
    x: X,
    levels: Levels,
    rng: Rng,
    cond: Cond = EMPTY,
    *,
    open_end: bool = False,
    invert: bool = False,
) -> Iterator[Step[X]]:
    """Walk a grid of levels from noise to data; yield after every step that goes down.

    The caller's loop body is where progress bars, previews, counts and interruption live. A step up in noise (time
    travel) is `process.forward`, and starts the carry anew. Step k of row i draws its noise at (key of row i, k), so
    that a row does not depend on the batch that it is in. Gradients are off unless a denoiser turns them on.

    Args:
        sampler: how to step.
        process: the kernels; bound to the batch's mask where there is one.
        denoise: the network, or guidance around it.
        x: [B, ...] at levels[0]; float32 or float64, which is the dtype of all arithmetic outside the network.
        levels: the grid [K + 1, *level shape], noise first; a mapping of grids for a state of parts.
        rng: randomness for the rows.
        cond: conditions.
        open_end: the grid may end at sigma > 0.
        invert: the grid goes from data to noise and is solved as an ODE (`plan`).

    Raises:
        ValueError: from `plan`, and where `denoise` states an interval of log-SNR and the grid leaves it.
        FloatingPointError: where the result is not finite, naming the row; it never becomes a black picture.
    """
    _require_full(x)
    interval = getattr(denoise, "interval", None)
    if interval is not None:
        check_interval(levels, interval)
    rows = plan_for(sampler, levels, x, open_end=open_end, invert=invert)
    down = [row.number for row in rows if not row.up]
    for number, step in zip(down, walk(sampler, process, denoise, x, rows, rng, cond), strict=True):
        if number == len(rows) - 1:
            require_finite(step.x)
        yield step


def plan_for(sampler: Sampler[X], levels: Levels, x: X, *, open_end: bool = False, invert: bool = False) -> list[Row]:
    """The `plan` in the dtype and on the device of the states x."""
    parts = _tensors(x)
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
    return plan(sampler, levels, open_end=open_end, invert=invert, dtype=dtype, device=parts[0].device)


def walk(
    sampler: Sampler[X],
    process: Process[X],
    denoise: Denoiser[X],
    x: X,
    rows: Sequence[Row],
    rng: Rng,
    cond: Cond = EMPTY,
) -> Iterator[Step[X]]:
    """The steps of a plan; see `sample`. Branches on the host's facts alone, so that all of it can be one graph."""

    def projected(y: X, level: Any, cond: Cond = cond, /, *, to: Any = None) -> Any:
        return process.project(denoise(y, level, cond, to=to))

    carry = sampler.init(x)
    for row in rows:
        with torch.no_grad():
            at = rng.fold(row.number)
            if row.up:
                x, carry = held(row, process.forward(x, row.src, row.dst, at), x), sampler.init(x)
                continue
            step = sampler.step(process, projected, x, row, at, carry)
            x, carry = held(row, step.x, x), step.carry
        yield replace(step, x=x)


def _require_full(x: Any) -> None:
    for part in _tensors(x):
        if part.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"states are float32 or float64, got {part.dtype}: the network casts for itself")


def _tensors(x: Any) -> list[Tensor]:
    return list(x.values()) if isinstance(x, Mapping) else [x]


def require_finite(x: Any) -> None:
    """Raises FloatingPointError, naming the row, where a state is not finite; waits for the device."""
    for part in _tensors(x):
        if part.is_floating_point() and not bool(torch.isfinite(part).all()):
            row = int((~torch.isfinite(part)).flatten(1).any(1).nonzero()[0])
            raise FloatingPointError(
                f"sample {row} of the batch is not finite: the network overflowed (in float16? take bfloat16), "
                "guidance is too strong, or the weights are not finite"
            )
