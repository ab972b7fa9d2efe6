"""The protocols that samplers, guidance and the driver share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Float64
from torch import Tensor

from unnoise.core.denoiser import Denoiser
from unnoise.core.level import Levels
from unnoise.core.process import Process
from unnoise.core.rng import Rng

X = TypeVar("X")
Carry = Any
"""What a sampler keeps between steps: tensors in a fixed structure, or None."""


class Row(NamedTuple):
    """One line of a plan: where to go from where, and everything that is known of it on the host.

    Args:
        src: the level of x.
        dst: the level to reach.
        coef: the sampler's own coefficients, [k] or [k, *level shape], of the plan's dtype.
        number: which step of the plan this is: its randomness.
        up: the step goes up in noise.
        last: every element arrives at sigma = 0.
        idle: some element's level does not move, and is to be held exactly.
    """

    src: Levels
    dst: Levels
    coef: Float[Tensor, " ..."]
    number: int
    up: bool
    last: bool
    idle: bool


@dataclass(frozen=True)
class Step(Generic[X]):
    """What a step yields.

    Args:
        x: the state at the level reached.
        est: the (first) estimate made on the way.
        carry: what the sampler hands to its next step.
    """

    x: X
    est: Any
    carry: Carry = None


def refuse_parts(sampler: Any, given: Any) -> None:
    """Refuse a state, or a grid, of parts; for samplers whose arithmetic is that of one tensor."""
    if isinstance(given, Mapping):
        raise ValueError(f"{type(sampler).__name__} works on one tensor, not on a state of parts: use Ancestral")


@runtime_checkable
class Sampler(Protocol[X]):
    """A frozen value. What evolves is the carry; what depends on levels alone is made once, in `coefficients`.

    order: of convergence on smooth problems (tested), in the deterministic limit.
    evaluations: of the denoiser a step.
    stochastic: whether steps draw noise.
    coupled: whether rows influence each other.
    """

    evaluations: ClassVar[int]
    coupled: ClassVar[bool]

    @property
    def order(self) -> int:
        """Of convergence."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether steps draw noise."""
        ...

    def coefficients(self, levels: Levels) -> Float64[Tensor, "steps k *level"] | None:
        """[steps, k, *level shape] float64 on the host, from the levels [steps + 1, ...] of a stretch of steps down."""
        ...

    def init(self, x: X) -> Carry:
        """The carry before the first estimate."""
        ...

    def step(self, process: Process[X], denoise: Denoiser[X], x: X, row: Row, rng: Rng, carry: Carry) -> Step[X]:
        """From row.src to row.dst; branches on the host facts of `row` only."""
        ...
