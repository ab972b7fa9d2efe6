"""AdamW and the guarded step: the paper's update, exact clipping, and a bad step that leaves no trace."""

import copy

import pytest
import torch

from unnoise.optim import AdamW, Constant, LossScale, guarded_step

torch.set_num_threads(1)


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def gradients(net: torch.nn.Module, seed: int, factor: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator) * factor


def everything(net, optimizer) -> list[torch.Tensor]:
    states = [optimizer.state[p][key] for p in net.parameters() for key in ("step", "exp_avg", "exp_avg_sq")]
    return [x.detach().clone() for x in (*net.parameters(), *states)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_update_is_the_papers():
    spec = AdamW(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, clip=None)
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = spec.build([w])
    expected, m, v = w.detach().double().clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for k in range(1, 6):
        g = torch.tensor([0.5, -0.1, 2.0]) * k
        w.grad = g.clone()
        guarded_step(optimizer, [w], clip=None, lr=spec.lr / k)
        m, v = 0.8 * m + 0.2 * g.double(), 0.95 * v + 0.05 * g.double() ** 2
        adam = m / (1 - 0.8**k) / ((v / (1 - 0.95**k)).sqrt() + 1e-6)
        expected -= spec.lr / k * (adam + 0.1 * expected)
    torch.testing.assert_close(w.detach().double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("before", [0, 3], ids=["first step", "later step"])
def test_a_bad_step_leaves_no_trace(bad, before):
    spec = AdamW(lr=0.01, weight_decay=0.01)
    net, twin = network(), network()
    optimizers = spec.build(net.parameters()), spec.build(twin.parameters())

    def good(module, optimizer, seed):
        gradients(module, seed)
        assert guarded_step(optimizer, module.parameters(), clip=spec.clip, lr=0.02).finite

    for seed in range(before):
        good(net, optimizers[0], seed)
        good(twin, optimizers[1], seed)

    old = everything(net, optimizers[0]) if before else [p.detach().clone() for p in net.parameters()]
    gradients(net, 99)
    net[2].bias.grad[1] = bad
    finite, norm = guarded_step(optimizers[0], net.parameters(), clip=spec.clip, lr=0.02)
    assert finite.dtype == torch.bool
    assert not finite
    assert not norm.isfinite()
    new = everything(net, optimizers[0])
    assert same(old, new[: len(old)])
    assert all(float(optimizers[0].state[p]["step"]) == before for p in net.parameters())

    good(net, optimizers[0], before)
    good(twin, optimizers[1], before)
    assert same(everything(net, optimizers[0]), everything(twin, optimizers[1]))


def test_clipping_scales_all_gradients_to_the_norm_and_no_further():
    net = network()
    optimizer = AdamW().build(net.parameters())
    for factor, clipped in ((100.0, True), (0.001, False)):
        gradients(net, 0, factor)
        raw = torch.cat([p.grad.flatten() for p in net.parameters()])
        _, norm = guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01)
        applied = torch.cat([p.grad.flatten() for p in net.parameters()])
        torch.testing.assert_close(norm, raw.norm())
        torch.testing.assert_close(applied, raw / raw.norm() if clipped else raw)


def test_clipped_step_equals_torchs_clip_and_step():
    net = network()
    twin = copy.deepcopy(net)
    a, b = AdamW().build(net.parameters()), AdamW().build(twin.parameters())
    for seed in range(4):
        gradients(net, seed, 3.0)
        gradients(twin, seed, 3.0)
        guarded_step(a, net.parameters(), clip=0.5, lr=1e-3)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        b.step()
    for x, y in zip(everything(net, a), everything(twin, b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7)


def test_loss_scale_cancels_exactly():
    net, twin = network(), network()
    a, b = AdamW().build(net.parameters()), AdamW().build(twin.parameters())
    scale = LossScale(initial=1024.0)
    gradients(net, 1, 1024.0)
    gradients(twin, 1)
    scaled = guarded_step(a, net.parameters(), clip=None, lr=0.01, scale=scale.value)
    plain = guarded_step(b, twin.parameters(), clip=None, lr=0.01)
    assert torch.equal(scaled.norm, plain.norm)
    assert same(everything(net, a), everything(twin, b))


def test_learning_rate_is_a_tensor_set_in_place():
    net = network()
    optimizer = AdamW(lr=0.5).build(net.parameters())
    lr = optimizer.param_groups[0]["lr"]
    assert lr.shape == ()
    assert lr.dtype == torch.float32
    gradients(net, 0)
    old = net[0].weight.detach().clone()
    guarded_step(optimizer, net.parameters(), clip=None, lr=0.0)
    assert torch.equal(net[0].weight, old)
    guarded_step(optimizer, net.parameters(), clip=None, lr=torch.tensor(0.125))
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.125


def test_nothing_is_left_on_the_optimizer():
    net = network()
    optimizer = AdamW().build(net.parameters())
    gradients(net, 0)
    guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01)
    assert not hasattr(optimizer, "found_inf")
    assert not hasattr(optimizer, "grad_scale")


def test_parameters_without_gradient_are_passed_over():
    net = network()
    optimizer = AdamW().build(net.parameters())
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01)
    gradients(net, 0)
    net[0].weight.grad = None
    old = net[0].weight.detach().clone()
    assert guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01).finite
    assert torch.equal(net[0].weight, old)


def test_values_are_checked_and_comparable():
    assert AdamW(rate=Constant(10)) == AdamW(rate=Constant(10))
    for wrong in ({"lr": 0.0}, {"lr": float("nan")}, {"clip": 0.0}):
        with pytest.raises(ValueError, match="must be > 0"):
            AdamW(**wrong)
    with pytest.raises(ValueError, match="exactly one device"):
        AdamW().build([])


def test_resuming_from_the_state_continues_bit_for_bit():
    spec, net = AdamW(), network()
    optimizer = spec.build(net.parameters())
    for seed in range(6):
        if seed == 3:
            again = copy.deepcopy(net)
            resumed = spec.build(again.parameters())
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        gradients(net, seed)
        guarded_step(optimizer, net.parameters(), clip=1.0, lr=0.01)
        if seed >= 3:
            gradients(again, seed)
            guarded_step(resumed, again.parameters(), clip=1.0, lr=0.01)
    assert same(everything(net, optimizer), everything(again, resumed))
