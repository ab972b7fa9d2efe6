"""Two times: a denoiser that looks at where its caller goes, and the loss that teaches it, in closed form."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.denoiser import Preconditioned, TwoTime
from unnoise.core.density import UniformTime
from unnoise.core.estimate import Estimate
from unnoise.core.exact import Normal
from unnoise.core.flowmap import FlowMap, aim
from unnoise.core.level import CLEAN, Level
from unnoise.core.objective import Objective, OverLevels
from unnoise.core.parameterization import Edm, Flow, V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Karras
from unnoise.core.weight import EdmWeight, Sigmoid

D = torch.float64
DATA = Normal(0.7, 0.4)
N = 256
DENSITIES = [UniformTime(Karras(0.005, 20.0)), UniformTime(Cosine(), low=0.004, high=0.98)]


class Exact(nn.Module):
    """The flow map of normal data, off by `offset` in its estimates and by `slope` of their distance from the mean."""

    def __init__(self, data: Normal = DATA, offset: float = 0.0, slope: float = 0.0) -> None:
        super().__init__()
        self.data = data
        self.offset = nn.Parameter(torch.tensor(offset, dtype=D))
        self.slope = nn.Parameter(torch.tensor(slope, dtype=D))

    def forward(self, x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        x0 = aim(x, level, self.data.transport(x, level, to), to)
        return Estimate(x0 + self.offset + self.slope * (x0 - self.data.mean))


def rows(n: int = N) -> tuple[dict[str, Tensor], Rng]:
    rng = Rng.of(range(n))
    return {"x": 0.7 + 0.4 * rng.fold(99).normal(torch.zeros(n, 2, dtype=D)), "position": torch.arange(n)}, rng


def loss(objective: FlowMap, model: Any, **more: Any) -> Tensor:
    batch, rng = rows()
    return objective({"model": model, "teacher": DATA, **more}, batch, rng, 0).mean


def number(*given: Any, **more: Any) -> float:
    return float(loss(*given, **more).detach())


@pytest.mark.parametrize("density", DENSITIES, ids=["karras", "cosine"])
@pytest.mark.parametrize("clean", [0.0, 0.5, 1.0])
def test_the_exact_map_is_the_optimum(density: Any, clean: float) -> None:
    objective = FlowMap(density, EdmWeight(0.4), steps=64, clean=clean)
    best, flat = slopes(objective, Exact())
    assert best < 3e-5
    for off in (Exact(offset=0.05), Exact(slope=0.1)):
        worse, steep = slopes(objective, off)
        assert worse > 50 * best and float(steep) > 25 * float(flat)
    for other in (Exact(Normal(0.7, 0.5)), DATA):
        assert number(objective, other) > 5 * best


def slopes(objective: FlowMap, model: Exact) -> tuple[float, Tensor]:
    """The loss and the length of its gradient."""
    value = loss(objective, model)
    gradient = torch.autograd.grad(value, list(model.parameters()))
    return float(value.detach()), torch.stack(gradient).norm()


def test_the_teacher_is_of_second_order() -> None:
    """Of x0* the error is that of a step over its length: h^2, whose square falls by 16 where h is halved."""
    coarse, fine = (number(FlowMap(DENSITIES[0], EdmWeight(0.4), steps=n), Exact()) for n in (32, 64))
    assert 10 < coarse / fine < 26


def test_the_lowest_levels_hold_the_map_to_the_data() -> None:
    """Above, a constant offset agrees with itself in jumps to clean data; below, the teacher contradicts it."""
    objective, (batch, rng) = FlowMap(DENSITIES[0], EdmWeight(0.4), steps=32, clean=1.0), rows()
    parts = {"model": Exact(offset=0.1), "teacher": DATA}
    above = objective.at(torch.full((N,), 0.5, dtype=D), parts, batch, rng)
    below = objective.at(torch.full((N,), 0.02, dtype=D), parts, batch, rng)
    assert float(above.value.detach().mean()) < 1e-4
    assert float(below.value.detach().mean()) == pytest.approx(0.1**2, rel=0.1)


def test_guidance_is_learned() -> None:
    """Of normal data of one width and two means, the guided flow is that of the extrapolated mean."""
    means = torch.tensor([0.7, 0.2], dtype=D)

    class Teacher:
        def __call__(self, x: Tensor, level: Any, cond: Any, *, to: Any = None) -> Estimate:
            return Normal(means[cond["label"]][:, None], 0.4)(x, level)

    class Conditions:
        def encode(self, raw: Any, rng: Rng) -> dict[str, Tensor]:
            return {"label": torch.zeros(N, dtype=torch.int64)}

        def null(self, cond: Any) -> dict[str, Tensor]:
            return {"label": torch.ones(N, dtype=torch.int64)}

    more = {"teacher": Teacher(), "conditioner": Conditions()}
    objective = FlowMap(DENSITIES[0], EdmWeight(0.4), steps=64)
    plain, guided = Exact(Normal(0.7, 0.4)), Exact(Normal(3 * 0.7 - 2 * 0.2, 0.4))
    assert number(objective, plain, **more) < 1e-5
    assert number(objective, guided, **more) > 1e-2
    assert number(replace(objective, guidance=3.0), guided, **more) < 1e-4
    assert number(replace(objective, guidance=3.0), plain, **more) > 1e-2


def test_a_row_does_not_depend_on_its_batch() -> None:
    objective, (batch, rng) = FlowMap(DENSITIES[1]), rows()
    parts = {"model": Exact(slope=0.1), "teacher": DATA}
    whole = objective(parts, batch, rng, 0)
    piece = objective(parts, {k: v[100:140] for k, v in batch.items()}, rng[100:140], 0)
    assert torch.equal(piece.value, whole.value[100:140]) and torch.equal(piece.weight, whole.weight[100:140])


def test_jumps_begin_a_step_above_the_lowest_level_and_end_below_the_teachers() -> None:
    objective, (batch, rng) = FlowMap(DENSITIES[0], steps=8, clean=0.25), rows()
    seen: list[tuple[Level, Level]] = []

    def model(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        seen.append((level, to))
        return Exact()(x, level, to=to)

    objective({"model": model, "teacher": DATA}, batch, rng, 0)
    (between, goal), (level, to) = seen  # the student is asked for its target first
    assert torch.equal(goal.sigma, to.sigma)
    assert bool((to.sigma <= between.sigma).all()) and bool((between.sigma < level.sigma).all())
    t = [20 ** (1 / 7) - 0.005 ** (1 / 7), 0.005 ** (1 / 7)]
    step = (level.sigma ** (1 / 7) - between.sigma ** (1 / 7)) / t[0]
    torch.testing.assert_close(step, torch.full_like(step, (1 - 1e-3) / 8))  # the density leaves out t < 1e-3
    assert float((to.sigma == 0).double().mean()) == pytest.approx(0.25, abs=0.1)
    assert float(level.sigma.min()) >= (t[1] + t[0] / 8) ** 7 - 1e-9


def test_aim_undoes_the_straight_step() -> None:
    rng = Rng.of(range(4))
    x, x0 = (rng.fold(i).normal(torch.zeros(4, 3, dtype=D)) for i in (0, 1))
    src = Level(torch.tensor([0.6, 1.0, 0.3, 0.0], dtype=D), torch.tensor([0.8, 5.0, 0.7, 1.0], dtype=D))
    for dst in (CLEAN, Level(src.alpha + 0.2, src.sigma / 2)):
        y = Gaussian().backward(x, Estimate(x0), src, dst, rng, eta=0.0)
        torch.testing.assert_close(aim(x, src, y, dst), x0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"steps": 1}, "2 steps"), ({"clean": 1.5}, "1.5"), ({"drop": 1.0}, "drop"), ({"weight": Sigmoid()}, "absolute")],
)
def test_what_cannot_be_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowMap(**bad)


def test_it_is_an_objective_over_levels() -> None:
    assert isinstance(FlowMap(), Objective) and isinstance(FlowMap(), OverLevels)


class Net(nn.Module):
    """A linear layer of the state, the level and, where it is given, the vector."""

    def __init__(self, vector: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = nn.Linear(3 + 1 + vector, 3, dtype=D)

    def forward(self, x: Tensor, noise: Tensor, vector: Tensor | None = None) -> Tensor:
        return self.f(torch.cat([x, noise[:, None], *([] if vector is None else [vector])], 1))  # type: ignore[no-any-return]


LEVEL = Level(torch.tensor([0.6, 0.8, 0.1, 1.0], dtype=D), torch.tensor([0.8, 0.6, 1.0, 7.0], dtype=D))


@pytest.mark.parametrize("parameterization", [Edm(), V(), Flow()], ids=str)
def test_a_plain_denoiser_ignores_where_it_goes(parameterization: Any) -> None:
    x, model = Rng.of(range(4)).normal(torch.zeros(4, 3, dtype=D)), Preconditioned(Net(), parameterization)
    for to in (CLEAN, LEVEL, Level(LEVEL.alpha, LEVEL.sigma / 3)):
        assert torch.equal(model(x, LEVEL, to=to).x0, model(x, LEVEL).x0)


@pytest.mark.parametrize("parameterization", [Edm(), V(), Flow()], ids=str)
def test_a_two_time_network_looks_at_it(parameterization: Any) -> None:
    """Without `to`, and to its own level, it is one ordinary denoiser, whose residual is that of its training."""
    x, model = Rng.of(range(4)).normal(torch.zeros(4, 3, dtype=D)), TwoTime(Preconditioned(Net(8), parameterization))
    model.requires_grad_(False)
    plain = model(x, LEVEL).x0
    assert torch.equal(model(x, LEVEL, to=LEVEL).x0, plain)
    scaled = Level(3 * LEVEL.alpha, 3 * LEVEL.sigma)
    torch.testing.assert_close(model(x, LEVEL, to=scaled).x0, plain)  # how `to` is scaled is nobody's business
    ends = [model(x, LEVEL, to=to).x0 for to in (CLEAN, Level(LEVEL.alpha, LEVEL.sigma / 3))]
    assert float((ends[0] - plain).abs().min()) > 1e-3 and float((ends[0] - ends[1]).abs().min()) > 1e-4
    one = model(x, LEVEL, to=CLEAN).x0[1:2]
    torch.testing.assert_close(model(x[1:2], Level.of(0.8, 0.6), to=Level.of(1.0, 0.0)).x0, one)
    eps = Rng.of(range(4)).fold(1).normal(x)
    noisy = LEVEL.like(x).alpha * x + LEVEL.like(x).sigma * eps
    c_out = parameterization(LEVEL.like(x)).c_out
    torch.testing.assert_close(c_out * model.residual(x, eps, LEVEL), model(noisy, LEVEL).x0 - x)


def test_a_two_time_network_goes_to_one_level_a_row() -> None:
    model = TwoTime(Preconditioned(Net(8), V()))
    frames = Level(torch.full((4, 3), 0.5), torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"one level a row.*\(4, 3\)"):
        model(torch.ones(4, 3, dtype=D), LEVEL, to=frames)
