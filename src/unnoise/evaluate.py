"""How good samples are, each figure beside the same figure of held-out real data.

Samples are compared with training data, and beside them held-out data are: the same distance, from as many items. What
held-out data, which nobody made up, do not reach is not asked of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise.core.level import exact
from unnoise.core.objective import EDGES, Objective, OverLevels, by_logsnr
from unnoise.core.rng import Rng
from unnoise.data.dataset import Columns, Dataset, loaded, permutation
from unnoise.errors import UserError
from unnoise.metrics import (
    Estimate,
    Manifold,
    Moments,
    frechet_estimate,
    frechet_infinite,
    grouped,
    half_distance,
    halves_distance,
    kernel_distance,
    manifold_estimate,
    nearest_distances,
    nearest_ratio_estimate,
    share,
    too_few,
    worst_share,
)
from unnoise.metrics.figure import Figure, figure
from unnoise.reference import Reference, mapped, references
from unnoise.trial import Trial

SPLITS = 20
"""Random halves of the real data that distances are averaged over."""
NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""
SIDE = 16
"""Pictures are reduced to at most so many pixels a side before their nearest training items are searched."""
SEARCHED = 100_000
"""Training items at most among which the nearest is searched."""
LEAST = 60
"""Samples, and held-out items, below which no distribution is compared."""
RULES: Mapping[str, Any] = {
    "neighbours": NEIGHBOURS,
    "nearest": f"area means of at most {SIDE} pixels a side, {SEARCHED} training items at most",
    "asked": "as training items are",
}
"""What figures depend on besides features and data: part of the protocol."""
CHUNK = 1024


@torch.no_grad()
def loss_by_level(
    objective: Objective,
    components: Mapping[str, Any],
    columns: Columns,
    device: torch.device,
    rows: int = 512,
) -> dict[str, Any]:
    """The loss on held-out data by bin of log-SNR: fixed levels and noise, so that it moves with the weights only.

    Args:
        objective: of the training.
        components: networks and values; the networks are put into evaluation mode meanwhile.
        columns: held-out raw data.
        device: where to.
        rows: how many to look at.

    Returns:
        "held_out": mean of weight * value; "held_out_by_logsnr": mean of value in each bin of `EDGES`, or None.
    """
    rows = min(rows, len(columns["x"]))
    networks = [m for m in components.values() if isinstance(m, torch.nn.Module)]
    modes = [m.training for m in networks]
    for m in networks:
        m.eval()
    totals = torch.zeros(3, len(EDGES) + 1)
    for start in range(0, rows, 128):
        index = torch.arange(start, min(start + 128, rows))
        batch = {k: v[index].to(device) for k, v in columns.items()}
        rng = Rng.of(index, device)
        if isinstance(objective, OverLevels):
            # The levels run through the density in another order than the rows, which may be sorted by class.
            u = (permutation(rows, 1)[index].double() + 0.5) / rows
            loss = objective.at(u.to(device, exact(device)), components, batch, rng)
        else:
            loss = objective(components, batch, rng, 0)
        totals += by_logsnr(loss).cpu()
    for m, mode in zip(networks, modes, strict=True):
        m.train(mode)
    value, weighted, count = totals.double()
    by_level = [float(v / c) if c > 0 else None for v, c in zip(value, count, strict=True)]
    return {"held_out": float(weighted.sum() / count.sum()), "held_out_by_logsnr": by_level}


def require_enough(n: int, data: Dataset, halves: bool = False) -> None:
    """Refuse fewer samples than figures are made of, before any are drawn; Raises UserError."""
    half = (len(data) + len(data.held_out["x"])) // 2
    if halves and n < half:
        raise UserError(f"the distance to half of the real data needs -n of at least {half}, got {n}")
    if n < LEAST:
        raise UserError(f"{n} samples: to compare distributions takes at least {LEAST}")


def compared(own: Sequence[Tensor], real: Reference, name: str, trial: Trial, neighbours: bool = True) -> list[Figure]:
    """Samples and held-out data, as many of each, compared with training data in one set of features.

    Args:
        own: repeats of features [N, D]; see `require_enough`.
        real: real data in the same features.
        name: of the features, which figures carry.
        trial: where warnings go.
        neighbours: also what is told by neighbours.

    Returns:
        Figures: the Frechet distance at as many samples as there are held-out items, at all samples where there are
        more, and as of infinitely many; the kernel distance; precision, recall, density, coverage. They are called
        fd-1280, kid-1280, precision-1280 after their features; fd of the 2,048 of the published network is fid. Of
        fewer than `LEAST` held-out items nothing is said.
    """
    n, width = len(own[0]), own[0].shape[1]
    beside = len(real.held_out) >= LEAST  # or nothing is said of real data
    m, fd = min(n, len(real.held_out)) if beside else n, "fid" if name == "2048" else f"fd-{name}"
    if not beside:
        trial.say(f"{len(real.held_out)} held-out items are too few to stand beside samples: {LEAST} would do")
    if warning := too_few(m, width):
        trial.say(f"{fd}: {warning}")
    place = trial.run.device if trial.run.device.type == "cuda" else torch.device("cpu")  # MPS has no float64
    known, train, held_out = [_on(real.moments, place)], real.train.to(place), real.held_out.to(place)
    sets = [x.to(place) for x in own]
    k = min(m, len(train))

    def frechet(x: Tensor) -> Estimate:
        return frechet_estimate(grouped(x), known)

    def infinite(x: Tensor) -> Estimate:
        groups = grouped(x)
        return Estimate(frechet_infinite(groups, known), frechet_estimate(groups, known).error)

    def both(title: str, measure: Callable[[Tensor], Estimate], count: int | None) -> Figure:
        return measured(title, [measure(x[:count]) for x in sets], measure(held_out[:count]) if beside else None)

    figures = [both(fd, frechet, m)]
    if n > m:
        figures.append(measured(f"{fd} of {n:,}", [frechet(x) for x in sets], None))
    if too_few(m // 4, width) is None:
        figures.append(both(f"{fd} at infinity", infinite, None))
    figures.append(both(f"kid-{name}", lambda x: kernel_distance(x, train[:m]), m))
    if not neighbours:
        return figures
    four = [manifold_estimate(train[:k], x[:k], NEIGHBOURS) for x in sets]
    real_four = manifold_estimate(train[:k], held_out[:k], NEIGHBOURS) if beside else None
    return figures + [
        measured(f"{title}-{name}", [getattr(f, title) for f in four], getattr(real_four, title, None))
        for title in Manifold._fields
    ]


def _on(moments: Moments, place: torch.device) -> Moments:
    return Moments(moments.count, moments.mean.to(place), moments.scatter.to(place))


def memorised(own: Sequence[Tensor], data: Dataset, trial: Trial) -> list[Figure]:
    """How near samples come to training items, in the data themselves: beside held-out items, which were never seen.

    Args:
        own: repeats of raw samples [N, ...].
        data: what was learned from, and what was not.
        trial: whose device is used.

    Returns:
        Figures: the median distance to the nearest training item; the share of samples that are nearer to one than
        99 % of the held-out items are. A ratio of medians well below 1, or a share well above 1 %, is memorisation.
    """
    place = trial.run.device if trial.run.device.type == "cuda" else torch.device("cpu")
    most = max(len(x) for x in own)
    train, held_out = (
        plain(part["x"][permutation(len(part["x"]), 3)[:count]]).to(place)
        for part, count in ((data.train, SEARCHED), (data.held_out, most))
    )
    title = "nearest training item"
    found = [nearest_distances(plain(x).to(place), train).cpu() for x in own]
    if not len(held_out):
        return [measured(title, [Estimate(float(x.median()), math.nan) for x in found], None)]
    new = nearest_distances(held_out, train).cpu()
    median, border = float(new.median()), float(new.quantile(0.01))
    figures = []
    if median > 0:
        ratios = [nearest_ratio_estimate(x, new) for x in found]
        scaled = [Estimate(r.value * median, r.error * median) for r in ratios]
        figures.append(measured(title, scaled, Estimate(median, math.nan)))
    figures.append(measured("nearer than 99 % of held-out", [share(x < border) for x in found], share(new < border)))
    return figures


def plain(raw: Tensor) -> Tensor:
    """Raw data as flat float64 [N, D]; of pictures and volumes the area means, at most `SIDE` a side."""
    x = raw.double()
    if raw.ndim >= 4:
        factors = [-(-n // SIDE) for n in raw.shape[2:]]
        pool: Any = F.avg_pool2d if raw.ndim == 4 else F.avg_pool3d
        x = torch.cat([pool(part, factors, ceil_mode=True, count_include_pad=False) for part in torch.split(x, CHUNK)])
    return x.flatten(1)


def measured(name: str, values: Sequence[Estimate], real: Estimate | None) -> Figure:
    """The figure of repeats, each with its standard error, beside that of real data."""
    return figure(
        name,
        [v.value for v in values],
        None if real is None else real.value,
        [v.error for v in values],
        None if real is None else real.error,
    )


def judged(
    sets: Sequence[tuple[Tensor, Tensor]],
    data: Dataset,
    reader: Any,
    label: str = "label",
    trial: Trial | None = None,
    most: int = 10_000,
    halves: bool = False,
) -> list[Figure]:
    """Class-conditional samples read by a judge and compared with real data in its features.

    Args:
        sets: repeats of (samples [N, ...], the class asked for [N]), from different seeds.
        data: what the generator and the judge learned from, and what neither saw.
        reader: the judge: a `Reader` that also reads classes.
        label: the column of classes.
        trial: whose processes share the work.
        most: items at most of either part of the data that are compared with pairwise.
        halves: also the distance to a random half of the real data, N at least half of those, beside that between two
            halves: for sets with too few held-out items to compare with.

    Returns:
        Figures: the share read as asked (real: of held-out data), the least of any class, those of `compared` in the
        judge's features and of `memorised`.

    Raises:
        UserError: for too few samples.
    """
    require_enough(len(sets[0][0]), data, halves)
    trial = trial or Trial(len(sets[0][0]), len(sets))
    held_out, asked = loaded(data.held_out["x"]), loaded(data.held_out[label])
    right = [trial.map(reader.read, x) == c for x, c in sets]
    real = trial.map(reader.read, held_out) == asked
    worst = [worst_share(r, c)[1] for r, (_, c) in zip(right, sets, strict=True)]
    figures = [
        measured("read as asked", [share(r) for r in right], share(real)),
        measured("worst class", worst, worst_share(real, asked)[1]),
    ]
    own = [mapped(reader, x, trial) for x, _ in sets]
    if halves:
        figures.append(_halves([x["judge"] for x in own], data, reader, trial))
    for name, reference in references(reader, data, most, trial).items():
        figures += compared([x[name] for x in own], reference, name, trial)
    return figures + memorised([x for x, _ in sets], data, trial)


def _halves(own: Sequence[Tensor], data: Dataset, reader: Any, trial: Trial) -> Figure:
    real = torch.cat([mapped(reader, part["x"], trial)["judge"] for part in (data.train, data.held_out)])
    half = len(real) // 2
    between = halves_distance(real, SPLITS)
    values = [half_distance(x[:half], real, SPLITS) for x in own]
    return figure("Frechet distance to half of the real data", values, between.mean, real_error=between.standard_error)
