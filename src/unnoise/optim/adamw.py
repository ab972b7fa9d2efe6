"""AdamW as a value, and one optimiser step that guards itself on the device.

A non-finite gradient must cost one step and nothing else: no poisoned moments, no host that waits to find out. The
fused kernels of torch can be told both things on the device: `found_inf` (a float: 1 leaves parameters, moments and
step counters as they are) and `grad_scale` (gradients are divided by it while they are read, so clipping and the fp16
loss scale cost no pass over memory of their own). torch.amp.GradScaler speaks to them in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unnoise.optim.rate import Constant, Rate
from unnoise.parts import whole


class Guarded(NamedTuple):
    """What a guarded step found, still on the device: reading it is the caller's choice of when to wait.

    Args:
        finite: bool, scalar: False if any gradient was NaN or infinite, and the step was skipped.
        norm: float, scalar: L2 norm of all gradients together, unscaled and before clipping.
    """

    finite: Bool[Tensor, ""]
    norm: Float[Tensor, ""]


@dataclass(frozen=True)
class AdamW:
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - lr rate(seen) (m^ / (sqrt(v^) + eps) + weight_decay w)

    with m^ = m / (1 - b1^k) and v^ = v / (1 - b2^k) after k steps.

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2.

    Args:
        lr: base learning rate, > 0.
        betas: decay of the two moments, per step.
        eps: added to the square root of the second moment.
        weight_decay: of every parameter that `build` is given, per unit of learning rate.
        rate: profile that multiplies lr, see `optim.rate`.
        clip: largest global L2 norm of the gradients, > 0; None: no clipping. `guarded_step` does it.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    rate: Rate = field(default_factory=Constant)
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be > 0 and finite, got {self.lr}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be > 0, or None for no clipping, got {self.clip}")

    def lr_at(self, seen: int, total: int | None) -> float:
        """The learning rate of the step after which `seen` samples of `total` (None: not known yet) have been seen."""
        return self.lr * self.rate(seen, total)

    def build(self, params: Iterable[nn.Parameter], matrices: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
        """The optimiser of `params`, fused, its learning rate a float32 scalar tensor on their device.

        Args:
            params: all parameters.
            matrices: without effect: to AdamW all are alike.

        Raises:
            ValueError: without parameters, or with parameters on several devices.
            RuntimeError: from torch, where the device has no fused kernels: a slower optimiser could not skip a bad
                step without asking the host.
        """
        params = list(params)
        devices = {p.device for p in params}
        if len(devices) != 1:
            raise ValueError(f"an optimiser needs parameters on exactly one device, got {sorted(map(str, devices))}")
        device = devices.pop()
        return torch.optim.AdamW(
            params,
            lr=torch.tensor(self.lr, dtype=torch.float32, device=device),
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
            # changes nothing in the fused kernels; without the word, torch refuses to capture a step in a graph
            capturable=device.type == "cuda",
        )


@torch.no_grad()
def guarded_step(
    optimizer: torch.optim.Optimizer,
    params: Iterable[nn.Parameter],
    *,
    clip: float | None,
    lr: float | Float[Tensor, ""],
    scale: Float[Tensor, ""] | None = None,
) -> Guarded:
    """One step at learning rate `lr`, with gradients clipped to norm `clip`, or none if a gradient is not finite.

    A skipped step leaves parameters, moments and step counters bit for bit as they were. A norm that overflows float32
    counts as not finite. The host never waits for the device. After the step `.grad` holds the gradients that were
    applied, clipped and unscaled (after a skipped one, nothing of use).

    Args:
        optimizer: from `AdamW.build` or `Muon.build`: fused, learning rate a tensor.
        params: the parameters of that optimizer; those without a gradient are passed over.
        clip: largest global L2 norm of the gradients; None: no clipping.
        lr: learning rate of this step.
        scale: loss scale, a scalar tensor on the device (fp16 only): gradients are `scale` times too large.

    Raises:
        ValueError: if no parameter has a gradient.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    if not gradients:
        raise ValueError("no parameter has a gradient: was backward called, and do the parameters require gradients?")
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    norm = whole(norm)  # of shards: the sum is over all processes, and all find the same
    if scale is not None:
        norm = norm / scale
    finite = norm.isfinite()

    # Clipping multiplies by min(clip / norm, 1); the kernels divide, hence the reciprocal. A norm that is not finite
    # makes a divisor that is not finite either, which is harmless: the kernels then return before they read it.
    divisor = torch.ones_like(norm) if clip is None else (norm / clip).clamp(min=1.0)
    if scale is not None:
        divisor = divisor * scale
    for group in optimizer.param_groups:
        group["lr"].fill_(lr)
    # torch looks for these two as attributes of the optimizer; left behind, they would act on somebody else's step.
    optimizer.grad_scale = divisor.float()  # type: ignore[attr-defined]
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    return Guarded(finite, norm)
