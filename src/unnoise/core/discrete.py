"""Processes of tokens: states int64 [B, ...] of ids 0 .. V - 1, of which noise leaves a share as they are.

A level says how many through its log-SNR alone: keep = alpha^2 / (alpha^2 + sigma^2), 1 on clean data, 0 on pure
noise. An estimate is log-probabilities over the vocabulary, [B, ..., V]. All draws invert the distribution function in
float64: in float32, or by Gumbel noise of few bits, rare tokens would come out too rarely (Zheng et al. 2024,
arXiv:2409.02908). Both kernels always draw: eta and var, which belong to Gaussian states, change nothing here.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unnoise.core.estimate import Estimate
from unnoise.core.level import Level, exact, ratio
from unnoise.core.process import Variance
from unnoise.core.rng import Rng

Tokens = Int64[Tensor, " b *shape"]


def keep(level: Level, x: Tensor) -> Float[Tensor, " ..."]:
    """The share of tokens that noise has left as they were: alpha^2 / (alpha^2 + sigma^2), in float64."""
    level = level.like(x).to(dtype=exact(x.device))
    return level.alpha**2 / (level.alpha**2 + level.sigma**2)


def draw(log_p: Float[Tensor, " b *shape v"], rng: Rng) -> Int64[Tensor, " b *shape"]:
    """A token from each distribution, which need not be normalised: the inverse distribution function in float64."""
    p = log_p.to(exact(log_p.device)).exp()
    below = p.cumsum(-1)
    total = below[..., -1:]
    point = _uniform(below[..., 0], rng).unsqueeze(-1) * total
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))  # rounding must not reach the end
    return (below <= point).sum(-1)


def certain(y: Int64[Tensor, " ..."], like: Float[Tensor, " b *shape v"]) -> Float[Tensor, " b *shape v"]:
    """Log-probabilities of one token each: 0 for y, -inf for all others; for y beyond the vocabulary -inf for all."""
    ids = torch.arange(like.shape[-1], device=like.device)
    return torch.where(y.unsqueeze(-1) == ids, 0.0, -torch.inf).to(like).expand(like.shape)


def _uniform(x: Tensor, rng: Rng) -> Tensor:
    """A number in [0, 1) of 53 bits for each element of x."""
    return rng.uniform(torch.empty(x.shape, dtype=exact(x.device), device=x.device))


def _surprise(est: Estimate, x0: Tensor) -> Tensor:
    """-log p(x0) in nats."""
    return -est.x0.gather(-1, x0.clamp(0, est.x0.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class _Tokens(ABC):
    """What processes of tokens share: the arithmetic of log-probabilities.

    Args:
        vocabulary: V.
        mask: [B, N], True = real; bound to a batch, never part of a configuration. Elsewhere states stay as they are.
    """

    vocabulary: int
    mask: Bool[Tensor, "b n"] | None = None

    def bind(self, mask: Bool[Tensor, "b n"]) -> Any:
        """The process of a batch in which mask [B, N] says what is real."""
        return replace(self, mask=mask)

    def project(self, est: Estimate) -> Estimate:
        """The estimate itself: every distribution is one of this space."""
        return est

    def mix(self, ests: Sequence[Estimate], weights: Sequence[float | Float[Tensor, " ..."]]) -> Estimate:
        """sum of w log p, normalised; what one term forbids (log p = -inf) stays forbidden, whatever the signs."""
        never = torch.stack([e.x0 == -torch.inf for e in ests]).any(0)
        total = sum(w * e.x0.masked_fill(never, 0.0) for w, e in zip(weights, ests, strict=True))
        return Estimate(torch.as_tensor(total).masked_fill(never, -torch.inf).log_softmax(-1))

    def pin(self, est: Estimate, y: Int64[Tensor, " ..."], mask: Bool[Tensor, " ..."]) -> Estimate:
        """The estimate with certainty of y where mask is True."""
        return Estimate(torch.where(mask.unsqueeze(-1), certain(y, est.x0), est.x0))

    def reveal(self, x: Tokens, y: Int64[Tensor, " ..."], mask: Bool[Tensor, " ..."]) -> Tokens:
        """x with y where mask is True: a token that is known is a state like any other."""
        return torch.where(mask, y, x)


@dataclass(frozen=True)
class Absorbing(_Tokens):
    """Noise replaces tokens by a mask, whose id is V; once masked they stay so until the way back reveals them.

    Source: Austin et al. 2021 (D3PM), arXiv:2107.03006; Sahoo et al. 2024 (MDLM), arXiv:2406.07524; Shi et al. 2024
    (MD4), arXiv:2406.04329.

    Args:
        vocabulary: V.
        mask: [B, N], True = real; bound to a batch, never part of a configuration. Elsewhere states stay as they are.
    """

    def forward(self, x: Tokens, src: Level, dst: Level, rng: Rng) -> Tokens:
        """Each token is masked with probability 1 - keep_dst / keep_src."""
        stays = _uniform(x, rng) < ratio(keep(dst, x), keep(src, x))
        return _where_real(self.mask, torch.where(stays, x, self.vocabulary), x)

    def backward(
        self, x: Tokens, est: Estimate, src: Level, dst: Level, rng: Rng, *, eta: float = 1.0, var: Variance = "small"
    ) -> Tokens:
        """A masked token is drawn from the estimate with probability (keep_dst - keep_src) / (1 - keep_src)."""
        a, b = keep(src, x), keep(dst, x)
        reveal = (x == self.vocabulary) & (_uniform(x, rng.fold(1)) < ratio(b - a, 1 - a))
        return _where_real(self.mask, torch.where(reveal, draw(est.x0, rng.fold(0)), x), x)

    def error(self, est: Estimate, x0: Tokens, x: Tokens) -> Float[Tensor, " b *shape"]:
        """-log p(x0) of the tokens that are masked in x, 0 of the others."""
        return torch.where(x == self.vocabulary, _surprise(est, x0), 0.0)


@dataclass(frozen=True)
class UniformTokens(_Tokens):
    """Noise replaces tokens by ones drawn uniformly from the vocabulary (Austin et al. 2021, arXiv:2107.03006).

    Args:
        vocabulary: V.
        mask: [B, N], True = real; bound to a batch, never part of a configuration. Elsewhere states stay as they are.
    """

    def forward(self, x: Tokens, src: Level, dst: Level, rng: Rng) -> Tokens:
        """Each token is drawn anew, from all V, with probability 1 - keep_dst / keep_src."""
        stays = _uniform(x, rng.fold(1)) < ratio(keep(dst, x), keep(src, x))
        other = (_uniform(x, rng.fold(0)) * self.vocabulary).long()
        return _where_real(self.mask, torch.where(stays, x, other), x)

    def backward(
        self, x: Tokens, est: Estimate, src: Level, dst: Level, rng: Rng, *, eta: float = 1.0, var: Variance = "small"
    ) -> Tokens:
        """A draw of sum over i of p(x0 = i) q(x_dst | x_src, x0 = i), exact where p is that of x0 given x_src.

        q(x_dst = j | x_src = s, x0 = i) = q(s | j) q(j | i) / q(s | i), with q(s | j) = r [s = j] + (1 - r) / V and
        r = keep_src / keep_dst, and so on.
        """
        v = self.vocabulary
        a, b = keep(src, x).unsqueeze(-1), keep(dst, x).unsqueeze(-1)
        here = certain(x, est.x0).exp().to(a.dtype)
        weight = est.x0.to(a.dtype).exp() / (a * here + (1 - a) / v)
        there = b * weight + (1 - b) / v * weight.sum(-1, keepdim=True)
        r = ratio(a, b)
        return _where_real(self.mask, draw((there * (r * here + (1 - r) / v)).log(), rng), x)

    def error(self, est: Estimate, x0: Tokens, x: Tokens) -> Float[Tensor, " b *shape"]:
        """-log p(x0) of every token."""
        return _surprise(est, x0)


def _where_real(mask: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    if mask is None:
        return new
    return torch.where(mask.reshape(*mask.shape, *(1,) * (new.ndim - mask.ndim)), new, old)
