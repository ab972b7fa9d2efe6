"""Measuring: the loss by level of noise, and samples read by a judge; real data in the place of samples."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from unnoise.core.objective import EDGES, by_logsnr
from unnoise.core.rng import Rng
from unnoise.data import Digits
from unnoise.data.dataset import Dataset, permutation
from unnoise.evaluate import judged, loss_by_level
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.recipes import load

CPU = torch.device("cpu")


def components(model: Model) -> dict[str, Any]:
    return {"model": model.denoiser, "codec": model.codec, "conditioner": model.conditioner}


# The loss by level ----------------------------------------------------------------------------------------------------


def test_the_held_out_loss_moves_with_the_weights_only(tiny: Path) -> None:
    model, objective = Model.load(tiny), load("digits")[0].objective
    held_out = Digits().load().held_out
    first = loss_by_level(objective, components(model), held_out, CPU)
    assert loss_by_level(objective, components(model), held_out, CPU) == first
    with torch.no_grad():
        next(iter(model.denoiser.parameters())).add_(0.01)
    assert loss_by_level(objective, components(model), held_out, CPU) != first


@pytest.mark.parametrize("rows", [100, 300, 1000])
def test_it_does_not_depend_on_the_chunks(tiny: Path, rows: int) -> None:
    """All rows at once, by hand: levels are stratified over the rows in a fixed order."""
    model, objective = Model.load(tiny), load("digits")[0].objective
    held_out = Digits().load().held_out
    found = loss_by_level(objective, components(model), held_out, CPU, rows=rows)
    n = min(rows, 359)
    u = (permutation(n, 1).double() + 0.5) / n
    with torch.no_grad():
        batch = {k: v[:n] for k, v in held_out.items()}
        value, weighted, count = by_logsnr(objective.at(u, components(model), batch, Rng.of(range(n)))).double()  # type: ignore[attr-defined]
    assert found["held_out"] == pytest.approx(float(weighted.sum()) / n, rel=1e-5)
    for own, v, c in zip(found["held_out_by_logsnr"], value, count, strict=True):
        assert own is None if c == 0 else own == pytest.approx(float(v / c), rel=1e-5)
    assert len(found["held_out_by_logsnr"]) == len(EDGES) + 1


def test_dropout_is_off_and_modes_are_given_back(tiny: Path) -> None:
    model, objective = Model.load(tiny), load("digits")[0].objective
    held_out = Digits().load().held_out
    off = loss_by_level(objective, components(model), held_out, CPU)
    model.denoiser.train()
    assert loss_by_level(objective, components(model), held_out, CPU) == off
    assert model.denoiser.training


# Samples read by a judge ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    """As many training as held-out digits, so that held-out data can stand in for samples."""
    whole = Digits().load()
    few = permutation(len(whole), 9)[:359]
    return Dataset({k: v[few] for k, v in whole.train.items()}, whole.held_out)


def measured(sets: Any, data: Dataset, judge: Any) -> dict[str, Figure]:
    names = ("read", "worst", "distance", "recall", "nearest")
    return dict(zip(names, judged(sets, data, judge), strict=True))


def test_held_out_data_as_samples_are_read_as_real_data_are(data: Dataset, judge: Any) -> None:
    figures = measured([(data.held_out["x"], data.held_out["label"])], data, judge)
    for name in ("read", "worst", "nearest"):
        assert figures[name].samples == figures[name].real
    assert figures["nearest"].real > 0  # type: ignore[operator]
    assert all(f.error is None for f in figures.values())


def test_other_real_digits_as_samples_are_as_good_as_real(data: Dataset, judge: Any) -> None:
    """Real data that are neither in the training nor in the held-out part: every ratio is about 1."""
    whole = Digits().load().train
    others = permutation(len(whole["x"]), 9)[359:]
    sets = [(whole["x"][part], whole["label"][part]) for part in (others[:359], others[359:718], others[718:1077])]
    for name, figure in measured(sets, data, judge).items():
        assert figure.real is not None
        assert figure.samples / figure.real == pytest.approx(1, abs=0.4 if name == "distance" else 0.05), name


def test_copies_of_the_training_data_have_no_distance_to_it(data: Dataset, judge: Any) -> None:
    figures = measured([(data.train["x"], data.train["label"])], data, judge)
    assert figures["nearest"].samples == 0
    assert figures["read"].samples > 0.99  # what the judge has learned


def test_noise_is_bad_by_every_figure(data: Dataset, judge: Any) -> None:
    noise = (Rng.of(range(400)).uniform(torch.zeros(400, 1, 8, 8)) * 17).to(torch.uint8)
    figures = measured([(noise, torch.arange(400) % 10)], data, judge)
    assert figures["read"].samples < 0.25
    assert figures["worst"].samples < 0.1
    assert figures["distance"].samples > 10 * figures["distance"].real  # type: ignore[operator]
    assert figures["recall"].samples < 0.4 * figures["recall"].real  # type: ignore[operator]
    assert figures["nearest"].samples > 1.5 * figures["nearest"].real  # type: ignore[operator]


def test_one_digit_alone_lacks_recall(data: Dataset, judge: Any) -> None:
    """Precision without diversity: every sample is a perfect 3."""
    threes = data.held_out["x"][data.held_out["label"] == 3]
    x = threes[torch.arange(400) % len(threes)]
    figures = measured([(x, torch.full((400,), 3))], data, judge)
    assert figures["read"].samples > 0.9
    assert figures["recall"].samples < 0.5 * figures["recall"].real  # type: ignore[operator]
    assert figures["distance"].samples > 5 * figures["distance"].real  # type: ignore[operator]


def test_the_worst_class_is_found(data: Dataset, judge: Any) -> None:
    asked = data.held_out["label"].clone()
    sevens = asked == 7
    asked[sevens] = 1  # sevens in the place of ones
    figures = measured([(data.held_out["x"], asked)], data, judge)
    ones = int((data.held_out["label"] == 1).sum())
    assert figures["worst"].samples == pytest.approx(ones / (ones + int(sevens.sum())), abs=0.06)


def test_repeats_give_the_mean_and_its_standard_error(data: Dataset, judge: Any) -> None:
    """Pitfall 16: never the best of several."""
    sets = [(part["x"][:359], part["label"][:359]) for part in (data.held_out, data.train)]
    sets.append((sets[0][0].flip(-1), sets[0][1]))
    alone = [measured([s], data, judge) for s in sets]
    together = measured(sets, data, judge)
    for name, figure in together.items():
        values = [a[name].samples for a in alone]
        mean = sum(values) / 3
        assert figure.samples == pytest.approx(mean)
        assert figure.error == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2 / 3))
        assert figure.real == alone[0][name].real


def test_too_few_samples_are_refused(data: Dataset, judge: Any) -> None:
    with pytest.raises(ValueError, match="needs 359 samples, got 300"):
        judged([(data.held_out["x"][:300], data.held_out["label"][:300])], data, judge)
