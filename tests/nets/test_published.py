"""Published networks have the published number of parameters."""

import pytest
import torch
from torch import nn

from unnoise.nets.published import adm, ddpm_cifar10


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_ddpm_is_exact() -> None:
    with torch.device("meta"):
        assert count(ddpm_cifar10()) == 35_746_307


# Counted in openai/guided-diffusion at 22e0df8, built with the flags of its README; the paper gives millions.
@pytest.mark.parametrize(
    ("size", "original", "paper"),
    [(64, 295_904_454, 296), (128, 421_529_606, 422), (256, 553_838_086, 554), (512, 558_997_638, 559)],
)
def test_adm_is_exact_but_for_the_null_label(size: int, original: int, paper: int) -> None:
    with torch.device("meta"):
        net, unconditional = adm(size), adm(size, classes=None)
    null_row = 4 * net.width
    assert count(net) == original + null_row
    assert count(unconditional) == original - 1000 * null_row
    assert round(count(net) / 1e6) == paper
    with pytest.raises(ValueError, match="not for 96"):
        adm(96)


def test_learned_variance_doubles_the_output() -> None:
    with torch.device("meta"):
        both, mean = adm(64), adm(64, learned_variance=False)
    assert count(both) - count(mean) == 3 * (9 * 192 + 1)  # three more channels of the head: 3 x 3 kernel, bias
