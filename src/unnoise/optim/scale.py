"""The loss scale of fp16 training, as tensors on the device.

fp16 gradients underflow below 6e-8, so the loss is multiplied by a scale before backward and the gradients are divided
by it in `guarded_step`. bf16 and float32 have the exponents to do without: use this for fp16 only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

SMALLEST, LARGEST = 1.0, 2.0**16


class LossScale:
    """Halved by a step whose gradients overflow, doubled after `interval` good ones in a row, within [1, 2^16].

    The bounds matter: a forward pass that gives NaN gives it at any scale, and a scale without a floor then falls for
    ever (guided-diffusion#50). Such a NaN is an error of the model, for the caller to raise; it is not an overflow.

    Its state are two scalar tensors: `value` (float32), by which the loss is multiplied and which `guarded_step` is
    handed, and `good` (int32), the good steps since the last change. Both are changed in place, so that a captured
    graph sees the change; no method waits for the device.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, section 3.2 (dynamic loss scaling).

    Args:
        device: where the two tensors are.
        initial: the first scale, in [1, 2^16].
        interval: good steps after which a larger scale is tried, >= 1.

    Raises:
        ValueError: for an initial scale or an interval out of range.
    """

    def __init__(self, device: torch.device | str = "cpu", *, initial: float = LARGEST, interval: int = 2000) -> None:
        if not SMALLEST <= initial <= LARGEST:
            raise ValueError(f"the initial loss scale must lie in [{SMALLEST:g}, {LARGEST:g}], got {initial}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1 step, got {interval}")
        self.interval = interval
        self.value = torch.tensor(initial, dtype=torch.float32, device=device)
        self.good = torch.tensor(0, dtype=torch.int32, device=device)

    @torch.no_grad()
    def update(self, finite: Bool[Tensor, ""]) -> None:
        """Take note of a step; `finite` is a bool scalar on the device, as `guarded_step` returns it."""
        good = self.good + 1
        grown = good >= self.interval
        factor = torch.where(finite, torch.where(grown, 2.0, 1.0), 0.5)
        self.value.mul_(factor).clamp_(SMALLEST, LARGEST)
        self.good.copy_(good * (finite & ~grown))

    def state(self) -> dict[str, Tensor]:
        """The two tensors themselves (not copies), for a checkpoint."""
        return {"value": self.value, "good": self.good}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy a `state` in, from any device."""
        self.value.copy_(state["value"])
        self.good.copy_(state["good"])
