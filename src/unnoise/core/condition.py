"""What a denoiser may be told of the data besides x: the protocols of conditioners and codecs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from unnoise.core.denoiser import Cond
from unnoise.core.rng import Rng

Columns = Mapping[str, Shaped[Tensor, "_ ..."]]


@runtime_checkable
class Conditioner(Protocol):
    """From raw conditions to what the network takes; may own weights (a text encoder).

    A condition "mask" [B, N] (True = real) among those of a batch says which elements of axis 1 exist: the process is
    bound to it, and `null` keeps it. It may state `needs`: those of `names` that have no default and must be asked for.
    It may have a method `thin`, from a batch's conditions and randomness to the same with less said, for training; and
    `alone` and `without`, for guidance by attribute (see modality.Labels).
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The raw conditions that may be given: columns of the data, and what a user asks for."""
        ...

    def check(self, raw: Columns) -> None:
        """Refuse raw conditions that do not exist, once, on the host; Raises UserError."""
        ...

    def ask(self, asked: Mapping[str, Any], seeds: Int64[Tensor, " n"]) -> dict[str, Shaped[Tensor, "n ..."]]:
        """Raw conditions of rows: what is asked for, and for the rest a function of each row's seed alone."""
        ...

    def encode(self, raw: Columns, rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The conditions of a batch; the first axis of every tensor is B. Some are noisy: `rng` is of the rows."""
        ...

    def null(self, cond: Cond) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said."""
        ...


def drop(cond: Cond, null: Cond, rng: Rng, p: float) -> dict[str, Shaped[Tensor, "b ..."]]:
    """Each row's conditions, all of them together, replaced by `null` with probability p."""
    gone = rng.uniform(torch.zeros(len(rng), device=rng.key.device)) < p
    return {k: torch.where(gone.reshape(-1, *(1,) * (v.ndim - 1)), null[k], v) for k, v in cond.items()}


def unsaid(conditioner: Any, cond: Cond, rng: Rng, p: float) -> dict[str, Shaped[Tensor, "b ..."]]:
    """A batch as training tells it: `drop`, and less said of the rest where the conditioner wants it so (`thin`)."""
    thin = getattr(conditioner, "thin", None)
    thinned = cond if thin is None else thin(cond, rng.fold(0))
    return drop(thinned, conditioner.null(cond), rng, p)


@runtime_checkable
class Codec(Protocol):
    """Between raw data and states; may own weights (an autoencoder). It owns range, shape, channels and scale.

    Raw data are one tensor, whatever they are; states are tensors, or mappings of parts.
    """

    @property
    def suffix(self) -> str:
        """Of the file that `write` makes of a row."""
        ...

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse raw data that are not what the codec is for, once, on the host; Raises UserError."""
        ...

    def blank(self, n: int) -> Any:
        """n states of zeros: what noise is laid on to begin sampling."""
        ...

    def encode(self, raw: Shaped[Tensor, "b ..."], rng: Rng) -> Any:
        """Raw data [B, ...] as states [B, ...]."""
        ...

    def decode(self, x: Any, mask: Bool[Tensor, "b n"] | None = None) -> Shaped[Tensor, "b ..."]:
        """States as raw data, in their own range and dtype; `mask` says which elements of axis 1 exist."""
        ...

    def write(self, raw: Shaped[Tensor, ...], path: Any) -> None:
        """One row of raw data as a file in the format of its field, written whole or not at all."""
        ...
