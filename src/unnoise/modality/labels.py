"""Class labels as conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from unnoise.core.denoiser import Cond
from unnoise.core.rng import Rng
from unnoise.errors import UserError, nearest


@dataclass(frozen=True)
class Labels:
    """Attributes with a number of classes each. "Nothing said" of an attribute is one class more, the last.

    Args:
        classes: number of classes by attribute, e.g. {"label": 10}.
        apart: probability with which training leaves a row with some of its attributes only, where the objective drops
            conditions at all: any number of them as often as any other, none and all included. Guidance by attribute
            needs it.

    Raises:
        ValueError: for an `apart` that is no probability.
    """

    classes: Mapping[str, int] = field(default_factory=lambda: {"label": 10})
    apart: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.apart <= 1:
            raise ValueError(f"apart is a probability in [0, 1], got {self.apart}")

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes."""
        return tuple(self.classes)

    def encode(self, raw: Mapping[str, Any], rng: Rng | None = None) -> dict[str, Int64[Tensor, " b"]]:
        """int64 [B] by attribute; attributes that `raw` lacks are said to be nothing where another is there."""
        there = [k for k in self.classes if k in raw]
        if not there:
            raise UserError(f"the data have no column for any of the conditions {sorted(self.classes)}")
        like = torch.as_tensor(raw[there[0]])
        return {
            k: torch.as_tensor(raw[k]).long() if k in raw else torch.full_like(like, n, dtype=torch.int64)
            for k, n in self.classes.items()
        }

    def null(self, cond: Cond) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said."""
        return {k: torch.full_like(v, self.classes[k]) if k in self.classes else v for k, v in cond.items()}

    @property
    def alone(self) -> tuple[str, ...]:
        """The attributes that guidance can act on by themselves: those without which training has shown the rest."""
        return self.names if self.apart or len(self.classes) == 1 else ()

    def without(self, cond: Cond, name: str) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said of this attribute."""
        return {**cond, name: torch.full_like(cond[name], self.classes[name])}

    def thin(self, cond: Cond, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with less said, as `apart` has it; a function of each row's randomness."""
        if not self.apart:
            return dict(cond)
        some, share, *each = rng.uniform(torch.zeros(len(rng), 2 + len(self.classes), device=rng.key.device)).unbind(1)
        gone = {k: (some < self.apart) & (u < share) for k, u in zip(self.classes, each, strict=True)}
        return {k: torch.where(gone[k], self.classes[k], v) if k in gone else v for k, v in cond.items()}

    def ask(self, asked: Mapping[str, Any], seeds: Int64[Tensor, " n"]) -> dict[str, Int64[Tensor, " n"]]:
        """Labels of rows: a number for all, a sequence that is run through again and again, or "all".

        Without any, classes are `uniform` over seeds.

        Raises:
            UserError: for an attribute or a label that does not exist.
        """
        if not asked:
            return self.uniform(seeds)
        given = {}
        for k, v in asked.items():
            if k not in self.classes:
                raise UserError(f"unknown condition {k!r}{nearest(k, self.classes)}")
            given[k] = spread(k, range(self.classes[k]) if isinstance(v, str) and v == "all" else v, len(seeds))
        self.check(given)
        return given

    def check(self, cond: Mapping[str, Any]) -> None:
        """Refuse labels that do not exist, once, on the host.

        Raises:
            UserError: naming the attribute, the value and the range.
        """
        for k, v in cond.items():
            if k not in self.classes:
                raise UserError(f"unknown condition {k!r}{nearest(k, self.classes)}")
            values = torch.as_tensor(v)
            if values.is_floating_point():
                raise UserError(
                    f"condition {k!r} takes integers from 0 to {self.classes[k] - 1}, got {values.tolist()}"
                )
            bad = values[(values < 0) | (values >= self.classes[k])]
            if len(bad):
                raise UserError(f"{k}={int(bad[0])} is out of range: there are classes 0 to {self.classes[k] - 1}")

    def uniform(self, seeds: Int64[Tensor, " b"]) -> dict[str, Int64[Tensor, " b"]]:
        """Conditions for rows of which nothing is asked: uniform over classes, a function of the row's seed alone.

        Consecutive seeds run through the classes of the first attribute, so that any stretch of them is balanced, and
        through all combinations with the others before one comes again; which class of another attribute comes next
        is random, so that no attribute stands still while those before it run through their classes.
        """
        out, period = {}, 1
        for j, (k, n) in enumerate(self.classes.items()):
            turn = seeds.div(period, rounding_mode="floor")
            if j:
                start = Rng.of(seeds % period).fold(j).uniform(torch.zeros(len(seeds), 1, dtype=torch.float64))[:, 0]
                turn = turn + (start * n).long()
            out[k] = turn % n
            period *= n
        return out


def spread(name: str, value: Any, n: int) -> Shaped[Tensor, "n ..."]:
    """A number, or a sequence of numbers that is run through again and again, as a tensor [n].

    Raises:
        UserError: naming the condition, for what is neither.
    """
    try:
        values = torch.as_tensor(list(value) if isinstance(value, range) else value).cpu()
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if not values.numel():
        raise UserError(f'condition {name!r} is a number, a sequence of numbers, or "all"; got {value!r}')
    return values.reshape(-1)[torch.arange(n) % values.numel()]
