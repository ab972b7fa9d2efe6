"""What was found where one's own pictures were looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Counts = Mapping[str, tuple[int, str]]
"""By reason: how many, and the name of the first."""


@dataclass(frozen=True)
class Found:
    """The pictures at a place, and what becomes of them.

    Args:
        path: the place.
        count: of pictures.
        sizes: how many there are of each (H, W), the most common first.
        modes: how many there are of each kind of pixel ("RGB", "gray", "palette", ..), the most common first.
        classes: how many there are of each class, in the order of labels; empty where there are no labels.
        skipped: files that are not used, by reason.
        converted: pictures that are changed to be like the others, by what is done; smaller ones are not counted.
        twice: files that hold the same bytes as an earlier one.
        digest: of names and sizes of the files: other data have another.
        shape: [C, H, W] that training sees; None where the sizes differ and none was asked for.
        dtype: "uint8", "uint16" or "float32".
    """

    path: str
    count: int
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    classes: Mapping[str, int]
    skipped: Counts
    converted: Counts
    twice: int
    digest: str
    shape: tuple[int, int, int] | None
    dtype: Literal["uint8", "uint16", "float32"]
    alone: tuple[str, ...] = field(default=())
    """Classes of one picture, which is trained on and not held out."""

    def line(self) -> str:
        """All of it in one line, as training says it."""
        kinds = f", {len(self.classes)} classes" if self.classes else ""
        said = [f"{self.count:,} pictures of {Path(self.path).name}{kinds}"]
        said += [told(what, word) for what, word in ((self.skipped, "skipped"), (self.converted, "converted")) if what]
        if self.twice:
            said.append(f"{self.twice:,} are there twice")
        if self.alone:
            more = f" and {len(self.alone) - 1:,} more" if len(self.alone) > 1 else ""
            said.append(f"class {self.alone[0]}{more} with one picture only, which is not held out")
        return "; ".join(said)


def told(counts: Counts, word: str) -> str:
    """ "3 skipped: 2 empty files (first a.png), 1 not pictures (b.txt)"."""
    parts = (f"{n:,} {why} ({'first ' if n > 1 else ''}{name})" for why, (n, name) in counts.items())
    return f"{sum(n for n, _ in counts.values()):,} {word}: {', '.join(parts)}"
