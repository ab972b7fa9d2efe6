"""What a denoiser may be told of the data besides x: the protocols of conditioners and codecs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor

from unnoise.core.denoiser import Cond
from unnoise.core.rng import Rng


@runtime_checkable
class Conditioner(Protocol):
    """From raw conditions to what the network takes; may own weights (a text encoder)."""

    def encode(self, raw: Mapping[str, Any]) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The conditions of a batch; the first axis of every tensor is B."""
        ...

    def null(self, cond: Cond) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said."""
        ...

    def drop(self, cond: Cond, rng: Rng, p: float) -> dict[str, Shaped[Tensor, "b ..."]]:
        """Each row's conditions replaced by `null` with probability p."""
        ...


@runtime_checkable
class Codec(Protocol):
    """Between raw data and states; may own weights (an autoencoder). It owns range, shape, channels and scale."""

    def encode(self, raw: Shaped[Tensor, "b ..."], rng: Rng) -> Shaped[Tensor, "b ..."]:
        """Raw data [B, ...] as states [B, ...]."""
        ...

    def decode(self, x: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "b ..."]:
        """States as raw data, in their own range and dtype."""
        ...
