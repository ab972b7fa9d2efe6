"""Speech: clips of one length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from unnoise.data.dataset import Columns, Dataset, split
from unnoise.data.home import find, read_arrays
from unnoise.data.wav import read_wav
from unnoise.errors import UserError


@dataclass(frozen=True)
class SpokenDigits:
    """3,000 spoken digits at 8,000 Hz: x float32 [N, 1, length] in [-1, 1), label int64 [N]: the digit, 0..9.

    speaker int64 [N] in 0..5: george, jackson, lucas, nicolas, theo, yweweler. The official split: takes 0 to 4 of each
    speaker and digit, 300 clips, are held out; the same speakers are trained on. How clips come to one length: see
    `fitted`. Jackson et al., Free Spoken Digit Dataset (CC BY-SA 4.0).

    Args:
        length: samples of a clip; 95 % are below 5,300, half below 3,358.
        path: the npz file; None: "fsdd/fsdd.npz" in UNNOISE_DATA.
    """

    length: int = 4096
    path: str | None = None

    def __post_init__(self) -> None:
        _require_length(self.length)

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing or damaged."""
        path = find("fsdd", "fsdd.npz") if self.path is None else Path(self.path)
        file = read_arrays(path, "audio", "offset", "digit", "speaker", "take")
        offset, sound = file["offset"], torch.from_numpy(file["audio"].astype(np.float32) / 32768)
        counts = {len(file[k]) for k in ("digit", "speaker", "take")} | {len(offset) - 1}
        if len(counts) > 1 or offset[0] != 0 or offset[-1] != len(sound) or not (np.diff(offset) > 0).all():
            raise UserError(f"{path} contradicts itself: its offsets do not fit its {len(sound)} samples")
        clips = torch.split(sound[None], np.diff(offset).tolist(), 1)
        columns = {
            "x": torch.stack([fitted(c, self.length) for c in clips]),
            "label": torch.from_numpy(file["digit"].astype(np.int64)),
            "speaker": torch.from_numpy(file["speaker"].astype(np.int64)),
        }
        test = torch.from_numpy(file["take"] < 5)
        train, held_out = ({k: v[rows] for k, v in columns.items()} for rows in (~test, test))
        return Dataset(train, held_out, about="Free Spoken Digit Dataset, 8 kHz, Jackson et al., CC BY-SA 4.0")


@dataclass(frozen=True)
class Recordings:
    """One's own wav files: x float32 [N, channels, length], as `fitted` and `read_wav` make them.

    Files in the folder itself, in the order of names; or in folders of it, a class each: label int64 [N] counts these
    in the order of names. The split does not know speakers: one may be in both parts.

    Args:
        path: the folder.
        length: samples of a clip.
        rate: in Hz; a file of another rate is refused.
        held_out: share of the files that is never trained on.
        seed: which files those are.
    """

    path: str
    length: int
    rate: int
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _require_length(self.length)

    def load(self) -> Dataset:
        """The data; Raises UserError naming the file that cannot be read, or has other channels than the first."""
        path = Path(self.path)
        if not path.is_dir():
            raise UserError(f"no such folder: {path}")
        classes = sorted(p for p in path.iterdir() if p.is_dir() and _wavs(p))
        if classes and _wavs(path):
            raise UserError(f"{path} holds wav files beside folders of them: move each into the folder of its class")
        files = [f for folder in classes or [path] for f in _wavs(folder)]
        if not files:
            raise UserError(f"no .wav files in {path}, nor in its folders")
        clips = [read_wav(f, self.rate) for f in files]
        for file, clip in zip(files, clips, strict=True):
            if len(clip) != len(clips[0]):
                raise UserError(f"{file} has {len(clip)} channels, {files[0]} has {len(clips[0])}: make them the same")
        columns: Columns = {"x": torch.stack([fitted(c, self.length) for c in clips])}
        about = f"recordings of {path.name}, {self.rate} Hz"
        if classes:
            label = [classes.index(f.parent) for f in files]
            columns = {**columns, "label": torch.tensor(label)}
            about += "; " + ", ".join(f"{i} {c.name}" for i, c in enumerate(classes))
        return Dataset(*split(columns, self.held_out, self.seed), about=about)


def fitted(x: Float32[Tensor, "channels samples"], length: int) -> Float32[Tensor, "channels length"]:
    """A clip of `length` samples: a shorter one with zeros at its end; of a longer one, its loudest part.

    The loudest part is the `length` samples in a row with the largest sum of squares, the first of such.
    """
    if x.shape[1] <= length:
        return F.pad(x, (0, length - x.shape[1]))
    energy = F.pad(x.double().square().sum(0).cumsum(0), (1, 0))  # float64: exact for 16-bit sound
    start = int((energy[length:] - energy[:-length]).argmax())
    return x[:, start : start + length].clone()


def _wavs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".wav")


def _require_length(length: int) -> None:
    if length < 1:
        raise UserError(f"length is a number of samples >= 1, got {length}")
