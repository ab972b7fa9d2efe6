"""Fused kernels, each behind the layer that uses it and beside the eager code that it stands in for.

A layer asks `wanted(x)` and calls one or the other. "auto", the default, takes kernels on CUDA devices where Triton is
installed; "eager" never does; "fused" always, which on a CPU asks for Triton's interpreter (TRITON_INTERPRET=1). The
environment variable UNNOISE_KERNELS sets it for a process, `using` for a block of code. The results differ by rounding,
and dropout draws other masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, get_args

from torch import Tensor

Choice = Literal["auto", "fused", "eager"]

_choice = os.environ.get("UNNOISE_KERNELS", "auto")
_TRITON = find_spec("triton") is not None


def _check(choice: str) -> None:
    if choice not in get_args(Choice):
        raise ValueError(f"kernels (UNNOISE_KERNELS) are one of {', '.join(get_args(Choice))}, got {choice!r}")


_check(_choice)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Within, layers take their kernels where that pays ("auto"), always ("fused") or never ("eager").

    Raises:
        ValueError: for another choice.
    """
    global _choice  # noqa: PLW0603 (compiled code is guarded by it)
    _check(choice)
    before, _choice = _choice, choice
    try:
        yield
    finally:
        _choice = before


def wanted(x: Tensor) -> bool:
    """Whether a layer is to take its fused kernel for x."""
    return _choice == "fused" or (_choice == "auto" and _TRITON and x.is_cuda)
