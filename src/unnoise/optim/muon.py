"""Muon as a value: matrices move by their momentum with all singular values made one, all else by AdamW.

The step is guarded as AdamW's is, on the device. The momentum is kept by torch's fused SGD, which heeds `grad_scale`
and `found_inf`: it is let loose on zeros with a learning rate of -1, which it turns into the direction, or leaves zero
where a gradient is not finite. Of a direction of zeros the orthogonal factor comes out as zeros, and parameters are
multiplied by one and added minus zero, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from unnoise.optim.rate import Constant, Rate
from unnoise.parts import divided, gathered, local

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al. 2024: the slope at 0 as steep as a bounded iteration allows."""

SMALLEST = 1e-16
"""Norms are taken for at least that much: of elements whose squares underflow in float32, no norm would be left."""

RMS = 0.2
"""Root mean square of an update at learning rate 1: about that of AdamW's updates (Liu et al. 2025, section 2.2)."""


@dataclass(frozen=True)
class Muon:
    """m <- momentum m + g,  u = g + momentum m (or m),  w <- w - lr rate(seen) (0.2 sqrt(max(n, k)) orth(u) + decay w)

    for the matrices w [n, k] of hidden layers, convolutions as [out, in * kernel]; orth(U S V^T) = U V^T is found by
    Newton-Schulz iteration, see `orthogonalised`. Its elements have a root mean square of about 1 / sqrt(max(n, k)), so
    the update has that of AdamW's, 0.2, and learning rate and weight decay are of the same size as there. All other
    parameters (biases, norms, embeddings, first and last layers) take `AdamW`'s update.

    A gradient enters m once it is clipped; the size of u is without effect.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, eq. 3 and
    4, for weight decay and the scale.

    Args:
        lr: base learning rate, > 0.
        momentum: decay of m per step, in (0, 1).
        nesterov: whether u = g + momentum m, or u = m.
        steps: of the Newton-Schulz iteration, >= 1.
        other: learning rate of the parameters that are no such matrices, in units of lr, > 0.
        betas: decay of the two moments of those, per step.
        eps: of those, added to the square root of the second moment.
        weight_decay: of every parameter that `build` is given, per unit of its learning rate.
        rate: profile that multiplies lr, see `optim.rate`.
        clip: largest global L2 norm of the gradients, > 0; None: no clipping. `guarded_step` does it.
    """

    lr: float = 1e-3
    momentum: float = 0.95
    nesterov: bool = True
    steps: int = 5
    other: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    rate: Rate = field(default_factory=Constant)
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        for name, value in (("lr", self.lr), ("other", self.other)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie in (0, 1), got {self.momentum}")
        if self.steps < 1:
            raise ValueError(f"steps of the Newton-Schulz iteration must be at least 1, got {self.steps}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be > 0, or None for no clipping, got {self.clip}")

    def lr_at(self, seen: int, total: int | None) -> float:
        """The learning rate of the step after which `seen` samples of `total` (None: not known yet) have been seen."""
        return self.lr * self.rate(seen, total)

    def build(self, params: Iterable[nn.Parameter], matrices: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
        """The optimiser of `params`, its learning rate a float32 scalar tensor on their device.

        Its state is, of a matrix, "momentum" in the shape of the parameter; of others "step", "exp_avg", "exp_avg_sq".
        Of sharded parameters each process keeps the momentum of its part; directions are gathered, a group of equal
        shapes at a time, since a part of a matrix does not tell what makes the whole orthogonal.

        Args:
            params: all parameters.
            matrices: those among them that are orthogonalised, [n, k] or [out, in, *kernel], see `hidden_matrices`.

        Raises:
            ValueError: without parameters, with parameters on several devices, and for matrices that are not among
                `params` or have fewer than two axes.
        """
        params, matrices = list(params), list(matrices)
        devices = {p.device for p in params}
        if len(devices) != 1:
            raise ValueError(f"an optimiser needs parameters on exactly one device, got {sorted(map(str, devices))}")
        if strange := [tuple(p.shape) for p in {*matrices} - {*params}]:
            raise ValueError(f"matrices must be among the parameters, {len(strange)} are not: {strange[:3]}")
        if flat := [tuple(p.shape) for p in matrices if p.ndim < 2]:
            raise ValueError(f"only matrices can be orthogonalised, got shapes {flat[:3]}")
        return _Muon(params, matrices, self)


def orthogonalised(x: Float[Tensor, "*b n k"], steps: int = 5) -> Float[Tensor, "*b n k"]:
    """U S' V^T of x = U S V^T, the singular values S' about one: Newton-Schulz iteration on a stack of matrices.

        X_0 = x / |x|,   A = X X^T,   X <- a X + (b A + c A^2) X        (a, b, c) = (3.4445, -4.7750, 2.0315)

    |x| is the Frobenius norm, and n <= k (else on the transpose). Every step sends a singular value s to
    a s + b s^3 + c s^5, which does not converge to 1: after five steps all that were at least 0.0016 of the norm lie in
    [0.68, 1.21], and smaller ones have grown up to 480 times. In float32, on CUDA in bfloat16; three matrix products a
    step, each of all matrices of the stack at once.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

    Args:
        x: any matrices; zeros stay zeros.
        steps: of the iteration.

    Returns:
        In the dtype of x.
    """
    a, b, c = QUINTIC
    wide = x if x.shape[-2] <= x.shape[-1] else x.mT
    norm = torch.linalg.vector_norm(wide.float(), dim=(-2, -1), keepdim=True).clamp(min=SMALLEST)
    y = (wide / norm).to(torch.bfloat16 if x.is_cuda else torch.float32).reshape(-1, *wide.shape[-2:])
    for _ in range(steps):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    y = y.view(wide.shape).to(x.dtype)
    return y if wide is x else y.mT


class _Muon(torch.optim.Optimizer):
    """The optimiser that `Muon` builds: one group, so that parameters keep their order in the state."""

    def __init__(self, params: Sequence[nn.Parameter], matrices: Sequence[nn.Parameter], spec: Muon) -> None:
        device = params[0].device
        lr = torch.tensor(spec.lr, dtype=torch.float32, device=device)
        # "fused": torch then leaves step counters, when a state is loaded, on the device and in float32.
        super().__init__(params, {"lr": lr, "fused": True, "capturable": device.type == "cuda"})
        self.spec, self.matrices = spec, set(matrices)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step, or none where the attribute `found_inf` says so; gradients are divided by `grad_scale`."""
        if closure is not None:
            raise ValueError("Muon takes the gradients that are there: call backward before the step, pass no closure")
        guard = {"grad_scale": getattr(self, "grad_scale", None), "found_inf": getattr(self, "found_inf", None)}
        group = self.param_groups[0]
        given = [p for p in group["params"] if p.grad is not None]
        self._adamw([p for p in given if p not in self.matrices], group, guard)
        self._muon([p for p in given if p in self.matrices], group, guard)

    def _adamw(self, params: list[nn.Parameter], group: dict[str, Any], guard: dict[str, Any]) -> None:
        for p in params:
            if p not in self.state:
                zero = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p] = {"step": zero, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        adamw(
            list[Tensor](params),
            [_gradient(p) for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=True,
            capturable=group["capturable"],
            amsgrad=False,
            beta1=self.spec.betas[0],
            beta2=self.spec.betas[1],
            lr=group["lr"] * self.spec.other,
            weight_decay=self.spec.weight_decay,
            eps=self.spec.eps,
            maximize=False,
            **guard,
        )

    def _muon(self, params: list[nn.Parameter], group: dict[str, Any], guard: dict[str, Any]) -> None:
        if not params:
            return
        for p in params:
            if p not in self.state:
                self.state[p] = {"momentum": torch.zeros_like(p)}
        own = [local(p.detach()) for p in params]
        directions = [torch.empty_like(w) for w in own]
        torch._foreach_zero_(directions)
        sgd(
            directions,
            [local(_gradient(p)) for p in params],
            [local(self.state[p]["momentum"]) for p in params],
            fused=True,
            weight_decay=0.0,
            momentum=self.spec.momentum,
            lr=-1.0,
            dampening=0.0,
            nesterov=self.spec.nesterov,
            maximize=False,
            **guard,
        )
        lr, skipped = group["lr"], guard["found_inf"]
        if self.spec.weight_decay:
            decay = lr * self.spec.weight_decay
            torch._foreach_mul_(own, 1 - (decay if skipped is None else decay * (1 - skipped)))
        alike: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(params):
            n, k = len(p), p.numel() // len(p)
            alike.setdefault((min(n, k), max(n, k)), []).append(i)
        for (_, longer), members in alike.items():
            found = [gathered(directions[i], params[i]) for i in members]
            matrices = [_wide(u) for u in found]
            update = orthogonalised(torch.stack(matrices), self.spec.steps) * (-RMS * math.sqrt(longer) * lr)
            torch._foreach_copy_(matrices, list(update.unbind()))
            parts = [local(divided(u, params[i])) for u, i in zip(found, members, strict=True)]
            torch._foreach_add_([own[i] for i in members], parts)


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def _wide(x: Tensor) -> Tensor:
    """A parameter as a matrix with no more rows than columns, without a copy.

    The elements of a kernel are taken in their order in memory: that of the columns changes nothing but itself.
    """
    if x.ndim > 2:
        x = (x if x.is_contiguous() else x.movedim(1, -1)).view(len(x), -1)
    return x if x.shape[0] <= x.shape[1] else x.mT
