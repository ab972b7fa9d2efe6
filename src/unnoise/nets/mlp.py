"""A residual network for vectors: toy data, latent vectors, tutorials."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.embedding import Embedding, check_conditions
from unnoise.nets.layers import check_dropout, zero


class MLP(nn.Module):
    """net(x, c_noise, **cond) for vectors x [B, C].

        h = W x
        h = h + W_2 silu((1 + scale) norm(W_1 silu(norm(h))) + shift)         `blocks` times
        out = W silu(norm(h))

    (scale, shift) is a linear function of the embedding, as in the U-Net; each W is another one, norms are layer norms.
    W_2 and the last W start at zero, so the output is exactly 0 at initialisation.

    Args:
        channels: C of x.
        out_channels: of the output; None: C.
        width: of h and of the embedding; even.
        blocks: number of residual blocks.
        dropout: probability, before W_2.
        noise_scale: resolution of c_noise, see `noise_features`; lower than the U-Net's: toy data want smoothness.
        labels: number of classes by name; given as name=int64 [B], where index `classes` means null.
        vector: D of vector=[B, D]; None: no such condition.

    Raises:
        ValueError: for an odd width.
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        width: int = 128,
        blocks: int = 3,
        dropout: float = 0.0,
        noise_scale: float = 100.0,
        labels: Mapping[str, int] | None = None,
        vector: int | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.out_channels = channels, out_channels
        self.width, self.blocks, self.dropout, self.noise_scale = width, blocks, dropout, noise_scale
        self.labels, self.vector = dict(labels or {}), vector
        check_dropout(dropout)
        self.embed = Embedding(features=width, width=width, noise_scale=noise_scale, labels=self.labels, vector=vector)
        self.stem = nn.Linear(channels, width)
        self.layers = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.Linear(width, out_channels or channels))

    @property
    def ends(self) -> list[nn.Module]:
        """The layers that read the input or write the output, see `optim.hidden_matrices`."""
        return [self.stem, self.head, *self.embed.inputs]

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Tensor) -> Tensor:
        """The output [B, out_channels].

        Args:
            x: [B, C].
            c_noise: [B] or [B, 1].
            cond: the conditions that the network was built with.

        Raises:
            ValueError: for an unknown or missing condition, or other shapes.
        """
        check_conditions("MLP", cond, self.labels, vector=self.vector)
        if x.shape[1:] != (self.channels,) or c_noise.shape not in {x.shape[:1], (x.shape[0], 1)}:
            raise ValueError(
                f"x must be [B, {self.channels}] and c_noise [B] or [B, 1], got {tuple(x.shape)}, "
                f"{tuple(c_noise.shape)}"
            )
        embedding = self.embed(c_noise.view(-1), cond)
        h = self.stem(x)
        for layer in self.layers:
            h = layer(h, embedding)
        return self.head(F.silu(self.norm(h)))


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_in = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.embed = nn.Linear(width, 2 * width)
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)  # the embedding gives scale and shift
        self.outer = zero(nn.Linear(width, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.embed(embedding).chunk(2, dim=-1)
        inner = self.norm_out(self.inner(F.silu(self.norm_in(h)))) * (1 + scale) + shift
        return h + self.outer(F.dropout(F.silu(inner), self.dropout, self.training))
