"""Waves: between sound and its companded cosine transform; onto disk as wav files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from PIL import Image as Pillow
from torch import Tensor

from unnoise.core.constant import constant
from unnoise.core.level import exact
from unnoise.core.rng import Rng
from unnoise.data.wav import write_wav
from unnoise.errors import UserError

DECIBELS = 70
"""From white to black in a picture."""


@dataclass(frozen=True)
class Waves:
    """The codec of sound float32 [B, channels, length] in [-1, 1]: states are [B, channels bands, frames].

        c_kt = sqrt(2 / M) sum_n w_n x_(n + t M - M) cos(pi / M (n + 1/2 + M/2) (k + 1/2)), w_n = sin(pi / 2M (n + 1/2))
        state = sign(c) |c|^power / scale_k

    with M = bands, n = 0 .. 2M - 1, t = 0 .. length / M: the modified discrete cosine transform with a sine window. It
    is orthonormal: it keeps the sum of squares, and its transpose inverts it (Princen & Bradley 1986, TDAC). The power
    brings the few loud and the many quiet coefficients near to a normal distribution. The bands of a channel of the
    sound are M channels of the state, one after another.

    Args:
        length: samples of a clip, a multiple of bands.
        rate: samples a second, in Hz.
        bands: M, coefficients a frame, and samples from frame to frame.
        power: in (0, 1]; 1 is linear.
        scales: standard deviations of companded coefficients, at frequencies spread evenly from 0 to rate / 2; those of
            the bands are interpolated, geometrically. See `measured`.
        channels: 1 is mono.
    """

    length: int
    rate: int
    bands: int = 64
    power: float = 0.4
    scales: tuple[float, ...] = (1.0,)
    channels: int = 1

    suffix = ".wav"

    def __post_init__(self) -> None:
        if min(self.length, self.rate, self.bands, self.channels) < 1 or self.length % self.bands:
            raise ValueError(
                f"length is a multiple of bands, and rate and channels are at least 1, got length={self.length}, "
                f"bands={self.bands}, rate={self.rate}, channels={self.channels}"
            )
        if not 0 < self.power <= 1:
            raise ValueError(f"power must be in (0, 1], got {self.power}")
        if not self.scales or not all(0 < s < math.inf for s in self.scales):
            raise ValueError(f"scales are finite numbers > 0, at least one, got {self.scales}")

    @property
    def frames(self) -> int:
        """length / bands + 1."""
        return self.length // self.bands + 1

    def measured(self, raw: Float[Tensor, "b channels length"], knots: int = 9) -> tuple[float, ...]:
        """Scales of data: root mean squares of the companded coefficients about `knots` frequencies, to 3 digits."""
        bare = _companded(_mdct(raw.to(torch.float32), self.bands), self.power)
        energy = bare.reshape(-1, self.bands, self.frames).double().square().mean((0, 2))
        centres = torch.arange(self.bands) * (knots - 1) / max(1, self.bands - 1)
        near = (1 - (centres - torch.arange(knots)[:, None]).abs()).clamp(min=0).double()
        return tuple(float(f"{s:.3g}") for s in ((near @ energy) / near.sum(1)).sqrt().tolist())

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse sound of another length or number of channels, out of range, or silent; Raises UserError."""
        if tuple(raw.shape[1:]) != (self.channels, self.length) or not raw.is_floating_point():
            raise UserError(
                f"the data are {raw.dtype} of shape {tuple(raw.shape[1:])}, the codec expects floats "
                f"({self.channels}, {self.length}): set codec.length and data.length to the same number, and "
                "codec.channels to that of the data"
            )
        most = float(raw.abs().max())
        if most == 0:
            raise UserError("the data are silent: all samples are 0")
        if most > 1:
            raise UserError(f"the data reach {most:g}, sound lies in [-1, 1]: divide 16-bit integers by 32768")
        spread = float(self.encode(raw).std())
        if len(raw) >= 16 and not 0.2 < spread < 5:
            raise UserError(
                f"states have a standard deviation of {spread:.3g} after the codec: set codec.scales, which "
                "`Waves.measured` finds"
            )

    def blank(self, n: int) -> Float32[Tensor, "n bands frames"]:
        """Zeros [n, channels bands, frames]."""
        return torch.zeros(n, self.channels * self.bands, self.frames)

    def encode(self, raw: Float[Tensor, "b channels length"], rng: Rng | None = None) -> Float32[Tensor, "b bands t"]:
        """Sound [B, channels, length] as states."""
        c = _companded(_mdct(raw.to(torch.float32), self.bands), self.power) / self._scale(raw)
        return c.flatten(1, 2)

    def decode(
        self, x: Float[Tensor, "b bands t"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float32[Tensor, "b channels length"]:
        """States as sound, clamped to [-1, 1]; Raises FloatingPointError for states that are not finite."""
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("states that are not finite cannot become sound")
        c = x.to(torch.float32).reshape(len(x), self.channels, self.bands, x.shape[2]) * self._scale(x)
        return _inverse(_companded(c, 1 / self.power), self.bands).clamp(-1, 1)

    def known(self, mask: Bool[Tensor, "b channels length"]) -> Bool[Tensor, "b bands t"]:
        """Which coefficients are known where these samples are: those whose window meets no other sample."""
        whole = F.pad(mask, (self.bands, self.bands), value=True).unfold(2, 2 * self.bands, self.bands).all(3)
        return whole.repeat_interleave(self.bands, 1)

    def write(self, raw: Float[Tensor, "channels length"], path: Path) -> None:
        """One clip as a 16-bit wav file, written whole or not at all."""
        part = path.with_suffix(".part")
        write_wav(raw, part, self.rate)
        part.replace(path)

    def grid(self, raw: Float[Tensor, "n channels length"], columns: int | None = None) -> Pillow.Image:
        """Spectrograms to look at, see `sheet`."""
        return sheet(raw, columns)

    def _scale(self, like: Tensor) -> Float32[Tensor, "bands 1"]:
        dtype, device = exact(like.device), like.device
        knots = constant(self.scales, dtype, device).log()
        at = torch.arange(self.bands, dtype=dtype, device=device) * ((len(knots) - 1) / max(1, self.bands - 1))
        low = at.long().clamp(max=max(0, len(knots) - 2))
        high = (low + 1).clamp(max=len(knots) - 1)
        return torch.lerp(knots[low], knots[high], at - low).exp().float()[:, None]


def sheet(raw: Float[Tensor, "n channels length"], columns: int | None = None) -> Pillow.Image:
    """Spectrograms to look at: time to the right, 0 Hz to rate / 2 upwards, 70 decibels below the loudest is white.

    Args:
        raw: [N, channels, length]; channels are averaged.
        columns: clips in a row; the square root of N by default.
    """
    pictures = _spectrograms(raw.float().cpu().mean(1))
    n, h, w = pictures.shape
    columns = columns or max(1, math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    page = np.full((max(1, rows * (h + 1) - 1), columns * (w + 1) - 1), 160, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (h + 1), i % columns * (w + 1)
        page[top : top + h, left : left + w] = picture
    return Pillow.fromarray(page)


def _companded(c: Tensor, power: float) -> Tensor:
    return c.sign() * c.abs() ** power


def _basis(bands: int, like: Tensor) -> Float32[Tensor, "window bands"]:
    """Windowed cosines [2 M, M], whose columns, M samples apart, are an orthonormal basis."""
    n, k = (torch.arange(count, dtype=exact(like.device), device=like.device) for count in (2 * bands, bands))
    cosines = torch.cos(math.pi / bands * (n[:, None] + (1 + bands) / 2) * (k + 0.5))
    return (math.sqrt(2 / bands) * torch.sin(math.pi / (2 * bands) * (n[:, None] + 0.5)) * cosines).float()


def _mdct(x: Float32[Tensor, "b c length"], bands: int) -> Float32[Tensor, "b c bands t"]:
    return (F.pad(x, (bands, bands)).unfold(2, 2 * bands, bands) @ _basis(bands, x)).transpose(2, 3)


def _inverse(c: Float32[Tensor, "b c bands t"], bands: int) -> Float32[Tensor, "b c length"]:
    pieces = c.transpose(2, 3) @ _basis(bands, c).T
    return (pieces[:, :, :-1, bands:] + pieces[:, :, 1:, :bands]).flatten(2)


def _spectrograms(x: Float32[Tensor, "n length"]) -> UInt8[np.ndarray, "n h w"]:
    """Power in windows of 256 samples, 64 apart: 0 black to 255 white."""
    pieces = F.pad(x, (128, 128)).unfold(1, 256, 64) * torch.hann_window(256)
    power = torch.fft.rfft(pieces).abs().square()[..., 1:].transpose(1, 2).flip(1)
    loudest = power.amax((1, 2), keepdim=True).clamp(min=1e-12)
    level = 10 * (power / loudest).clamp(min=1e-12).log10()
    return (level.neg() / DECIBELS * 255).clamp(0, 255).to(torch.uint8).numpy()
