"""The Inception-v3 network on which the FID is defined: TensorFlow's release of 2015-12-05, as a table of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.nets.layers import channels_last

DIMS = (64, 192, 768, 1280, 2048)
"""Features after the first and the second max pooling, Mixed_6e, Mixed_7a and Mixed_7c, averaged over positions."""

SIDE = 299
"""Height and width that x is resized to."""

EPSILON = 1e-3
"""Of the batch norms that are folded into the weights."""

Layer = tuple[int, int, int, int]
"""Outputs, kernel height, kernel width, stride."""

Branches = Mapping[str, Sequence[tuple[Layer, ...]]]
"""By name: steps one after the other, each one convolution or two side by side."""


def _one(outputs: int, high: int = 1, wide: int = 1, stride: int = 1) -> tuple[Layer]:
    return ((outputs, high, wide, stride),)


def _at_35(pooled: int) -> Branches:
    return {
        "branch1x1": [_one(64)],
        "branch5x5": [_one(48), _one(64, 5, 5)],
        "branch3x3dbl": [_one(64), _one(96, 3, 3), _one(96, 3, 3)],
        "branch_pool": [_one(pooled)],
    }


def _at_17(n: int) -> Branches:
    return {
        "branch1x1": [_one(192)],
        "branch7x7": [_one(n), _one(n, 1, 7), _one(192, 7, 1)],
        "branch7x7dbl": [_one(n), _one(n, 7, 1), _one(n, 1, 7), _one(n, 7, 1), _one(192, 1, 7)],
        "branch_pool": [_one(192)],
    }


_CROSS: tuple[Layer, ...] = ((384, 1, 3, 1), (384, 3, 1, 1))

_AT_8: Branches = {
    "branch1x1": [_one(320)],
    "branch3x3": [_one(384), _CROSS],
    "branch3x3dbl": [_one(448), _one(384, 3, 3), _CROSS],
    "branch_pool": [_one(192)],
}

STEM: Mapping[str, tuple[Layer, int]] = {
    "Conv2d_1a_3x3": ((32, 3, 3, 2), 0),
    "Conv2d_2a_3x3": ((32, 3, 3, 1), 0),
    "Conv2d_2b_3x3": ((64, 3, 3, 1), 1),
    "Conv2d_3b_1x1": ((80, 1, 1, 1), 0),
    "Conv2d_4a_3x3": ((192, 3, 3, 1), 0),
}
"""The first layers and their padding; a max pooling follows the third and the fifth."""

BLOCKS: Mapping[str, tuple[str, Branches]] = {
    "Mixed_5b": ("mean", _at_35(32)),
    "Mixed_5c": ("mean", _at_35(64)),
    "Mixed_5d": ("mean", _at_35(64)),
    "Mixed_6a": (
        "halve",
        {"branch3x3": [_one(384, 3, 3, 2)], "branch3x3dbl": [_one(64), _one(96, 3, 3), _one(96, 3, 3, 2)]},
    ),
    "Mixed_6b": ("mean", _at_17(128)),
    "Mixed_6c": ("mean", _at_17(160)),
    "Mixed_6d": ("mean", _at_17(160)),
    "Mixed_6e": ("mean", _at_17(192)),
    "Mixed_7a": (
        "halve",
        {
            "branch3x3": [_one(192), _one(320, 3, 3, 2)],
            "branch7x7x3": [_one(192), _one(192, 1, 7), _one(192, 7, 1), _one(192, 3, 3, 2)],
        },
    ),
    "Mixed_7b": ("mean", _AT_8),
    "Mixed_7c": ("max", _AT_8),
}
"""How each block pools, and its branches. A mean leaves padding out; the maximum is the release's own."""

_AFTER = {"Conv2d_2b_3x3": 64, "Conv2d_4a_3x3": 192, "Mixed_6e": 768, "Mixed_7a": 1280, "Mixed_7c": 2048}


class Inception(nn.Module):
    """x [B, 3, H, W] in [-1, 1] -> features, as pytorch-fid computes them: after relu, averaged over positions.

    Batch norm is folded in: every layer is relu(conv(x) + bias). Parameters are named as in torchvision's Inception3,
    `<layer>.weight` and `<layer>.bias`. It is built without weights to speak of (`folded` makes them of a published
    file) and only as far as it is needed.

    Source: Szegedy et al. 2015, arXiv 1512.00567; as FID's network Heusel et al. 2017, arXiv 1706.08500, and
    M. Seitzer's pytorch-fid, which says where TensorFlow's release differs from torchvision's.

    Args:
        dims: of the last features: 64, 192, 768, 1280 or 2048.

    Raises:
        ValueError: for other dims.
    """

    def __init__(self, dims: int = 2048) -> None:
        super().__init__()
        if dims not in DIMS:
            raise ValueError(f"dims must be one of {', '.join(map(str, DIMS))}, got {dims}")
        self.dims = dims
        width = 3
        for name in (*STEM, *BLOCKS):
            if name in STEM:
                (outputs, high, wide, stride), padding = STEM[name]
                self.add_module(name, nn.Conv2d(width, outputs, (high, wide), stride=stride, padding=padding))
                width = outputs
            else:
                block = _Block(width, *BLOCKS[name])
                self.add_module(name, block)
                width = block.width
            if _AFTER.get(name) == dims:
                break
        channels_last(self)

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """The features [B, n] by their number n, up to `dims`.

        Raises:
            ValueError: for an x that is not [B, 3, H, W] with H and W of at least 75.
        """
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 75:
            raise ValueError(f"x must be [B, 3, H, W], H and W at least 75, got {list(x.shape)}")
        found = {}
        for name, layer in self.named_children():
            x = layer(x) if name in BLOCKS else F.relu(layer(x))
            if name in STEM and name in _AFTER:
                x = F.max_pool2d(x, 3, 2)
            if name in _AFTER:
                found[_AFTER[name]] = x.mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> the last features [B, dims]; Raises ValueError as `features` does."""
        return self.features(x)[self.dims]


class _Block(nn.Module):
    """Branches side by side, the last of which pools first; their outputs are joined."""

    def __init__(self, inputs: int, pool: str, branches: Branches) -> None:
        super().__init__()
        self.pool, self.width = pool, 0
        self.steps: dict[str, list[list[str]]] = {}
        for branch, steps in branches.items():
            width, names = inputs, []
            for i, step in enumerate(steps, start=1):
                name = branch if len(steps) == 1 else f"{branch}_{i}"
                names.append([name] if len(step) == 1 else [f"{name}{side}" for side in "ab"])
                for each, (outputs, high, wide, stride) in zip(names[-1], step, strict=True):
                    padding = (high // 2, wide // 2) if stride == 1 else 0
                    self.add_module(each, nn.Conv2d(width, outputs, (high, wide), stride=stride, padding=padding))
                width = sum(outputs for outputs, *_ in step)
            self.steps[branch] = names
            self.width += width
        self.width += inputs if pool == "halve" else 0

    def forward(self, x: Tensor) -> Tensor:
        pooled, parts = self._pooled(x), []
        for branch, names in self.steps.items():
            h = pooled if branch == "branch_pool" else x
            for step in names:
                h = torch.cat([F.relu(self.get_submodule(name)(h)) for name in step], 1)
            parts.append(h)
        return torch.cat([*parts, pooled] if self.pool == "halve" else parts, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "mean":
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return F.max_pool2d(x, 3, 2) if self.pool == "halve" else F.max_pool2d(x, 3, 1, 1)


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by torchvision's names with batch norm folded in: float32 `<layer>.weight` and `<layer>.bias`.

        weight = gamma / sqrt(variance + 1e-3) conv, bias = beta - gamma / sqrt(variance + 1e-3) mean

    Args:
        state: `<layer>.weight` and `.bias`, or `<layer>.conv.weight` and `<layer>.bn.weight`, `.bias`, `.running_mean`
            and `.running_var`; what else there is (the classes' layer) is passed on.

    Raises:
        KeyError: for a convolution whose batch norm is not whole.
    """
    found = {k: v.float() for k, v in state.items() if ".conv." not in k and ".bn." not in k}
    for name in (k.removesuffix(".conv.weight") for k in state if k.endswith(".conv.weight")):
        gamma, beta, mean, variance = (
            state[f"{name}.bn.{k}"].double() for k in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + EPSILON).sqrt()
        found[f"{name}.weight"] = (state[f"{name}.conv.weight"].double() * scale[:, None, None, None]).float()
        found[f"{name}.bias"] = (beta - scale * mean).float()
    return found
