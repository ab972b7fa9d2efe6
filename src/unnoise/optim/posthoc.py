"""Averages of the weights at widths that nobody tracked, from snapshots of two that were.

Each snapshot is an integral of p_i(t) theta(t) over the weights theta of the run (`optim.ema`), so a linear combination
of snapshots is one too, and coefficients c with sum_i c_i p_i close to the wanted p give the wanted average.

"Close" is measured by what the mismatch costs. Integrated by parts, with tails S(t) = integral of p from t to the end,

    integral p theta = theta(0) + integral S dtheta        S(t) = 1 - (t / T)^(gamma + 1) for t < T, 0 after

so weights that move like a random walk are off by the L2 distance of the tails, once sum_i c_i = 1 has removed the part
of theta(0), the largest by far. That is a least-squares problem with closed-form inner products (`inner`), to which a
ridge is added for the rounding of snapshots that are stored in bf16.

Source: Karras et al. 2024 (EDM2), arXiv:2312.02696, section 3.2 and appendix C. They minimise the L2 distance of the
profiles p themselves, without the constraint, which is right for weights that are white noise around zero. In four
simulated runs of 800 steps (widths of 0.03 to 0.25, bf16 snapshots) ours was off by 2 to 17 times less: mostly the
constraint's doing, the tails add up to a factor of 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unnoise.optim.ema import gamma_of_width

Floats = NDArray[np.float64]
Snapshot = tuple[int, float, Mapping[str, Tensor]]

RIDGE = 1e-5
"""Variance of a snapshot's rounding error over that of the weights' movement in the whole run. Snapshots spaced in log
samples do not need it (errors are alike from 0 to 3e-5, and grow from 1e-4); one that is given twice does."""


def inner(gamma_a: Floats, time_a: Floats, gamma_b: Floats, time_b: Floats) -> Floats:
    """Integral over t >= 0 of S_a(t) S_b(t), for tails S(t) = 1 - (t / T)^(gamma + 1) up to T and 0 after.

    With m = min(T_a, T_b), k = gamma + 1 and u = (m / T)^k it is

        m (1 - u_a / (k_a + 1) - u_b / (k_b + 1) + u_a u_b / (k_a + k_b + 1))

    All four broadcast together; the result is in the unit of the times.

    Args:
        gamma_a: exponents of the one side.
        time_a: where its profiles end, > 0, in any unit.
        gamma_b: exponents of the other.
        time_b: where its profiles end, in the same unit.
    """
    m = np.minimum(time_a, time_b)
    k_a, k_b = gamma_a + 1, gamma_b + 1
    u_a, u_b = (m / time_a) ** k_a, (m / time_b) ** k_b
    return np.asarray(m * (1 - u_a / (k_a + 1) - u_b / (k_b + 1) + u_a * u_b / (k_a + k_b + 1)))


def coefficients(profiles: Sequence[tuple[int, float]], width: float, seen: int) -> Floats:
    """The shares c_i, summing to 1, in which averages (seen_i, width_i) make up the average (seen, width).

    Minimises |sum_i c_i S_i - S|^2 + RIDGE |c|^2 under sum_i c_i = 1, the unit of time being the last profile's end.

    Args:
        profiles: (samples seen, relative width) of each snapshot.
        width: relative width that is wanted.
        seen: samples seen at which it is wanted.

    Returns:
        float64 [len(profiles)].

    Raises:
        ValueError: without profiles, or if `seen` lies outside of (0, last seen_i].
    """
    if not profiles:
        raise ValueError("an average is reconstructed from snapshots, and there are none")
    end = max(at for at, _ in profiles)
    if not 0 < seen <= end:
        raise ValueError(f"the snapshots reach from 0 to {end} samples seen, so they know nothing about {seen}")
    n = len(profiles)
    gamma = np.array([gamma_of_width(w) for _, w in profiles])
    time = np.array([at / end for at, _ in profiles])

    # the stationarity conditions of the Lagrangian: the constraint adds one row and one column
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = inner(gamma[:, None], time[:, None], gamma[None], time[None]) + RIDGE * np.eye(n)
    system[n, n] = 0.0
    target = inner(gamma, time, np.array(gamma_of_width(width)), np.array(seen / end))
    return np.linalg.solve(system, np.append(target, 1.0))[:n]


@torch.no_grad()
def reconstruct(snapshots: Sequence[Snapshot], width: float, seen: int) -> dict[str, Tensor]:
    """The average of relative width `width` at `seen` samples, from snapshots of others.

    Floating tensors are summed in float64 and returned in float32 (float64 stays float64), the others are those of the
    last snapshot at or before `seen` (of the first, if there is none). Mappings are read one after the other, so they
    may load lazily.

    `seen` should be that of a snapshot. From tracked widths of 0.05 and 0.10, those of 0.04 to 0.25 then come within
    0.6 % of the weights' norm in simulated runs (bf16 alone: 0.13 %). Narrower ones fall between the snapshots (0.03:
    up to 1.5 %, 0.02: 3.5 %); tracking 0.02 as a third width brings them to 0.3 %.

    Args:
        snapshots: (seen_i, width_i, tensors by name), in any order.
        width: relative width that is wanted.
        seen: samples seen at which it is wanted.

    Raises:
        ValueError: as `coefficients` does.
        KeyError: if the snapshots do not hold the same names.
    """
    shares = coefficients([(at, w) for at, w, _ in snapshots], width, seen)
    before = [s for s in snapshots if s[0] <= seen]
    _, _, nearest = max(before or snapshots[:1], key=lambda s: s[0])
    total: dict[str, Tensor] = {}
    for share, (at, _, tensors) in zip(shares, snapshots, strict=True):
        if total and tensors.keys() != total.keys():
            raise KeyError(
                f"the snapshot at {at} differs in {sorted(tensors.keys() ^ total.keys())[:3]} from the first"
            )
        for name, x in tensors.items():
            if not x.is_floating_point():
                total[name] = nearest[name].clone()
            elif name in total:
                total[name].add_(x.double(), alpha=float(share))
            else:
                total[name] = x.double() * float(share)
    return {name: _rounded(x, nearest[name]) for name, x in total.items()}


def _rounded(x: Tensor, stored: Tensor) -> Tensor:
    return x.to(torch.promote_types(stored.dtype, torch.float32)) if x.is_floating_point() else x
