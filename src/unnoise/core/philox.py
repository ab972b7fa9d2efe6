"""Philox4x32-10, the counter-based generator under all randomness, on every kind of device the same words.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The arithmetic stands here once (`_rounds`). On a CPU
NumPy runs it, whose calls on small arrays cost a fifth of torch's; elsewhere torch does. On CUDA one Triton kernel
takes the place of some hundred and sixty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Integer[Tensor, ...]], key: Sequence[Integer[Tensor, ...]]) -> list[Integer[Tensor, ...]]:
    """Philox4x32-10.

    Args:
        counter: four int64 tensors of values in [0, 2^32), broadcast against each other and the key.
        key: two such tensors.

    Returns:
        four int64 tensors of values in [0, 2^32).
    """
    words = [*counter, *key]
    if all(w.device.type == "cpu" for w in words):
        out = _rounds([w.numpy().view(np.uint64) for w in words])
        return [torch.from_numpy(np.asarray(w).view(np.int64)) for w in out]
    kernel = _kernel() if words[0].device.type == "cuda" else None
    return list(_rounds(words)) if kernel is None else kernel(words)


def _rounds(words: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    c0, c1, c2, c3, k0, k1 = words
    for _ in range(_ROUNDS):
        # The 64-bit products wrap into torch's sign bit; the masks take back the 32 bits that are meant.
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> 32) & _MASK ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) & _MASK ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


@lru_cache(maxsize=1)
def _kernel() -> Callable[[Sequence[Tensor]], list[Tensor]] | None:
    """The Triton kernel, or None where there is no Triton."""
    try:
        from unnoise.core.philox_cuda import run
    except ImportError:
        return None
    return run
