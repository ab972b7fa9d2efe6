"""Attention layers for sequences and sets: rotary positions, causality, inducing vectors."""

import math

import torch
from torch import Tensor, nn

from unnoise.nets.attention import attend, heads_of


def rotary(z: Tensor, heads: int, first: int = 0) -> Tensor:
    """Rotary embedding: channels (k, k + d/2) of each head, as a plane, turned by an angle that tells the position n.

        angle(n, k) = n 10000^(-2k/d),   k = 0 .. d/2 - 1,   d = C / heads

    The inner product of a query at m and a key at n then depends on m - n alone, not on m and n.

    Source: Su et al. 2021, arXiv 2104.09864, eq. 34; the planes are paired as in GPT-NeoX.

    Args:
        z: queries or keys [B, N, C].
        heads: how many; C / heads is even.
        first: position of element 0.
    """
    dtype = torch.promote_types(z.dtype, torch.float32)  # bfloat16 cannot hold the phase of position 1000
    d = z.shape[-1] // heads
    n = torch.arange(first, first + z.shape[1], dtype=dtype, device=z.device)
    k = torch.arange(d // 2, dtype=dtype, device=z.device)
    angle = n[:, None, None] * torch.exp(-2 * math.log(10000) / d * k)
    a, b = z.to(dtype).view(*z.shape[:2], heads, 2, d // 2).unbind(-2)
    turned = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-2)
    return turned.flatten(2).to(z.dtype)


class SequenceAttention(nn.Module):
    """W_o attend(q, k, v), (q, k, v) = W_qkv h: [B, N, C] -> [B, N, C].

    Args:
        channels: C.
        head_width: channels a head.
        positions: whether queries and keys are told theirs, see `rotary`.
        causal: element n attends to 0 .. n alone.
    """

    def __init__(self, channels: int, head_width: int, *, positions: bool, causal: bool) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_width)
        self.positions, self.causal = positions, causal
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        if self.positions:
            q, k = rotary(q, self.heads), rotary(k, self.heads)
        return self.out(attend(q, k, v, self.heads, mask, causal=self.causal))


class InducedAttention(nn.Module):
    """Attention of a set to itself through M learned vectors, at cost N M: [B, N, C] -> [B, N, C].

        s = i + W_s attend(W i, W_k h, W_v h)                           the M vectors i look at the set
        out = W_o attend(W h, W_k' norm(s), W_v' norm(s))               the set looks at them

    Source: Lee et al. 2019, arXiv 1810.00825, eq. 9 and 10, without the feed-forward layer on s.

    Args:
        channels: C.
        head_width: channels a head.
        inducing: M.
    """

    def __init__(self, channels: int, head_width: int, inducing: int) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_width)
        self.inducing = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inducing, channels)))
        self.q_set, self.kv_set = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.q_inducing, self.kv_inducing = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.summary = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        q = self.q_inducing(self.inducing).expand(len(h), -1, -1)
        k, v = self.kv_set(h).chunk(2, dim=-1)
        s = self.inducing + self.summary(attend(q, k, v, self.heads, mask))
        k, v = self.kv_inducing(self.norm(s)).chunk(2, dim=-1)
        return self.out(attend(self.q_set(h), k, v, self.heads))
