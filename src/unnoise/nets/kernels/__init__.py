"""Fused kernels, each behind the layer that uses it and beside the eager code that it stands in for.

A layer asks `wanted` and calls one or the other. The environment variable UNNOISE_KERNELS chooses for a process,
`using` for a block of code: "auto", the default, takes the kernels on CUDA devices where Triton is installed, "eager"
never does, which spares the seconds in which they are compiled for the first time, "fused" always, which needs Triton
(on a CPU its interpreter: TRITON_INTERPRET=1). The results differ by rounding, and dropout draws other masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, get_args

from torch import Tensor

Choice = Literal["auto", "eager", "fused"]

_choice = os.environ.get("UNNOISE_KERNELS", "auto")
_installed = find_spec("triton") is not None


def _check(choice: str) -> None:
    if choice not in get_args(Choice):
        raise ValueError(f"kernels (UNNOISE_KERNELS) are one of {', '.join(get_args(Choice))}, got {choice!r}")


_check(_choice)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Within, layers take their fused kernels or their eager code.

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
    return _choice == "fused" or (_choice == "auto" and x.is_cuda and _installed)
