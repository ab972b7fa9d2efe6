"""A plan: a grid of levels turned, on the host and in float64, into the rows that a sampler walks.

Everything that depends on levels alone is made here, once, and uploaded once. What a plan cannot honour is refused here
and not found out on the way: a grid that does not end on clean data, that leaves the interval the denoiser is trained
for, that goes up and down in one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unnoise.core.level import Level, Levels, leaves, over, part
from unnoise.core.sampler import Row, Sampler

_SLACK = 1e-4
"""How far, in log-SNR, rounding may put the end of a grid outside the trained interval."""


def plan(
    sampler: Sampler[Any],
    levels: Levels,
    *,
    open_end: bool = False,
    invert: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> list[Row]:
    """The rows of a run of `sampler` over a grid.

    Args:
        sampler: whose coefficients to make.
        levels: the grid [K + 1, *level shape], or a mapping of grids for a state of parts. An element whose level stays
            the same in a step is held exactly; a step may go up in noise, for all of its elements.
        open_end: the grid may end at sigma > 0.
        invert: the grid goes from data to noise and is solved as it stands: a step up is an ordinary step of the
            sampler, as an ODE is integrated backwards, and not a draw of the forward process.
        dtype: of the levels and coefficients handed to the sampler.
        device: where the state is.

    Raises:
        ValueError: naming the step, for a grid that is empty, not finite, does not end at sigma = 0, or goes up for
            some elements and down for others in one step; and for a sampler of several evaluations where some element
            arrives at sigma = 0 before the last step.
    """
    grid: Any = over(lambda g: Level(*(a.detach().to("cpu", torch.float64) for a in (g.alpha, g.sigma))), levels)
    steps = _check(grid, open_end or invert)
    ups, idles = zip(*(_moves(grid, i) for i in range(steps)), strict=True)
    if ups[-1] and not invert:
        raise ValueError("the grid ends in a step up in noise: end it with a step down, or say invert=True")
    if invert:
        _check_invertible(sampler, grid)
        ups = (False,) * steps
    lasts = [all(bool((g.sigma[i + 1] == 0).all()) for g in leaves(grid)) for i in range(steps)]
    if sampler.evaluations > 1:
        for i in range(steps):
            if not lasts[i] and any(bool((g.sigma[i + 1] == 0).any()) for g in leaves(grid)):
                raise ValueError(
                    f"{type(sampler).__name__} evaluates at the level that a step reaches; step {i} of {steps} "
                    "reaches sigma = 0 for some elements before the last step: use a sampler of one evaluation a step, "
                    "or let all elements arrive together"
                )
    coefs = _coefficients(sampler, grid, ups, dtype, device)
    uploaded: Any = over(lambda g: g.to(dtype=dtype, device=device), grid)

    def at(i: int) -> Any:
        return over(lambda g, up: up.at(i)._replace(host=_host(g, i)), grid, uploaded)

    return [Row(at(i), at(i + 1), coefs[i], i, ups[i], lasts[i], idles[i]) for i in range(steps)]


def check_interval(levels: Levels, interval: tuple[float, float]) -> None:
    """Refuse a grid that asks a denoiser for levels it was never trained on.

    The clean end is excepted: the level of the last step's result is never evaluated.

    Raises:
        ValueError: naming the level and the interval of log-SNR.
    """
    low, high = interval
    for grid in leaves(levels):
        logsnr = grid.logsnr.double()
        seen = logsnr[grid.sigma > 0]
        for value in (seen.min(), seen.max()) if len(seen) else ():
            if value < low - _SLACK or value > high + _SLACK:
                raise ValueError(
                    f"the grid has a level of log-SNR {value:.4g} (sigma / alpha {math.exp(-float(value) / 2):.4g}), "
                    f"but the denoiser is trained for log-SNR in [{low:.4g}, {high:.4g}]: use a grid inside it"
                )


def _check(grid: Levels, open_end: bool) -> int:
    counts = {len(g.alpha) for g in leaves(grid)}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(f"a grid has at least two levels, the same number for each part; got {sorted(counts)}")
    for g in leaves(grid):
        good = (
            torch.isfinite(g.alpha)
            & torch.isfinite(g.sigma)
            & (g.alpha >= 0)
            & (g.sigma >= 0)
            & (g.alpha + g.sigma > 0)
        )
        if not bool(good.all()):
            i = int((~good).flatten(1).any(1).nonzero()[0]) if good.ndim > 1 else int((~good).nonzero()[0])
            raise ValueError(f"level {i} of the grid is not a level: alpha {g.alpha[i]}, sigma {g.sigma[i]}")
        if not open_end and bool((g.sigma[-1] != 0).any()):
            raise ValueError(
                f"the grid ends at sigma = {float(g.sigma[-1].max()):.4g}, which would leave that much noise: "
                "end it with the clean level (alpha 1, sigma 0), or say open_end=True"
            )
    return counts.pop() - 1


def _check_invertible(sampler: Sampler[Any], grid: Levels) -> None:
    if sampler.stochastic:
        raise ValueError(f"{sampler} draws noise, and cannot be run from data to noise: use Euler, Heun, .. or eta=0")
    if any(bool((g.sigma[0] == 0).any()) for g in leaves(grid)):
        raise ValueError("an inverted grid starts at a small sigma > 0: at sigma = 0 the noise of x is not defined")


def _moves(grid: Levels, i: int) -> tuple[bool, bool]:
    """Whether step i goes up in noise, and whether some element's level does not move in it."""
    cross = torch.cat(
        [(g.alpha[i + 1] * g.sigma[i] - g.alpha[i] * g.sigma[i + 1]).reshape(-1) for g in leaves(grid)]
    )  # > 0: less noise
    still = torch.cat(
        [((g.alpha[i + 1] == g.alpha[i]) & (g.sigma[i + 1] == g.sigma[i])).reshape(-1) for g in leaves(grid)]
    )
    up, down = (cross < 0) & ~still, (cross >= 0) & ~still
    if bool(up.any()) and bool(down.any()):
        raise ValueError(f"step {i} of the grid goes up for some elements and down for others: make two of it")
    return bool(up.any()), bool(still.any())


def _coefficients(
    sampler: Sampler[Any], grid: Any, ups: tuple[bool, ...], dtype: torch.dtype, device: torch.device | str
) -> list[Tensor]:
    """One entry a step; each stretch of steps down is asked for alone, since a step up ends what a carry remembers."""
    empty = torch.zeros(0, dtype=dtype, device=device)
    out: list[Tensor] = [empty] * len(ups)
    start = 0
    while start < len(ups):
        if ups[start]:
            start += 1
            continue
        end = next((i for i in range(start, len(ups)) if ups[i]), len(ups))
        coefs = sampler.coefficients(over(lambda g, a=start, b=end: g.at(slice(a, b + 1)), grid))
        if coefs is not None:
            if not bool(torch.isfinite(coefs).all()):
                raise ValueError(f"{type(sampler).__name__} has no finite coefficients on this grid: {coefs}")
            out[start:end] = list(coefs.to(device, dtype))
        start = end
    return out


def _host(g: Level, i: int) -> tuple[float, float] | None:
    return (float(g.alpha[i]), float(g.sigma[i])) if g.alpha.ndim == 1 else None


def held(row: Row, new: Any, old: Any) -> Any:
    """`new`, but `old`, to the bit, for elements whose level does not move in this step."""
    if not row.idle:
        return new
    if isinstance(new, Mapping):
        parts = {k: row._replace(src=part(row.src, k), dst=part(row.dst, k)) for k in new}
        return {k: held(parts[k], new[k], old[k]) for k in new}
    src, dst = row.src, row.dst
    assert isinstance(src, Level) and isinstance(dst, Level)
    still = (src.alpha == dst.alpha) & (src.sigma == dst.sigma)
    if still.ndim == 1:
        still = still.reshape(-1, *(1,) * (new.ndim - 1))
    return torch.where(still, old, new)
