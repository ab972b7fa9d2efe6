"""Waves by their log-magnitude spectra, phases being found anew: for networks too small to draw phases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Complex64, Float, Float32, Shaped
from PIL import Image as Pillow
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.data.wav import write_wav
from unnoise.errors import UserError
from unnoise.modality.audio import sheet


@dataclass(frozen=True)
class Spectra:
    """The codec of mono sound float32 [B, 1, length] in [-1, 1]: states [B, window / 2, length / hop + 1].

        state_kt = (log(|X_kt| + floor) - mean) / std, k = 1 .. window / 2

    with X the short-time Fourier transform, Hann window over its sum. It loses phases and 0 Hz: `decode` finds a sound
    with such magnitudes by `rounds` of Griffin and Lim 1984, with the momentum of Perraudin et al. 2013 (WASPAA), from
    phases that are the same for all sounds. `Waves` loses nothing, but its signs look like noise to a small network.

    Args:
        length: samples of a clip, a multiple of hop.
        rate: samples a second, in Hz.
        window: samples of a window, even.
        hop: samples from frame to frame, at most window / 2; window / 4 or window / 3 sounds best.
        floor: magnitude below which everything is silence; a full-scale tone has 0.5.
        mean: of log(|X| + floor).
        std: likewise.
        rounds: of Griffin and Lim.
    """

    length: int
    rate: int
    window: int = 384
    hop: int = 128
    floor: float = 1e-3
    mean: float = 0.0
    std: float = 1.0
    rounds: int = 32

    suffix = ".wav"

    def __post_init__(self) -> None:
        if min(self.length, self.rate, self.hop, self.rounds) < 1 or self.length % self.hop:
            raise ValueError(
                f"length is a multiple of hop, and rate and rounds are at least 1, got length={self.length}, "
                f"hop={self.hop}, rate={self.rate}, rounds={self.rounds}"
            )
        if self.window % 2 or not 2 * self.hop <= self.window <= self.length:
            raise ValueError(f"window is even, from 2 hop={2 * self.hop} to length={self.length}, got {self.window}")
        if not (self.floor > 0 and self.std > 0 and math.isfinite(self.mean)):
            raise ValueError(f"needs floor > 0, std > 0 and a mean, got {self.floor}, {self.std} and {self.mean}")

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse sound of another length, out of range, or other statistics than stated; Raises UserError."""
        if tuple(raw.shape[1:]) != (1, self.length) or not raw.is_floating_point():
            raise UserError(
                f"the data are {raw.dtype} of shape {tuple(raw.shape[1:])}, the codec expects floats "
                f"(1, {self.length}): set codec.length and data.length to the same number"
            )
        most = float(raw.abs().max())
        if most == 0:
            raise UserError("the data are silent: all samples are 0")
        if most > 1:
            raise UserError(f"the data reach {most:g}, sound lies in [-1, 1]: divide 16-bit integers by 32768")
        x = self.encode(raw)
        spread, centre = float(x.std()), float(x.mean())
        if len(raw) >= 16 and not (0.2 < spread < 5 and abs(centre) < 5):
            raise UserError(
                f"states have a mean of {centre:.3g} and a standard deviation of {spread:.3g} after the codec: "
                f"set codec.mean={self.mean + centre * self.std:.3g} and codec.std={spread * self.std:.3g}"
            )

    def blank(self, n: int) -> Float32[Tensor, "n bins frames"]:
        """Zeros [n, window / 2, length / hop + 1]."""
        return torch.zeros(n, self.window // 2, self.length // self.hop + 1)

    def encode(self, raw: Float[Tensor, "b 1 length"], rng: Rng | None = None) -> Float32[Tensor, "b bins frames"]:
        """Sound [B, 1, length] as states."""
        magnitude = self._transform(raw[:, 0].to(torch.float32)).abs()[:, 1:]
        return ((magnitude + self.floor).log() - self.mean) / self.std

    def decode(
        self, x: Float[Tensor, "b bins frames"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float32[Tensor, "b 1 length"]:
        """States as sound, clamped to [-1, 1]; Raises FloatingPointError for states that are not finite."""
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("states that are not finite cannot become sound")
        log = (x.to(torch.float32) * self.std + self.mean).clamp(max=0.0)  # louder than any sound in [-1, 1]
        magnitude = torch.nn.functional.pad((log.exp() - self.floor).clamp(min=0), (0, 0, 1, 0))
        turn = 2 * math.pi * Rng.of([0], x.device).uniform(torch.zeros(1, *magnitude.shape[1:], device=x.device))
        now = last = torch.polar(magnitude, turn.expand_as(magnitude))
        for _ in range(self.rounds):
            found = self._transform(self._sound(magnitude * _phase(now)))
            now, last = found + 0.99 * (found - last), found
        return self._sound(magnitude * _phase(now))[:, None].clamp(-1, 1)

    def write(self, raw: Float[Tensor, "1 length"], path: Path) -> None:
        """One clip as a 16-bit wav file, written whole or not at all."""
        part = path.with_suffix(".part")
        write_wav(raw, part, self.rate)
        part.replace(path)

    def grid(self, raw: Float[Tensor, "n 1 length"], columns: int | None = None) -> Pillow.Image:
        """Spectrograms to look at, see `sheet`."""
        return sheet(raw, columns)

    def _transform(self, x: Float32[Tensor, "b length"]) -> Complex64[Tensor, "b bins frames"]:
        shape = torch.hann_window(self.window, device=x.device)
        found = torch.stft(x, self.window, self.hop, window=shape, pad_mode="constant", return_complex=True)
        return found / shape.sum()

    def _sound(self, spectrum: Complex64[Tensor, "b bins frames"]) -> Float32[Tensor, "b length"]:
        shape = torch.hann_window(self.window, device=spectrum.device)
        return torch.istft(spectrum * shape.sum(), self.window, self.hop, window=shape, length=self.length)


def _phase(x: Tensor) -> Tensor:
    return x / x.abs().clamp(min=1e-12)
