"""Philox4x32-10 as one Triton kernel, imported only where words are wanted on a CUDA device; `philox` is its twin."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.random import philox_impl

_ROUNDS = 10
_BLOCK = 256


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(a, b, c, d, k, m, out, n, rounds: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * block + tl.arange(0, block)
    there = i < n
    c0 = tl.load(a + i, mask=there, other=0).to(tl.uint32)
    c1 = tl.load(b + i, mask=there, other=0).to(tl.uint32)
    c2 = tl.load(c + i, mask=there, other=0).to(tl.uint32)
    c3 = tl.load(d + i, mask=there, other=0).to(tl.uint32)
    k0 = tl.load(k + i, mask=there, other=0).to(tl.uint32)
    k1 = tl.load(m + i, mask=there, other=0).to(tl.uint32)
    c0, c1, c2, c3 = philox_impl(c0, c1, c2, c3, k0, k1, rounds)
    tl.store(out + i, c0.to(tl.int64), mask=there)
    tl.store(out + n + i, c1.to(tl.int64), mask=there)
    tl.store(out + 2 * n + i, c2.to(tl.int64), mask=there)
    tl.store(out + 3 * n + i, c3.to(tl.int64), mask=there)


def run(words: Sequence[Tensor]) -> list[Tensor]:
    """The four output words of four counter and two key words (int64 in [0, 2^32), broadcast together)."""
    same = [w.contiguous() for w in torch.broadcast_tensors(*words)]  # type: ignore[no-untyped-call]
    out = torch.empty(4, *same[0].shape, dtype=torch.int64, device=same[0].device)
    n = same[0].numel()
    with torch.cuda.device(out.device):
        _kernel[(triton.cdiv(n, _BLOCK),)](*same, out, n, _ROUNDS, _BLOCK)
    return list(out.unbind(0))
