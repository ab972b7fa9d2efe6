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
from unnoise.errors import UserError
from unnoise.evaluate import judged, loss_by_level, plain
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.recipes import load
from unnoise.trial import Trial

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


NEAREST, COPIES = "nearest training item", "nearer than 99 % of held-out"
FOUR = [f"{k}-judge" for k in ("precision", "recall", "density", "coverage")]


def measured(sets: Any, data: Dataset, judge: Any) -> dict[str, Figure]:
    found = {f.name: f for f in judged(sets, data, judge, halves=True)}
    halves = "Frechet distance to half of the real data"
    names = ["read as asked", "worst class", halves, "fd-judge", "fd-judge at infinity", "kid-judge", *FOUR]
    assert [k for k in found if k != f"fd-judge of {len(sets[0][0]):,}"] == [*names, NEAREST, COPIES]
    return found


def test_held_out_data_as_samples_are_read_as_real_data_are(data: Dataset, judge: Any) -> None:
    figures = measured([(data.held_out["x"], data.held_out["label"])], data, judge)
    for name in ("read as asked", "worst class", NEAREST, COPIES):
        assert figures[name].samples == figures[name].real
    assert figures[NEAREST].real > 0  # type: ignore[operator]
    for name, figure in figures.items():
        assert figure.error is not None or name == "Frechet distance to half of the real data", name
        assert figure.error is None or figure.error > 0


def test_other_real_digits_as_samples_are_as_good_as_real(data: Dataset, judge: Any) -> None:
    """Real data that are neither in the training nor in the held-out part: every ratio is about 1."""
    whole = Digits().load().train
    others = permutation(len(whole["x"]), 9)[359:]
    sets = [(whole["x"][part], whole["label"][part]) for part in (others[:359], others[359:718], others[718:1077])]
    figures = measured(sets, data, judge)
    for name in ("read as asked", "worst class", NEAREST, *FOUR):
        assert figures[name].samples / figures[name].real == pytest.approx(1, abs=0.08), name  # type: ignore[operator]
    for name in ("fd-judge", "Frechet distance to half of the real data"):
        assert 0.5 < figures[name].samples / figures[name].real < 2, name  # type: ignore[operator]
    assert figures[COPIES].samples < 0.03


def test_copies_of_the_training_data_have_no_distance_to_it(data: Dataset, judge: Any) -> None:
    figures = measured([(data.train["x"], data.train["label"])], data, judge)
    assert figures[NEAREST].samples == 0 and figures[COPIES].samples == 1
    assert figures["read as asked"].samples > 0.99  # what the judge has learned
    assert figures["fd-judge"].samples == pytest.approx(0, abs=1e-6)


def test_noise_is_bad_by_every_figure(data: Dataset, judge: Any) -> None:
    noise = (Rng.of(range(400)).uniform(torch.zeros(400, 1, 8, 8)) * 17).to(torch.uint8)
    figures = measured([(noise, torch.arange(400) % 10)], data, judge)
    assert figures["read as asked"].samples < 0.25
    assert figures["worst class"].samples < 0.1
    for name in ("fd-judge", "kid-judge", "Frechet distance to half of the real data"):
        assert figures[name].samples > 10 * figures[name].real, name  # type: ignore[operator]
    for name in ("recall-judge", "coverage-judge", "density-judge"):
        assert figures[name].samples < 0.4 * figures[name].real, name  # type: ignore[operator]
    assert figures[NEAREST].samples > 1.5 * figures[NEAREST].real  # type: ignore[operator]


def test_one_digit_alone_lacks_recall(data: Dataset, judge: Any) -> None:
    """Precision without diversity: every sample is a perfect 3."""
    threes = data.held_out["x"][data.held_out["label"] == 3]
    x = threes[torch.arange(400) % len(threes)]
    figures = measured([(x, torch.full((400,), 3))], data, judge)
    assert figures["read as asked"].samples > 0.9
    assert figures["precision-judge"].samples > 0.8 * figures["precision-judge"].real  # type: ignore[operator]
    assert figures["recall-judge"].samples < 0.5 * figures["recall-judge"].real  # type: ignore[operator]
    assert figures["fd-judge"].samples > 5 * figures["fd-judge"].real  # type: ignore[operator]


def test_the_worst_class_is_found(data: Dataset, judge: Any) -> None:
    asked = data.held_out["label"].clone()
    sevens = asked == 7
    asked[sevens] = 1  # sevens in the place of ones
    figures = measured([(data.held_out["x"], asked)], data, judge)
    ones = int((data.held_out["label"] == 1).sum())
    assert figures["worst class"].samples == pytest.approx(ones / (ones + int(sevens.sum())), abs=0.06)


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


def test_more_samples_than_held_out_items_are_a_row_of_their_own(data: Dataset, judge: Any) -> None:
    """Pitfall 33: a distance depends on the count, so what stands beside real data is of as many."""
    whole = Digits().load().train
    figures = {f.name: f for f in judged([(whole["x"], whole["label"])], data, judge)}
    few = {f.name: f for f in judged([(whole["x"][:359], whole["label"][:359])], data, judge)}
    assert figures["fd-judge of 1,438"].real is None
    assert figures["fd-judge of 1,438"].samples < figures["fd-judge"].samples == pytest.approx(few["fd-judge"].samples)


def test_without_enough_held_out_data_nothing_is_said_of_real_data(data: Dataset, judge: Any) -> None:
    said: list[str] = []
    small = Dataset(data.train, {k: v[:40] for k, v in data.held_out.items()})
    trial = Trial(359, say=said.append)
    sets = [(data.held_out["x"], data.held_out["label"])]
    figures = {f.name: f for f in judged(sets, small, judge, trial=trial)}
    assert figures["fd-judge"].real is None is figures["recall-judge"].real
    assert figures["read as asked"].real is not None and "40 held-out items are too few" in said[-1]


def test_too_few_samples_are_refused(data: Dataset, judge: Any) -> None:
    few = [(data.held_out["x"][:300], data.held_out["label"][:300])]
    with pytest.raises(UserError, match="needs -n of at least 359, got 300"):
        judged(few, data, judge, halves=True)
    with pytest.raises(UserError, match="59 samples: to compare distributions takes at least 60"):
        judged([(few[0][0][:59], few[0][1][:59])], data, judge)


def test_fewer_samples_than_features_are_warned_of(data: Dataset, judge: Any) -> None:
    """Pitfall 33: the bias is named."""
    said: list[str] = []
    trial = Trial(60, say=said.append)
    figures = judged([(data.held_out["x"][:60], data.held_out["label"][:60])], data, judge, trial=trial)
    assert "fd-judge: 60 rows for 64 features" in "\n".join(said) and "kernel distance" in "\n".join(said)
    assert "fd-judge at infinity" not in [f.name for f in figures]


def test_pictures_are_reduced_before_the_nearest_is_searched() -> None:
    x = torch.arange(2 * 3 * 32 * 20, dtype=torch.float32).reshape(2, 3, 32, 20)
    found = plain(x)
    assert found.shape == (2, 3 * 16 * 10) and found.dtype == torch.float64
    assert found[0, 0] == x[0, 0, :2, :2].double().mean()
    assert torch.equal(plain(x[:, :, :16, :10]), x[:, :, :16, :10].double().flatten(1))
    assert plain(torch.zeros(2, 1, 21, 9)).shape == (2, 11 * 9)  # the last row is of one pixel
    assert plain(torch.ones(2, 1, 21, 9)).unique().tolist() == [1.0]
    assert plain(torch.zeros(4, 2, 50)).shape == (4, 100)
