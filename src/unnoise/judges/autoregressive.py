"""The autoregressive twin of a model of tokens: the same network, shown what came before instead of what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.objective import Batch, Components, Loss, row_mean
from unnoise.core.rng import Rng


@dataclass(frozen=True)
class NextToken:
    """-log p(x_n | x_1 .. x_(n-1)) in nats, the mean over the tokens of a row: its exact negative log-likelihood / N.

    The network, causal, is shown the tokens moved by one place, the mask (id V) in the first.

    Args:
        vocabulary: V.
    """

    vocabulary: int

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row."""
        x = components["codec"].encode(batch["x"], rng.fold(2))
        shown = torch.cat([torch.full_like(x[:, :1], self.vocabulary), x[:, :-1]], 1)
        mask = batch.get("mask")
        logits = components["model"](shown, None, **({} if mask is None else {"mask": mask}))
        value = row_mean(surprise(logits, x), mask)
        return Loss(value, torch.ones_like(value))


def surprise(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x) in nats, [B, N], of logits [B, N, V]."""
    each: Any = nn.functional.cross_entropy(logits.flatten(0, 1).float(), x.flatten(), reduction="none")
    return each.reshape(x.shape)
