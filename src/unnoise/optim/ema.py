"""Averages of the weights whose length is a share of the training so far: the power-function EMA.

After T samples the average is the integral of p(t) theta(t) over [0, T], with

    p(t) = (gamma + 1) t^gamma / T^(gamma + 1)
    width = std of p / T = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))

so that a width of 0.10 averages over about the last tenth of any run, short or long, and gives the random weights of
the start a share that vanishes. As an update of one batch, beta = (1 - batch / seen)^(gamma + 1): a product of such
betas telescopes, and the average is exactly the integral over the piecewise constant weights.

Source: Karras et al. 2024 (EDM2), arXiv:2312.02696, section 3.1 and appendix C (theirs counts steps, ours samples).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unnoise.parts import local

WIDEST = 1 / math.sqrt(12)
"""The width of gamma = 0, where all weights since the start count alike."""

SPACING = 2 ** (1 / 3)
"""Ratio of the samples seen at consecutive snapshots: three a doubling, ten a decade."""

EARLIEST = 4
"""Steps before which no snapshot is taken: averages of so few differ by nothing that is worth a file."""


def gamma_of_width(width: float) -> float:
    """The exponent gamma >= 0 whose profile has the relative width `width`, in (0, 1 / sqrt(12)].

    The real root, largest of three, of gamma^3 + 7 gamma^2 + (16 - width^-2) gamma + (12 - width^-2) = 0.

    Raises:
        ValueError: outside of that range.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"an EMA width is a share of the run in (0, {WIDEST:.4f}], such as 0.05 or 0.10; got {width}")
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(float(roots.real.max()), 0.0)


def width_of_gamma(gamma: float) -> float:
    """Relative width sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) of the exponent `gamma` >= 0.

    Raises:
        ValueError: for gamma < 0.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def snapshot_due(seen: int, batch: int) -> bool:
    """Whether to keep a snapshot (for `reconstruct`) after the step that brought the samples seen to `seen`.

    True where a power of 2^(1/3) lies in (seen - batch, seen], so the run's length need not be known: about 24 times
    in the first 1000 steps, ten times in each further tenfold. Take one more at the end of the run.
    """
    if seen < EARLIEST * batch:
        return False
    return math.floor(math.log(seen, SPACING)) > math.floor(math.log(seen - batch, SPACING))


class Ema:
    """Running averages, at several widths, of a set of named tensors.

    Floating tensors are averaged in float32 (float64 stays float64), whatever precision the network has; others, such
    as counters, are copied at each update.

    Args:
        named: the tensors by name, as in `state_dict()`: parameters and buffers. They are copied. Made after sharding,
            from sharded tensors, the averages are sharded likewise.
        widths: relative widths; two are enough for `reconstruct` to make any other.

    Raises:
        ValueError: for a width outside of (0, 1 / sqrt(12)].
    """

    def __init__(self, named: Mapping[str, Tensor], widths: Sequence[float] = (0.05, 0.10)) -> None:
        self._gammas = {width: gamma_of_width(width) for width in widths}
        self._averages = {width: {name: _copy(x) for name, x in named.items()} for width in widths}
        self._floating = [name for name, x in named.items() if x.is_floating_point()]
        self._others = [name for name, x in named.items() if not x.is_floating_point()]

    @property
    def widths(self) -> tuple[float, ...]:
        """The relative widths that are tracked."""
        return tuple(self._gammas)

    @torch.no_grad()
    def update(self, named: Mapping[str, Tensor], seen: int, batch: int) -> None:
        """Average the weights in, after a step of `batch` samples that brought the samples seen to `seen`.

        The first update (seen == batch) makes the averages equal to the weights. Costs a few kernels a width, and the
        host does not wait for them.

        Raises:
            KeyError: if a tensor is missing or new.
            ValueError: unless 0 < batch <= seen.
        """
        if not 0 < batch <= seen:
            raise ValueError(f"batch must lie in [1, seen], got batch = {batch} at seen = {seen}")
        for width, average in self._averages.items():
            _check_names(named, average)
            share = 1 - (1 - batch / seen) ** (self._gammas[width] + 1)
            old = [local(average[name]) for name in self._floating]
            # a cast makes a copy only where the network's precision is not the average's
            new = [local(named[name]).to(average[name].dtype) for name in self._floating]
            if old:
                torch._foreach_lerp_(old, new, share)
            for name in self._others:
                average[name].copy_(named[name])

    def state(self, width: float) -> dict[str, Tensor]:
        """The average at `width`, one of `widths`, by name: the tensors themselves, not copies.

        Raises:
            KeyError: for a width that is not tracked.
        """
        if width not in self._averages:
            raise KeyError(f"width {width} is not tracked: choose one of {self.widths}, or use reconstruct")
        return dict(self._averages[width])

    @torch.no_grad()
    def load(self, width: float, state: Mapping[str, Tensor]) -> None:
        """Copy a `state` of the same width in, from any device and precision.

        Raises:
            KeyError: for a width that is not tracked, or if a tensor is missing or new.
        """
        average = self.state(width)
        _check_names(state, average)
        for name, x in average.items():
            x.copy_(state[name])


def _copy(x: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else x.dtype
    return x.detach().to(dtype, copy=True)


def _check_names(given: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
    if given.keys() != known.keys():
        raise KeyError(
            f"the EMA tracks other tensors than it is given: missing {sorted(known.keys() - given.keys())[:3]}, "
            f"new {sorted(given.keys() - known.keys())[:3]}"
        )
