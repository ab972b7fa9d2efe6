"""Embedding of what a network is told once per row: its noise level, class labels, vectors."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.layers import zero


def noise_features(c_noise: Tensor, count: int, scale: float) -> Tensor:
    """Sines and cosines of the noise level: [...] -> [..., count].

        cos(scale 10000^(-k/h) c), sin(scale 10000^(-k/h) c),   k = 0 .. h - 1,   h = count / 2

    The angular frequencies fall geometrically from `scale` to about scale/10000: levels 1/scale apart differ, and
    the slowest sine is monotonic where |c| < 15000/scale. With scale = 1000 and c = index / 1000 these are the features
    of Ho et al. 2020 (arXiv 2006.11239) in the form of Dhariwal & Nichol 2021 (arXiv 2105.05233); an angle
    atan2(sigma, alpha) in [0, pi/2] is resolved down to sigma/alpha = 0.001.

    Computed in at least float32, since bfloat16 cannot hold a phase of 1000. The frequencies are made here and are no
    buffer, which `.to(bfloat16)` would round and `.to_empty()` would erase.

    Args:
        c_noise: [...], bounded.
        count: of the features; even.
        scale: highest angular frequency.
    """
    dtype = torch.promote_types(c_noise.dtype, torch.float32)
    half = count // 2
    k = torch.arange(half, dtype=dtype, device=c_noise.device)
    phase = c_noise.to(dtype).unsqueeze(-1) * (scale * torch.exp(-math.log(10000) / half * k))
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def fourier_features(x: Tensor, octaves: Sequence[int]) -> Tensor:
    """[B, C, *spatial] -> [B, 2 C len(octaves), *spatial]: sin(2^n pi x) of all channels, then cos, for each n in turn.

    What a network needs to see the last bits: of pixels of 8 bits in [-1, 1], 2 / 255 apart, the phase for n = 7 turns
    by about pi from one value to the next. Computed in the dtype of x, which must resolve 2^-n: bfloat16 does not.

    Source: Kingma et al. 2021 (VDM), arXiv 2107.00630, appendix C.

    Args:
        x: a state, scaled alike at all levels: c_in x of a parameterization is near the data's own range at clean ones.
        octaves: n, each >= 0.
    """
    phases = [2.0**n * math.pi * x for n in octaves]
    return torch.cat([f(phase) for phase in phases for f in (torch.sin, torch.cos)], dim=1)


def check_conditions(
    net: str,
    cond: Mapping[str, Tensor],
    labels: Mapping[str, int],
    **others: int | None,
) -> None:
    """Refuse conditions that are not those that the network was built with, all of them.

    A condition "name_mask" may come with "name" and may be left out.

    Args:
        net: the network's name, for the message.
        cond: what was given.
        labels: number of classes by name.
        others: width by name, None or 0 where the network has none.

    Raises:
        ValueError: naming a condition that is unknown or missing, and what the network was built with.
    """
    built = {**labels, **{name: width for name, width in others.items() if width}}
    for name in cond:
        if name not in built and name.removesuffix("_mask") not in (built.keys() - labels.keys()):
            raise ValueError(f"{net} does not know the condition {name!r}; {_built_with(net, built, labels)}")
    for name in built:
        if name not in cond:
            raise ValueError(f"{net} misses the condition {name!r}; {_built_with(net, built, labels)}")


def _built_with(net: str, built: Mapping[str, int], labels: Mapping[str, int]) -> str:
    parts = [f"{name} ({n} {'classes' if name in labels else 'channels'})" for name, n in built.items()]
    return f"this {net} was built with {', '.join(parts) or 'no condition'}"


class Embedding(nn.Module):
    """Noise level, labels and vectors as one vector, the sum of an embedding of each, with SiLU after it.

    Source: Ho et al. 2020 for the two-layer network; Dhariwal & Nichol 2021 (arXiv 2105.05233) for the labels.

    Args:
        features: number of noise features, even, >= 2, see `noise_features`.
        width: E, the width of the embedding.
        noise_scale: highest angular frequency of the features.
        labels: number of classes by name; each has one more row, index = classes, for "null" (no label).
        vector: width D of a condition vector; None: there is none.
        vectors: width by name of further vectors that are zeros where there is nothing to say. Their embedding is
            linear without a constant, so that zeros add nothing, and zero at initialisation, so that a network begins
            as the one without them. Source: Karras et al. 2022 (arXiv 2206.00364), appendix F.2.

    Raises:
        ValueError: for an odd number of features.
    """

    def __init__(
        self,
        *,
        features: int,
        width: int,
        noise_scale: float,
        labels: Mapping[str, int],
        vector: int | None,
        vectors: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(
                f"the width of the network gives the number of sines and cosines: even, >= 2, got {features}"
            )
        self.features = features
        self.noise_scale = noise_scale
        self.inner = nn.Linear(features, width)
        self.outer = nn.Linear(width, width)
        self.labels = nn.ModuleDict({name: nn.Embedding(classes + 1, width) for name, classes in labels.items()})
        self.vector = nn.Linear(vector, width) if vector else None
        self.vectors = nn.ModuleDict({k: zero(nn.Linear(n, width, bias=False)) for k, n in (vectors or {}).items()})

    @property
    def inputs(self) -> list[nn.Module]:
        """The layers that read the noise level and the vectors."""
        return [self.inner, *([self.vector] if self.vector else []), *self.vectors.values()]

    def forward(self, c_noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """The embedding [B, *sizes, E].

        Args:
            c_noise: [B, *sizes].
            cond: each label int64 [B], "vector" and each of the vectors [B, D]; others are ignored.
        """
        noise = noise_features(c_noise, self.features, self.noise_scale).to(self.inner.weight.dtype)
        embedding = self.outer(F.silu(self.inner(noise)))
        row = [embedding.shape[0], *(1,) * (embedding.ndim - 2), embedding.shape[-1]]
        for name, table in self.labels.items():
            embedding = embedding + table(cond[name]).view(row)
        if self.vector is not None:
            embedding = embedding + self.vector(cond["vector"]).view(row)
        for name, linear in self.vectors.items():
            embedding = embedding + linear(cond[name]).view(row)
        # Every layer that reads the embedding starts with this activation: once here is cheaper than once a layer.
        return F.silu(embedding)
