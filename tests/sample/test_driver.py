"""The one loop, with every sampler that `unnoise.sample.__all__` names."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import unnoise.sample
from unnoise.core.denoiser import Preconditioned
from unnoise.core.estimate import Estimate
from unnoise.core.exact import Empirical, Mixture, Normal
from unnoise.core.flowmap import aim
from unnoise.core.level import CLEAN, Level, part
from unnoise.core.parameterization import V
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Rectified
from unnoise.core.space import ZeroCoM
from unnoise.sample import RK4, Ancestral, Consistency, DPMpp2M, Euler, Heun
from unnoise.sample.driver import sample
from unnoise.sample.plan import plan

D = torch.float64
SAMPLERS: list[Any] = [getattr(unnoise.sample, name)() for name in unnoise.sample.__all__] + [Ancestral(eta=0.0)]
DETERMINISTIC = [s for s in SAMPLERS if not s.stochastic]
SINGLE = [s for s in SAMPLERS if s.evaluations == 1]
every = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
MIXTURE = Mixture(torch.tensor([[-1.0, 0.3], [0.8, -0.5], [0.1, 1.2]], dtype=D), [0.3, 0.5, 0.4])
NORMAL = Normal(0.7, 0.4)


def states(n: int, *shape: int, dtype: torch.dtype = D) -> Tensor:
    return Rng.of(range(n)).fold(10**6).normal(torch.zeros(n, *shape, dtype=dtype))


def angles(n: int, high: float = 1.0, low: float = 0.0) -> Level:
    return Cosine(0.0)(torch.linspace(high, low, n + 1, dtype=D))


def end(
    sampler: Any, denoise: Any, x: Any, grid: Any, rng: Rng | None = None, process: Any = Gaussian(), **more: Any
) -> Any:
    rng = Rng.of(range(len(x))) if rng is None else rng
    *_, last = sample(sampler, process, denoise, x, grid, rng, **more)
    return last.x


@pytest.fixture(scope="module")
def reference() -> Tensor:
    return end(RK4(), MIXTURE, states(64, 2), angles(300, 0.95, 0.1), open_end=True)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=str)
def test_regressed_order(sampler: Any, reference: Tensor) -> None:
    """To a positive end level on a mixture, the finest pair counting; neither lower nor by accident higher."""
    x = states(64, 2)
    counts = (24, 48, 96) if sampler.order > 2 else (64, 128, 256)
    errors = [
        float((end(sampler, MIXTURE, x, angles(n, 0.95, 0.1), open_end=True) - reference).square().mean().sqrt())
        for n in counts
    ]
    order = math.log2(errors[-2] / errors[-1])
    assert sampler.order - 0.15 <= order <= sampler.order + 0.4, errors


@every
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_an_oracle_gives_exact_data(sampler: Any, steps: int, dtype: torch.dtype) -> None:
    """Pitfall 8: no residual noise; with one data point every sampler lands on it to the bit."""
    point = torch.tensor([[0.1, -1.7, 3.0]], dtype=dtype)
    x = states(5, 3, dtype=dtype)
    for grid in (angles(steps), Rectified()(torch.linspace(0.9, 0, steps + 1, dtype=D))):
        assert torch.equal(end(sampler, Empirical(point), x, grid), point.expand(5, 3))


@every
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_a_row_does_not_depend_on_its_batch(sampler: Any, dtype: torch.dtype) -> None:
    """Pitfall 14: bit-exact for an element-wise denoiser, alone, in any chunk and in any order."""
    x, rng, grid = states(7, 3, 2, dtype=dtype), Rng.of(range(100, 107)), angles(9)
    whole = end(sampler, NORMAL, x, grid, rng)
    assert whole.dtype == dtype
    for rows in (slice(5, 6), slice(0, 4), slice(4, 7), torch.tensor([6, 1])):
        assert torch.equal(end(sampler, NORMAL, x[rows], grid, rng[rows]), whole[rows])


@every
@pytest.mark.parametrize("k", [1e-2, 5.3])
def test_samples_do_not_depend_on_the_frame(sampler: Any, k: float) -> None:
    x, grid = states(6, 2), angles(11)
    scaled = Level(torch.cat([k * grid.alpha[:-1], grid.alpha[-1:]]), k * grid.sigma)
    torch.testing.assert_close(
        end(sampler, MIXTURE, k * x, scaled), end(sampler, MIXTURE, x, grid), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("sampler", SINGLE, ids=str)
def test_nor_on_a_frame_that_changes_on_the_way(sampler: Any) -> None:
    """For one evaluation a step, in the estimates only: variance preserving, straight and exploding are one walk."""
    x, grid = states(6, 2), angles(11, 0.98)
    samples = []
    for scale in (torch.ones_like(grid.alpha), 1 / (grid.alpha + grid.sigma), 1 / grid.alpha):
        other = Level(scale * grid.alpha, scale * grid.sigma)
        samples.append(end(sampler, MIXTURE, scale[0] * x, other))
    for other_frame in samples[1:]:
        torch.testing.assert_close(other_frame, samples[0], rtol=1e-9, atol=1e-10)


@every
def test_metadata_says_what_a_step_does(sampler: Any) -> None:
    calls: list[Any] = []

    def counted(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Any:
        calls.append(to)
        return NORMAL(x, level)

    steps, x = [], states(4, 2)
    for _step in sample(sampler, Gaussian(), counted, x, angles(6), Rng.of(range(4))):
        steps.append(len(calls))
    assert steps == [sampler.evaluations * (k + 1) for k in range(5)] + [5 * sampler.evaluations + 1] or (
        sampler.evaluations == 1 and steps == list(range(1, 7))
    )
    rows = plan(sampler, angles(6), dtype=D)
    goals = [0.0] * 5 if isinstance(sampler, Consistency) else [float(r.dst.sigma) for r in rows[:5]]  # type: ignore[union-attr]
    assert [float(to.sigma) for to in calls[:: sampler.evaluations]][:5] == goals
    a, b = (end(sampler, NORMAL, x, angles(6), Rng.of(range(s, s + 4))) for s in (0, 50))
    assert torch.equal(a, b) != sampler.stochastic
    assert not sampler.coupled


@every
def test_a_sampler_is_a_frozen_value_without_a_schedule(sampler: Any) -> None:
    """Pitfall 6: it cannot carry betas of its own; what it holds are plain numbers and names."""
    assert dataclasses.is_dataclass(sampler) and hash(sampler) == hash(dataclasses.replace(sampler))
    for field in dataclasses.fields(sampler):
        assert isinstance(getattr(sampler, field.name), (int, float, str, bool, type(None)))
        assert not any(word in field.name for word in ("beta", "schedule", "sigma", "alpha", "time", "step"))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sampler, field.name, 0)


@every
def test_grids_outside_the_trained_interval_are_refused(sampler: Any) -> None:
    """Pitfall 6: both are named, before the network is called."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            raise AssertionError("called")

    model = Preconditioned(Net(), V(), interval=(-6.0, 6.0))
    with pytest.raises(ValueError, match=r"log-SNR -inf.*\[-6, 6\]"):
        end(sampler, model, states(2, 2), angles(5))
    with pytest.raises(ValueError, match=r"trained for log-SNR in \[-6, 6\]"):
        end(sampler, model, states(2, 2), angles(5, 0.9, 0.001), open_end=True)


@every
def test_bad_grids_and_states_are_refused(sampler: Any) -> None:
    x, g = states(2, 2), angles(5)
    with pytest.raises(ValueError, match="open_end"):
        end(sampler, NORMAL, x, g.at(slice(0, 5)))
    with pytest.raises(ValueError, match="level 2 of the grid"):
        end(sampler, NORMAL, x, g._replace(sigma=torch.where(torch.arange(6) == 2, math.nan, g.sigma)))
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match=str(dtype)):
            end(sampler, NORMAL, x.to(dtype), g)
    with pytest.raises(ValueError, match="does not fit"):
        three = Level(g.alpha[:, None].repeat(1, 3), g.sigma[:, None].repeat(1, 3))
        end(sampler, NORMAL, x, three)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_never_becomes_a_picture(sampler: Any, bad: float) -> None:
    """Pitfall 1: an overflow is an error that names the row."""

    def overflowing(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        x0 = NORMAL(x, level).x0.clone()
        x0[2, 1] = bad
        return Estimate(x0)

    with pytest.raises(FloatingPointError, match=r"sample 2 .*bfloat16"):
        end(sampler, overflowing, states(4, 2), angles(4))


def column(grid: Level, *starts: int) -> Level:
    """A grid in which row i is held at its own first level until step starts[i]."""
    index = torch.arange(len(grid.alpha))[:, None].maximum(torch.tensor(starts)[None])
    return Level(grid.alpha[index], grid.sigma[index])


@every
def test_two_strengths_in_one_batch_are_two_runs(sampler: Any) -> None:
    grid, x, rng = angles(10, 0.97), states(3, 2), Rng.of(range(3))
    both = end(sampler, NORMAL, x, column(grid, 0, 5, 8), rng)
    for i, start in enumerate((0, 5, 8)):
        alone = end(sampler, NORMAL, x[i : i + 1], column(grid, start), rng[i : i + 1])
        assert torch.equal(both[i : i + 1], alone)
    if not sampler.stochastic:
        short = end(sampler, NORMAL, x[1:2], grid.at(slice(5, 11)), rng[1:2])
        torch.testing.assert_close(both[1:2], short, rtol=1e-13, atol=1e-14)


@every
def test_idle_elements_are_held_to_the_bit(sampler: Any) -> None:
    x, rng = states(2, 3), Rng.of(range(2))
    walk = [s.x for s in sample(sampler, Gaussian(), NORMAL, x, column(angles(6), 0, 3), rng)]
    for k in range(3):
        assert torch.equal(walk[k][1], x[1]) and not torch.equal(walk[k][0], x[0])
    assert not torch.equal(walk[3][1], x[1])


@pytest.mark.parametrize("sampler", SINGLE, ids=str)
def test_early_arrival_is_held_and_stays_finite(sampler: Any) -> None:
    grid, x, rng = angles(6), states(2, 3), Rng.of(range(2))
    index = torch.stack([torch.arange(7), (2 * torch.arange(7)).clamp(max=6)], 1)
    walk = [s.x for s in sample(sampler, Gaussian(), NORMAL, x, Level(grid.alpha[index], grid.sigma[index]), rng)]
    assert torch.equal(walk[2][1], walk[5][1]) and bool(torch.isfinite(walk[5]).all())
    assert torch.equal(walk[5][:1], end(sampler, NORMAL, x[:1], column(grid, 0), rng[:1]))


@every
def test_frames_of_a_video_at_their_own_levels(sampler: Any) -> None:
    """A grid [K + 1, 1, 1, T]: every frame is walked as it would be alone. B == C == T."""
    grid, x, rng = angles(8, 0.97), states(3, 3, 3), Rng.of(range(3))
    starts = (0, 2, 5)
    frames = column(grid, *starts)
    video = end(sampler, NORMAL, x, Level(frames.alpha[:, None, None], frames.sigma[:, None, None]), rng)
    for t, start in enumerate(starts):
        one = column(grid, start).at(slice(None))
        flat = end(sampler, NORMAL, x, Level(one.alpha[:, 0], one.sigma[:, 0]), rng)
        torch.testing.assert_close(video[..., t], flat[..., t], rtol=1e-13, atol=1e-14)


def travel(grid: Level, *order: int) -> Level:
    return Level(grid.alpha[list(order)], grid.sigma[list(order)])


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=str)
def test_time_travel_is_forward_and_a_fresh_start(sampler: Any) -> None:
    """A step up draws q(x_dst | x_src) and forgets what a multi-step carry remembered."""
    g, x, rng = angles(6, 0.97), states(5, 2), Rng.of(range(5))
    got = end(sampler, MIXTURE, x, travel(g, 0, 1, 2, 3, 1, 2, 3, 4, 5, 6), rng)
    y = end(sampler, MIXTURE, x, travel(g, 0, 1, 2, 3), rng, open_end=True)
    y = Gaussian().forward(y, g.at(3), g.at(1), rng.fold(3))
    assert torch.equal(got, end(sampler, MIXTURE, y, travel(g, 1, 2, 3, 4, 5, 6), rng))


def jumps(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
    """The exact two-time denoiser of NORMAL."""
    return Estimate(aim(x, level, NORMAL.transport(x, level, to), to))


@every
def test_steps_up_are_not_yielded_and_keep_the_distribution(sampler: Any) -> None:
    n, g = 4000, angles(40)
    order = [*range(31), *range(20, 31), *range(20, 41)]
    denoise = jumps if isinstance(sampler, Consistency) else NORMAL
    steps = list(sample(sampler, Gaussian(), denoise, states(n, 1), travel(g, *order), Rng.of(range(n))))
    assert len(steps) == len(order) - 1 - 2
    assert float(steps[-1].x.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(steps[-1].x.std()) == pytest.approx(0.4, rel=0.12)


def test_idle_elements_are_held_in_a_step_up_as_well() -> None:
    """Pure noise that does not move is not drawn anew."""
    alpha = torch.tensor([[0.6, 0.0, 0.6], [0.3, 0.0, 0.6], [1.0, 1.0, 1.0]], dtype=D)
    sigma = torch.tensor([[0.8, 1.0, 0.8], [0.9, 1.0, 0.8], [0.0, 0.0, 0.0]], dtype=D)
    seen: list[Tensor] = []

    def spy(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        seen.append(x.clone())
        return NORMAL(x, level)

    x = states(3, 2)
    end(Euler(), spy, x, Level(alpha, sigma))
    assert torch.equal(seen[0][1:], x[1:]) and not torch.equal(seen[0][0], x[0])


def test_a_walk_may_begin_on_data() -> None:
    """SDEdit: clean, up to a strength, and down again."""
    x = states(2000, 1) * 0.4 + 0.7
    g = angles(30, 0.6)
    grid = Level(torch.cat([torch.ones(1, dtype=D), g.alpha]), torch.cat([torch.zeros(1, dtype=D), g.sigma]))
    y = end(Ancestral(), NORMAL, x, grid)
    assert float(y.mean()) == pytest.approx(0.7, abs=0.04) and float(y.std()) == pytest.approx(0.4, rel=0.08)
    near = end(Ancestral(), NORMAL, x, Level(grid.alpha[[0, 30, 31]], grid.sigma[[0, 30, 31]]))
    assert float((near - x).abs().mean()) < 0.05 < float((y - x).abs().mean())


@every
def test_threads_share_a_sampler_and_change_nothing(sampler: Any) -> None:
    """Pitfall 13: eight threads, one sampler value, one grid: bit-identical to one after the other."""
    grid = angles(12)

    def run(seed: int) -> Tensor:
        rng = Rng.of(range(seed, seed + 4))
        return end(sampler, MIXTURE, rng.fold(10**6).normal(torch.zeros(4, 2, dtype=D)), grid, rng)

    alone = [run(s) for s in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, range(8)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_interleaved_runs_do_not_meet() -> None:
    """Pitfall 13: state lives in the generator of a run alone."""
    x, grid = states(3, 2), angles(5)
    for sampler in SAMPLERS:
        one, two = (sample(sampler, Gaussian(), MIXTURE, x * k, grid, Rng.of(range(3))) for k in (1.0, 2.0))
        pairs = [(a.x, b.x) for a, b in zip(one, two, strict=True)]
        assert torch.equal(pairs[-1][0], end(sampler, MIXTURE, x, grid))
        assert torch.equal(pairs[-1][1], end(sampler, MIXTURE, 2 * x, grid))


@every
def test_yielded_steps_own_their_tensors_and_inputs_are_left_alone(sampler: Any) -> None:
    x, grid = states(3, 2), angles(5)
    before, levels = x.clone(), [a.clone() for a in grid[:2]]  # type: ignore[union-attr]
    steps = []
    for step in sample(sampler, Gaussian(), MIXTURE, x, grid, Rng.of(range(3))):
        steps.append((step.x, step.x.clone(), step.est.x0, step.est.x0.clone()))
    assert all(torch.equal(a, b) and torch.equal(c, d) for a, b, c, d in steps)
    assert torch.equal(x, before) and torch.equal(grid.alpha, levels[0]) and torch.equal(grid.sigma, levels[1])


@every
def test_the_estimate_is_kept_in_the_space(sampler: Any) -> None:
    """An offset denoiser cannot leave zero centre of mass, whatever the sampler."""
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    process = Gaussian(ZeroCoM()).bind(mask)

    def offset(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        return Estimate(0.1 * x + 0.7)

    x = process.noise(torch.zeros(2, 4, 3, dtype=D), Rng.of(range(2)))
    for step in sample(sampler, process, offset, x, angles(6), Rng.of(range(2))):
        assert float(step.x.sum(1).abs().max()) < 1e-12 and not bool(step.x[1, 2:].any())
        assert float(step.est.x0.sum(1).abs().max()) < 1e-12


@every
def test_conditions_reach_the_denoiser_and_gradients_are_off(sampler: Any) -> None:
    cond = {"label": torch.tensor([1, 2])}
    weight = torch.ones((), dtype=D, requires_grad=True)

    def told(x: Tensor, level: Any, given: Any = None, *, to: Any = None) -> Estimate:
        assert given is cond and not torch.is_grad_enabled()
        return Estimate(weight * NORMAL(x, level).x0)

    for step in sample(sampler, Gaussian(), told, states(2, 2), angles(3), Rng.of(range(2)), cond):
        assert torch.is_grad_enabled() and not step.x.requires_grad


def test_a_denoiser_may_turn_gradients_on() -> None:
    def guided(x: Tensor, level: Any, cond: Any = None, *, to: Any = None) -> Estimate:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(NORMAL(y, level).x0.sum(), y)
        return Estimate(NORMAL(x, level).x0 + 0 * grad)

    x = states(2, 2)
    assert torch.equal(end(Heun(), guided, x, angles(4)), end(Heun(), NORMAL, x, angles(4)))


@dataclass(frozen=True)
class Numbered(Gaussian):
    """The process of one part alone, with the randomness that a Product gives to its part of this number."""

    number: int = 0

    def noise(self, like: Tensor, rng: Rng) -> Tensor:
        return super().noise(like, rng.fold(self.number))


PAIR = Product({"a": Gaussian(), "b": Gaussian()})


def both(x: Any, level: Any, cond: Any = None, *, to: Any = None) -> Any:
    return {"a": NORMAL(x["a"], part(level, "a")), "b": MIXTURE(x["b"], part(level, "b"))}


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_parts_at_their_own_pace_are_the_parts_alone(eta: float) -> None:
    """One early and then held clean, one late: a mapping of grids."""
    g, x, rng = angles(8, 0.98), {"a": states(4, 3), "b": states(4, 2) + 0.1}, Rng.of(range(4))
    grids = {"a": travel(g, 0, 2, 4, 6, 7, 8, 8, 8, 8), "b": travel(g, 0, 0, 0, 1, 2, 3, 5, 7, 8)}
    got = end(Ancestral(eta), both, x, grids, rng, PAIR)
    assert torch.equal(got["a"], end(Ancestral(eta), NORMAL, x["a"], grids["a"], rng, Numbered(number=0)))
    assert torch.equal(got["b"], end(Ancestral(eta), MIXTURE, x["b"], grids["b"], rng, Numbered(number=1)))
    shared = end(Ancestral(eta), both, x, g, rng, PAIR)
    assert torch.equal(shared["b"], end(Ancestral(eta), MIXTURE, x["b"], g, rng, Numbered(number=1)))


def test_parts_travel_in_time_and_bad_parts_are_found() -> None:
    g, x, rng = angles(6, 0.98), {"a": states(4, 3), "b": states(4, 2)}, Rng.of(range(4))
    grids = {"a": travel(g, 0, 2, 1, 4, 6), "b": travel(g, 0, 0, 0, 3, 6)}
    got = end(Ancestral(), both, x, grids, rng, PAIR)
    assert torch.equal(got["a"], end(Ancestral(), NORMAL, x["a"], grids["a"], rng, Numbered(number=0)))
    assert torch.equal(got["b"], end(Ancestral(), MIXTURE, x["b"], grids["b"], rng, Numbered(number=1)))

    def broken(y: Any, level: Any, cond: Any = None, *, to: Any = None) -> Any:
        est = both(y, level)
        est["b"].x0[3] = math.nan
        return est

    with pytest.raises(FloatingPointError, match="sample 3"):
        end(Ancestral(), broken, x, g, rng, PAIR)
    with pytest.raises(ValueError, match="use Ancestral"):
        end(DPMpp2M(), both, x, grids, rng, PAIR)


def test_the_prior_is_forward_from_nothing() -> None:
    top = Level.of(0.0, 1.0)
    prior = Gaussian().forward(torch.zeros(3, 2, dtype=D), CLEAN, top, Rng.of(range(3)))
    assert torch.equal(prior, Gaussian().noise(prior, Rng.of(range(3))))


def test_a_step_up_starts_the_carry_anew() -> None:
    @dataclass(frozen=True)
    class Counting:
        """Euler, whose carry is the number of steps since the start."""

        order = evaluations = 1
        coupled = stochastic = False

        def coefficients(self, levels: Any) -> None:
            return None

        def init(self, x: Tensor) -> Any:
            return 0

        def step(self, process: Any, denoise: Any, x: Tensor, row: Any, rng: Rng, carry: Any) -> Any:
            return dataclasses.replace(Euler().step(process, denoise, x, row, rng, None), carry=carry + 1)

    grid = travel(angles(6, 0.97), 0, 1, 2, 3, 1, 2, 5, 6)
    steps = sample(Counting(), Gaussian(), NORMAL, states(2, 2), grid, Rng.of(range(2)))
    assert [step.carry for step in steps] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=str)
def test_inversion_returns_to_where_it_came_from(sampler: Any) -> None:
    """Pitfall 9: from data to noise and back, with an error of the sampler's order; every step is yielded."""
    x, errors = 0.4 * states(8, 2), []
    for n in (64, 128):
        up, down = angles(n, 0.1, 0.9), angles(n, 0.9, 0.1)
        steps = [*sample(sampler, Gaussian(), MIXTURE, x, up, Rng.of(range(8)), invert=True)]
        assert len(steps) == n
        errors.append(float((end(sampler, MIXTURE, steps[-1].x, down, open_end=True) - x).abs().max()))
    assert errors[1] < 0.1 and math.log2(errors[0] / errors[1]) > sampler.order - 0.3, errors


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=str)
def test_inversion_is_the_flow_upwards(sampler: Any) -> None:
    """Pitfall 9: levels, not indices: it converges, at the sampler's order, to the exact flow of normal data."""
    x, errors = states(6, 2), []
    for n in (100, 200):
        up = angles(n, 0.05, 0.95)
        want = NORMAL.transport(x, up.at(0), up.at(n))
        errors.append(float((end(sampler, NORMAL, x, up, invert=True) - want).abs().max()))
    assert errors[1] < 0.3 and math.log2(errors[0] / errors[1]) > sampler.order - 0.2, errors


@every
def test_what_cannot_be_inverted_is_refused(sampler: Any) -> None:
    x = states(2, 2)
    if sampler.stochastic:
        with pytest.raises(ValueError, match="draws noise"):
            end(sampler, NORMAL, x, angles(5, 0.1, 0.9), invert=True)
    else:
        with pytest.raises(ValueError, match="small sigma > 0"):
            end(sampler, NORMAL, x, angles(5, 0.0, 0.9), invert=True)
