"""The MLP and the classifier."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unnoise.nets import MLP, ConvClassifier, ResidualClassifier


def test_mlp_is_zero_at_first_then_told_everything(perturb: Callable) -> None:
    net = MLP(channels=2, width=16, labels={"moon": 2}, vector=3)
    x, c, cond = torch.randn(4, 2), torch.rand(4), {"moon": torch.tensor([0, 1, 2, 2]), "vector": torch.randn(4, 3)}
    assert (net(x, c, **cond) == 0).all()
    out = perturb(net)(x, c, **cond)
    torch.testing.assert_close(out, net(x, c[:, None], **cond))
    for other in (cond | {"moon": torch.tensor([1, 1, 2, 2])}, cond | {"vector": cond["vector"] * torch.eye(4)[:, :1]}):
        assert (net(x, c, **other) - out)[0].abs().max() > 1e-3 or (net(x, c, **other) - out)[1].abs().max() > 1e-3
    out.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    alone = torch.cat([net(x[i, None], c[i, None], **{k: v[i, None] for k, v in cond.items()}) for i in range(4)])
    torch.testing.assert_close(out, alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="c_noise"):
        net(x, c[:3], **cond)
    with pytest.raises(ValueError, match=rf"x must be \[B, {x.shape[1]}\] "):
        net(x[:, 1:], c, **cond)
    with pytest.raises(ValueError, match="dropout is a probability"):
        MLP(channels=2, dropout=-0.5)


def test_mlp_learns_the_noise_level() -> None:
    """Fits f(x, c) = x cos(c): with the level ignored the best error is the variance of cos(c) x."""
    net = MLP(channels=2, width=32, blocks=1)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        x, c = torch.randn(128, 2), torch.rand(128) * 3.14
        loss = (net(x, c) - x * c.cos()[:, None]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1  # ignoring c: 0.5


@pytest.mark.parametrize(
    "net",
    [
        ConvClassifier(channels=1, classes=4, width=8, dropout=0.1),
        ResidualClassifier(channels=1, classes=4, width=8, stages=2, blocks=1),
    ],
    ids=lambda net: type(net).__name__,
)
def test_classifier_learns_quadrants(net: nn.Module) -> None:
    """Which quadrant holds the blob? The mean over positions knows by the zero-padded borders."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    truth = torch.arange(256) % 4
    x = 0.3 * torch.randn(256, 1, 8, 8)
    for i, q in enumerate(truth):
        x[i, :, 4 * (q // 2) + 1 : 4 * (q // 2) + 3, 4 * (q % 2) + 1 : 4 * (q % 2) + 3] += 1
    for _ in range(30):
        loss = F.cross_entropy(net(x[:128]), truth[:128])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    assert (net(x[128:]).argmax(dim=1) == truth[128:]).float().mean() > 0.95


@pytest.mark.parametrize(
    "net",
    [
        ConvClassifier(channels=2, classes=3, width=4, hidden=8),
        ResidualClassifier(channels=2, classes=3, width=4, stages=3, blocks=2),
    ],
    ids=lambda net: type(net).__name__,
)
def test_classifier_rows_are_independent_and_logits_linear_in_features(net: Any) -> None:
    net.eval()
    with torch.no_grad():
        for p in net.parameters():  # some begin at zero
            p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(3, 2, 9, 13)
    torch.testing.assert_close(net(x), torch.cat([net(row[None]) for row in x]), rtol=0, atol=1e-5)
    torch.testing.assert_close(net(x), net.outer(net.features(x)))
    with pytest.raises(ValueError, match="at least 4"):
        net(x[..., :3])


@pytest.mark.parametrize(
    "net",
    [
        MLP(channels=2, width=8, labels={"a": 2}, vector=3),
        ConvClassifier(channels=1, classes=3, width=4, dims=1),
        ResidualClassifier(channels=1, classes=3, width=4, dims=3, blocks=1),
    ],
)
def test_rebuilt_from_attributes(net: nn.Module) -> None:
    again = type(net)(**{name: getattr(net, name) for name in inspect.signature(type(net)).parameters})
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}
