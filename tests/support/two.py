"""A runtime as of one of two processes that have the same rows, without the other: `from two import Two`."""

from __future__ import annotations

from torch import Tensor

from unnoise.runtime import Runtime


class Two(Runtime):
    """`Two(device, 0, 2)`: what is averaged over both is what each has."""

    def mean_(self, value: Tensor) -> Tensor:
        """The tensor itself."""
        return value
