"""Sets of point clouds compared: distances between clouds [N, P, 3], and what a matrix of them says of two sets.

All figures depend on the normalisation of the clouds, on the numbers of clouds and points and on the distance: a
protocol names the four, and the two sets have as many clouds each. In the matrices rows are samples ("x") and columns
reference data ("y").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unnoise.errors import UserError
from unnoise.metrics.features import BUDGET

CACHE = 2**18
"""Distances held at a time on a CPU: what its cache holds, twice as fast as what it does not."""
ROUNDS = 10_000


def normalise(x: Float[Tensor, "n p 3"], how: Literal["sphere", "box", "std"]) -> Float[Tensor, "n p 3"]:
    """Each cloud moved and scaled by itself, [N, P, 3].

        sphere   (x - mean) / max_i |x_i - mean|           in the unit sphere; Qi et al. 2017, arXiv:1612.00593
        box      2 (x - middle) / longest side             in [-1, 1]^3, middle and sides of the bounding box;
                 for evaluation: Luo and Hu 2021, arXiv:2103.01458
        std      (x - mean) / std of the 3 P coordinates   for training, and often for evaluation: Yang et al. 2019,
                 arXiv:1906.12320, who take mean and std of the whole set; Luo and Hu 2021, of each cloud, as here

    Raises:
        ValueError: naming the cloud whose points are all the same, or not finite; for another `how`.
    """
    x = _checked(x, dtype=x.dtype)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    if (same := (low == high).all(2).flatten()).any():
        raise ValueError(f"all points of cloud {int(same.nonzero()[0])} are the same: it has no size to divide by")
    if how == "box":
        return 2 * (x - (low + high) / 2) / (high - low).amax(2, keepdim=True)
    centred = x - x.mean(1, keepdim=True)
    if how == "sphere":
        return centred / centred.norm(dim=2, keepdim=True).amax(1, keepdim=True)
    if how == "std":
        return centred / centred.square().mean((1, 2), keepdim=True).sqrt()
    raise ValueError(f"how must be 'sphere', 'box' or 'std', got {how!r}")


def chamfer(a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"]) -> Float64[Tensor, "n m"]:
    """Chamfer distances between clouds a [N, P, 3] and b [M, Q, 3], in squared units of the coordinates, [N, M].

        mean_i min_j |a_i - b_j|^2 + mean_j min_i |a_i - b_j|^2

    Exact, in float64, from differences: 0 between copies. Some papers take the half, or lengths not squared.

    Source: Fan et al. 2017, arXiv:1612.00603 with means in the place of sums (Yang et al. 2019).

    Raises:
        ValueError: naming a cloud that is not finite.
    """
    a, b = _checked(a), _checked(b)
    return _matrix(a, b, lambda c: c.amin(2).square().mean(1) + c.amin(1).square().mean(1))


def emd(a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"]) -> Float64[Tensor, "n m"]:
    """Earth mover's distances between clouds a [N, P, 3] and b [M, P, 3], in units of the coordinates, [N, M].

        min over permutations s of (1/P) sum_i |a_i - b_s(i)|

    Exact, on the CPU, pair by pair: about 0.2 ms at P = 64, 4 ms at 256.

    Source: Rubner et al. 2000; for point clouds Fan et al. 2017, arXiv:1612.00603.

    Raises:
        UserError: without scipy.
        ValueError: if the numbers of points differ, or naming a cloud that is not finite.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as e:
        raise UserError("exact earth mover's distances need scipy: pip install 'unnoise[demo]'") from e

    def assigned(cost: Tensor) -> Tensor:
        pairs = (c[linear_sum_assignment(c)].mean() for c in cost.cpu().numpy())
        return torch.tensor(list(pairs), dtype=torch.float64, device=cost.device)

    return _matrix(*_equal(a, b), assigned)


def emd_approximate(
    a: Float[Tensor, "n p 3"], b: Float[Tensor, "m q 3"], error: float = 0.02
) -> Float64[Tensor, "n m"]:
    """Upper bounds of the earth mover's distances, [N, M]: emd(a, b) <= found <= emd(a, b) + error.

    Entropic transport of decreasing temperature, rounded to a true transport, whose cost is the answer. The bound is
    no estimate: each pair ends when its cost lies within `error` of a feasible dual value, sum_i min_j (c_ij - g_j) / P
    + sum_j g_j / P, which lies below every transport. Needs no scipy and runs on an accelerator, many pairs at a time;
    on one CPU thread 64 points take about 10 ms a pair and 256 take 0.1 s: slower than `emd`.

    Source: Cuturi 2013, arXiv:1306.0895; the rounding: Altschuler et al. 2017, arXiv:1705.09634, algorithm 2.

    Args:
        a: [N, P, 3].
        b: [M, P, 3].
        error: > 0, in units of the coordinates; half of it takes about twice as long.

    Raises:
        UserError: where 10,000 rounds do not suffice for so small an error.
        ValueError: if the numbers of points differ, for an error <= 0, or naming a cloud that is not finite.
    """
    if not error > 0:
        raise ValueError(f"error must be above 0, got {error}")
    return _matrix(*_equal(a, b), lambda cost: _transport(cost, error))


def one_nna(xx: Float[Tensor, "n n"], xy: Float[Tensor, "n m"], yy: Float[Tensor, "m m"]) -> float:
    """Leave-one-out accuracy, in [0, 1], of telling x from y by the set of the nearest other item.

    0.5 in expectation for equal distributions and as many items of each; 1 for sets far apart; 0 where each item's
    nearest is a copy in the other set: samples that copy the reference are not at 0.5. A tie counts half.

    Source: Lopez-Paz and Oquab 2017, arXiv:1610.06545; for point clouds Yang et al. 2019, arXiv:1906.12320.

    Args:
        xx: distances [N, N] within x; the diagonal is not read.
        xy: distances [N, M] from x to y.
        yy: distances [M, M] within y.

    Raises:
        ValueError: for a set of fewer than 2 items.
    """
    if min(xy.shape) < 2:
        raise ValueError(f"each set needs at least 2 items, got {list(xy.shape)}")
    right = []
    for own, other in ((xx, xy.amin(1)), (yy, xy.amin(0))):
        alone = torch.eye(len(own), dtype=torch.bool, device=own.device)
        own = own.masked_fill(alone, math.inf).amin(1)
        right.append((own < other).double() + (own == other).double() / 2)
    return torch.cat(right).mean().item()


def minimum_matching_distance(xy: Float[Tensor, "n m"]) -> float:
    """Mean over reference items of the distance to the nearest sample, given distances [N, M]; blind to bad samples.

    Source: Achlioptas et al. 2018, arXiv:1707.02392.
    """
    return xy.amin(0).double().mean().item()


def coverage(xy: Float[Tensor, "n m"]) -> float:
    """Share of reference items that are the nearest one of some sample, in (0, 1], given distances [N, M].

    Below 1 also for equal distributions, where several samples share a nearest item. Blind to how near "nearest" is.

    Source: Achlioptas et al. 2018, arXiv:1707.02392.
    """
    return len(set(xy.argmin(1).tolist())) / xy.shape[1]


def _transport(cost: Tensor, error: float) -> Tensor:
    """Costs [m] of transports between uniform weights, at most `error` above the least, for costs [m, P, P]."""
    p = cost.shape[1]
    found = torch.empty(len(cost), dtype=cost.dtype, device=cost.device)
    left = torch.arange(len(cost), device=cost.device)
    heat = cost.amax((1, 2), keepdim=True).clamp(min=error)
    coldest = error / (2 * math.log(p + 1))  # the entropy's share of the cost is at most heat log p
    g = torch.zeros_like(cost[:, :1])
    for _ in range(0, ROUNDS, 5):
        for _ in range(5):
            f = heat * (math.log(p) - ((g - cost) / heat).logsumexp(2, keepdim=True))
            g = heat * (math.log(p) - ((f - cost) / heat).logsumexp(1, keepdim=True))
        plan = ((f + g - cost) / heat).exp() / p**2
        astray = (plan.sum(2) - 1 / p).abs().sum(1) * cost.mean((1, 2))
        plan = plan * (1 / p / plan.sum(2, keepdim=True)).clamp(max=1)
        plan = plan * (1 / p / plan.sum(1, keepdim=True)).clamp(max=1)
        rows, columns = 1 / p - plan.sum(2, keepdim=True), 1 / p - plan.sum(1, keepdim=True)
        rest = rows * columns / rows.sum(1, keepdim=True).clamp(min=torch.finfo(cost.dtype).tiny)
        upper = ((plan + rest) * cost).sum((1, 2))
        lower = (cost - g).amin(2).mean(1) + g.mean((1, 2))
        done = upper - lower <= error
        found[left[done]] = upper[done]
        left, cost, g, heat = left[~done], cost[~done], g[~done], heat[~done]
        if not len(left):
            return found
        # colder only where the marginals hold: what is left then is the entropy's share
        settled = astray[~done] <= error / 2
        heat = torch.where(settled[:, None, None], (heat / 2).clamp(min=coldest), heat)
    raise UserError(f"{ROUNDS} rounds do not bring the distances within {error}: allow a larger error, or use emd")


def _matrix(a: Tensor, b: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """What `of` makes of the distances [m, P, Q] between the points of pairs, for all pairs, [N, M]."""
    budget = CACHE if a.device.type == "cpu" else BUDGET
    step = max(1, budget // (a.shape[1] * b.shape[1]))

    def blocks(x: Tensor) -> Iterator[Tensor]:
        for part in torch.split(b, step):
            both = x.expand(len(part), -1, -1), part
            yield of(torch.cdist(*both, compute_mode="donot_use_mm_for_euclid_dist"))

    return torch.stack([torch.cat(list(blocks(x))) for x in a])


def _equal(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"clouds of {a.shape[1]} and of {b.shape[1]} points have no one-to-one matching")
    return _checked(a), _checked(b)


def _checked(x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    if not x.shape[0] or not x.shape[1]:
        raise ValueError(f"clouds must be [N, P, 3] with N >= 1 and P >= 1, got {list(x.shape)}")
    bad = ~x.isfinite().all(2).all(1)
    if bad.any():
        raise ValueError(f"clouds must be finite, cloud {int(bad.nonzero()[0])} is not ({int(bad.sum())} in all)")
    return x.detach().to(dtype)
