"""A learned schedule: a density over levels whose quantile function is a monotone network, a module in the state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unnoise.core.level import Level, exact

Range = tuple[float, float]


class LearnedSchedule(nn.Module):
    """A density: log-SNR = high + (low - high) s(u), u uniform in [0, 1), s rising from s(0) = 0 to s(1) = 1.

        m(u) = exp(a) u + sum_k exp(c_k) sigmoid(exp(w_k) u + b_k),   s(u) = (m(u) - m(0)) / (m(1) - m(0))
        log p(log-SNR) = -log((high - low) s'(u))

    m is the monotone network of Kingma et al. 2021 (VDM), arXiv:2107.00630, appendix H, whose weights are positive here
    because they are exponentials; `high` and `low` are their -gamma_0 and -gamma_1. It begins as nearly a straight
    line, without randomness. Variance preserving. Computed in the dtype of u.

    The ends decide what a bound is of; the interior only how much its estimate varies. Each end moves within a range,
    in whose middle it begins: so a denoiser's interval of log-SNR is known before training.

    Args:
        low: range of the lowest log-SNR.
        high: range of the highest, above the first.
        units: sigmoids, k = 1 .. units.

    Raises:
        ValueError: for ranges that are empty or not in order, and for no units.
    """

    def __init__(self, low: Range = (-9.0, -1.0), high: Range = (9.0, 17.0), units: int = 64) -> None:
        super().__init__()
        if not low[0] < low[1] < high[0] < high[1]:
            raise ValueError(f"the ends of the log-SNR lie in ranges, one above the other, got {low} and {high}")
        if units < 1:
            raise ValueError(f"needs at least one unit, got {units}")
        self.low, self.high, self.units = tuple(low), tuple(high), units
        self.places = nn.Parameter(torch.zeros(2))
        """Logits of where the ends lie in their ranges: lowest, highest."""
        self.log_slope = nn.Parameter(torch.zeros(()))
        self.log_heights = nn.Parameter(-torch.tensor(float(units)).log().repeat(units))
        self.log_rates = nn.Parameter(torch.tensor(float(units)).log().repeat(units))
        self.shifts = nn.Parameter(-units * (torch.arange(units) + 0.5) / units)

    @property
    def interval(self) -> tuple[float, float]:
        """(lowest, highest) log-SNR that the ends can reach."""
        return self.low[0], self.high[1]

    def ends(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """(lowest, highest) log-SNR as they are, float64 where the device has it; gradients flow."""
        places = torch.sigmoid(self.places.to(exact(self.places.device)))
        low, high = (a + (b - a) * p for (a, b), p in zip((self.low, self.high), places, strict=True))
        return low, high

    def forward(self, u: Float[Tensor, "*u"]) -> tuple[Level, Float[Tensor, "*u"]]:
        """The level at quantile u in [0, 1) (any shape; u = 0 the cleanest), and log p of its log-SNR."""
        return self.drawn(u)

    def drawn(
        self, u: Float[Tensor, "*u"], interior: Callable[[Tensor], Tensor] = lambda x: x
    ) -> tuple[Level, Float[Tensor, "*u"]]:
        """As `forward`; what s(u) and s'(u) are goes through `interior`, the ends do not: see `VariationalBound`."""
        share, slope = (interior(x) for x in self._interior(u))
        low, high = (end.to(u) for end in self.ends())
        return Level.of_logsnr(high + (low - high) * share), -((high - low) * slope).log()

    def _interior(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """s(u) and s'(u)."""
        a, heights, rates = (p.to(u).exp() for p in (self.log_slope, self.log_heights, self.log_rates))
        shifts = self.shifts.to(u)
        first, last = torch.sigmoid(shifts), torch.sigmoid(rates + shifts)
        whole = a + (heights * (last - first)).sum()
        at = torch.sigmoid(rates * u[..., None] + shifts)
        rise = a * u + (heights * (at - first)).sum(-1)
        return rise / whole, (a + (heights * rates * at * (1 - at)).sum(-1)) / whole
