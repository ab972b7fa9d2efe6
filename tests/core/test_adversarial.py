"""The losses of an autoencoder and its discriminator: by hand, against their optima, row by row."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.core.adversarial import Discrimination, Reconstruction
from unnoise.core.objective import Objective
from unnoise.core.rng import Rng
from unnoise.nets import Autoencoder, PatchDiscriminator
from unnoise.spec import build, describe

D = torch.float64


class Fixed(nn.Module):
    """An autoencoder of given latent statistics; its decoder is a gain."""

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        super().__init__()
        self.mean, self.logvar = mean, logvar
        self.gain = nn.Parameter(torch.ones((), dtype=mean.dtype))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.expand(len(x), *self.mean.shape[1:]), self.logvar.expand(len(x), *self.mean.shape[1:])

    def decode(self, z: Tensor) -> Tensor:
        return self.gain * z


def pictures(n: int, size: int = 16) -> Tensor:
    return Rng.of(range(n)).fold(5).normal(torch.zeros(n, 1, size, size))


def real_networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "model": Autoencoder(channels=1, latent=2, width=4, multipliers=(1, 2)),
        "discriminator": PatchDiscriminator(channels=1, width=4, layers=2),
    }


def test_both_are_objectives_and_values() -> None:
    for objective in (Reconstruction(norm="l2", kl=1e-4, factor=0.0), Discrimination(discriminator="other")):
        assert isinstance(objective, Objective) and build(describe(objective)) == objective


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_without_an_adversary_it_is_distance_plus_divergence(norm: Any) -> None:
    """KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s, by element."""
    m, s, x = 0.7, 0.3, torch.linspace(-1, 1, 12, dtype=D).reshape(2, 6)
    model = Fixed(torch.full((1, 6), m, dtype=D), torch.full((1, 6), 2 * math.log(s), dtype=D))
    rng = Rng.of(range(2))
    loss = Reconstruction(norm=norm, kl=0.25, factor=0.0)({"model": model}, {"x": x}, rng, 0)
    away = m + s * rng.fold(1).normal(x) - x
    distance = away.abs().mean(1) if norm == "l1" else away.square().mean(1)
    torch.testing.assert_close(loss.value, distance + 0.25 * ((m**2 + s**2 - 1) / 2 - math.log(s)))
    assert float(loss.scalars["reconstruction"]) == pytest.approx(float(distance.mean()))


def test_a_standard_normal_posterior_costs_nothing() -> None:
    model = Fixed(torch.zeros(1, 4, dtype=D), torch.zeros(1, 4, dtype=D))
    loss = Reconstruction(kl=1.0, factor=0.0)({"model": model}, {"x": torch.zeros(3, 4, dtype=D)}, Rng.of(range(3)), 0)
    assert float(loss.scalars["kl"]) == 0


def test_the_draw_is_of_the_posterior() -> None:
    """L2 to the mean itself is the posterior's variance."""
    n, s = 20_000, 0.5
    model = Fixed(torch.zeros(1, 2, dtype=D), torch.full((1, 2), 2 * math.log(s), dtype=D))
    loss = Reconstruction(norm="l2", kl=0.0, factor=0.0)(
        {"model": model}, {"x": torch.zeros(n, 2, dtype=D)}, Rng.of(range(n)), 0
    )
    assert float(loss.mean.detach()) == pytest.approx(s**2, rel=5 / math.sqrt(n))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_adaptive_weight_makes_both_terms_pull_as_hard(norm: Any) -> None:
    """Esser et al. 2020, eq. 7: whatever the scale of the discriminator, |d term / d picture| is that of rec."""
    parts, x = real_networks(), pictures(4)
    caught: dict[str, Tensor] = {}

    def gradient(objective: Reconstruction) -> Tensor:
        handle = parts["model"].head.register_forward_hook(  # type: ignore[union-attr,operator]
            lambda m, a, out: caught.update(out=out)
        )
        loss = objective(parts, {"x": x}, Rng.of(range(4)), 0)
        handle.remove()
        (grad,) = torch.autograd.grad(loss.value.sum(), caught["out"])
        return grad.flatten(1)

    distance = gradient(Reconstruction(norm=norm, kl=0.0, factor=0.0))
    for scale in (1.0, 1e3):
        with torch.no_grad():
            parts["discriminator"].body[-1].weight.mul_(scale)  # type: ignore[index,union-attr,operator]
        both = gradient(Reconstruction(norm=norm, kl=0.0, factor=0.5))
        pull = (both - distance).norm(dim=1) / distance.norm(dim=1)
        # The 1e-4 beside the norm of the gradient counts where that is small.
        torch.testing.assert_close(pull, torch.full_like(pull, 0.5), rtol=2e-3 if scale > 1 else 0.5, atol=0)


def test_a_fixed_weight_is_the_plain_sum() -> None:
    """Values and gradients of rec - factor D(G(z)), by autograd in one piece."""
    parts, x, rng = real_networks(), pictures(3), Rng.of(range(3))
    loss = Reconstruction(kl=0.0, factor=0.3, adaptive=False)(parts, {"x": x}, rng, 0)
    own = torch.autograd.grad(loss.mean, list(parts["model"].parameters()))
    mean, logvar = parts["model"].encode(x)  # type: ignore[operator]
    out = parts["model"].decode(mean + (logvar / 2).exp() * rng.fold(1).normal(mean))  # type: ignore[operator]
    plain = (out - x).abs().flatten(1).mean(1) - 0.3 * parts["discriminator"](out).flatten(1).mean(1)
    torch.testing.assert_close(loss.value, plain)
    want = torch.autograd.grad(plain.mean(), list(parts["model"].parameters()), allow_unused=True)
    for a, b in zip(own, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in parts["discriminator"].parameters())


def test_the_adversary_begins_at_its_start_and_needs_no_gradient_mode() -> None:
    parts, x, rng = real_networks(), pictures(3), Rng.of(range(3))
    objective, plain = Reconstruction(factor=0.5, start=100), Reconstruction(factor=0.0)
    before, after, without = (f(parts, {"x": x}, rng, s) for f, s in ((objective, 99), (objective, 100), (plain, 100)))
    assert torch.equal(before.value, without.value) and not torch.equal(after.value, without.value)
    with torch.no_grad():  # as the held-out loss is measured
        torch.testing.assert_close(objective(parts, {"x": x}, rng, 100).value, after.value)
    del parts["discriminator"]
    assert torch.equal(objective(parts, {"x": x}, rng, 0).value, before.value)


@pytest.mark.parametrize("objective", [Reconstruction(), Discrimination()], ids=["reconstruction", "discrimination"])
def test_a_row_does_not_depend_on_how_the_batch_is_cut(objective: Any) -> None:
    parts, x, rng = real_networks(), pictures(6), Rng.of(range(6))
    whole = objective(parts, {"x": x}, rng, 0).value
    for rows in (slice(0, 2), slice(3, 6)):
        torch.testing.assert_close(
            objective(parts, {"x": x[rows]}, rng[rows], 0).value, whole[rows], rtol=1e-4, atol=1e-6
        )


class Table(nn.Module):
    """A discriminator of three symbols: one logit each."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=D))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x[:, 0].round().long()][:, None]


def _symbols(real: list[int], fake: list[int], judge: Table) -> Tensor:
    """The hinge loss of real symbols and of those that an autoencoder without noise makes."""
    model = Fixed(torch.tensor(fake, dtype=D)[:, None], torch.full((len(fake), 1), -80.0, dtype=D))
    x = torch.tensor(real, dtype=D)[:, None]
    return Discrimination()({"model": model, "discriminator": judge}, {"x": x}, Rng.of(range(len(x))), 0).mean


def test_the_optimal_discriminator_is_the_sign_and_its_loss_the_overlap() -> None:
    """p = (5, 3, 2) / 10, p_G = (2, 2, 6) / 10: the overlap is 0.2 + 0.2 + 0.2."""
    real, fake = [0] * 5 + [1] * 3 + [2] * 2, [0] * 2 + [1] * 2 + [2] * 6
    best = Table([1.0, 1.0, -1.0])
    least = float(_symbols(real, fake, best).detach())
    assert least == pytest.approx(0.6)
    for k in range(3):
        for step in (-0.5, -0.1, 0.1, 0.5, 3.0, -3.0):
            logits = [1.0, 1.0, -1.0]
            logits[k] += step
            assert float(_symbols(real, fake, Table(logits)).detach()) > least + 0.0049
    undecided = float(_symbols(real, fake, Table([0.0, 0.0, 0.0])).detach())
    assert undecided == pytest.approx(1.0)


def test_the_autoencoder_is_a_constant_to_the_discriminator() -> None:
    parts, x = real_networks(), pictures(3)
    Discrimination()(parts, {"x": x}, Rng.of(range(3)), 0).mean.backward()
    assert all(p.grad is None for p in parts["model"].parameters())
    # Biases may get nothing: what they add to real and to reconstructed data alike cancels.
    for p in parts["discriminator"].parameters():
        assert p.grad is not None and (p.ndim == 1 or float(p.grad.abs().max()) > 0)


def test_weights_that_are_none() -> None:
    for bad in ({"kl": -1e-6}, {"factor": -0.1}, {"factor": math.nan}):
        with pytest.raises(ValueError, match="at least 0"):
            Reconstruction(**bad)  # type: ignore[arg-type]
