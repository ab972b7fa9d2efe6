"""The E(n)-equivariant graph network, for molecules: points in space that each have a type."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.embedding import Embedding, check_conditions
from unnoise.nets.layers import zero


class EGNN(nn.Module):
    """net(x, c_noise, mask=..., **cond) for x = {"positions": [B, N, 3], "types": [B, N] or [B, N, K]}.

    Every point looks at every other one. With d_ij = |x_i - x_j|, and d_ij(0) that of the input, `depth` times:

        m_ij = phi_e(h_i, h_j, d_ij^2, d_ij(0)^2)
        x_i  = x_i + mean_j (x_i - x_j) / (d_ij + 1) (reach / depth) tanh(phi_x(m_ij))
        h_i  = h_i + phi_h(h_i, sum_j sigmoid(W m_ij) m_ij)

    where each layer sees (1 + scale) norm(h) + shift, linear functions of the embedding, in place of h. The output
    {"positions": x - x(0), "types": head(h)} turns and is mirrored with the input positions and does not change when
    they are translated; "types" change with neither. phi_x and the head start at zero, so the output is exactly 0 at
    initialisation.

    Source: Satorras et al. 2021, arXiv 2102.09844, eq. 3 to 6; Hoogeboom et al. 2022, arXiv 2203.17003, appendix B.

    Args:
        outputs: channels of the output "types".
        vocabulary: types are int64 tokens 0 .. vocabulary-1; a mask token counts. None: they are features.
        types: K, types are float features. Exactly one of the two is given.
        width: of h and of the messages; even. Memory is about B N^2 width numbers a layer.
        depth: number of layers.
        attention: whether messages are weighted by sigmoid(W m_ij); False: by 1.
        reach: bound of a displacement, the sum over the layers; 15 is coords_range of Hoogeboom et al. 2022, who add up
            over j where we average: n times it lets a single neighbour of n move a point as far.
        noise_scale: resolution of c_noise, see `noise_features`.
        labels: number of classes by name; given as name=int64 [B], where index `classes` means null.
        vector: D of vector=[B, D]; None: no such condition.

    Raises:
        ValueError: for arguments that do not fit together.
    """

    def __init__(
        self,
        *,
        outputs: int,
        vocabulary: int | None = None,
        types: int | None = None,
        width: int = 64,
        depth: int = 4,
        attention: bool = True,
        reach: float = 15.0,
        noise_scale: float = 100.0,
        labels: Mapping[str, int] | None = None,
        vector: int | None = None,
    ) -> None:
        super().__init__()
        if bool(vocabulary) == bool(types):
            raise ValueError(f"give vocabulary (tokens) or types (features), one of them: got {vocabulary}, {types}")
        self.outputs, self.vocabulary, self.types = outputs, vocabulary, types
        self.width, self.depth, self.attention = width, depth, attention
        self.reach, self.noise_scale = reach, noise_scale
        self.labels, self.vector = dict(labels or {}), vector
        if taken := {"vector", "mask"} & self.labels.keys():
            raise ValueError(f"{sorted(taken)} cannot be names of labels: they are other conditions")
        self.embed = Embedding(features=width, width=width, noise_scale=noise_scale, labels=self.labels, vector=vector)
        self.embed_types = Embedding(features=width, width=width, noise_scale=noise_scale, labels={}, vector=None)
        self.stem = nn.Linear(types, width) if types else nn.Embedding(vocabulary or 0, width)
        self.layers = nn.ModuleList(_Layer(width, reach / depth, attention) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.Linear(width, outputs))

    @property
    def ends(self) -> list[nn.Module]:
        """The layers that read the input or write the output, see `optim.hidden_matrices`."""
        distances = [m for k, m in self.named_modules() if k.endswith(".distances")]
        return [self.stem, self.head, *self.embed.inputs, *self.embed_types.inputs, *distances]

    def forward(
        self, x: Mapping[str, Tensor], c_noise: Tensor | Mapping[str, Tensor], **cond: Tensor
    ) -> dict[str, Tensor]:
        """The displacement "positions" [B, N, 3] and "types" [B, N, outputs]; 0 where the mask is False.

        Args:
            x: "positions" float [B, N, 3], "types" int64 [B, N] or float [B, N, K].
            c_noise: [B], or {"positions": [B], "types": [B]}, a level for each part.
            cond: mask=bool [B, N], True = real, and the conditions that the network was built with. Outputs at real
                points do not depend on what stands at others.

        Raises:
            ValueError: for an unknown or missing condition, or other shapes.
        """
        mask = cond.pop("mask", None)
        check_conditions("EGNN", cond, self.labels, vector=self.vector)
        if mask is None:
            raise ValueError("EGNN misses the condition 'mask': bool [B, N], True = real; all True where all are")
        self._check_shapes(x, mask)
        levels = c_noise if isinstance(c_noise, Mapping) else {"positions": c_noise, "types": c_noise}
        if any(levels[part].shape != mask.shape[:1] for part in ("positions", "types")):
            raise ValueError(
                f"c_noise must be [B], or one a part, got { {k: tuple(v.shape) for k, v in levels.items()} }"
            )
        embedding = self.embed(levels["positions"][:, None], cond) + self.embed_types(levels["types"][:, None], {})

        real = mask[..., None]  # filled, not multiplied: padding may be NaN, or no token at all
        h = self.stem(x["types"].masked_fill(~(real if self.types else mask), 0))
        start = x["positions"].masked_fill(~real, 0)
        centre = start.sum(dim=1, keepdim=True) / mask.sum(dim=1).clamp(min=1)[:, None, None]
        start = start - centre  # changes no difference, but keeps all digits of points far from the origin
        pairs = _Pairs.of(mask, start)
        positions = start
        for layer in self.layers:
            h, positions = layer(h, positions, pairs, embedding)
        return {
            "positions": (positions - start).masked_fill(~real, 0),
            "types": self.head(F.silu(self.norm(h))).masked_fill(~real, 0),
        }

    def _check_shapes(self, x: Mapping[str, Tensor], mask: Tensor) -> None:
        wanted = {"positions": (*mask.shape, 3), "types": (*mask.shape, self.types) if self.types else mask.shape}
        given = {k: tuple(v.shape) for k, v in x.items()}
        if mask.ndim != 2 or mask.dtype != torch.bool or given != {k: tuple(v) for k, v in wanted.items()}:
            raise ValueError(
                f"x must be positions [B, N, 3] and types {f'[B, N, {self.types}]' if self.types else '[B, N]'}, with "
                f"mask bool [B, N]: got {given}, mask {mask.dtype} {tuple(mask.shape)}"
            )


class _Pairs(NamedTuple):
    """Which points see each other [B, N, N, 1] (1 or 0), how many each one sees, and their first squared distances."""

    seen: Tensor
    neighbours: Tensor
    distance: Tensor

    @staticmethod
    def of(mask: Tensor, positions: Tensor) -> "_Pairs":
        other = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        seen = (mask[:, :, None] & mask[:, None, :] & other)[..., None].to(positions.dtype)
        return _Pairs(seen, seen.sum(dim=2).clamp(min=1), _differences(positions).square().sum(dim=-1, keepdim=True))


def _differences(positions: Tensor) -> Tensor:
    """x_i - x_j [B, N, N, 3]."""
    return positions[:, :, None] - positions[:, None, :]


class _Layer(nn.Module):
    def __init__(self, width: int, reach: float, attention: bool) -> None:
        super().__init__()
        self.reach = reach
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # the embedding gives scale and shift
        self.embed = nn.Linear(width, 2 * width)
        # phi_e's first layer on (h_i, h_j, d^2, d(0)^2), cut in three: two of them are made once a point, not a pair.
        self.one, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.distances = nn.Linear(2, width, bias=False)
        self.message = nn.Linear(width, width)
        self.weight = nn.Linear(width, 1) if attention else None
        self.move = nn.Sequential(nn.Linear(width, width), nn.SiLU(), zero(nn.Linear(width, 1, bias=False)))
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, positions: Tensor, pairs: _Pairs, embedding: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.embed(embedding).chunk(2, dim=-1)
        told = self.norm(h) * (1 + scale) + shift
        difference = _differences(positions)
        square = difference.square().sum(dim=-1, keepdim=True)
        distances = self.distances(torch.cat([square, pairs.distance], dim=-1))
        inner = self.one(told)[:, :, None] + self.other(told)[:, None, :] + distances
        message = F.silu(self.message(F.silu(inner)))

        # 1e-8: the derivative of a root at 0 is infinite, and every point is at distance 0 from itself.
        direction = difference / ((square + 1e-8).sqrt() + 1)
        coefficient = self.reach * torch.tanh(self.move(message)) * pairs.seen
        positions = positions + (direction * coefficient).sum(dim=2) / pairs.neighbours

        weight = pairs.seen if self.weight is None else pairs.seen * self.weight(message).sigmoid()
        heard = (weight * message).sum(dim=2)
        return h + self.update(torch.cat([told, heard], dim=-1)), positions
