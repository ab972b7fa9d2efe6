"""The handwritten digits that come with scikit-learn: real data, no download."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unnoise.data.dataset import Dataset, split
from unnoise.errors import UserError


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits: x uint8 [N, 1, 8, 8] in 0..16 (17 gray values), label int64 [N] in 0..9.

    Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository (CC BY 4.0); its test part, as
    scikit-learn ships it.

    Args:
        held_out: share of the items that is never trained on.
        seed: which items those are.
    """

    held_out: float = 0.2
    seed: int = 0

    def load(self) -> Dataset:
        """The data; Raises UserError where scikit-learn is missing."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as e:
            raise UserError("the digits come with scikit-learn: pip install 'unnoise[demo]'") from e
        bunch = load_digits()
        x = torch.from_numpy(bunch.images.astype("uint8"))[:, None]
        columns = {"x": x, "label": torch.from_numpy(bunch.target).long()}
        return Dataset(*split(columns, self.held_out, self.seed), about="handwritten digits of scikit-learn, CC BY 4.0")
