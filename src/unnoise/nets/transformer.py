"""A transformer for token sequences, sequences of vectors and sets of vectors."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.embedding import Embedding, check_conditions
from unnoise.nets.layers import check_dropout, zero
from unnoise.nets.sequence import InducedAttention, SequenceAttention


class Transformer(nn.Module):
    """net(x, c_noise, **cond) for vectors x [B, N, C] or tokens x int64 [B, N].

        h = stem(x)
        h = h + gate_1 attention((1 + scale_1) norm(h) + shift_1)
        h = h + gate_2 W_2 gelu(W_1 ((1 + scale_2) norm(h) + shift_2))        both lines `depth` times
        out = head((1 + scale) norm(h) + shift)

    Gates, scales and shifts are linear functions of the embedding that start at zero, as does the head: every block is
    the identity at initialisation and the output is exactly 0. Norms are layer norms.

    Source: Peebles & Xie 2022, arXiv 2212.09748, section 3.2 (adaLN-Zero).

    Args:
        channels: C of vectors x; None: x are tokens.
        vocabulary: V, tokens are 0 .. V-1; None: x are vectors. Exactly one of the two is given.
        outputs: channels of the output; None: C for vectors, V (logits) for tokens.
        width: of h and of the embedding; even, a multiple of head_width.
        depth: number of blocks.
        head_width: channels a head; even where there are positions.
        dropout: probability, after the attention and before W_2.
        positions: rotary embeddings of the positions, see `rotary`; False: x is a set, and the network is
            equivariant to permutations.
        causal: output n depends on the elements 0 .. n alone.
        inducing: number of learned vectors through which the elements of a set attend to each other, at a cost linear
            in N, see `InducedAttention`; None: every element attends to every other.
        told: whether the network is told the noise level; False: c_noise is not looked at and may be None.
        noise_scale: resolution of c_noise, see `noise_features`.
        labels: number of classes by name; given as name=int64 [B], where index `classes` means null.
        vector: D of vector=[B, D]; None: no such condition.

    Raises:
        ValueError: for arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        channels: int | None = None,
        vocabulary: int | None = None,
        outputs: int | None = None,
        width: int = 128,
        depth: int = 4,
        head_width: int = 32,
        dropout: float = 0.0,
        positions: bool = True,
        causal: bool = False,
        inducing: int | None = None,
        told: bool = True,
        noise_scale: float = 1000.0,
        labels: Mapping[str, int] | None = None,
        vector: int | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.vocabulary, self.outputs = channels, vocabulary, outputs
        self.width, self.depth, self.head_width, self.dropout = width, depth, head_width, dropout
        self.positions, self.causal, self.inducing = positions, causal, inducing
        self.told, self.noise_scale = told, noise_scale
        self.labels, self.vector = dict(labels or {}), vector
        self._validate()
        self.embed = Embedding(features=width, width=width, noise_scale=noise_scale, labels=self.labels, vector=vector)
        self.stem = nn.Linear(channels, width) if channels else nn.Embedding(vocabulary or 0, width)
        self.blocks = nn.ModuleList(
            _Block(
                width,
                InducedAttention(width, head_width, inducing)
                if inducing
                else SequenceAttention(width, head_width, positions=positions, causal=causal),
                dropout,
            )
            for _ in range(depth)
        )
        self.norm = _AdaptiveNorm(width)
        self.head = zero(nn.Linear(width, outputs or channels or vocabulary or 0))

    @property
    def ends(self) -> list[nn.Module]:
        """The layers that read the input or write the output, see `optim.hidden_matrices`."""
        return [self.stem, self.head, *self.embed.inputs]

    def forward(self, x: Tensor, c_noise: Tensor | None = None, **cond: Tensor) -> Tensor:
        """The output [B, N, outputs]; 0 where the mask is False.

        Args:
            x: float [B, N, C], or int64 [B, N] in 0 .. V-1.
            c_noise: [B], or a level for each element, [B, N] or [B, N, 1]; None for a network that is not told.
            cond: the conditions that the network was built with; mask=bool [B, N] may come with them, True = real.
                Outputs at real elements do not depend on what stands at others.

        Raises:
            ValueError: for an unknown or missing condition, or other shapes.
        """
        mask = cond.pop("mask", None)
        check_conditions("Transformer", cond, self.labels, vector=self.vector)
        self._check_shapes(x, mask)
        embedding = self.embed(self._levels(x, c_noise), cond)
        if mask is None:
            h, keys = self.stem(x), None
        else:  # filled, not multiplied: padding may be NaN, or no token at all
            h = self.stem(x.masked_fill(~(mask[..., None] if self.channels else mask), 0))
            keys = mask | ~mask.any(dim=1, keepdim=True)  # a softmax over nothing is NaN, even if nobody reads it
        for block in self.blocks:
            h = block(h, embedding, keys)
        out = self.head(self.norm(h, embedding))
        return out if mask is None else out.masked_fill(~mask[..., None], 0)

    def _levels(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        """c_noise as [B, 1] or [B, N]."""
        if not self.told:
            return torch.zeros(len(x), 1, device=x.device)
        rows, n = x.shape[:2]
        if c_noise is None or c_noise.shape not in {(rows,), (rows, 1), (rows, n), (rows, 1, 1), (rows, n, 1)}:
            given = None if c_noise is None else tuple(c_noise.shape)
            raise ValueError(f"c_noise must be [B], [B, N] or [B, N, 1], got {given} for x {tuple(x.shape)}")
        return c_noise.reshape(rows, -1)

    def _check_shapes(self, x: Tensor, mask: Tensor | None) -> None:
        if self.channels and (x.ndim != 3 or x.shape[2] != self.channels):
            raise ValueError(f"x must be vectors [B, N, {self.channels}], got {tuple(x.shape)}")
        if self.vocabulary and (x.ndim != 2 or x.is_floating_point()):
            raise ValueError(f"x must be tokens, int64 [B, N], got {x.dtype} {tuple(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(f"mask must be bool {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")

    def _validate(self) -> None:
        if bool(self.channels) == bool(self.vocabulary):
            raise ValueError(
                f"give channels (vectors) or vocabulary (tokens), one of them: got {self.channels}, {self.vocabulary}"
            )
        check_dropout(self.dropout)
        if self.positions and self.head_width % 2:
            raise ValueError(
                f"rotary embeddings turn pairs of channels: head_width must be even, got {self.head_width}"
            )
        if self.inducing and (self.positions or self.causal):
            raise ValueError("inducing vectors summarise a set, which has no order: positions=False, causal=False")
        if taken := {"vector", "mask"} & self.labels.keys():
            raise ValueError(f"{sorted(taken)} cannot be names of labels: they are other conditions")


class _AdaptiveNorm(nn.Module):
    """(1 + scale) norm(h) + shift, where (scale, shift) is a linear function of the embedding that starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.embed = zero(nn.Linear(width, 2 * width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.embed(embedding).chunk(2, dim=-1)
        return self.norm(h) * (1 + scale) + shift


class _Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = attention
        self.norm_attention, self.norm_mlp = _AdaptiveNorm(width), _AdaptiveNorm(width)
        self.gates = zero(nn.Linear(width, 2 * width))
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)

    def forward(self, h: Tensor, embedding: Tensor, mask: Tensor | None) -> Tensor:
        gate_attention, gate_mlp = self.gates(embedding).chunk(2, dim=-1)
        attended = self.attention(self.norm_attention(h, embedding), mask)
        h = h + gate_attention * F.dropout(attended, self.dropout, self.training)
        inner = F.gelu(self.inner(self.norm_mlp(h, embedding)))
        return h + gate_mlp * self.outer(F.dropout(inner, self.dropout, self.training))
