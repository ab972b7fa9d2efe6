"""Sound in wav files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from unnoise.errors import UserError

_STREAMED = 0xFFFFFFFF
"""Stands for the size of what was written before its size was known; in RF64, for a size that a chunk "ds64" holds."""


def read_wav(path: str | Path, rate: int | None = None) -> Float32[Tensor, "channels samples"]:
    """The sound of a wav file, float32 [channels, samples]: integers as multiples of full scale, in [-1, 1).

    A file in floating point is as it is, and may leave [-1, 1].

    Args:
        path: the file.
        rate: in Hz, the one that the caller counts on; None: any.

    Raises:
        UserError: for a file that is missing, empty, no wav, cut short, of another rate, or with NaN; where soundfile
            is not installed.
    """
    soundfile = _soundfile()
    path = Path(path)
    _require_whole(path)
    try:
        x, found = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as e:
        raise UserError(f"{path} is not a readable wav file: {e}") from e
    if rate is not None and found != rate:
        raise UserError(f"{path} has {found} samples a second, not {rate}: set rate={found}, or resample the file")
    if not len(x):
        raise UserError(f"{path} holds no samples: remove it")
    if not np.isfinite(x).all():
        raise UserError(f"{path} holds NaN or infinity: remove or repair it")
    return torch.from_numpy(np.ascontiguousarray(x.T))


def write_wav(x: Float[Tensor, "channels samples"], path: str | Path, rate: int) -> None:
    """Write sound [channels, samples] as 16-bit PCM: round(32768 x), clipped to [-32768, 32767].

    What is in [-1, 1) reads back to within 2^-16, and multiples of 2^-15 exactly; 1 becomes 1 - 2^-15.

    Args:
        x: the sound; what lies outside [-1, 1] is clipped.
        path: the file.
        rate: in Hz.

    Raises:
        UserError: where soundfile is not installed.
        ValueError: for NaN or infinity.
    """
    soundfile = _soundfile()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the sound holds NaN or infinity")
    pcm = (x.detach().cpu().double() * 32768).round().clamp(-32768, 32767).to(torch.int16)
    soundfile.write(Path(path), pcm.T.numpy(), rate, format="WAV", subtype="PCM_16")


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as e:  # OSError: its C library is missing
        raise UserError("wav files need soundfile: pip install 'unnoise[audio]'") from e
    return soundfile


def _require_whole(path: Path) -> None:
    """Refuse a file that ends before its data chunk does: libsndfile reads the rest of it without a word."""
    if not path.is_file():
        raise UserError(f"{path} is a folder, not a wav file" if path.is_dir() else f"no such file: {path}")
    length = path.stat().st_size
    if not length:
        raise UserError(f"{path} is empty: fetch it again")
    with path.open("rb") as f:
        kind, large = f.read(12), _STREAMED
        if kind[:4] not in (b"RIFF", b"RIFX", b"RF64") or kind[8:] != b"WAVE":
            raise UserError(f"{path} is not a wav file: it begins with {kind[:4]!r}, not with b'RIFF'")
        order: Any = "big" if kind[:4] == b"RIFX" else "little"
        while len(head := f.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], order)
            if name == b"ds64":
                large = int.from_bytes(f.read(16)[8:], "little")
                f.seek(-16, 1)
            if name == b"data":
                size = large if size == _STREAMED else size
                if size not in (_STREAMED, 0) and f.tell() + size > length:
                    raise UserError(
                        f"{path} is cut short: {size} bytes of sound stated, {length - f.tell()} there: fetch it again"
                    )
                return
            f.seek(size + size % 2, 1)
    raise UserError(f"{path} is cut short: it ends before its sound begins: fetch it again")
