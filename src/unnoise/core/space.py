"""Spaces: the linear subspace in which states and noise live.

A space knows one thing, `project`. The process projects the noise where it is drawn; the driver and the objective
project the estimate, once; no sampler and no loss knows that spaces exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class Space(Protocol):
    """A linear subspace of states, possibly bound to the mask of a batch.

    elementwise: whether projecting leaves each element as it is or makes it 0, so that single elements can be pinned.
    """

    elementwise: ClassVar[bool]

    def project(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """The nearest point of the space to `x` [B, ...]; idempotent and linear."""
        ...

    def bind(self, mask: Bool[Tensor, "b n"]) -> Space:
        """The space of a batch in which mask [B, N] (True = real) says which elements of axis 1 exist."""
        ...


@dataclass(frozen=True)
class Euclidean:
    """All of R^n: pictures, waves, latents."""

    elementwise: ClassVar[bool] = True

    def project(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """`x` itself."""
        return x

    def bind(self, mask: Bool[Tensor, "b n"]) -> Euclidean:
        """Refused: a Euclidean space has no padding."""
        raise ValueError("a Euclidean space has no padded elements: use Padded or ZeroCoM for rows of unequal length")


def _real(mask: Tensor, x: Tensor) -> Tensor:
    if mask.shape != x.shape[:2]:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not fit a state of shape {tuple(x.shape)}")
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)).to(x)


@dataclass(frozen=True)
class Padded:
    """Rows of unequal length along axis 1; what lies beyond the end is 0.

    Args:
        mask: [B, N], True = real; bound to a batch, never part of a configuration.
    """

    elementwise: ClassVar[bool] = True
    mask: Bool[Tensor, "b n"] | None = None

    def project(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """`x` with 0 where nothing is."""
        return x if self.mask is None else x * _real(self.mask, x)

    def bind(self, mask: Bool[Tensor, "b n"]) -> Padded:
        """The space of a batch with this mask."""
        return replace(self, mask=mask)


@dataclass(frozen=True)
class ZeroCoM:
    """Positions [B, N, D] whose mean over the real elements is 0: free of translation (Hoogeboom et al. 2022).

    Source: "Equivariant diffusion for molecule generation in 3D", arXiv:2203.17003, section 3.1.

    Args:
        mask: [B, N], True = real; bound to a batch, never part of a configuration.
    """

    elementwise: ClassVar[bool] = False
    mask: Bool[Tensor, "b n"] | None = None

    def project(self, x: Float[Tensor, " b *shape"]) -> Float[Tensor, " b *shape"]:
        """`x` less its mean over the real elements of each row, 0 where nothing is."""
        if self.mask is None:
            return x - x.mean(1, keepdim=True)
        real = _real(self.mask, x)
        x = x * real
        return (x - x.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)) * real

    def bind(self, mask: Bool[Tensor, "b n"]) -> ZeroCoM:
        """The space of a batch with this mask."""
        return replace(self, mask=mask)
