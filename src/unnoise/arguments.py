"""What a call of a model is given: whether each argument is of its kind, and the seeds of rows."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from unnoise.core.sampler import Sampler
from unnoise.errors import UserError
from unnoise.sample.grids import Grid

_KINDS: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(("n", "seed", "first", "last", "batch", "steps"), (Integral, "an integer")),
    **dict.fromkeys(("raw", "x", "mask"), (Tensor, "a tensor, torch.as_tensor makes one of an array")),
    "sampler": (Sampler, "a sampler such as unnoise.sample.Heun()"),
    "start": (str, "zero or mean"),
    "grid": (Grid, "a grid such as unnoise.sample.grids.KarrasGrid(sigma_min=0.005, sigma_max=80)"),
    "guidance": (Real | Mapping, "a number, or numbers by attribute"),
    "autoguidance": (Real, "a number"),
    "interval": (list | tuple, "two log-SNR, (low, high)"),
}
_LEAST = {"n": 0, "batch": 1}


def check(**given: Any) -> None:
    """Refuse arguments, by name, of another kind than theirs.

    Raises:
        UserError: naming the argument, what it is to be and what it is.
    """
    for name, value in given.items():
        kind, what = _KINDS[name]
        if isinstance(value, type) or not isinstance(value, kind):
            raise UserError(f"{name} is {what}; got {_shown(value)}")
        if name in _LEAST and value < _LEAST[name]:
            raise UserError(f"{name} is at least {_LEAST[name]}; got {value}")


def check_items(raw: Tensor, codec: Any) -> None:
    """Refuse data that the codec was not made for, as training does.

    Raises:
        UserError: naming what was found and what is expected.
    """
    check(raw=raw)
    if not len(raw):
        raise UserError(f"there is nothing in data of shape {tuple(raw.shape)}: at least one item [N, ...]")
    if hasattr(codec, "check"):
        codec.check(raw)


def seeds_of(n: int, first: int) -> Tensor:
    """int64 [n]: first, first + 1, ..; Raises UserError for what are no 64-bit integers, and for n < 0."""
    check(n=n, seed=first)
    if not -(2**63) <= first <= 2**63 - 1 - n:
        raise UserError(f"seeds are 64-bit integers, got {first} for the first of {n}")
    return torch.arange(first, first + n)


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
