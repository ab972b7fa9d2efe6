"""What a denoiser answers: an estimate of the clean data."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Estimate(NamedTuple):
    """An estimate of x0 given a noisy x.

    Args:
        x0: the mean E[x0 | x], of the shape of x; for tokens log-probabilities over the vocabulary [B, ..., V].
        var: Var[x0 | x], of the shape of x, where a network or a closed form knows it.
    """

    x0: Float[Tensor, "b ..."]
    var: Float[Tensor, "b ..."] | None = None
