"""Learning-rate profiles: factors in [0, 1] that multiply a base rate, as pure functions of samples seen.

Every profile is called as `rate(seen, total)`.

Args:
    seen: samples seen, counting the batch that is about to be applied (so the first step has seen = batch size > 0 and
        a warm-up never wastes it). The only clock: steps, devices and accumulation do not enter, and resuming needs no
        state.
    total: samples of the whole run, or None while a run has not fixed its length yet. A run given in minutes measures
        its speed in its first 5 % and then sets `total`; so no profile looks at `total` before 5 % of it. Later it may
        be amended as long as that leaves the next step's rate as it is.

The promise behind None: for seen <= 0.05 * total, rate(seen, None) == rate(seen, total), bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Rate = Callable[[int, int | None], float]

UNDECIDED = 0.05
"""Share of a run in which its length may be unknown: no decay starts earlier."""


@dataclass(frozen=True)
class Constant:
    """factor = min(seen / warmup, 1).

    Args:
        warmup: samples over which the factor rises linearly from 0 to 1; 0: none.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        _check(self.warmup)

    def __call__(self, seen: int, total: int | None) -> float:
        return _ramp(seen, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to `floor`: factor = floor + (1 - floor) (1 + cos(pi p)) / 2.

    p runs from 0, at the end of the warm-up or at 5 % of the run, whichever is later, to 1 at its end.

    Source: Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, without restarts; the late start is ours.

    Args:
        warmup: samples over which the factor rises linearly from 0 to 1; 0: none.
        floor: the factor at the end, in [0, 1].
    """

    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check(self.warmup, self.floor)

    def __call__(self, seen: int, total: int | None) -> float:
        p = _progress(seen, total, self.warmup)
        return _ramp(seen, self.warmup) * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * p)) / 2)


@dataclass(frozen=True)
class Linear:
    """A straight line from 1 down to `floor`: factor = 1 - (1 - floor) p, with p as in `Cosine`.

    Args:
        warmup: samples over which the factor rises linearly from 0 to 1; 0: none.
        floor: the factor at the end, in [0, 1].
    """

    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check(self.warmup, self.floor)

    def __call__(self, seen: int, total: int | None) -> float:
        return _ramp(seen, self.warmup) * (1 - (1 - self.floor) * _progress(seen, total, self.warmup))


@dataclass(frozen=True)
class InverseSqrt:
    """factor = 1 / sqrt(max(seen / reference, 1)): never needs to know the end, made to go with a post-hoc average.

    Source: Karras et al. 2024 (EDM2), arXiv:2312.02696, alpha_ref / sqrt(max(t / t_ref, 1)), in samples instead
    of steps.

    Args:
        warmup: samples over which the factor rises linearly from 0 to 1; 0: none.
        reference: samples after which the factor begins to fall, > 0.
    """

    warmup: int
    reference: int

    def __post_init__(self) -> None:
        _check(self.warmup)
        if self.reference <= 0:
            raise ValueError(f"reference must be a positive count of samples, got {self.reference}")

    def __call__(self, seen: int, total: int | None) -> float:
        return _ramp(seen, self.warmup) / math.sqrt(max(seen / self.reference, 1.0))


@dataclass(frozen=True)
class Trapezoid:
    """Warm-up, a constant stretch, and a decay to 0 over the last share `decay` of the run: factor = 1 - sqrt(p).

    p runs from 0 at (1 - decay) total, or at the end of the warm-up if that is later, to 1.

    Source: Hägele et al. 2024, arXiv:2405.18392, who found 1 - sqrt(p) better than a straight line.

    Args:
        warmup: samples over which the factor rises linearly from 0 to 1; 0: none.
        decay: share of the run that the decay takes, in [0, 0.95].
    """

    warmup: int = 0
    decay: float = 0.2

    def __post_init__(self) -> None:
        _check(self.warmup)
        if not 0 <= self.decay <= 1 - UNDECIDED:
            raise ValueError(f"decay must be a share of the run in [0, {1 - UNDECIDED}], got {self.decay}")

    def __call__(self, seen: int, total: int | None) -> float:
        p = _progress(seen, total, self.warmup, share=1 - self.decay)
        return _ramp(seen, self.warmup) * (1 - math.sqrt(p))


def _ramp(seen: int, warmup: int) -> float:
    return min(seen / warmup, 1.0) if warmup else 1.0


def _progress(seen: int, total: int | None, warmup: int, share: float = UNDECIDED) -> float:
    """Position in the decay, from 0 (not begun) to 1 (the end of the run, and beyond it)."""
    if total is None:
        return 0.0
    start = max(share * total, UNDECIDED * total, warmup)
    if seen <= start:
        return 0.0
    return min((seen - start) / (total - start), 1.0) if start < total else 1.0


def _check(warmup: int, floor: float = 0.0) -> None:
    if warmup < 0:
        raise ValueError(f"warmup must be a count of samples >= 0, got {warmup}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is a share of the base learning rate in [0, 1], got {floor}")
