"""Text as tokens: between Unicode code points and the numbers of a vocabulary of characters."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64, Shaped
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from torch import Tensor

from unnoise.core.constant import constant
from unnoise.core.rng import Rng
from unnoise.errors import UserError

UNKNOWN = 0xFFFD
"""The code point of the replacement character, which stands where a token is masked."""


@dataclass(frozen=True)
class Characters:
    """The codec of texts of one length: token i is the i-th character of the alphabet.

    Args:
        alphabet: the characters, each once; V is their number.
        length: N, characters of a text.
    """

    alphabet: str
    length: int

    suffix = ".txt"

    def __post_init__(self) -> None:
        twice = sorted({c for c in self.alphabet if self.alphabet.count(c) > 1})
        if twice or not self.alphabet:
            raise ValueError(f"an alphabet has each character once and at least one: {twice or 'it is empty'}")
        if self.length < 1:
            raise ValueError(f"a text has at least one character, got length={self.length}")

    @property
    def size(self) -> int:
        """V."""
        return len(self.alphabet)

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse what is not code points of the alphabet, in texts of the length.

        Raises:
            UserError: naming what was found and the remedy.
        """
        if raw.ndim != 2 or raw.shape[1] != self.length or raw.dtype != torch.int64:
            raise UserError(
                f"the data are {raw.dtype} of shape {tuple(raw.shape)}, the codec expects int64 code points "
                f"[B, {self.length}]: set codec.length and data.length to the same number"
            )
        found = {c for part in torch.split(raw, 4096) for c in torch.unique(part).tolist()}
        strange = sorted({chr(c) for c in found} - set(self.alphabet))
        if strange:
            named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in strange[:8])
            raise UserError(
                f"the alphabet lacks {len(strange)} characters of the data: {named}{', ..' * (len(strange) > 8)}: "
                "add them to codec.alphabet, or replace them in the text"
            )

    def blank(self, n: int) -> Int64[Tensor, "n length"]:
        """Tokens 0 [n, N]."""
        return torch.zeros(n, self.length, dtype=torch.int64)

    def encode(self, raw: Int64[Tensor, "b n"], rng: Rng | None = None) -> Int64[Tensor, "b n"]:
        """Code points as tokens 0..V - 1; V, the mask, for a character that the alphabet lacks."""
        codes, order = self._codes(raw.device).sort()
        at = torch.searchsorted(codes, raw.contiguous()).clamp(max=len(codes) - 1)
        return torch.where(codes[at] == raw, order[at], self.size)

    def decode(self, x: Int64[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None) -> Int64[Tensor, "b n"]:
        """Tokens as code points: U+FFFD where a token is masked, 0 where there is none (mask False)."""
        codes = F.pad(self._codes(x.device), (0, 1), value=UNKNOWN)
        raw = codes[x.clamp(0, self.size)]
        return raw if mask is None else torch.where(mask, raw, 0)

    def known(self, mask: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """Which tokens are known where these characters are: the same."""
        return mask

    def raw(self, texts: Sequence[str]) -> Int64[Tensor, "b n"]:
        """Texts as raw data; Raises UserError for one of another length."""
        for text in texts:
            if len(text) != self.length:
                raise UserError(f"a text of {self.length} characters is expected, got {len(text)}: {text[:40]!r}")
        return torch.tensor([[ord(c) for c in text] for text in texts], dtype=torch.int64).reshape(-1, self.length)

    def text(self, raw: Int64[Tensor, " n"]) -> str:
        """A row of raw data as a string."""
        return "".join(chr(c) for c in raw.tolist() if c)

    def write(self, raw: Int64[Tensor, " n"], path: Path) -> None:
        """A row as a text file in UTF-8, written whole or not at all; line ends as they are."""
        part = path.with_suffix(".part")
        part.write_bytes(self.text(raw).encode())
        part.replace(path)

    def grid(self, raw: Int64[Tensor, "b n"], columns: int | None = None) -> Pillow.Image:
        """Texts to look at, black on white, a gray line between them.

        Args:
            raw: [B, N].
            columns: texts side by side; by default about as many as make the sheet square.
        """
        font = ImageFont.load_default()
        pages = ["\n".join(_wrapped(self.text(row))) for row in raw]
        columns = columns or max(1, round(math.sqrt(len(pages) / 2)))
        draw = ImageDraw.Draw(Pillow.new("L", (1, 1)))
        boxes = [draw.multiline_textbbox((0, 0), page, font) for page in pages]
        width, height = (8 + math.ceil(max((b[i] for b in boxes), default=0)) for i in (2, 3))
        rows = math.ceil(len(pages) / columns)
        sheet = Pillow.new("L", (columns * width, max(1, rows * height)), 255)
        draw = ImageDraw.Draw(sheet)
        for i, page in enumerate(pages):
            left, top = i % columns * width, i // columns * height
            draw.rectangle((left, top, left + width, top + height), outline=200)
            draw.multiline_text((left + 4, top + 4), page, 0, font)
        return sheet

    def _codes(self, device: torch.device) -> Int64[Tensor, " v"]:
        return constant(tuple(map(ord, self.alphabet)), torch.int64, device)


def _wrapped(text: str) -> list[str]:
    """Lines of at most 64 characters, of what can be shown of a text."""
    return [part for line in text.split("\n") for part in textwrap.wrap(line, 64, drop_whitespace=False) or [""]]
