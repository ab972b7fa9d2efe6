"""Low-resolution pictures as conditions, with noise on them: what a stage of super-resolution is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from unnoise.core.denoiser import Cond
from unnoise.core.rng import Rng
from unnoise.errors import UserError, nearest
from unnoise.modality.image import Image
from unnoise.modality.labels import Labels, spread

LOW, AUGMENT = "low", "augment"
NOISE, LEVEL = range(2)
"""What the randomness of a row is for."""


@dataclass(frozen=True)
class LowRes:
    """The small picture "low", brought to the large size, with conditioning augmentation: Gaussian noise of a level
    "augment" that the network is told, so that it mends what another model got wrong instead of believing it.

        image = sqrt(1 - s^2) up(low) + s eps,   s = augment in [0, 1]

    In training s is uniform over a range; at s = 1 nothing is left of the small picture.

    Source: Ho et al. 2021, arXiv:2106.15282, section 4; Saharia et al. 2022, arXiv:2205.11487, section 2.3 and
    appendix A.1 (the level is drawn in training and told to the network).

    Args:
        image: the codec of the small pictures.
        size: [H, W] of the large ones.
        labels: further conditions; None: there are none.
        augment: (least, most) s drawn in training, in [0, 1]; others are refused.
        default: s of sampling unless asked for.
        resize: how the small picture is brought to size.
        features: pairs of sine and cosine that s is told by; the network takes vector=[B, 2 * features].
    """

    image: Image
    size: tuple[int, int]
    labels: Labels | None = None
    augment: tuple[float, float] = (0.0, 0.7)
    default: float = 0.1
    resize: Literal["bilinear", "nearest"] = "bilinear"
    features: int = 4

    def __post_init__(self) -> None:
        least, most = self.augment
        if not 0 <= least <= most <= 1:
            raise ValueError(f"augment is a range (least, most) within [0, 1], got {self.augment}")
        if not least <= self.default <= most:
            raise ValueError(f"default={self.default} is outside of the range that is trained, {self.augment}")

    @property
    def names(self) -> tuple[str, ...]:
        """The small picture, the level of the noise on it, and the labels."""
        return (LOW, AUGMENT, *(self.labels.names if self.labels else ()))

    @property
    def needs(self) -> tuple[str, ...]:
        """The small picture: it has no default."""
        return (LOW,)

    def check(self, raw: Mapping[str, Any]) -> None:
        """Refuse pictures of another kind, levels out of the trained range and labels that do not exist.

        Raises:
            UserError: naming what was found and what is expected.
        """
        for k in raw:
            if k not in self.names:
                raise UserError(f"unknown condition {k!r}{nearest(k, self.names)}")
        if LOW in raw:
            try:
                self.image.check(raw[LOW])
            except UserError as e:
                raise UserError(f"condition {LOW!r}: {e}") from e
        if AUGMENT in raw:
            least, most = self.augment
            values = raw[AUGMENT]
            bad = values[~((values >= least) & (values <= most))]
            if len(bad):
                raise UserError(f"augment={float(bad[0]):g} is out of range: trained from {least:g} to {most:g}")
        if self.labels is not None:
            self.labels.check(self._labels(raw))

    def ask(self, asked: Mapping[str, Any], seeds: Int64[Tensor, " n"]) -> dict[str, Shaped[Tensor, "n ..."]]:
        """Small pictures (one for all rows, or several that are run through again and again), levels, labels.

        Raises:
            UserError: without a small picture, and for whatever `check` refuses.
        """
        n, shape = len(seeds), self.image.shape
        for k in asked:
            if k not in self.names:
                raise UserError(f"unknown condition {k!r}{nearest(k, self.names)}")
        if LOW not in asked:
            raise UserError(
                f"nothing to enlarge: give low=, {self.image.dtype} pictures [N, {', '.join(map(str, shape))}] "
                "(on the command line: --cond low=FILE.npz)"
            )
        value = asked[LOW]
        try:
            low = value.cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        except TypeError:
            low = torch.empty(0)
        low = low[None] if low.ndim == len(shape) else low
        if low.ndim != len(shape) + 1 or not len(low):
            raise UserError(f"condition 'low' is pictures [N, {', '.join(map(str, shape))}], got {value!r:.80}")
        said: dict[str, Tensor] = {
            LOW: low[torch.arange(n) % len(low)],
            AUGMENT: spread(AUGMENT, asked.get(AUGMENT, self.default), n).float(),
        }
        self.check({LOW: low, AUGMENT: said[AUGMENT]})
        return said | (dict(self.labels.ask(self._labels(asked), seeds)) if self.labels else {})

    def encode(self, raw: Mapping[str, Any], rng: Rng) -> dict[str, Shaped[Tensor, "b ..."]]:
        """image [B, C, H, W], vector [B, 2 * features] that tells s, and labels; s is drawn where `raw` has none.

        Raises:
            UserError: where the data have no column "low".
        """
        if LOW not in raw:
            raise UserError(f"the data have no column {LOW!r} of small pictures, only {sorted(raw)}")
        clean = F.interpolate(self.image.encode(raw[LOW]), size=self.size, mode=self.resize)
        s = self._drawn(rng).to(clean) if AUGMENT not in raw else raw[AUGMENT].to(clean)
        wide = s.reshape(-1, 1, 1, 1)
        noisy = (1 - wide**2).sqrt() * clean + wide * rng.fold(NOISE).normal(clean)
        phase = s.clamp(0, 1).asin()[:, None] * 2.0 ** torch.arange(self.features, device=s.device)
        said: dict[str, Tensor] = {"image": noisy, "vector": torch.cat([phase.cos(), phase.sin()], 1)}
        return said | (dict(self.labels.encode(raw)) if self.labels else {})

    def null(self, cond: Cond) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with no label said: the picture stays, it is what there is to enlarge."""
        return dict(self.labels.null(cond)) if self.labels else dict(cond)

    def _drawn(self, rng: Rng) -> Float[Tensor, " b"]:
        least, most = self.augment
        return least + (most - least) * rng.fold(LEVEL).uniform(torch.zeros(len(rng), device=rng.key.device))

    def _labels(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in given.items() if self.labels is not None and k in self.labels.names}
