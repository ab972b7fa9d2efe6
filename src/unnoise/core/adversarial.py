"""Objectives of an autoencoder and of the discriminator that sharpens it; they know components by name only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.core.objective import Batch, Components, Loss, row_mean
from unnoise.core.rng import Rng

LARGEST = 1e4
"""Of the adaptive weight, as in Esser et al.: where a discriminator says nothing, its weight is not infinite."""


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder G is trained by, with z ~ q(z|x); each term is a mean over its elements.

        |x - G(z)| (or its square) + kl KL(q(z|x) || N(0, 1)) - factor lambda D(G(z))

    lambda = |d rec / d G| / (|d adv / d G| + 1e-4), at most 1e4: the weight of Esser et al. 2020 (arXiv:2012.09841,
    eq. 7). There G stands for the last layer and a batch has one weight; here it is the picture, and each row has its
    own, so that a row's loss does not depend on how the batch is cut.

    Args:
        norm: "l1" or "l2".
        kl: weight of the KL divergence per element of the latent, in nats; 1e-6 to 1e-4 keeps it a codec.
        factor: weight of the adversarial term; 0: none.
        adaptive: times lambda, or as it stands.
        start: samples seen before the adversarial term begins.
        model: name of the autoencoder, with encode(x) -> (mean, log-variance) and decode(z) -> x.
        discriminator: name of the network of logits, needed where factor > 0; "codec" is used where present.

    Raises:
        ValueError: for a negative weight.
    """

    norm: Literal["l1", "l2"] = "l1"
    kl: float = 1e-5
    factor: float = 0.1
    adaptive: bool = True
    start: int = 0
    model: str = "model"
    discriminator: str = "discriminator"

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise ValueError(f'norm is "l1" or "l2", got {self.norm!r}')
        if not (self.kl >= 0 and self.factor >= 0):
            raise ValueError(f"kl and factor must be at least 0, got {self.kl} and {self.factor}")

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row; scalars hold the mean of each term."""
        x, mean, logvar, out = _through(components, self.model, batch, rng)
        error = out - x
        rec = row_mean(error.abs() if self.norm == "l1" else error.square())
        kl = row_mean(0.5 * (mean.square() + logvar.exp() - 1 - logvar))
        value, scalars = rec + self.kl * kl, {"reconstruction": rec.detach().mean(), "kl": kl.detach().mean()}
        if self.factor > 0 and seen >= self.start:
            adversarial, slope = _fooled(components[self.discriminator], out)
            weight = self._weight(error.detach(), slope) if self.adaptive else torch.ones_like(rec)
            value = value + self.factor * weight * adversarial
            scalars |= {"adversarial": adversarial.detach().mean(), "adaptive": weight.mean()}
        return Loss(value, torch.ones_like(value), scalars=scalars)

    def _weight(self, error: Tensor, slope: Tensor) -> Tensor:
        """lambda of each row, from x_hat - x and the gradient of the adversarial term."""
        pull = (error.sign() if self.norm == "l1" else 2 * error) / error[0].numel()
        return (_length(pull) / (_length(slope) + 1e-4)).clamp(max=LARGEST)


@dataclass(frozen=True)
class Discrimination:
    """The hinge loss of a discriminator: 0.5 E[max(0, 1 - D(x))] + 0.5 E[max(0, 1 + D(G(z)))], means over patches.

    Its optimum is D = sign(p(x) - p_G(x)), where the loss is the overlap of the two, integral min(p, p_G).

    Source: Lim & Ye 2017, arXiv:1705.02894; as in Esser et al. 2020, with the factor 0.5.

    Args:
        model: name of the autoencoder, which is a constant here.
        discriminator: name of the network of logits; "codec" is used where present.
    """

    model: str = "model"
    discriminator: str = "discriminator"

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row; scalars hold the mean logits of real and of reconstructed data."""
        with torch.no_grad():
            x, _, _, out = _through(components, self.model, batch, rng)
        judge = components[self.discriminator]
        real, fake = judge(x), judge(out)
        value = 0.5 * (row_mean((1 - real).relu()) + row_mean((1 + fake).relu()))
        scalars = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        return Loss(value, torch.ones_like(value), scalars=scalars)


def _through(components: Components, model: str, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, mean and log-variance of q(z|x), and the decoding of a draw."""
    codec: Any = components.get("codec")
    x = batch["x"] if codec is None else codec.encode(batch["x"], rng.fold(2))
    mean, logvar = components[model].encode(x)
    z = mean + (logvar / 2).exp() * rng.fold(1).normal(mean)
    return x, mean, logvar, components[model].decode(z)


def _fooled(judge: Any, out: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, " b"], Float[Tensor, "b ..."]]:
    """-D(out) of each row, and its gradient at `out`, which reaches what made `out` without a second pass through D."""
    leaf = out.detach().requires_grad_(True)
    with torch.enable_grad():  # a held-out loss is measured without
        adversarial = -row_mean(judge(leaf))
        (slope,) = torch.autograd.grad(adversarial.sum(), leaf)
    linear = (slope * (out - leaf.detach())).flatten(1).sum(1)  # 0, with the gradient of the adversarial term
    return adversarial.detach() + linear, slope


def _length(x: Tensor) -> Float[Tensor, " b"]:
    return x.flatten(1).square().sum(1).sqrt()
