"""On a GPU: a training step's bookkeeping never makes the host wait, and can be captured in a graph."""

import pytest
import torch

from unnoise.optim import AdamW, Ema, LossScale, Muon, guarded_step, hidden_matrices, orthogonalised

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
OPTIMS = pytest.mark.parametrize("optim", [AdamW(), Muon(weight_decay=0.01)], ids=["AdamW", "Muon"])


def network() -> torch.nn.Module:
    linear, conv = torch.nn.Linear, torch.nn.Conv2d(48, 32, 3).to(memory_format=torch.channels_last)
    return torch.nn.Sequential(linear(32, 64), linear(64, 48), linear(48, 64), conv, linear(64, 8))


def setup(optim):
    torch.manual_seed(0)
    net = network().cuda()
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    return net, optim.build(net.parameters(), hidden_matrices([net]))


def everything(net, optimizer) -> list[torch.Tensor]:
    return [x.detach().clone() for p in net.parameters() for x in (p, *optimizer.state[p].values())]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@OPTIMS
def test_a_whole_step_never_waits(optim, no_waiting):
    net, optimizer = setup(optim)
    scale, named = LossScale("cuda", interval=1), dict(net.state_dict())
    ema = Ema(named)
    with no_waiting():
        for k in range(1, 4):
            finite, _ = guarded_step(optimizer, net.parameters(), clip=1.0, lr=1e-3 / k, scale=scale.value)
            scale.update(finite)
            ema.update(named, 8 * k, 8)
    assert finite


@OPTIMS
def test_a_bad_step_leaves_no_trace(optim, no_waiting):
    net, optimizer = setup(optim)
    guarded_step(optimizer, net.parameters(), clip=1.0, lr=1e-3)
    old, good = everything(net, optimizer), net[0].bias.grad.clone()
    net[0].bias.grad[3] = float("nan")
    with no_waiting():
        finite, _ = guarded_step(optimizer, net.parameters(), clip=1.0, lr=1e-3)
    assert not finite
    assert same(old, everything(net, optimizer))
    net[0].bias.grad.copy_(good)
    assert guarded_step(optimizer, net.parameters(), clip=1.0, lr=1e-3).finite
    assert not same(old, everything(net, optimizer))


@pytest.mark.parametrize("optim, tolerance", [(AdamW(), 1e-6), (Muon(weight_decay=0.01), 1e-3)], ids=["AdamW", "Muon"])
def test_the_step_of_a_gpu_is_that_of_a_cpu(optim, tolerance):
    """Muon's matrices to the precision of bfloat16: three steps of size 1e-2 * 0.2."""
    net, optimizer = setup(optim)
    twin = network()
    twin.load_state_dict(net.state_dict())
    other = optim.build(twin.parameters(), hidden_matrices([twin]))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        q.grad = torch.empty_like(q).copy_(p.grad)
    for _ in range(3):
        guarded_step(optimizer, net.parameters(), clip=0.5, lr=1e-2)
        guarded_step(other, twin.parameters(), clip=0.5, lr=1e-2)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-5, atol=tolerance)


def test_singular_values_are_about_one_in_bfloat16():
    x = torch.randn(3, 32, 96, device="cuda")
    values = torch.linalg.svdvals(orthogonalised(x))
    assert values.min() > 0.6 and values.max() < 1.3


@OPTIMS
def test_a_captured_step_follows_the_learning_rate_tensor(optim):
    net, optimizer = setup(optim)
    lr = torch.tensor(1e-2, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        guarded_step(optimizer, net.parameters(), clip=1.0, lr=lr)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        finite, _ = guarded_step(optimizer, net.parameters(), clip=1.0, lr=lr)
    old = everything(net, optimizer)
    graph.replay()
    assert finite
    assert not same(old, everything(net, optimizer))
    lr.zero_()
    weights = [p.detach().clone() for p in net.parameters()]
    graph.replay()
    assert same(weights, [p.detach() for p in net.parameters()])
