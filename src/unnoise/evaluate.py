"""How good samples are, each figure beside the same figure of held-out real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unnoise.core.level import exact
from unnoise.core.objective import EDGES, Objective, OverLevels, by_logsnr
from unnoise.core.rng import Rng
from unnoise.data.dataset import Columns, Dataset, loaded, permutation
from unnoise.metrics import half_distance, halves_distance, nearest_distances, recall
from unnoise.metrics.figure import Figure, figure

SPLITS = 20
"""Random halves of the real data that distances are averaged over."""
NEIGHBOURS = 5


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


def judged(sets: Sequence[tuple[Tensor, Tensor]], data: Dataset, reader: Any, label: str = "label") -> list[Figure]:
    """Class-conditional samples read by a judge and compared with real data.

    Args:
        sets: repeats of (samples [N, ...], the class asked for [N]), from different seeds; N at least half of the data.
        data: what the generator and the judge learned from, and what neither saw.
        reader: the judge.
        label: the column of classes.

    Returns:
        Figures: the share read as asked (real: of held-out data), the least of any class, the Frechet distance to a
        random half of the real data (real: between two halves), recall and the median distance to the nearest
        training item (real: of held-out data), in the judge's features but for the last, which is in pixels.
    """
    train, held_out = loaded(data.train["x"]), loaded(data.held_out["x"])
    real = reader.features(torch.cat([train, held_out]))
    features, held_features = real[: len(train)], real[len(train) :]
    halves = halves_distance(real, SPLITS)
    held_right = (reader.read(held_out) == data.held_out[label]).double()
    held_nearest = nearest_distances(_flat(held_out), _flat(train)).median()
    count = min(len(held_out), *(len(x) for x, _ in sets))
    draws = [permutation(len(train), 2, i)[:count] for i in range(max(1, len(train) // count))]
    held_recall = _mean([recall(features[d], held_features[:count], NEIGHBOURS) for d in draws])
    rows: dict[str, list[float]] = {k: [] for k in ("read", "worst", "distance", "recall", "nearest")}
    for x, asked in sets:
        right = (reader.read(x) == asked).double()
        own = reader.features(x)
        rows["read"].append(float(right.mean()))
        rows["worst"].append(_worst(right, asked))
        half = len(real) // 2
        if len(x) < half:
            raise ValueError(f"the distance to a half of {len(real)} real items needs {half} samples, got {len(x)}")
        rows["distance"].append(half_distance(own[:half], real, SPLITS))
        rows["recall"].append(_mean([recall(features[d], own[:count], NEIGHBOURS) for d in draws]))
        rows["nearest"].append(float(nearest_distances(_flat(x), _flat(train)).median()))
    worst = _worst(held_right, loaded(data.held_out[label]))
    return [
        figure("read as asked", rows["read"], float(held_right.mean())),
        figure("worst class", rows["worst"], worst),
        figure("Frechet distance to half of the real data", rows["distance"], halves.mean),
        figure("recall", rows["recall"], held_recall),
        figure("distance to the nearest training item", rows["nearest"], float(held_nearest)),
    ]


def _worst(right: Tensor, classes: Tensor) -> float:
    return min(float(right[classes == c].mean()) for c in sorted(set(classes.tolist())))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).double()
