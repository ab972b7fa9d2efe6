"""The transformer: what it is equivariant to, what it may not see, and that it learns from what it may."""

import json
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise import spec
from unnoise.nets import Transformer
from unnoise.nets.attention import attend
from unnoise.nets.sequence import rotary

SMALL = {"width": 16, "depth": 2, "head_width": 8}
TIGHT = {"rtol": 0.0, "atol": 1e-10}
TWINS = [{}, {"causal": True}, {"positions": False}, {"positions": False, "inducing": 3}]


def test_zero_at_first_then_told_everything(perturb: Callable) -> None:
    net = Transformer(channels=2, labels={"shape": 2}, vector=3, **SMALL).double()
    x, c = torch.randn(3, 5, 2).double(), torch.rand(3).double()
    cond = {"shape": torch.tensor([0, 1, 2]), "vector": torch.randn(3, 3).double()}
    assert (net(x, c, **cond) == 0).all()
    out = perturb(net)(x, c, **cond)
    others = [
        (c + torch.tensor([0.2, 0, 0]), cond),
        (c, cond | {"shape": torch.tensor([1, 1, 2])}),
        (c, cond | {"vector": cond["vector"] + torch.tensor([[1.0], [0], [0]])}),
    ]
    for level, other in others:
        change = (net(x, level, **other) - out).abs().amax(dim=(1, 2))
        assert change[0] > 1e-3
        assert change[1:].max() < 1e-10
    out.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("arguments", TWINS)
def test_a_level_for_each_element(perturb: Callable, arguments: dict) -> None:
    net = perturb(Transformer(channels=2, **SMALL, **arguments)).double()
    x, c = torch.randn(3, 5, 2).double(), torch.rand(3).double()
    out = net(x, c)
    torch.testing.assert_close(net(x, c[:, None].expand(3, 5)), out, **TIGHT)
    torch.testing.assert_close(net(x, c[:, None, None].expand(3, 5, 1)), out, **TIGHT)
    own = c[:, None] + torch.arange(5) / 10
    assert (net(x, own)[:, 4] - net(x, own[:, 4])[:, 4]).abs().max() > 1e-4  # attends to elements of other levels


@pytest.mark.parametrize("arguments", TWINS)
@pytest.mark.parametrize("tokens", [True, False])
def test_padding_leaks_nothing(perturb: Callable, arguments: dict, tokens: bool) -> None:
    """Each row alone is what it is beside padding, at the end or (positions count by their difference) before it."""
    data = {"vocabulary": 7} if tokens else {"channels": 2}
    net = perturb(Transformer(**data, **SMALL, **arguments)).double()
    c, mask = torch.rand(4).double(), torch.arange(6) < torch.tensor([[6], [3], [1], [0]])
    x = torch.randint(7, (4, 6)) if tokens else torch.randn(4, 6, 2).double()
    junk = x.clone()
    junk[~mask] = 10**6 if tokens else math.nan
    out = net(junk, c, mask=mask)
    assert (out[~mask] == 0).all()
    before = net(junk.flip(1), c, mask=mask.flip(1))
    for i, n in enumerate([6, 3, 1]):
        torch.testing.assert_close(net(x[i : i + 1, :n], c[i : i + 1])[0], out[i, :n], **TIGHT)
        torch.testing.assert_close(net(x[i : i + 1, :n].flip(1), c[i : i + 1])[0], before[i, 6 - n :], **TIGHT)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("inducing", [None, 3])
def test_a_set_knows_no_order_and_a_sequence_does(perturb: Callable, inducing: int | None) -> None:
    x, c, order = torch.randn(2, 6, 2).double(), torch.rand(2).double(), torch.tensor([3, 1, 5, 0, 2, 4])
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    net = perturb(Transformer(channels=2, positions=False, inducing=inducing, **SMALL)).double()
    torch.testing.assert_close(net(x[:, order], c, mask=mask[:, order]), net(x, c, mask=mask)[:, order], **TIGHT)
    assert (net(x, c)[:, 0] - net(torch.cat([x[:, :5], x[:, :1]], 1), c)[:, 0]).abs().max() > 1e-4  # sees the others
    ordered = perturb(Transformer(channels=2, **SMALL)).double()
    assert (ordered(x[:, order], c) - ordered(x, c)[:, order]).abs().max() > 1e-3


@pytest.mark.parametrize("masked", [True, False])
def test_causal_sees_the_past_alone(perturb: Callable, masked: bool) -> None:
    net = perturb(Transformer(vocabulary=5, causal=True, told=False, **SMALL)).double()
    x = torch.randint(5, (2, 6))
    cond = {"mask": torch.arange(6) < torch.tensor([[6], [5]])} if masked else {}
    out = net(x, None, **cond)
    for j in range(5):
        other = x.clone()
        other[:, j] = (x[:, j] + 1) % 5
        change = (net(other, None, **cond) - out).abs().amax(dim=(0, 2))
        assert (change[:j] == 0).all()
        assert (change[j:] > 1e-6).all()


@pytest.mark.parametrize("arguments", TWINS)
def test_forward_derivative_is_the_difference_quotient(perturb: Callable, arguments: dict) -> None:
    net = perturb(Transformer(channels=2, **SMALL, **arguments)).double()
    x, v, c = torch.randn(3, 5, 2).double(), torch.randn(3, 5, 2).double(), torch.rand(3).double()
    for cond in ({}, {"mask": torch.arange(5) < torch.tensor([[5], [3], [0]])}):
        value, tangent = torch.func.jvp(lambda z, cond=cond: net(z, c, **cond), (x,), (v,))
        torch.testing.assert_close(value, net(x, c, **cond), **TIGHT)
        quotient = (net(x + 1e-5 * v, c, **cond) - net(x - 1e-5 * v, c, **cond)) / 2e-5
        torch.testing.assert_close(tangent, quotient, rtol=1e-6, atol=1e-7)
        gradients = torch.autograd.grad(tangent.square().sum(), list(net.parameters()), allow_unused=True)
        assert all(g.isfinite().all() for g in gradients if g is not None)  # of a row without any element too


def test_not_told_the_level() -> None:
    net = Transformer(vocabulary=3, told=False, **SMALL)
    nn.init.normal_(net.head.weight)
    x = torch.tensor([[0, 1, 2]])
    assert torch.equal(net(x, None), net(x, torch.tensor([0.7])))
    assert net(x, None).abs().min() > 0


def test_rotary_is_the_closed_form_and_counts_differences() -> None:
    """One head of 4 channels: planes (0, 2) and (1, 3), turned by n and by n / 100."""
    q, k = torch.tensor([1.0, 2, 0, 0]).double(), torch.tensor([3.0, 5, 0, 0]).double()
    scores = rotary(q.expand(1, 9, 4), 1) @ rotary(k.expand(1, 9, 4), 1).transpose(1, 2)
    m_n = torch.arange(9).double()[:, None] - torch.arange(9).double()
    torch.testing.assert_close(scores[0], 3 * m_n.cos() + 10 * (m_n / 100).cos(), **TIGHT)
    q, k, v = torch.randn(3, 2, 5, 16).double()
    shifted = attend(rotary(q, 2, first=1000), rotary(k, 2, first=1000), v, 2)
    torch.testing.assert_close(shifted, attend(rotary(q, 2), rotary(k, 2), v, 2), rtol=0, atol=1e-9)
    torch.testing.assert_close(rotary(q, 2)[:, 0], q[:, 0], **TIGHT)


def descend(net: nn.Module, loss: Callable[[], Tensor], steps: int) -> float:
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    values = []
    for _ in range(steps):
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    return sum(values[-10:]) / 10


@pytest.mark.parametrize("inducing", [None, 2])
def test_a_set_learns_its_mean(inducing: int | None) -> None:
    """Of N = 4 normal numbers, one of which is seen, the mean times sqrt(N) has an error of 1 - 1/N at best."""
    net = Transformer(channels=1, positions=False, inducing=inducing, **SMALL)

    def loss() -> Tensor:
        x = torch.randn(64, 4, 1)
        return (net(x, torch.zeros(64)) - 2 * x.mean(dim=1, keepdim=True)).square().mean()

    assert descend(net, loss, 150) < 0.2 * (1 - 1 / 4)


def test_a_causal_twin_learns_to_copy() -> None:
    """Three random tokens of 4, then the same again: the first three cost log 4 each, and the rest nothing."""
    net = Transformer(vocabulary=5, outputs=4, causal=True, told=False, **(SMALL | {"width": 32}))

    def loss() -> Tensor:
        x = torch.randint(4, (64, 3)).repeat(1, 2)
        before = torch.cat([torch.full((64, 1), 4), x[:, :-1]], dim=1)
        return F.cross_entropy(net(before).transpose(1, 2), x)

    assert 0.49 * math.log(4) < descend(net, loss, 200) < 0.6 * math.log(4)


def test_learns_the_level_of_each_element() -> None:
    """Fits f(x, c) = x cos(c), c drawn for each element: with the level ignored the best error is 1/2."""
    net = Transformer(channels=1, noise_scale=10.0, **SMALL)

    def loss() -> Tensor:
        x, c = torch.randn(64, 4, 1), torch.rand(64, 4, 1) * math.pi
        return (net(x, c) - x * c.cos()).square().mean()

    assert descend(net, loss, 150) < 0.1


@pytest.mark.parametrize("arguments", TWINS[1::2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_pitfall_27_no_graph_breaks(perturb: Callable, arguments: dict) -> None:
    net = perturb(Transformer(vocabulary=5, labels={"label": 3}, **(SMALL | {"depth": 1}), **arguments))
    x, c, mask = torch.randint(5, (2, 4)), torch.rand(2), torch.arange(4) < torch.tensor([[4], [2]])
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=False)
    results = []
    for call in (net, compiled):
        out = call(x, c, mask=mask, label=torch.tensor([0, 3]))
        results.append([out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_rebuilt_from_its_description(perturb: Callable) -> None:
    net = perturb(Transformer(channels=2, outputs=4, positions=False, inducing=3, labels={"a": 2}, vector=1, **SMALL))
    again = spec.build(json.loads(json.dumps(spec.describe(net))))
    again.load_state_dict(net.state_dict())
    call = (torch.randn(1, 4, 2), torch.rand(1))
    cond = {"a": torch.tensor([1]), "vector": torch.randn(1, 1)}
    assert torch.equal(again(*call, **cond), net(*call, **cond))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of them"),
        ({"channels": 1, "vocabulary": 2}, "one of them"),
        ({"channels": 1, "head_width": 48}, "divisor"),
        ({"channels": 1, "head_width": 1}, "even"),
        ({"channels": 1, "inducing": 2}, "positions=False"),
        ({"channels": 1, "inducing": 2, "positions": False, "causal": True}, "causal=False"),
        ({"channels": 1, "labels": {"mask": 2}}, "mask"),
        ({"channels": 1, "dropout": 1.0}, "dropout is a probability"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(**arguments)


def test_inputs_that_do_not_fit() -> None:
    net, x, c = Transformer(channels=2, labels={"a": 2}, **SMALL), torch.randn(2, 3, 2), torch.rand(2)
    a = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="misses the condition 'a'"):
        net(x, c)
    with pytest.raises(ValueError, match="does not know the condition 'context'"):
        net(x, c, a=a, context=x)
    with pytest.raises(ValueError, match=r"c_noise must be .* got None"):
        net(x, None, a=a)
    with pytest.raises(ValueError, match="c_noise"):
        net(x, torch.rand(2, 4), a=a)
    with pytest.raises(ValueError, match=r"vectors \[B, N, 2\]"):
        net(x[..., :1], c, a=a)
    with pytest.raises(ValueError, match="mask must be bool"):
        net(x, c, a=a, mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="tokens"):
        Transformer(vocabulary=3, **SMALL)(x, c)
