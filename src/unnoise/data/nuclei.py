"""Cell nuclei under the microscope, with their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unnoise.data.dataset import Dataset
from unnoise.data.groups import limited, require_limit, split_groups
from unnoise.data.home import find, read_arrays
from unnoise.data.strips import halved, read_strips
from unnoise.errors import UserError


@dataclass(frozen=True)
class Nuclei:
    """Tiles of micrographs: x uint8 [N, 3, size, size] in 0..255, nuclei uint8 [N, 1, size, size]: 1 on one, else 0.

    1,274 tiles of 664 micrographs; the tiles of one go to one part of the split. 1,167 are gray (R = G = B): most are
    bright on dark (fluorescence), about 240 dark on bright; the others are stained tissue. Caicedo et al. 2019, Nucleus
    segmentation across imaging experiments: the 2018 Data Science Bowl, Nature Methods 16 (BBBC038, CC0). Reduced:
    centred 256x256 tiles, means of 2x2 pixels to 128x128; of the masks the majority of 2x2, ties count.

    Args:
        size: 128; or 64: means of 2x2 pixels again, rounded, half to even, and the majority again.
        held_out: share of the micrographs that is never trained on.
        limit: only so many of the training tiles, at random; None: all.
        seed: which ones those are.
        path: the folder with nuclei128.tar and nuclei128_masks.npz; None: "nuclei" in UNNOISE_DATA.
    """

    size: int = 128
    held_out: float = 0.1
    limit: int | None = None
    seed: int = 0
    path: str | None = None

    def __post_init__(self) -> None:
        require_limit(self.limit)
        if self.size not in (64, 128):
            raise UserError(f"the nuclei come in size 64 or 128, got size={self.size}")

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing or damaged."""
        folder = find("nuclei") if self.path is None else Path(self.path)
        x = read_strips(folder / "nuclei128.tar", 128)
        file = read_arrays(folder / "nuclei128_masks.npz", "masks", "source")
        masks, source = file["masks"], file["source"]
        if x.shape[3] != 128 or masks.shape != (len(x), 128, 128) or source.shape != (len(x),):
            raise UserError(
                f"{folder} contradicts itself: {len(x)} tiles of {list(x.shape[1:])}, masks of {list(masks.shape)}, "
                f"sources of {list(source.shape)}"
            )
        nuclei = torch.from_numpy(masks.astype(np.uint8))[:, None]
        if self.size == 64:
            x, nuclei = halved(x), (halved(4 * nuclei) >= 2).to(torch.uint8)
        group = torch.from_numpy(source.astype(np.int64))
        train, held_out = split_groups({"x": x, "nuclei": nuclei}, group, self.held_out, self.seed)
        about = "nuclei of the 2018 Data Science Bowl, Caicedo et al. 2019, BBBC038, CC0"
        return Dataset(limited(train, self.limit, self.seed), held_out, about=about)
