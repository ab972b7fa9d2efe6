"""Emoji, by group."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from unnoise.data.dataset import Dataset
from unnoise.data.groups import duplicates, limited, require_limit, split_groups, take
from unnoise.data.home import find, read_text
from unnoise.data.strips import read_strips
from unnoise.errors import UserError

_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F400)}
"""The five skin tones, as code points."""


@dataclass(frozen=True)
class Emoji:
    """Emoji on white: x uint8 [N, 3, 64, 64] in 0..255, label int64 [N] in 0..9: the group, see `names`.

    Pictures that are there more than once (six snowboarders, some flags) are taken once, the first of them, before the
    split. 1,862 pictures without variants of skin tone, 3,647 with them; the variants of one emoji go to one part.

    Noto Emoji (pictures Apache-2.0, flags public domain); groups of Unicode 15.0 (Unicode licence). Reduced: 128x128 on
    white, Lanczos to 64x64, flags fitted into 60x60.

    Args:
        skin_tones: also the variants of skin tone.
        held_out: share of the emoji that is never trained on.
        limit: only so many of the training pictures, at random; None: all.
        seed: which ones those are.
        path: the folder with emoji64.tar and emoji64.json; None: "emoji" in UNNOISE_DATA.
    """

    skin_tones: bool = False
    held_out: float = 0.1
    limit: int | None = None
    seed: int = 0
    path: str | None = None

    names: ClassVar[tuple[str, ...]] = (
        "Smileys & Emotion",
        "People & Body",
        "Component",
        "Animals & Nature",
        "Food & Drink",
        "Travel & Places",
        "Activities",
        "Objects",
        "Symbols",
        "Flags",
    )
    """The groups, in Unicode's order."""

    def __post_init__(self) -> None:
        require_limit(self.limit)

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing or damaged."""
        folder = find("emoji") if self.path is None else Path(self.path)
        x, about = read_strips(folder / "emoji64.tar", 64), _read(folder / "emoji64.json")
        if len(about) != len(x) or x.shape[3] != 64:
            raise UserError(f"{folder} contradicts itself: {len(x)} pictures of width {x.shape[3]}, {len(about)} emoji")
        bases = [" ".join(c for c in e["codepoints"].split() if c not in _TONES) for e in about]
        number = {base: i for i, base in enumerate(dict.fromkeys(bases))}
        columns = {
            "x": x,
            "label": torch.tensor([self.names.index(e["group"]) for e in about]),
            "group": torch.tensor([number[base] for base in bases]),
        }
        kept = duplicates(x) == torch.arange(len(x))
        if not self.skin_tones:
            kept &= ~torch.tensor([e["skin_tone"] for e in about])
        columns = take(columns, kept)
        train, held_out = split_groups(columns, columns.pop("group"), self.held_out, self.seed)
        licence = "Noto Emoji, 64 px, pictures Apache-2.0, flags public domain, groups of Unicode 15.0"
        return Dataset(limited(train, self.limit, self.seed), held_out, about=licence)


def _read(path: Path) -> list[dict[str, Any]]:
    """What is said of each picture; Raises UserError where it is not said."""
    try:
        about = json.loads(read_text(path))
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}: fetch it again") from e
    kinds = {"codepoints": str, "group": str, "skin_tone": bool}
    if not isinstance(about, list):
        raise UserError(f"{path} holds no list of emoji")
    for i, entry in enumerate(about):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), kind) for k, kind in kinds.items()):
            raise UserError(f"{path} lacks codepoints, group or skin_tone of emoji {i}")
        if entry["group"] not in Emoji.names:
            raise UserError(f"{path} has emoji {i} in the group {entry['group']!r}, which is none of Unicode's")
    return about
