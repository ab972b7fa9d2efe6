"""Pictures, waves and codes against what they should be: fidelity in dB, drift of channels, bits per dimension."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64, Real
from torch import Tensor


def psnr(a: Real[Tensor, "n ..."], b: Real[Tensor, "n ..."], peak: float) -> Float64[Tensor, " n"]:
    """Peak signal-to-noise ratio of each row, in dB, [N]; inf for equal rows.

        10 log10(peak^2 / mean((a - b)^2))

    Args:
        a: [N, ...] of any real dtype.
        b: the same shape, in the same units.
        peak: the largest difference that the units allow: 255 for uint8, 2 for [-1, 1].

    Raises:
        ValueError: if shapes differ, or for a peak <= 0.
    """
    if not peak > 0:
        raise ValueError(f"peak must be above 0, got {peak}")
    return 10 * (peak**2 / _difference(a, b).square().flatten(1).mean(1)).log10()


def channel_drift(a: Real[Tensor, "n c ..."], b: Real[Tensor, "n c ..."]) -> Float64[Tensor, " c"]:
    """mean(a - b) of each channel over rows and positions, in units of the data, [C]; 0 where no colour drifts.

    A codec or an editing loop that moves all pixels of a channel a little keeps its PSNR and loses its colours.

    Args:
        a: [N, C, ...] of any real dtype, what came out.
        b: the same shape, what went in.

    Raises:
        ValueError: if shapes differ.
    """
    return _difference(a, b).transpose(0, 1).flatten(1).mean(1)


def bits_per_dimension(
    nats: Real[Tensor, " n"], dims: int, log_det: float | Real[Tensor, " n"] = 0.0
) -> Float64[Tensor, " n"]:
    """Code length of each row in bits a dimension, [N], from that of z = T(x).

        (nats - log_det) / (dims ln 2), as -log p(x) = -log p(z) - log |det dz/dx|

    For integers x in 0..255, dequantised as x + u and scaled to z = (x + u) / 127.5 - 1, log_det = -dims log(127.5).

    Source: Theis et al. 2016, arXiv:1511.01844, section 3.1 (dequantised data); Dinh et al. 2017, arXiv:1605.08803.

    Args:
        nats: -log p(z), [N].
        dims: of x, >= 1.
        log_det: log |det dz/dx|, one number or [N]; 0 where z is x.

    Raises:
        ValueError: for dims < 1.
    """
    if dims < 1:
        raise ValueError(f"dims must be at least 1, got {dims}")
    return (nats.double() - log_det) / (dims * math.log(2))


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """a - b in float64: bytes would wrap around."""
    if a.shape != b.shape:
        raise ValueError(f"signals of shape {list(a.shape)} and {list(b.shape)} cannot be compared")
    return a.to(torch.float64) - b.to(torch.float64)
