"""Each weight against its paper's formula, for the paper's own prediction target."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.level import Level
from unnoise.core.parameterization import X0, Edm, Eps, Flow, V
from unnoise.core.schedule import Linear, ScaledLinear, ZeroTerminal
from unnoise.core.weight import P2, EdmWeight, MinSnr, Sigmoid, Snr, TruncatedSnr, Weight

D = torch.float64
LEVEL = Level.of_logsnr(torch.linspace(-12, 12, 97, dtype=D))
SNR = LEVEL.logsnr.exp()
ALL: list[Weight] = [Snr(), TruncatedSnr(), MinSnr(), MinSnr(1.0), P2(), P2(1.0, 0.5), Sigmoid(), EdmWeight()]


def on(p: Any, weight: Weight, level: Level = LEVEL) -> Tensor:
    """The weight of the network's own residual: w c_out^2."""
    return weight(level.logsnr) * p(level).c_out ** 2


FORMULAE: list[tuple[str, Any, Any, Tensor]] = [
    ("L_simple for eps: 1 (Ho eq. 14)", Eps(), Snr(), torch.ones_like(SNR)),
    ("L_simple for x0: SNR", X0(), Snr(), SNR),
    ("truncated SNR for x0: max(SNR, 1) (Salimans & Ho)", X0(), TruncatedSnr(), SNR.clamp(min=1)),
    ("truncated SNR for eps: max(1, 1 / SNR)", Eps(), TruncatedSnr(), (1 / SNR).clamp(min=1)),
    ("min-SNR for x0: min(SNR, 5) (Hang)", X0(), MinSnr(), SNR.clamp(max=5)),
    ("min-SNR for eps: min(5 / SNR, 1)", Eps(), MinSnr(), (5 / SNR).clamp(max=1)),
    ("min-SNR for v: min(SNR, 5) / (SNR + 1)", V(), MinSnr(), SNR.clamp(max=5) / (SNR + 1)),
    ("min-SNR for eps, gamma 1", Eps(), MinSnr(1.0), (1 / SNR).clamp(max=1)),
    ("P2 for eps: 1 / (k + SNR)^gamma (Choi eq. 8)", Eps(), P2(1.0, 0.5), (1 + SNR) ** -0.5),
    ("P2 without strength is L_simple", Eps(), P2(1.0, 0.0), torch.ones_like(SNR)),
    ("sigmoid for eps: sigmoid(b - logsnr) (Kingma & Gao)", Eps(), Sigmoid(2.0), torch.sigmoid(2 - LEVEL.logsnr)),
    ("v from x0: 1 + SNR is unit weight", V(), TruncatedSnr(), SNR.clamp(min=1) / (1 + SNR)),
    ("EDM: unit weight of its own residual", Edm(0.5), EdmWeight(0.5), torch.ones_like(SNR)),
    ("EDM on D: (sigma^2 + s^2) / (sigma s)^2", X0(), EdmWeight(0.7), (1 / SNR + 0.49) / (0.49 / SNR)),
]


@pytest.mark.parametrize("name, p, weight, want", FORMULAE, ids=[f[0] for f in FORMULAE])
def test_weight_is_its_papers_formula(name: str, p: Any, weight: Weight, want: Tensor) -> None:
    torch.testing.assert_close(on(p, weight), want, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("weight", ALL, ids=str)
def test_one_weight_is_the_same_loss_whatever_is_predicted(weight: Weight) -> None:
    """Pitfall 5: converted through c_out^2, and in no other place; any frame."""
    for p in (Eps(), V(), Flow(), Edm()):
        for k in (1.0, 7.0):
            level = Level(k * LEVEL.alpha, k * LEVEL.sigma)
            torch.testing.assert_close(on(p, weight, level) / p(level).c_out ** 2, on(X0(), weight), rtol=1e-11, atol=0)


@pytest.mark.parametrize("weight", ALL, ids=str)
@pytest.mark.parametrize("table", [ZeroTerminal(Linear()), ZeroTerminal(ScaledLinear())], ids=str)
def test_zero_terminal_snr_divides_by_nothing(weight: Weight, table: Any) -> None:
    """Pitfall 5: v-prediction at alpha = 0 has a finite weight; there v = -x0 and min-SNR says 0."""
    level = table(torch.linspace(0, 1, 1001, dtype=D)[1:])
    assert float(level.alpha[-1]) == 0.0
    got = on(V(), weight, level)
    assert bool(torch.isfinite(got).all()) and bool((got >= 0).all())
    if isinstance(weight, (Snr, MinSnr, P2, Sigmoid)):
        assert float(got[-1]) == 0.0
    if isinstance(weight, TruncatedSnr):
        assert float(got[-1]) == 1.0


def test_which_weights_are_absolute() -> None:
    assert [w.absolute for w in ALL] == [False] * 6 + [True, False]
    assert Snr(absolute=True).absolute and not Sigmoid(absolute=False).absolute
