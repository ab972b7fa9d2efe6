"""What a recipe asks of an optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class Optim(Protocol):
    """An optimiser as a value: a frozen dataclass that makes the torch optimiser which `guarded_step` takes."""

    @property
    def clip(self) -> float | None:
        """Largest global L2 norm of the gradients; None: no clipping."""

    def lr_at(self, seen: int, total: int | None) -> float:
        """The learning rate of the step after which `seen` samples of `total` (None: not known yet) have been seen."""

    def build(self, params: Iterable[nn.Parameter], matrices: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
        """An optimiser of `params`, guarded: learning rate a tensor, `grad_scale` and `found_inf` heeded.

        Args:
            params: in an order that is kept: the state of parameter i has the key i in its state_dict.
            matrices: those among `params` that are matrices of hidden layers, see `hidden_matrices`.
        """
