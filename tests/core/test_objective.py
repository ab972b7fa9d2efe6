"""The denoising objective: losses by hand, expectations by quadrature, optima in closed form."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma, UniformTime, stratified, uniforms
from unnoise.core.exact import Normal
from unnoise.core.level import Level
from unnoise.core.noise import Angle, ClippedLogSnr
from unnoise.core.objective import EDGES, Denoising, Loss, by_logsnr, row_mean
from unnoise.core.parameterization import X0, Edm, Eps, Flow, V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine, Linear, Rectified, ScaledLinear, Shifted, ZeroTerminal
from unnoise.core.space import Padded, ZeroCoM
from unnoise.core.weight import P2, EdmWeight, MinSnr, Sigmoid, Snr

D = torch.float64


class Fn(nn.Module):
    """A function as a network that remembers what it saw."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f
        self.x = self.noise = torch.zeros(0)
        self.cond: dict[str, Tensor] = {}

    def forward(self, x: Tensor, noise: Tensor, **cond: Tensor) -> Tensor:
        self.x, self.noise, self.cond = x, noise, cond
        return self.f(x, noise)


def toy(x: Tensor, noise: Tensor) -> Tensor:
    return 0.3 * x + x.sin() + noise.reshape(-1, *(1,) * (x.ndim - 1))


def draw(n: int, *shape: int, path: int = 11) -> Tensor:
    return Rng.of(range(n)).fold(path).normal(torch.zeros(n, *shape, dtype=D))


@dataclass(frozen=True)
class At:
    """A density that is one level."""

    logsnr: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.logsnr, self.logsnr

    def __call__(self, u: Tensor) -> tuple[Level, Tensor]:
        return Level.of_logsnr(torch.full_like(u, self.logsnr)), torch.zeros_like(u)


BY_HAND = [
    (Eps(), UniformTime(Linear()), lambda x0, eps, a, s: eps, "L_simple"),
    (X0(), UniformTime(), lambda x0, eps, a, s: x0, "x0"),
    (V(), UniformTime(Cosine(0.0)), lambda x0, eps, a, s: a * eps - s * x0, "v"),
    (Flow(), UniformTime(Rectified()), lambda x0, eps, a, s: eps - x0, "conditional flow matching"),
]


@pytest.mark.parametrize("p, density, target, name", BY_HAND, ids=[b[3] for b in BY_HAND])
def test_no_weight_is_the_papers_own_loss(p: Any, density: Any, target: Any, name: str) -> None:
    n = 16
    x0, rng, position = draw(n, 2, 3), Rng.of(range(n)), torch.arange(100, 100 + n)
    net = Fn(toy)
    model = Preconditioned(net, p, Angle(), density.interval)
    loss = Denoising(density)({"model": model}, {"x": x0, "position": position}, rng, 0)
    level, _ = density(stratified(position))
    a, s = level.alpha.reshape(n, 1, 1), level.sigma.reshape(n, 1, 1)
    eps = Gaussian().noise(x0, rng.fold(1))
    x = a * x0 + s * eps
    scale = (a + s) if name == "conditional flow matching" else 1
    torch.testing.assert_close(net.x, x / scale, rtol=1e-12, atol=1e-12)
    want = (toy(x / scale, torch.atan2(level.sigma, level.alpha)) - target(x0, eps, a, s)) ** 2
    torch.testing.assert_close(loss.value, want.mean((1, 2)), rtol=1e-10, atol=1e-12)
    assert torch.equal(loss.weight, torch.ones(n, dtype=D)) and loss.level is not None
    torch.testing.assert_close(loss.mean, want.mean(), rtol=1e-10, atol=0)
    assert torch.equal(loss.level.alpha, level.alpha)


def test_no_weight_with_edm_is_edm_loss() -> None:
    """lambda(sigma) |D(x0 + n; sigma) - x0|^2 with lambda = (sigma^2 + s^2) / (sigma s)^2; EdmWeight the same."""
    n, s = 12, 0.5
    x0, rng = s * draw(n, 5), Rng.of(range(n))
    model = Preconditioned(Fn(toy), Edm(s), ClippedLogSnr())
    batch = {"x": x0, "position": torch.arange(n)}
    plain, weighted = (Denoising(LogNormalSigma(), w)({"model": model}, batch, rng, 0) for w in (None, EdmWeight(s)))
    sigma = LogNormalSigma()(stratified(torch.arange(n)))[0].sigma
    noisy = x0 + sigma[:, None] * Gaussian().noise(x0, rng.fold(1))
    est = model(noisy, Level(torch.ones_like(sigma), sigma)).x0
    want = (sigma**2 + s**2) / (sigma * s) ** 2 * (est - x0).square().mean(1)
    torch.testing.assert_close(plain.value, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weighted.weight * weighted.value, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [Eps(), V(), X0(), Flow(), Edm()], ids=str)
@pytest.mark.parametrize("weight", [Snr(), MinSnr(), P2(), Sigmoid(absolute=False)], ids=str)
def test_relative_weights_act_on_the_error_of_x0_whatever_is_predicted(p: Any, weight: Any) -> None:
    """Pitfall 5: one weight, one loss."""
    n = 8
    x0, rng = draw(n, 5), Rng.of(range(n))
    density = UniformTime(high=0.99)
    model = Preconditioned(Fn(toy), p, interval=density.interval)
    loss = Denoising(density, weight)({"model": model}, {"x": x0}, rng, 0)
    level = density(uniforms(rng.fold(0)))[0]
    x = level.like(x0).alpha * x0 + level.like(x0).sigma * Gaussian().noise(x0, rng.fold(1))
    want = weight(level.logsnr) * (model(x, level).x0 - x0).square().mean(1)
    torch.testing.assert_close(loss.weight * loss.value, want, rtol=1e-8, atol=1e-12)


def test_zero_terminal_v_prediction_has_finite_loss_and_gradient() -> None:
    """Pitfall 5: the level alpha = 0 itself, with every relative weight."""

    class Last:
        interval = (-math.inf, 0.0)

        def __call__(self, u: Tensor) -> tuple[Level, Tensor]:
            return ZeroTerminal(ScaledLinear())(torch.ones_like(u)), torch.zeros_like(u)

    net = nn.Linear(3, 3).double()
    model = Preconditioned(Fn(lambda x, n: net(x)), V())
    for weight in (None, Snr(), MinSnr(), P2(), EdmWeight()):
        loss = Denoising(Last(), weight)({"model": model}, {"x": draw(4, 3)}, Rng.of(range(4)), 0)
        (grad,) = torch.autograd.grad(loss.mean, [net.weight])
        assert bool(torch.isfinite(loss.mean)) and bool(torch.isfinite(grad).all())


def test_two_densities_have_one_expected_loss_under_an_absolute_weight() -> None:
    """X0 prediction of data 0: the residual is f(level), so the sum over quantiles is integral w f^2 d log-SNR."""
    model = Preconditioned(Fn(lambda x, n: ((2 * n).sin() ** 2)[:, None].expand_as(x)), X0())
    n = 20001
    u = (torch.arange(n, dtype=D) + 0.5) / n
    densities = [UniformTime(Cosine(), 1e-4, 1.0), UniformTime(Shifted(Cosine(0.0), -1.0), 1e-4, 1.0)]
    densities += [UniformTime(Rectified(), 1e-4, 1.0)]
    batch, rng = {"x": torch.zeros(n, 1, dtype=D)}, Rng.of(range(n))
    logsnr = torch.linspace(-40, 40, 100001, dtype=D)
    level = Level.of_logsnr(logsnr)
    f = (2 * torch.atan2(level.sigma, level.alpha)).sin() ** 2
    for weight in (Sigmoid(), Sigmoid(-1.0), MinSnr(absolute=True), Snr(absolute=True)):
        want = float(torch.trapezoid(weight(logsnr) * f**2, logsnr))
        for density in (*densities, LogNormalSigma(0.0, 2.0)):
            got = float(Denoising(density, weight).at(u, {"model": model}, batch, rng).mean)
            assert got == pytest.approx(want, rel=5e-3), (density, weight)
    relative = [float(Denoising(d, MinSnr()).at(u, {"model": model}, batch, rng).mean) for d in densities]
    assert max(relative) > 1.2 * min(relative), "a relative weight is meant to depend on the density"


@pytest.mark.parametrize("p", [Eps(), X0(), V(), Flow(), Edm(0.4)], ids=str)
@pytest.mark.parametrize("logsnr", [-2.0, 0.5, 3.0])
def test_the_optimum_on_normal_data_is_the_closed_form_denoiser(p: Any, logsnr: float) -> None:
    """There the loss is E[Var[x0 | x]] / c_out^2, its gradient 0, and every step away from it costs."""
    n, mean, std = 40000, 0.7, 0.4
    x0, rng, density = mean + std * draw(n, 1), Rng.of(range(n)), At(logsnr)
    level = Level.of_logsnr(torch.tensor(logsnr, dtype=D))
    c = p(level)
    tweak = nn.Parameter(torch.zeros(2, dtype=D))

    def best(h: Tensor, noise: Tensor) -> Tensor:
        x = h / c.c_in
        perfect = (Normal(mean, std)(x, level).x0 - c.c_skip * x) / c.c_out
        return perfect + tweak[0] + tweak[1] * h

    model = Preconditioned(Fn(best), p, interval=(-20, 20))
    loss = Denoising(density)({"model": model}, {"x": x0}, rng, 0)
    a, s = float(level.alpha), float(level.sigma)
    least = std**2 * s**2 / (a**2 * std**2 + s**2) / float(c.c_out) ** 2
    assert loss.mean.item() == pytest.approx(least, rel=5 * math.sqrt(2 / n))
    (grad,) = torch.autograd.grad(loss.mean, [tweak], retain_graph=True)
    h = float(c.c_in) * math.sqrt((a * std) ** 2 + s**2 + (a * mean) ** 2)
    spread = 2 * math.sqrt(least / n)
    assert abs(float(grad[0])) < 4.5 * spread and abs(float(grad[1])) < 4.5 * spread * h
    for i in range(2):
        for step in (0.2, -0.2):
            with torch.no_grad():
                tweak[i] = step
            worse = Denoising(density)({"model": model}, {"x": x0}, rng, 0).mean
            with torch.no_grad():
                tweak[i] = 0.0
            extra = 0.04 * (1.0 if i == 0 else h**2)
            assert worse.item() == pytest.approx(least + extra, rel=0.05)


@dataclass(frozen=True)
class Labels:
    """A conditioner of integer labels; -1 says nothing."""

    def encode(self, raw: Any, rng: Rng) -> dict[str, Tensor]:
        return {"label": raw["label"]}

    def null(self, cond: Any) -> dict[str, Tensor]:
        return {"label": torch.full_like(cond["label"], -1)}


def test_drop_nulls_its_share_of_rows() -> None:
    n = 20000
    net = Fn(toy)
    parts = {"model": Preconditioned(net, V()), "conditioner": Labels()}
    batch = {"x": draw(n, 1), "label": torch.arange(n) % 7}
    for drop in (0.0, 0.1, 0.5):
        Denoising(drop=drop)(parts, batch, Rng.of(range(n)), 0)
        gone = net.cond["label"] == -1
        assert float(gone.double().mean()) == pytest.approx(drop, abs=4 * math.sqrt(drop * (1 - drop) / n))
        assert torch.equal(net.cond["label"][~gone], batch["label"][~gone])
    Denoising(drop=0.5).at(torch.full((n,), 0.5, dtype=D), parts, batch, Rng.of(range(n)))
    assert not bool((net.cond["label"] == -1).any()), "a held-out loss drops nothing unless asked"
    del parts["conditioner"]
    Denoising()(parts, batch, Rng.of(range(n)), 0)
    assert net.cond == {}
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match=str(bad)):
            Denoising(drop=bad)


class Doubling:
    """A codec: states are half the raw data and a little noise."""

    def encode(self, raw: Tensor, rng: Rng) -> Tensor:
        return raw / 2 + 0.01 * rng.normal(raw)

    def decode(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_codec_encodes_with_its_own_randomness() -> None:
    n, rng = 6, Rng.of(range(6))
    raw = draw(n, 4)
    model = Preconditioned(Fn(toy), V())
    got = Denoising()({"model": model, "codec": Doubling()}, {"x": raw}, rng, 0)
    want = Denoising()({"model": model}, {"x": Doubling().encode(raw, rng.fold(2))}, rng, 0)
    assert torch.equal(got.value, want.value)


MASK = torch.tensor([[True, True, True, False, False], [True] * 5, [True, False, False, False, False]])


@pytest.mark.parametrize("space", [Padded(), ZeroCoM()], ids=str)
def test_padded_elements_do_not_matter(space: Any) -> None:
    """Neither what they hold nor how many there are; means are over real elements."""
    rng, x0 = Rng.of(range(3)), draw(3, 5, 2)
    x0 = space.bind(MASK).project(x0)
    model = Preconditioned(Fn(toy), V())
    objective = Denoising(process=Gaussian(space))

    def loss(x: Tensor, mask: Tensor) -> Tensor:
        return objective({"model": model}, {"x": x, "mask": mask}, rng, 0).value

    plain = loss(x0, MASK)
    rubbish = torch.where(MASK[..., None], x0, 1e3 * torch.ones_like(x0))
    torch.testing.assert_close(loss(rubbish, MASK), plain, rtol=1e-12, atol=1e-14)
    more = [torch.cat([a, torch.zeros(3, 4, *a.shape[2:], dtype=a.dtype)], 1) for a in (x0, MASK)]
    torch.testing.assert_close(loss(more[0], more[1]), plain, rtol=1e-12, atol=1e-14)
    if isinstance(space, Padded):
        short = Denoising()({"model": model}, {"x": x0[:, :3]}, rng, 0).value
        torch.testing.assert_close(plain[0], short[0], rtol=1e-12, atol=1e-14)


def test_what_leaves_the_space_is_never_asked_of_a_network() -> None:
    """An offset of every position costs nothing in ZeroCoM, with a mask and without."""
    rng, x0 = Rng.of(range(3)), draw(3, 5, 3)
    objective = Denoising(process=Gaussian(ZeroCoM()))
    for batch in ({"x": ZeroCoM().project(x0)}, {"x": ZeroCoM(MASK).project(x0), "mask": MASK}):
        losses = [
            objective({"model": Preconditioned(Fn(lambda x, n, o=o: 0.3 * x + o), V())}, batch, rng, 0).value
            for o in (0.0, 5.0)
        ]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-12)


def test_a_mask_without_a_space_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="Padded or ZeroCoM"):
        Denoising()({"model": Preconditioned(Fn(toy), V())}, {"x": draw(3, 5, 2), "mask": MASK}, Rng.of(range(3)), 0)


@pytest.mark.parametrize("stratify", [True, False])
def test_rows_do_not_depend_on_how_the_stream_is_cut(stratify: bool) -> None:
    """Accumulation: two halves give, bit for bit, the values of the whole; so does any order."""
    n = 12
    x0, position, label = draw(n, 2, 4), torch.arange(500, 500 + n), torch.arange(n)
    parts = {"model": Preconditioned(Fn(toy), V()), "conditioner": Labels(), "codec": Doubling()}
    objective = Denoising(weight=Sigmoid(), stratify=stratify, drop=0.5)

    def loss(rows: Any, seen: int) -> Loss:
        batch = {"x": x0[rows], "position": position[rows], "label": label[rows]}
        return objective(parts, batch, Rng.of(position[rows]), seen)

    whole = loss(slice(0, n), 500)
    for rows in (slice(0, 6), slice(6, n), torch.tensor([7, 2, 9])):
        half = loss(rows, 503)
        assert torch.equal(half.value, whole.value[rows])
        torch.testing.assert_close(half.weight, whole.weight[rows], rtol=1e-14, atol=0)  # vectorised exp: 1 ulp
    mean = (loss(slice(0, 6), 0).mean + loss(slice(6, n), 0).mean) / 2
    torch.testing.assert_close(mean, whole.mean, rtol=1e-13, atol=0)


def test_stratify_takes_positions_and_without_it_rows_are_independent() -> None:
    n, model = 64, {"model": Preconditioned(Fn(toy), V())}
    batch, rng = {"x": draw(n, 1), "position": torch.arange(n)}, Rng.of(range(n))
    for stratify, u in ((True, stratified(torch.arange(n))), (False, uniforms(rng.fold(0)))):
        level = Denoising(stratify=stratify)(model, batch, rng, 0).level
        assert level is not None and torch.equal(level.sigma, UniformTime()(u)[0].sigma)


def test_float32_batches_give_float32_losses_and_exact_levels() -> None:
    loss = Denoising(weight=MinSnr())(
        {"model": Preconditioned(Fn(toy), V())}, {"x": draw(4, 3).float()}, Rng.of(range(4)), 0
    )
    assert loss.value.dtype == loss.weight.dtype == torch.float32
    assert loss.level is not None and loss.level.sigma.dtype == D


def test_no_gradient_flows_through_a_weight() -> None:
    value, weight = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    Loss(value, weight).mean.backward()
    assert value.grad is not None and value.grad.tolist() == [0.5, 0.5] and weight.grad is None


def test_row_mean() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert row_mean(x).tolist() == [5.5, 17.5]
    assert row_mean(x, mask).tolist() == [float(x[0, [0, 2]].mean()), 0.0]
    assert row_mean(torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]


def test_losses_by_log_snr_are_sums_over_the_rows_of_each_bin() -> None:
    logsnr = torch.tensor([-math.inf, -20.0, -7.0, -0.1, 0.1, 1.9, 30.0, math.inf])
    value, weight = torch.arange(1.0, 9.0), torch.tensor([2.0, 1, 1, 1, 3, 1, 1, 0])
    got = by_logsnr(Loss(value, weight, Level.of_logsnr(logsnr)))
    assert got.shape == (3, len(EDGES) + 1)
    where = [sum(v > e for e in EDGES) for v in logsnr.tolist()]
    want = torch.zeros(3, len(EDGES) + 1)
    for i, k in enumerate(where):
        want[:, k] += torch.stack([value[i], value[i] * weight[i], torch.tensor(1.0)])
    torch.testing.assert_close(got, want)
    assert by_logsnr(Loss(value, weight))[2].tolist() == [8.0] + [0.0] * len(EDGES)
