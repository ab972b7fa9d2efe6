"""A state of several parts, each with a process of its own: positions and atom types, a picture and its caption.

States, estimates, masks and, where parts go at their own pace, levels are mappings with the names of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from unnoise.core.estimate import Estimate
from unnoise.core.level import Levels, part
from unnoise.core.process import Process, Variance
from unnoise.core.rng import Rng

State = Mapping[str, Tensor]
Estimates = Mapping[str, Estimate]


@dataclass(frozen=True)
class Product:
    """The process of independent noise on each part; what ties the parts together is the denoiser.

    Args:
        parts: a process for each name.
    """

    parts: Mapping[str, Process[Any]]

    def _each(self, f: Callable[[int, str, Process[Any]], Any]) -> dict[str, Any]:
        return {k: f(j, k, p) for j, (k, p) in enumerate(self.parts.items())}

    def bind(self, mask: Tensor | Mapping[str, Tensor]) -> Product:
        """The process of a batch: one mask [B, N] for all parts, or a mapping of masks."""
        return Product(self._each(lambda j, k, p: p.bind(mask[k] if isinstance(mask, Mapping) else mask)))

    def project(self, est: Estimates) -> dict[str, Estimate]:
        """Each part's estimate in its own space."""
        return self._each(lambda j, k, p: p.project(est[k]))

    def forward(self, x: State, src: Levels, dst: Levels, rng: Rng) -> dict[str, Tensor]:
        """Each part's forward kernel, with randomness of its own."""
        return self._each(lambda j, k, p: p.forward(x[k], part(src, k), part(dst, k), rng.fold(j)))

    def backward(
        self,
        x: State,
        est: Estimates,
        src: Levels,
        dst: Levels,
        rng: Rng,
        *,
        eta: float = 1.0,
        var: Variance = "small",
    ) -> dict[str, Tensor]:
        """Each part's backward kernel, with randomness of its own."""
        return self._each(
            lambda j, k, p: p.backward(x[k], est[k], part(src, k), part(dst, k), rng.fold(j), eta=eta, var=var)
        )

    def mix(self, ests: Sequence[Estimates], weights: Sequence[float | Float[Tensor, " ..."]]) -> dict[str, Estimate]:
        """The weighted combination, part by part."""
        return self._each(lambda j, k, p: p.mix([e[k] for e in ests], weights))

    def pin(self, est: Estimates, y: State, mask: State) -> dict[str, Estimate]:
        """The estimate with what is known in its place; parts that y does not name are left alone."""
        return self._each(lambda j, k, p: p.pin(est[k], y[k], mask[k]) if k in y else est[k])

    def reveal(self, x: State, y: State, mask: State) -> dict[str, Tensor]:
        """x with what is known shown where the part can show it."""
        return self._each(lambda j, k, p: p.reveal(x[k], y[k], mask[k]) if k in y else x[k])

    def error(self, est: Estimates, x0: State, x: State) -> dict[str, Tensor]:
        """Each part's error, element by element."""
        return self._each(lambda j, k, p: p.error(est[k], x0[k], x[k]))
