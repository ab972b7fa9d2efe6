"""Muon: the orthogonal factor against the singular value decomposition, the guard, and AdamW's share of the work."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from unnoise.optim import AdamW, Constant, LossScale, Muon, guarded_step, hidden_matrices, orthogonalised

torch.set_num_threads(1)
BAND = (0.68, 1.21)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Module:
    """Every kind of parameter, with kernels in both layouts, and matrices of equal and of transposed shapes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 12, 1),
        nn.Linear(12, 20),
        nn.Linear(20, 12),
        nn.Linear(12, 5),
    )


def built(spec: AdamW | Muon, net: nn.Module) -> torch.optim.Optimizer:
    return spec.build(net.parameters(), hidden_matrices([net]))


def gradients(net: nn.Module, seed: int, factor: float = 1.0) -> None:
    for i, p in enumerate(net.parameters()):
        p.grad = torch.empty_like(p).copy_(normal(*p.shape, seed=1000 * seed + i)) * factor


def everything(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    states = [x for p in net.parameters() for _, x in sorted(optimizer.state[p].items())]
    return [x.detach().clone() for x in (*net.parameters(), *states)]


def bits(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.view(torch.int32) for x in tensors]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(bits(a), bits(b), strict=True))


def rotation(n: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal(n, n, seed=seed))[0]


# The orthogonal factor -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, k", [(32, 96), (96, 32), (24, 24), (2, 300), (64, 65)])
def test_singular_values_are_about_one_and_vectors_are_those_of_the_matrix(n: int, k: int) -> None:
    x = normal(n, k)
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    core = u.mT @ orthogonalised(x).double() @ v.mT
    values = core.diagonal()
    kept = s / s.norm() > 0.0016
    assert kept.sum() >= min(n, k) - 1
    assert BAND[0] < values[kept].min() and values.max() < BAND[1]
    torch.testing.assert_close(core, torch.diag(values), rtol=0, atol=2e-4)


def test_singular_values_follow_the_polynomial() -> None:
    u, v = rotation(12, 1), rotation(40, 2)[:12]
    s = torch.logspace(-6, 0, 12)
    expected = s.double() / s.double().norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    found = (u.mT @ orthogonalised(u @ torch.diag(s) @ v) @ v.mT).diagonal()
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-4)


def test_it_turns_with_the_matrix_and_does_not_see_its_size() -> None:
    x, a, b = normal(16, 40), rotation(16, 1), rotation(40, 2)
    once = orthogonalised(x)
    torch.testing.assert_close(orthogonalised(a @ x @ b), a @ once @ b, rtol=0, atol=2e-5)
    torch.testing.assert_close(orthogonalised(x.mT), once.mT)
    torch.testing.assert_close(orthogonalised(-x), -once)
    for factor in (1e-12, 1e-3, 1e8):
        torch.testing.assert_close(orthogonalised(x * factor), once, rtol=1e-4, atol=1e-5)


def test_a_stack_is_matrix_by_matrix_and_zeros_stay_zeros() -> None:
    x = normal(2, 3, 7, 5)
    x[0, 1] = 0
    apart = torch.stack([torch.stack([orthogonalised(m) for m in row]) for row in x])
    torch.testing.assert_close(orthogonalised(x), apart, rtol=1e-5, atol=1e-6)
    assert not orthogonalised(x)[0, 1].any()
    assert orthogonalised(torch.full((4, 4), 1e-30)).abs().max() < 1e-9  # too small to be told from nothing


# The update ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (5, 4, 3, 3)])
def test_update_is_the_papers(shape: tuple[int, ...], nesterov: bool) -> None:
    spec = Muon(lr=0.01, momentum=0.8, nesterov=nesterov, weight_decay=0.1, clip=None)
    w = nn.Parameter(normal(*shape))
    optimizer = spec.build([w], [w])
    expected, m = w.detach().clone(), torch.zeros(shape)
    for k in range(1, 6):
        g = normal(*shape, seed=k)
        w.grad = g.clone()
        guarded_step(optimizer, [w], clip=None, lr=spec.lr / k)
        m = 0.8 * m + g
        u = (g + 0.8 * m if nesterov else m).flatten(1)
        step = 0.2 * max(u.shape) ** 0.5 * orthogonalised(u).view(shape)
        expected -= spec.lr / k * (step + 0.1 * expected)
        assert 0.1 < step.square().mean().sqrt() < 0.25  # as that of AdamW
    torch.testing.assert_close(w.detach(), expected, rtol=1e-5, atol=1e-6)


def test_all_but_matrices_move_as_under_torchs_adamw() -> None:
    spec = Muon(lr=0.01, other=0.5, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, clip=0.5)
    net, twin = network(), network()
    optimizer, matrices = built(spec, net), set(hidden_matrices([net]))
    pairs = [(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True) if p not in matrices]
    torchs = torch.optim.AdamW(
        [q for _, q in pairs], lr=0.005, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, fused=True
    )
    for seed in range(4):
        gradients(net, seed, 3.0)
        gradients(twin, seed, 3.0)
        guarded_step(optimizer, net.parameters(), clip=0.5, lr=0.01)
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        torchs.step()
    assert len(pairs) == 11 and len(matrices) == 5
    for p, q in pairs:
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert all(set(optimizer.state[p]) == {"momentum"} for p in matrices)


def test_without_matrices_it_is_adamw() -> None:
    net, twin = network(), network()
    a, b = Muon().build(net.parameters()), AdamW().build(twin.parameters())
    for seed in range(3):
        for module, optimizer in ((net, a), (twin, b)):
            gradients(module, seed)
            guarded_step(optimizer, module.parameters(), clip=1.0, lr=0.01)
    assert same(everything(net, a), everything(twin, b))


def test_matrices_move_alike_together_and_alone() -> None:
    """Stacks of equal shapes, transposed ones among them, give what one matrix at a time gives."""
    spec, net, twin = Muon(lr=0.02), network(), network()
    together = built(spec, net)
    alone = [spec.build([p], [p]) for p in hidden_matrices([twin])]
    for seed in range(3):
        gradients(net, seed)
        gradients(twin, seed)
        guarded_step(together, net.parameters(), clip=None, lr=0.02)
        for p, optimizer in zip(hidden_matrices([twin]), alone, strict=True):
            guarded_step(optimizer, [p], clip=None, lr=0.02)
    for p, q in zip(hidden_matrices([net]), hidden_matrices([twin]), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (4, 6, 2, 2, 2), (8, 6, 1, 1)])
def test_the_layout_of_a_kernel_does_not_matter(shape: tuple[int, ...]) -> None:
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    solid = nn.Parameter(normal(*shape))
    last = nn.Parameter(normal(*shape).to(memory_format=layout))
    optimizers = [Muon().build([p], [p]) for p in (solid, last)]
    for seed in range(1, 4):
        for p, optimizer in zip((solid, last), optimizers, strict=True):
            p.grad = torch.empty_like(p).copy_(normal(*shape, seed=seed))
            guarded_step(optimizer, [p], clip=1.0, lr=0.02)
    assert last.is_contiguous(memory_format=layout)
    torch.testing.assert_close(solid.detach(), last.detach(), rtol=1e-5, atol=1e-6)


# The guard -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [1, 3, 9], ids=["in a matrix", "in a bias", "in a linear layer"])
@pytest.mark.parametrize("before", [0, 3], ids=["first step", "later step"])
def test_a_bad_step_leaves_no_trace(bad: float, where: int, before: int) -> None:
    spec = Muon(lr=0.01, weight_decay=0.01)
    net, twin = network(), network()
    with torch.no_grad():
        for module in (net, twin):
            module[1].weight[0] = -0.0
            module[5].bias[0] = -0.0
    optimizers = built(spec, net), built(spec, twin)

    def good(module, optimizer, seed):
        gradients(module, seed)
        assert guarded_step(optimizer, module.parameters(), clip=spec.clip, lr=0.02).finite

    for seed in range(before):
        good(net, optimizers[0], seed)
        good(twin, optimizers[1], seed)
    old = everything(net, optimizers[0]) if before else [p.detach().clone() for p in net.parameters()]
    gradients(net, 99)
    list(net.parameters())[where].grad.view(-1)[1] = bad
    finite, norm = guarded_step(optimizers[0], net.parameters(), clip=spec.clip, lr=0.02)
    assert not finite
    assert not norm.isfinite()
    new = everything(net, optimizers[0])
    assert same(old, new[: len(old)])
    if not before:
        assert not any(x.any() for x in new[len(old) :])
    good(net, optimizers[0], before)
    good(twin, optimizers[1], before)
    assert same(everything(net, optimizers[0]), everything(twin, optimizers[1]))


def test_gradients_are_clipped_together_before_they_enter_the_momentum() -> None:
    net = network()
    optimizer = built(Muon(), net)
    gradients(net, 0, 100.0)
    raw = torch.cat([p.grad.flatten() for p in net.parameters()])
    _, norm = guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01)
    applied = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(norm, raw.norm())
    torch.testing.assert_close(applied, raw / raw.norm())
    for p in hidden_matrices([net]):
        torch.testing.assert_close(optimizer.state[p]["momentum"], p.grad)


def test_loss_scale_cancels_exactly() -> None:
    net, twin = network(), network()
    a, b = built(Muon(), net), built(Muon(), twin)
    scale = LossScale(initial=1024.0)
    gradients(net, 1, 1024.0)
    gradients(twin, 1)
    scaled = guarded_step(a, net.parameters(), clip=None, lr=0.01, scale=scale.value)
    plain = guarded_step(b, twin.parameters(), clip=None, lr=0.01)
    assert torch.equal(scaled.norm, plain.norm)
    assert same(everything(net, a), everything(twin, b))


def test_the_learning_rate_is_a_tensor_and_rests_at_zero() -> None:
    net = network()
    optimizer = built(Muon(weight_decay=0.1), net)
    lr = optimizer.param_groups[0]["lr"]
    assert lr.shape == () and lr.dtype == torch.float32
    gradients(net, 0)
    old = [p.detach().clone() for p in net.parameters()]
    guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.0)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), old, strict=True))
    guarded_step(optimizer, net.parameters(), clip=1.0, lr=torch.tensor(0.125))
    assert optimizer.param_groups[0]["lr"] is lr and lr.item() == 0.125
    assert not hasattr(optimizer, "found_inf") and not hasattr(optimizer, "grad_scale")


def test_parameters_without_gradient_are_passed_over() -> None:
    net = network()
    optimizer = built(Muon(weight_decay=0.1), net)
    gradients(net, 0)
    for p in (net[1].weight, net[3].bias):
        p.grad = None
    old = [net[1].weight.detach().clone(), net[3].bias.detach().clone()]
    assert guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01).finite
    assert torch.equal(net[1].weight, old[0]) and torch.equal(net[3].bias, old[1])


def test_resuming_from_the_state_continues_bit_for_bit() -> None:
    spec, net = Muon(), network()
    optimizer = built(spec, net)
    for seed in range(6):
        if seed == 3:
            again = copy.deepcopy(net)
            resumed = built(spec, again)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        gradients(net, seed)
        guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01)
        if seed >= 3:
            gradients(again, seed)
            guarded_step(resumed, again.parameters(), clip=1.0, lr=0.01)
    assert same(everything(net, optimizer), everything(again, resumed))


def test_values_are_checked_and_comparable() -> None:
    assert Muon(rate=Constant(10)) == Muon(rate=Constant(10))
    assert replace(Muon(), lr=2.0, rate=Constant(10)).lr_at(5, None) == 1.0
    for wrong in ({"lr": 0.0}, {"lr": float("nan")}, {"clip": 0.0}, {"other": 0.0}):
        with pytest.raises(ValueError, match="must be > 0"):
            Muon(**wrong)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        Muon(momentum=1.0)
    with pytest.raises(ValueError, match="at least 1"):
        Muon(steps=0)
    w, b = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="exactly one device"):
        Muon().build([])
    with pytest.raises(ValueError, match="must be among the parameters"):
        Muon().build([b], [w])
    with pytest.raises(ValueError, match="only matrices"):
        Muon().build([w, b], [w, b])
    with pytest.raises(ValueError, match="no closure"):
        Muon().build([w], [w]).step(lambda: None)


# What it is for ------------------------------------------------------------------------------------------------------


def regression(spec: AdamW | Muon, steps: int = 60) -> list[float]:
    """Losses of W in |A (W - W*) B|^2 / 2, where A and B have condition 100: the Hessian, a product, has 10^8."""
    n, scales = 16, torch.logspace(0, -2, 16)
    a, b = rotation(n, 1) * scales @ rotation(n, 2), rotation(n, 3) * scales @ rotation(n, 4)
    goal, w = normal(n, n, seed=5), nn.Parameter(torch.zeros(n, n))
    optimizer, losses = spec.build([w], [w]), []
    for k in range(1, steps + 1):
        loss = (a @ (w - goal) @ b).square().sum() / 2
        losses.append(loss.item())
        w.grad = torch.autograd.grad(loss, w)[0]
        guarded_step(optimizer, [w], clip=None, lr=spec.lr * (1 - k / (steps + 1)))
    return losses


def test_an_ill_conditioned_regression_takes_fewer_steps_than_with_adamw_at_its_best_learning_rate() -> None:
    rates = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    adamw = min(min(regression(AdamW(lr=lr))) for lr in rates)
    muon = min((regression(Muon(lr=lr)) for lr in rates), key=min)
    assert min(muon) < 0.5 * adamw
    assert next(k for k, loss in enumerate(muon) if loss <= adamw) < 50
