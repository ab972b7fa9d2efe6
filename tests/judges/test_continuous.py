"""The bound in continuous time as a judge: exact models reach the entropy of their data, in bits of the raw data."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.estimate import Estimate
from unnoise.core.exact import Normal
from unnoise.core.learned import LearnedSchedule
from unnoise.core.level import Level
from unnoise.core.parameterization import X0
from unnoise.core.rng import Rng
from unnoise.core.variational import VariationalBound
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import ContinuousBound
from unnoise.modality.plain import Plain
from unnoise.model import Model
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

JUDGE = ContinuousBound(VariationalBound("schedule"), batch=64)
NAME = "bits per dimension, continuous time"


class Exact(nn.Module):
    """Unit normal states as a model that predicts x0."""

    parameterization = X0()

    def forward(self, x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        return Normal()(x, level)

    def residual(self, x0: Tensor, eps: Tensor, level: Level, cond: Any = None) -> Tensor:
        at = level.like(x0)
        return self(at.alpha * x0 + at.sigma * eps, level).x0 - x0


def normals(n: int) -> Dataset:
    raw = 3 + 20 * Rng.of(range(2 * n)).normal(torch.zeros(2 * n, 16))
    return Dataset({"x": raw[:n]}, {"x": raw[n:]})


def exact() -> Model:
    model = Model(Exact(), Plain((16,), 3.0, 20.0))
    model.more["schedule"] = LearnedSchedule((-11.0, -9.0), (9.0, 11.0))
    return model


def test_an_exact_model_reaches_the_entropy_of_its_data() -> None:
    said: list[str] = []
    data = normals(400)
    total, *parts, simple = JUDGE(exact(), data, Trial(400, repeats=4, say=said.append))
    entropy = math.log2(20 * math.sqrt(2 * math.pi * math.e))
    assert total.name == NAME and total.error is not None and 0 < total.error < 0.06
    assert total.samples == pytest.approx(entropy, abs=4 * total.error + 0.02)
    assert simple.samples == pytest.approx(entropy, abs=0.1)
    assert [p.name for p in parts] == ["of it diffusion", "of it prior", "of it reconstruction"]
    assert sum(p.samples for p in parts) == pytest.approx(total.samples - math.log2(20), abs=1e-6)
    assert said == ["the bound of 400 held-out rows at 64 levels each"]


def test_figures_do_not_depend_on_the_batch_and_levels_lower_the_error_of_the_estimate() -> None:
    data, model = normals(50), exact()
    whole, pieces = (ContinuousBound(JUDGE.objective, batch=b)(model, data, Trial(50)) for b in (50, 7))
    for a, b in zip(whole, pieces, strict=True):
        assert a.samples == pytest.approx(b.samples, rel=1e-6, abs=1e-9)
    one, many = (ContinuousBound(JUDGE.objective, draws=d)(model, data, Trial(50)) for d in (1, 64))
    assert (many[0].error or 1) < (one[0].error or 0) and many[-1] == one[-1]


def test_a_model_without_the_schedule_is_refused_and_any_density_will_do() -> None:
    data, model = normals(20), exact()
    schedule = model.more.pop("schedule")
    with pytest.raises(UserError, match="the schedule is the component 'schedule', which this model lacks"):
        JUDGE(model, data, Trial(20))
    model.more["other"] = schedule
    named = ContinuousBound(VariationalBound("other"))(model, data, Trial(20))
    assert named[0].name == NAME and math.isfinite(named[0].samples)
    with pytest.raises(UserError, match="Gaussian states with a density"):
        JUDGE(Model(Exact(), Plain((16,)), process=None), data, Trial(20))


def test_it_is_a_judge_and_a_value() -> None:
    assert isinstance(JUDGE, Judge) and build(describe(JUDGE)) == JUDGE
