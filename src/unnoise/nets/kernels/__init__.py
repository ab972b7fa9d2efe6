"""Fused kernels, each behind the layer that uses it and beside the eager code that it stands in for.

A layer asks `wanted()` and calls one or the other. The environment variable UNNOISE_KERNELS chooses for a process,
`using` for a block of code: "eager", the default, or "fused", which takes the kernels wherever their arguments fit and
needs Triton (on a CPU its interpreter: TRITON_INTERPRET=1). The results differ by rounding, and dropout draws other
masks. Kernels become the default on GPUs when they have been measured there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Choice = Literal["fused", "eager"]

_choice = os.environ.get("UNNOISE_KERNELS", "eager")


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


def wanted() -> bool:
    """Whether a layer is to take its fused kernel."""
    return _choice == "fused"
