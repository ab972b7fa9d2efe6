"""In-painting and in-filling: what is known of the clean data is pinned in the estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unnoise.core.denoiser import EMPTY, Cond, Denoiser
from unnoise.core.process import Process


@dataclass(frozen=True)
class Known:
    """A denoiser whose estimate is y where mask is True, so that samples end in y there, to the bit.

    The network sees what is known as far as a state can show it (`Process.reveal`): known tokens stand in their place
    from the start. Nests with `Cfg` either way.

    Args:
        denoise: what to wrap.
        process: whose states and estimates they are.
        y: clean states; only where mask is True do they count. For a state of parts the parts that are known.
        mask: bool, broadcasts against y; True = known.
    """

    denoise: Denoiser[Any]
    process: Process[Any]
    y: Any
    mask: Any

    @property
    def interval(self) -> tuple[float, float] | None:
        """That of the denoiser inside."""
        return getattr(self.denoise, "interval", None)

    def __call__(self, x: Any, level: Any, cond: Cond = EMPTY, *, to: Any = None) -> Any:
        """The pinned estimate."""
        shown = self.process.reveal(x, self.y, self.mask)
        return self.process.pin(self.denoise(shown, level, cond, to=to), self.y, self.mask)
