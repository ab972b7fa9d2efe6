"""Drawn characters with eight attributes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from unnoise.data.dataset import Dataset
from unnoise.data.groups import duplicates, limited, require_limit, split_groups
from unnoise.data.home import find, read_arrays
from unnoise.errors import UserError


@dataclass(frozen=True)
class Sprites:
    """Drawn characters on gray: x uint8 [N, 3, 64, 64] in 0..255, and eight attributes, int64 [N] each.

    action in 0..2 (walk, spellcard, slash), direction in 0..2 (front, left, right), body in 0..6, eyes in 0..4, shoes
    in 0..2, bottomwear in 0..6, topwear in 0..6, hair in 0..9: see `classes`. 4,000 random combinations, no two alike.
    Pictures are the first frames of the clips of "sprites_video"; the 7 later ones are left out.

    Li & Mandt 2018, Disentangled Sequential Autoencoder, ICML, arXiv:1803.02991; art of the Liberated Pixel Cup
    (CC BY-SA 3.0 / GPL 3.0).

    Args:
        held_out: share of the pictures that is never trained on; the same picture twice goes to one part.
        limit: only so many of the training pictures, at random; None: all.
        seed: which pictures those are.
        path: the npz file; None: "sprites_video/sprites_video.npz" in UNNOISE_DATA.
    """

    held_out: float = 0.1
    limit: int | None = None
    seed: int = 0
    path: str | None = None

    classes: ClassVar[dict[str, int]] = {
        "action": 3,
        "direction": 3,
        "body": 7,
        "eyes": 5,
        "shoes": 3,
        "bottomwear": 7,
        "topwear": 7,
        "hair": 10,
    }
    """Number of classes by attribute."""

    def __post_init__(self) -> None:
        require_limit(self.limit)

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing or damaged."""
        path = find("sprites_video", "sprites_video.npz") if self.path is None else Path(self.path)
        file = read_arrays(path, "video", "factors", "factor_names")
        video, factors, names = file["video"], file["factors"], [str(n) for n in file["factor_names"]]
        n, frame = len(video), video.shape[2:]
        if video.ndim != 5 or video.dtype != np.uint8 or frame != (64, 64, 3) or factors.shape != (n, len(names)):
            raise UserError(
                f"{path} is not the sprites': video is {video.dtype} of shape {list(video.shape)}, factors "
                f"{list(factors.shape)}, not uint8 of [N, frames, 64, 64, 3] and [N, {len(names)}]"
            )
        if set(names) != set(self.classes):
            raise UserError(f"{path} is not the sprites': its factors are {names}, not {list(self.classes)}")
        x = torch.from_numpy(video[:, 0].transpose(0, 3, 1, 2).copy())
        columns = {"x": x}
        for name, count in self.classes.items():
            column = torch.from_numpy(factors[:, names.index(name)].astype(np.int64))
            if n and not 0 <= int(column.min()) <= int(column.max()) < count:
                raise UserError(
                    f"{path} is not the sprites': {name} reaches {int(column.max())}, it has {count} values"
                )
            columns[name] = column
        train, held_out = split_groups(columns, duplicates(x), self.held_out, self.seed)
        about = "Sprites, first frames, Li & Mandt 2018, art of the Liberated Pixel Cup, CC BY-SA 3.0 / GPL 3.0"
        return Dataset(limited(train, self.limit, self.seed), held_out, about=about)
