"""Numbers of the host on a device: once, and as tensors that last."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from unnoise.core.constant import constant

META, CPU = torch.device("meta"), torch.device("cpu")


def test_on_a_cpu_it_is_a_fresh_tensor() -> None:
    a, b = (constant((1.0, -0.5), torch.float64, CPU) for _ in range(2))
    assert a is not b and torch.equal(a, b) and a.tolist() == [1.0, -0.5] and a.dtype == torch.float64


def test_elsewhere_it_is_made_once_for_each_type() -> None:
    a = constant((1.0, 2.0), torch.float32, META)
    assert constant((1.0, 2.0), torch.float32, META) is a
    assert constant((1, 2), torch.int64, META).dtype == torch.int64
    assert constant((1.0, 3.0), torch.float32, META) is not a


def test_what_is_kept_lasts_whoever_asked_first() -> None:
    with FakeTensorMode():
        constant((3.0, 4.0), torch.float32, META)
    assert type(constant((3.0, 4.0), torch.float32, META)) is Tensor
    with torch.inference_mode():
        a = constant((5.0, 6.0), torch.float32, META)
    assert constant((5.0, 6.0), torch.float32, META) is a and not a.is_inference()
