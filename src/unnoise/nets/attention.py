"""Attention over positions, and from positions to a token sequence, as residual layers of a chain."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.layers import Given, dual, group_norm, merge, zero


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in each head, d = C / heads: [B, N, C].

    Args:
        q: [B, N, C].
        k: [B, L, C].
        v: [B, L, C].
        heads: how many; a divisor of C.
        mask: [B, L] bool, True = may be attended to; at least one a row.
        causal: query n attends to keys 0 .. n alone, and always to its own, N = L.
    """
    q, k, v = (z.view(*z.shape[:2], heads, -1).transpose(1, 2) for z in (q, k, v))
    mask = None if mask is None else mask[:, None, None, :]
    tangents = any(dual(z) for z in (q, k, v))
    if causal and (mask is not None or tangents):  # without a mask the fused kernels skip what lies ahead
        back = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        # Its own: padding before the first real element would have nothing to attend to.
        mask = back if mask is None else (back & mask) | torch.eye(len(back), dtype=torch.bool, device=q.device)
    # A CPU multiplies matrices in bfloat16 several times faster than its fused kernel, which computes in float32.
    quick = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] <= 2**20 and not causal
    # A GPU's fused kernel takes long over the derivatives of wide heads.
    few = q.shape[2] * k.shape[2] <= 2**16
    wide = q.is_cuda and q.shape[3] > 128 and few and torch.is_grad_enabled() and not causal
    if tangents or quick or wide:  # the fused kernels have no forward-mode derivative
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        out = (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(dim=-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)
    return out.transpose(1, 2).flatten(2)


def heads_of(channels: int, head_width: int | None) -> int:
    """The number of heads of `head_width` channels each; None: a single head.

    Raises:
        ValueError: where the channels cannot be cut into such heads.
    """
    if head_width is None:
        return 1
    if channels % head_width:
        raise ValueError(
            f"{channels} channels cannot be cut into heads of {head_width}: choose head_width as a divisor"
        )
    return channels // head_width


def to_tokens(h: Tensor) -> Tensor:
    """[B, C, *spatial] -> [B, N, C]; a view if h is channels_last."""
    return h.flatten(2).transpose(1, 2)


def like_features(tokens: Tensor, h: Tensor) -> Tensor:
    """[B, N, C] -> [B, C, *spatial], the shape of h; a view in channels_last format."""
    return tokens.transpose(1, 2).view(h.shape)


class SelfAttention(nn.Module):
    """h + W_o attend(q, k, v), where (q, k, v) = W_qkv norm(h) at every position; W_o starts at zero.

    Args:
        channels: of h.
        head_width: channels of a head; None: one head (Ho et al. 2020). Dhariwal & Nichol 2021 take 64.
        skip_rescale: divide the sum by sqrt(2).
    """

    def __init__(self, channels: int, head_width: int | None = None, *, skip_rescale: bool = False) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_width)
        self.skip_rescale = skip_rescale
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, h: Tensor, given: Given) -> Tensor:
        q, k, v = self.qkv(to_tokens(self.norm(h))).chunk(3, dim=-1)
        return merge(h, like_features(self.out(attend(q, k, v, self.heads)), h), self.skip_rescale)


class CrossAttention(nn.Module):
    """h + W_o attend(W_q norm(h), W_k context, W_v context); W_o starts at zero.

    Beside the context stands one learned token that no mask hides: with an empty context (mask all False, a natural
    null condition) the softmax is still defined, and positions may choose to look at nothing.

    Args:
        channels: of h.
        context: D of the context [B, L, D].
        head_width: channels of a head; None: one head.
        skip_rescale: divide the sum by sqrt(2).
    """

    def __init__(
        self, channels: int, context: int, head_width: int | None = None, *, skip_rescale: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_width)
        self.skip_rescale = skip_rescale
        self.norm = group_norm(channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(context, 2 * channels)
        self.nothing = nn.Parameter(torch.zeros(2 * channels))
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, h: Tensor, given: Given) -> Tensor:
        if given.context is None:
            raise ValueError("cross-attention needs a context [B, L, D]")
        tokens = self.kv(given.context)
        nothing = self.nothing.to(tokens.dtype).expand(
            len(tokens), 1, -1
        )  # autocast: parameter float32, tokens bfloat16
        k, v = torch.cat([nothing, tokens], dim=1).chunk(2, dim=-1)
        mask = None if given.mask is None else F.pad(given.mask, (1, 0), value=True)
        attended = attend(self.q(to_tokens(self.norm(h))), k, v, self.heads, mask)
        return merge(h, like_features(self.out(attended), h), self.skip_rescale)
