"""Text as windows of Unicode code points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from unnoise.data.dataset import Dataset
from unnoise.data.home import find, read_text
from unnoise.errors import UserError


@dataclass(frozen=True)
class Text:
    """Windows of a text: x int64 [N, length], Unicode code points in 0..0x10FFFF.

    The last share of the characters is held out, so that no window lies in both parts. Training windows overlap: one
    starts every `stride` characters. Held-out windows do not. What is left at the end of a part, less than a stride or
    less than a window, is in none. Training windows are views of one text: they take its memory, not theirs.

    The default is tinyshakespeare, 1,115,394 characters of Shakespeare's plays (A. Karpathy, char-rnn, 2015; public
    domain).

    Args:
        path: a file in UTF-8, plain, gzip or xz; None: "text/tinyshakespeare.txt.gz" in UNNOISE_DATA.
        length: characters of a window, >= 1.
        stride: characters between the starts of training windows, >= 1.
        held_out: share of the characters that is never trained on, in [0, 1).
    """

    path: str | None = None
    length: int = 128
    stride: int = 16
    held_out: float = 0.1

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride < 1:
            raise UserError(f"length and stride are >= 1 character, got length={self.length}, stride={self.stride}")
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out is a share in [0, 1), got {self.held_out}")

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing, too short, damaged or not UTF-8."""
        path = find("text", "tinyshakespeare.txt.gz") if self.path is None else Path(self.path)
        codes = code_points(read_text(path))
        cut = len(codes) - round(len(codes) * self.held_out)
        parts = codes[:cut], codes[cut:]
        for name, part, needed in zip(("training", "held-out"), parts, (True, self.held_out > 0), strict=True):
            if needed and len(part) < self.length:
                raise UserError(
                    f"{path} is too short: its {name} part has {len(part)} of {len(codes)} characters, a window "
                    f"{self.length}: set a smaller length, or another held_out"
                )
        train, held_out = (_windows(p, self.length, s) for p, s in zip(parts, (self.stride, self.length), strict=True))
        about = f"text of {path.name}" if self.path else "tinyshakespeare, from A. Karpathy's char-rnn, public domain"
        return Dataset({"x": train}, {"x": held_out}, about=about)


def code_points(text: str) -> Int64[Tensor, " n"]:
    """The Unicode code points of a text, int64 [N]; "".join(map(chr, codes)) is the text again."""
    return torch.from_numpy(np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64))


def _windows(codes: Int64[Tensor, " n"], length: int, stride: int) -> Int64[Tensor, "windows length"]:
    return codes.unfold(0, length, stride) if len(codes) >= length else codes.new_empty(0, length)
