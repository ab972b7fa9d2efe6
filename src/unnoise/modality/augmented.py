"""What an augmentation did to a row, as a condition of training that is zeros ever after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from unnoise.core.condition import Columns, Conditioner
from unnoise.core.denoiser import Cond
from unnoise.core.rng import Rng
from unnoise.errors import UserError


@dataclass(frozen=True)
class Augmented:
    """Other conditions, and augment float32 [B, width]: what was done to each row, zeros where nothing was.

    Only training tells it, by the column "augment" (see `data.augment.Augment`); nobody asks for it. Rows without the
    column, those of held-out data and of samples, have zeros: they are as they were. To say nothing of the other
    conditions leaves it as it is, with and without guidance, since a changed picture without a label is changed still.

    Args:
        inner: the other conditions; None where there are none. It may not own weights.
        width: numbers that say what was done.

    Raises:
        ValueError: for an `inner` with weights, which training would not find here, and a width below 1.
    """

    inner: Conditioner | None = None
    width: int = 9

    told = ("augment",)
    """The columns that are passed on as an augmentation gives them."""

    def __post_init__(self) -> None:
        if isinstance(self.inner, nn.Module):
            raise ValueError(f"Augmented takes conditions without weights, got {type(self.inner).__name__}")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the other conditions."""
        return () if self.inner is None else self.inner.names

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of the other conditions that have no default."""
        return tuple(getattr(self.inner, "needs", ()))

    @property
    def alone(self) -> tuple[str, ...]:
        """Those of the other conditions that guidance can act on by themselves."""
        return tuple(getattr(self.inner, "alone", ()))

    def check(self, raw: Columns) -> None:
        """Refuse what the other conditions refuse; Raises UserError."""
        if self.inner is not None:
            self.inner.check(raw)
        elif raw:
            raise UserError(f"the model takes no conditions, got {sorted(raw)}")

    def ask(self, asked: Mapping[str, Any], seeds: Int64[Tensor, " n"]) -> dict[str, Shaped[Tensor, "n ..."]]:
        """The other conditions of rows; Raises UserError for one that does not exist, "augment" among them."""
        if self.inner is not None:
            return self.inner.ask(asked, seeds)
        if asked:
            raise UserError(f"the model takes no conditions, got {sorted(asked)}")
        return {}

    def encode(self, raw: Columns, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The other conditions of a batch, and augment float32 [B, width]: the column, or zeros without one."""
        others = {} if self.inner is None else self.inner.encode(raw, rng)
        zeros = torch.zeros(len(rng), self.width, device=rng.key.device)
        return {**others, "augment": raw["augment"].to(zeros) if "augment" in raw else zeros}

    def null(self, cond: Cond) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said but what was done to it."""
        others = _others(cond)
        return {**(others if self.inner is None else self.inner.null(others)), "augment": cond["augment"]}

    def without(self, cond: Cond, name: str) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said of one of `alone`."""
        inner: Any = self.inner
        return {**inner.without(_others(cond), name), "augment": cond["augment"]}

    def thin(self, cond: Cond, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with as much less said as the other conditions want for training."""
        thin = getattr(self.inner, "thin", None)
        return dict(cond) if thin is None else {**thin(_others(cond), rng), "augment": cond["augment"]}


def _others(cond: Cond) -> dict[str, Tensor]:
    return {k: v for k, v in cond.items() if k != "augment"}
