"""Clouds told from held-out ones by nearest neighbours: figures by hand, equal sets, sets far apart, real airplanes."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import NearestNeighbour
from unnoise.metrics.figure import Figure
from unnoise.metrics.points import chamfer, emd, normalise, one_nna
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")


def balls(n: int, seed: int, stretch: float = 1.0) -> Tensor:
    """Normal points, stretched along z."""
    x = Rng.of(seed).fold(torch.arange(n)).normal(torch.zeros(n, 24, 3))
    return x * torch.tensor([1.0, 1.0, stretch])


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {f.name: f for f in figures}


class Drawer:
    """In the place of a model: sample i is a cloud of a given set."""

    def __init__(self, clouds: Tensor) -> None:
        self.clouds, self.asked = clouds, []  # type: ignore[var-annotated]

    def sample(self, n: int, *, seed: int, **settings: Any) -> Samples:
        self.asked.append((n, seed, settings))
        rows = torch.arange(seed, seed + n)
        return Samples(self.clouds[rows % len(self.clouds)], rows, {}, None)


def test_figures_are_those_of_the_metrics() -> None:
    a, b, y = balls(6, 0), balls(6, 1, 1.5), balls(6, 2)
    found = by_name(NearestNeighbour(("sphere", "box"), emd_points=7).measured([a], [b], y))
    assert len(found) == 2 * 2 * 3
    u, v, w = (normalise(x, "box") for x in (a, b, y))
    figure = found["1-NN accuracy, Chamfer, box"]
    assert figure.samples == one_nna(chamfer(u, u), chamfer(u, w), chamfer(w, w))
    assert figure.real == one_nna(chamfer(v, v), chamfer(v, w), chamfer(w, w))
    expected = emd(u[:, :7], w[:, :7]).amin(0).mean().item()
    assert found["minimum matching distance, EMD, box"].samples == pytest.approx(expected, rel=1e-12)
    assert found["minimum matching distance, EMD, sphere"].samples != pytest.approx(expected, rel=0.05)


def test_approximate_distances_lie_within_the_error() -> None:
    a, b, y = balls(4, 0), balls(4, 1), balls(4, 2)
    exact = by_name(NearestNeighbour(("std",), emd_points=8).measured([a], [b], y))
    near = by_name(NearestNeighbour(("std",), emd_points=8, emd_error=0.01).measured([a], [b], y))
    name = "minimum matching distance, EMD, std"
    assert exact[name].samples <= near[name].samples <= exact[name].samples + 0.01


def test_equal_sets_and_sets_far_apart() -> None:
    y, equal, far = balls(40, 0), balls(40, 1), balls(40, 2, 0.2)
    found = by_name(NearestNeighbour(("std",), emd_points=12).measured([far], [equal], y))
    for distance in ("Chamfer", "EMD"):
        figure = found[f"1-NN accuracy, {distance}, std"]
        assert figure.samples > 0.9 and figure.real is not None and abs(figure.real - 0.5) < 0.2
        figure = found[f"minimum matching distance, {distance}, std"]
        assert figure.real is not None and figure.samples > 1.1 * figure.real


def test_repeats_have_seeds_of_their_own_and_a_standard_error() -> None:
    data = Dataset({"x": balls(30, 0)}, {"x": balls(9, 1)})
    judge = NearestNeighbour(("std",), emd_points=4, draws=2)
    drawer: Any = Drawer(balls(40, 3, 1.2))
    figures = judge(drawer, data, Trial(8, repeats=2, seed=5, settings={"steps": 3}))
    assert drawer.asked == [(8, 5, {"steps": 3}), (8, 13, {"steps": 3})]
    each = [by_name(judge(drawer, data, Trial(8, seed=s)))["minimum matching distance, Chamfer, std"] for s in (5, 13)]
    whole = by_name(figures)["minimum matching distance, Chamfer, std"]
    assert whole.samples == pytest.approx((each[0].samples + each[1].samples) / 2) and whole.real == each[0].real
    assert whole.error == pytest.approx(abs(each[0].samples - each[1].samples) / 2)


def test_samples_of_fewer_points_than_the_data() -> None:
    data = Dataset({"x": balls(30, 0)}, {"x": balls(9, 1)})
    judge = NearestNeighbour(("std",), emd_points=4, draws=1)
    few: Any = Drawer(balls(9, 3)[:, :10])
    name = "minimum matching distance, Chamfer, std"
    cut = Dataset({"x": data.train["x"][:, :10]}, {"x": data.held_out["x"][:, :10]})
    assert by_name(judge(few, data, Trial(9)))[name] == by_name(judge(few, cut, Trial(9)))[name]
    with pytest.raises(UserError, match=r"samples have 24 points, held-out clouds 10: set data\.count"):
        judge(Drawer(balls(9, 3)), cut, Trial(9))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held_out", "n", "message"),
    [
        (torch.zeros(9, 24, 2), 5, r"clouds are \[N, points, 3\], the data are \(9, 24, 2\)"),
        (balls(9, 1), 10, "-n from 2 to 9, got 10"),
        (balls(9, 1), 1, "-n from 2 to 9, got 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(held_out: Tensor, n: int, message: str) -> None:
    data = Dataset({"x": balls(30, 0)}, {"x": held_out})
    drawer: Any = Drawer(balls(9, 3))
    with pytest.raises(UserError, match=message):
        NearestNeighbour()(drawer, data, Trial(n))
    assert not drawer.asked  # before anything is sampled


def test_it_is_a_judge_and_a_value() -> None:
    judge = NearestNeighbour(("sphere",), emd_error=0.05)
    assert isinstance(judge, Judge) and build(describe(judge)) == judge
    for wrong in ({"emd_points": 0}, {"draws": 0}, {"emd_error": -1.0}, {"normalisations": ()}):
        with pytest.raises(ValueError, match="needs emd_points >= 1"):
            replace(judge, **wrong)  # type: ignore[arg-type]


@real
def test_training_airplanes_are_hard_to_tell_from_held_out_ones() -> None:
    """And noise is easy to tell; each figure of the training clouds is an anchor for that of samples."""
    from unnoise.data import Points

    data = Points("airplane", count=64).load()
    noise = Rng.of(range(40)).normal(torch.zeros(40, 64, 3)) * 0.3
    judge = NearestNeighbour(("box",), emd_points=16, draws=3)
    drawer: Any = Drawer(noise)
    found = by_name(judge(drawer, data, Trial(40, seed=0)))
    for distance in ("Chamfer", "EMD"):
        figure = found[f"1-NN accuracy, {distance}, box"]
        assert figure.samples > 0.9 and figure.real is not None and 0.4 < figure.real < 0.68
