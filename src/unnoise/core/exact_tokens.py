"""The exact denoiser of a Markov chain of tokens, against which samplers and bounds of tokens are tested."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unnoise.core.denoiser import EMPTY, Cond
from unnoise.core.estimate import Estimate
from unnoise.core.level import Levels


class MarkovChain:
    """p(x0) = start[x_1] transition[x_1, x_2] transition[x_2, x_3] .., seen through masks.

    p(x_n = v | the tokens that are not masked) is proportional to forward_n(v) backward_n(v), the sums over all that
    may stand before and after. Which tokens are masked says nothing of what they were, so that this does not depend on
    the level, be it one for all or each token's own. Computed as logarithms in the dtype of `transition`.

    Source: Rabiner 1989, A tutorial on hidden Markov models, section III.A (forward-backward).

    Args:
        start: [V], probabilities of the first token, sum 1.
        transition: [V, V], probabilities of the next token (second axis) after each token (first axis), rows sum to 1.

    Raises:
        ValueError: for other shapes, and for what are not probabilities.
    """

    def __init__(self, start: Float[Tensor, " v"], transition: Float[Tensor, "v v"]) -> None:
        for name, p in (("start", start), ("transition", transition)):
            if bool((p < 0).any()) or bool(((p.sum(-1) - 1).abs() > 1e-6).any()):
                raise ValueError(f"{name} must hold probabilities that sum to 1, got sums {p.sum(-1).tolist()}")
        self.start, self.transition = start.to(transition), transition

    def __call__(
        self, x: Int64[Tensor, "b n"], level: Levels, cond: Cond = EMPTY, *, to: Levels | None = None
    ) -> Estimate:
        """Log-probabilities [B, N, V] of each token given all tokens < V; those have probability 1.

        NaN in rows whose visible tokens are impossible together.
        """
        step = self.transition.to(x.device).log()
        seen = self._seen(x)
        ahead = [self.start.to(x.device).log() + seen[:, 0]]
        for e in seen.unbind(1)[1:]:
            ahead.append((ahead[-1].unsqueeze(-1) + step).logsumexp(1) + e)
        back = [torch.zeros_like(ahead[0])]
        for e in reversed(seen.unbind(1)[1:]):
            back.append((step + (back[-1] + e).unsqueeze(1)).logsumexp(-1))
        return Estimate((torch.stack(ahead, 1) + torch.stack(back[::-1], 1)).log_softmax(-1))

    def log_prob(self, x: Int64[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """log p of the tokens < V in nats, summed over what may stand where tokens are masked."""
        step, seen = self.transition.to(x.device).log(), self._seen(x)
        ahead = self.start.to(x.device).log() + seen[:, 0]
        for e in seen.unbind(1)[1:]:
            ahead = (ahead.unsqueeze(-1) + step).logsumexp(1) + e
        return ahead.logsumexp(-1)

    def _seen(self, x: Tensor) -> Tensor:
        """[B, N, V]: 0 where a token may stand given what is seen there, -inf elsewhere."""
        ids = torch.arange(len(self.start), device=x.device)
        may = (x.unsqueeze(-1) == ids) | (x.unsqueeze(-1) >= len(self.start))
        return torch.where(may, 0.0, -torch.inf).to(self.transition)
