"""Randomness as a value: counter-based, addressable, the same for any batch size, chunking or number of devices.

Every number is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") of an address: the key
of its row, the path folded into that key, the kind of the draw and the element's own multi-index. Nothing is
consumed and nothing advances: drawing twice gives the same numbers, and row i of a batch is what it would be alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from torch import Tensor

from unnoise.core.level import exact
from unnoise.core.philox import philox

_MASK = 0xFFFFFFFF
# The fourth word of a counter says what is drawn, so that draws of different kinds never share a number.
_FOLD, _AXIS, _UNIFORM, _NORMAL, _UNIFORM_LOW = range(5)


def _words(key: Tensor, shape: Sequence[int], tag: int) -> Tensor:
    """Words [*key batch, *shape] in [0, 2^32): element (.., i, j, k) is word k mod 4 of counter (i, j, k // 4, tag).

    The address of an element is its multi-index, so a larger or padded shape around it changes nothing. A counter has
    room for three axes; those before the last three are hashed into the key.
    """
    if len(shape) > 3:
        index = torch.arange(shape[0], device=key.device)
        words = philox([index, index * 0, index * 0, index * 0 + _AXIS], [w[..., None] for w in key.unbind(-1)])
        return _words(torch.stack(words[:2], -1), shape[1:], tag)
    if not shape:
        return _words(key, (1,), tag).squeeze(-1)
    *outer, last = shape
    axes = [*outer, -(-last // 4)]
    grid = torch.meshgrid(*(torch.arange(n, device=key.device) for n in axes), indexing="ij")
    zero = torch.zeros((), dtype=torch.int64, device=key.device)
    counter = [*grid, *[zero] * (3 - len(axes)), zero + tag]
    words = philox(counter, [w.reshape(*w.shape, *(1,) * len(axes)) for w in key.unbind(-1)])
    return torch.stack(words, -1).flatten(-2)[..., :last]


def _signed(value: int) -> int:
    """An integer of 64 bits, signed or not, as the signed one of the same bits."""
    return (value + 2**63) % 2**64 - 2**63


def _floating(like: Tensor) -> torch.dtype:
    """Numbers are drawn in float32, or in float64 for a float64 state: in fewer bits [0, 1) would contain 1."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Rng:
    """Randomness for the rows of a batch.

    Args:
        key: int64 [B, 2], two 32-bit words a row. Row i of anything drawn depends on key[i], the path and the
            multi-index of the element only.
    """

    key: Int64[Tensor, "b 2"]

    @staticmethod
    def of(seeds: int | Sequence[int] | Integer[Tensor, " ..."], device: torch.device | str | None = None) -> Rng:
        """One row a seed (any integers of 64 bits); a single integer gives one row."""
        if not isinstance(seeds, Tensor):
            rows = [seeds] if isinstance(seeds, int) else list(seeds)
            seeds = torch.tensor([_signed(s) for s in rows], dtype=torch.int64, device=device)
        seeds = seeds.to(device=device, dtype=torch.int64).reshape(-1)
        return Rng(torch.stack([seeds & _MASK, (seeds >> 32) & _MASK], -1))

    def __len__(self) -> int:
        return self.key.shape[0]

    def __getitem__(self, rows: slice | Integer[Tensor, " rows"] | Bool[Tensor, " b"]) -> Rng:
        return Rng(self.key[rows])

    def fold(self, *path: int | Integer[Tensor, ""] | Integer[Tensor, " b"]) -> Rng:
        """The Rng at a path below this one: a chain of hashes, so that order and length count.

        Args:
            path: integers, 0-dim tensors (for captured graphs), or [B] tensors: one step of the path a row. A single
                row is spread over the rows of such a tensor.
        """
        key = self.key
        for step in path:
            if isinstance(step, int):  # filled in by the device: an upload would make the host wait
                p = torch.full((), _signed(step), dtype=torch.int64, device=key.device)
            else:
                p = step.to(key.device, torch.int64)
            zero = torch.zeros_like(p)
            words = philox([p & _MASK, (p >> 32) & _MASK, zero, zero + _FOLD], key.unbind(-1))
            key = torch.stack(words[:2], -1)
        return Rng(key)

    def _draw(self, like: Tensor, shape: Sequence[int], tag: int) -> Tensor:
        if like.shape[:1] != self.key.shape[:1]:
            raise ValueError(f"randomness for {len(self)} rows cannot fill a state of shape {tuple(like.shape)}")
        return _words(self.key.to(like.device), shape, tag)

    def uniform(self, like: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Uniform numbers in [0, 1), never 1, of the shape of `like` [B, ...]; float32, or float64 with 53 bits."""
        high = self._draw(like, like.shape[1:], _UNIFORM)
        if _floating(like) == torch.float32:
            return (high >> 8).to(torch.float32) * 2.0**-24
        low = self._draw(like, like.shape[1:], _UNIFORM_LOW)
        return ((high << 21) | (low >> 11)).to(torch.float64) * 2.0**-53

    def normal(self, like: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Standard normal numbers of the shape of `like` [B, ...], float32 or float64, by Box and Muller.

        Neighbours (2i, 2i + 1) of the last axis share a pair of words. Computed in float64 and rounded once, so that a
        float32 normal differs by at most 2 ulp between types of device; in float32 on MPS, which has no float64.
        |z| < 6.77, the reach of 32 bits.
        """
        *outer, last = like.shape[1:] if like.ndim > 1 else (1,)
        words = (
            self._draw(like, (*outer, last + last % 2), _NORMAL)
            .to(exact(like.device))
            .reshape(len(self), *outer, (last + 1) // 2, 2)
            * 2.0**-32
        )
        radius = (-2 * (words[..., 0] + 2.0**-33).log()).sqrt()
        angle = 2 * math.pi * words[..., 1]
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return pairs.flatten(-2)[..., :last].to(_floating(like)).reshape(like.shape)
