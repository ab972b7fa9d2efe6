"""The autoencoder and the patch discriminator: sizes, rows that do not mix, fields of view, and what they learn."""

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unnoise import spec
from unnoise.nets import Autoencoder, PatchDiscriminator

SMALL = {"channels": 1, "latent": 2, "width": 8, "multipliers": (1, 2)}


@pytest.mark.parametrize(("multipliers", "factor"), [((1,), 1), ((1, 2), 2), ((1, 1, 2), 4)])
def test_sizes_and_rows(perturb: Callable, multipliers: tuple, factor: int) -> None:
    net = perturb(Autoencoder(channels=3, latent=5, width=4, multipliers=multipliers, blocks=2)).double()
    x = torch.randn(3, 3, 8, 12).double()
    mean, logvar = net.encode(x)
    assert mean.shape == logvar.shape == (3, 5, 8 // factor, 12 // factor)
    assert torch.equal(net(x), net.decode(mean))
    assert net(x).shape == x.shape
    alone = torch.cat([net(row[None]) for row in x])
    torch.testing.assert_close(net(x), alone, rtol=0, atol=1e-10)
    (net(x).square().sum() + logvar.square().sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    if factor > 1:
        with pytest.raises(ValueError, match=f"multiples of {factor}"):
            net(x[..., 1:])


def test_logvar_is_bounded() -> None:
    net = Autoencoder(**SMALL)
    nn.init.constant_(net.encoder[-1].bias, 1e6)
    logvar = net.encode(torch.randn(1, 1, 4, 4))[1]
    assert (logvar == 20).all()
    nn.init.constant_(net.encoder[-1].bias, -1e6)
    assert (net.encode(torch.randn(1, 1, 4, 4))[1] == -30).all()


def test_learns_plane_waves_better_than_their_average() -> None:
    """16 x 16 waves through 2 x 8 x 8 numbers: a mean of each 2 x 2 block leaves the variance within the blocks."""
    net = Autoencoder(**SMALL)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"))
    for _ in range(120):
        wave, phase = 2 * torch.rand(16, 2, 1, 1), 7 * torch.rand(16, 1, 1)
        x = 2**0.5 * ((wave * grid).sum(dim=1) + phase).cos()[:, None]
        loss = (net(x) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    blocks = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)
    assert loss < 0.25 * (x - blocks).square().mean()


def test_mean_and_logvar_learn_a_posterior() -> None:
    """Pulled to N(1, 1/4) and nothing else, the KL divergence falls from its first value to 0."""
    net = Autoencoder(**SMALL)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    values = []
    for _ in range(60):
        mean, logvar = net.encode(torch.randn(8, 1, 8, 8))
        loss = 0.5 * (4 * (logvar.exp() + (mean - 1).square()) - 1 - logvar - torch.tensor(4.0).log()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert min(values) >= 0
    assert values[0] > 0.5
    assert values[-1] < 0.05


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_field_of_view_of_a_patch(layers: int, field: int) -> None:
    """Without the norms, which look at the whole picture, a logit in the middle sees `field` elements."""
    net = PatchDiscriminator(channels=1, width=4, layers=layers).double()
    net.body = nn.Sequential(*(layer for layer in net.body if not isinstance(layer, nn.GroupNorm)))
    x = torch.randn(1, 1, 160, 160).double().requires_grad_()
    logits = net(x)
    assert logits.shape == (1, 1, 160 // 2**layers - 2, 160 // 2**layers - 2)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    assert [(gradient.abs().sum(dim=axis) > 0).sum().item() for axis in (2, 3)] == [field, field]


def test_verdicts_do_not_depend_on_the_batch(perturb: Callable) -> None:
    net = perturb(PatchDiscriminator(channels=2, width=8)).double()
    x = torch.randn(3, 2, 16, 13).double()
    torch.testing.assert_close(net(x), torch.cat([net(row[None]) for row in x]), rtol=0, atol=1e-10)
    net(x).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    with pytest.raises(ValueError, match="at least 12"):
        net(x[..., :11])


def test_discriminator_finds_the_patches_that_are_noise() -> None:
    """Left or right half noise, the other one smooth: log 2 for who cannot tell where."""
    net = PatchDiscriminator(channels=1, width=8, layers=1)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        x = torch.randn(32, 1, 1, 1).expand(-1, -1, 32, 32).clone()
        truth = torch.zeros(32, 1, 14, 14)
        x[:16, ..., :16], truth[:16, ..., :7] = torch.randn(16, 1, 32, 16), 1
        x[16:, ..., 16:], truth[16:, ..., 7:] = torch.randn(16, 1, 32, 16), 1
        loss = F.binary_cross_entropy_with_logits(net(x), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3 * 0.6931


@pytest.mark.parametrize("net", [Autoencoder(**SMALL), PatchDiscriminator(channels=1, width=4, layers=1)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_pitfall_27_no_graph_breaks(net: nn.Module, perturb: Callable) -> None:
    perturb(net)
    x = torch.randn(2, 1, 8, 8)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=False)
    results = []
    for call in (net, compiled):
        out = call(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", [Autoencoder(**SMALL, blocks=2), PatchDiscriminator(channels=1, width=4, layers=1)])
def test_rebuilt_from_its_description(net: nn.Module, perturb: Callable) -> None:
    perturb(net)
    again = spec.build(json.loads(json.dumps(spec.describe(net))))
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(again(x), net(x))
