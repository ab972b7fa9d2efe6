"""Small networks with no zero left in them, and the inputs they are called with."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from unnoise.nets import UNet

M = TypeVar("M", bound=nn.Module)


@pytest.fixture(autouse=True)
def one_thread_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _perturb(net: M) -> M:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))
    return net


@pytest.fixture
def perturb() -> Callable[[M], M]:
    """Moves a network away from its initialisation, where zero layers hide all others."""
    return _perturb


@pytest.fixture
def unet() -> Callable[..., UNet]:
    """unet(**arguments): a small perturbed U-Net of 2 levels that attends on the coarse one."""
    small = {"channels": 2, "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_width": 4}
    return lambda **arguments: _perturb(UNet(**(small | arguments)))


@pytest.fixture
def everything() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Constructor arguments for every condition at once, and those conditions for 3 rows of 8 x 8."""
    arguments = {"labels": {"digit": 3, "style": 2}, "vector": 4, "context": 5, "image": 1}
    cond = {
        "digit": torch.tensor([0, 1, 3]),
        "style": torch.tensor([2, 0, 1]),
        "vector": torch.randn(3, 4),
        "context": torch.randn(3, 6, 5),
        "context_mask": torch.arange(6) < torch.tensor([[6], [3], [0]]),
        "image": torch.randn(3, 1, 8, 8),
    }
    return arguments, cond
