"""Picture files as arrays of one form: what their headers say, and how each is brought to it.

A picture is turned as its EXIF orientation says, brought to the form's channels and bits, and then made of the form's
size in one resampling: Lanczos (three lobes), antialiased: its support grows with the scale; where a picture is more
than three times as large, by means of blocks first (Pillow, reducing_gap=3). Colours under transparency do not bleed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int32, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from unnoise.data.picture_files import Content

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's modes by number of channels."""
NAMES = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}
Fit = Literal["crop", "stretch"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation."""
_CHANNELS = {"L": 1, "LA": 2, "La": 2, "RGB": 3, "RGBA": 4, "RGBa": 4, "I": 1, "1": 1, "P": 3, "PA": 4}
"""Of Pillow's modes; those that are not here (CMYK, YCbCr, LAB, HSV, RGBX) become RGB."""


class Unreadable(Exception):
    """A file is no picture that can be used; its message is the reason, which does not name the file."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture is before it is changed.

    Args:
        size: (H, W), upright.
        channels: 1 gray, 2 gray with alpha, 3 RGB, 4 RGBA: what it is nearest to.
        deep: whether it is gray of 16 bits.
        mode: in words: "RGB", "16-bit gray", "palette", "CMYK", ..
        frames: whether there are several, of which the first is taken.
    """

    size: tuple[int, int]
    channels: int
    deep: bool
    mode: str
    frames: bool


@dataclass(frozen=True)
class Form:
    """What all pictures of a set are brought to.

    Args:
        shape: [C, H, W].
        deep: 16 bits, int32 in 0..65535 (gray only), in the place of uint8 in 0..255.
        fit: "crop": scaled until the shape is just covered, the centre is taken; "stretch": each side by itself.
    """

    shape: tuple[int, int, int]
    deep: bool = False
    fit: Fit = "crop"

    def changes(self, header: Header) -> Iterator[str]:
        """What is done to such a picture, besides making it smaller."""
        to = ("16-bit " if self.deep else "") + NAMES[self.shape[0]]
        if header.mode != to:
            white = header.channels in (2, 4) and self.shape[0] in (1, 3)
            yield f"{header.mode} to {to}" + (" on white" if white else "")
        if header.frames:
            yield "first of several frames"
        ratios = [n / m for n, m in zip(self.shape[1:], header.size, strict=True)]
        if max(ratios) > 1:
            yield f"enlarged to {self.shape[1]}x{self.shape[2]}"


def look(file: Content) -> Header:
    """The header of a picture; its pixels are not decoded.

    Raises:
        Unreadable: for what is no picture, or too large a one.
    """
    with _opened(file) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Unreadable(f"more than {limit:,} pixels")
        if min(image.size) < 1:
            raise Unreadable("no pixels")
        height, width = image.height, image.width
        if _turn(image) in (5, 6, 7, 8):
            height, width = width, height
        channels, deep, mode = _kind(image)
        return Header((height, width), channels, deep, mode, bool(getattr(image, "is_animated", False)))


def decode(file: Content, form: Form) -> UInt8[np.ndarray, "c h w"] | Int32[np.ndarray, "c h w"]:
    """A picture in this form.

    Raises:
        Unreadable: for what is damaged.
    """
    with _opened(file) as image:
        turn = _turn(image)
        deep = _kind(image)[1]
        image.load()
        if deep:
            picture = _deep(image, form)
        else:
            picture = _converted(image, form.shape[0])
            if form.deep:
                picture = Image.fromarray(np.asarray(picture, np.float32) * 257)
        if turn in _TURNS:
            picture = picture.transpose(_TURNS[turn])
        pixels = np.asarray(_resized(picture, form))
    if form.deep:
        return pixels.round().clip(0, 65535).astype(np.int32)[None]
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def resized(x: Shaped[np.ndarray, "c h w"], form: Form) -> Shaped[np.ndarray, "c2 h2 w2"]:
    """An array in this form's size, channel by channel, in its own dtype and no further than its own range."""
    if x.shape[1:] == form.shape[1:]:
        return x
    planes = [np.asarray(_resized(Image.fromarray(plane.astype(np.float32)), form)) for plane in x]
    out = np.stack(planes).clip(x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True))
    return (out.round() if x.dtype.kind in "iu" else out).astype(x.dtype)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, Pillow's warnings do not reach the user's terminal; of this process, threads included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(file: Content) -> Iterator[Image.Image]:
    """Within, whatever goes wrong with a picture is one reason."""
    try:
        with Image.open(file) as image:
            yield image
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Unreadable("not pictures") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as e:  # decoders of some forty formats raise all kinds on damaged files
        raise Unreadable("cut short or damaged") from e


def _turn(image: Image.Image) -> int:
    """The EXIF orientation where Pillow does not see to it by itself and it is known before decoding; else 1."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    return int(image.getexif().get(0x0112, 1))


def _kind(image: Image.Image) -> tuple[int, bool, str]:
    """(channels, whether 16-bit gray, in words)."""
    mode, clear = image.mode, "transparency" in image.info
    if mode.startswith("I"):
        return 1, True, "16-bit gray"
    if mode == "F":
        raise Unreadable("floating-point pictures, which an npz can hold")
    if mode == "P" and not clear:
        return 3, False, "palette"
    if mode in ("P", "PA"):
        return 4, False, "palette with transparency"
    channels = _CHANNELS.get(mode, 3)
    if clear and channels in (1, 3):  # one colour of it is transparent
        return channels + 1, False, NAMES[channels + 1]
    if mode == "1":
        return 1, False, "black and white"
    name = NAMES[channels] if mode in _CHANNELS else mode
    return channels, False, f"16-bit {name}" if _is_cut_to_8_bits(image) else name


def _is_cut_to_8_bits(image: Image.Image) -> bool:
    """Whether Pillow reads 16 bits a channel of the file as 8."""
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", []))


def _deep(image: Image.Image, form: Form) -> Image.Image:
    """16-bit gray in floating point, or brought to 8 bits and the form's channels."""
    values = np.asarray(image).astype(np.float32)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("gray values beyond 16 bits")
    if form.deep:
        return Image.fromarray(values)
    return _converted(Image.fromarray((values / 257).round().astype(np.uint8)), form.shape[0])


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """8 bits of so many channels; what is transparent lies on white where there is no alpha."""
    known, _, _ = _kind(image)
    if known in (2, 4) and channels in (1, 3):
        below = Image.new("RGBA", image.size, "white")
        below.alpha_composite(image.convert("RGBA"))
        return below.convert("RGB").convert(MODES[channels])
    if image.mode not in MODES.values() or known != _CHANNELS[image.mode]:
        image = image.convert(MODES[known])
    return image.convert(MODES[channels])


def _resized(image: Image.Image, form: Form) -> Image.Image:
    """The size of the form."""
    height, width = form.shape[1:]
    if image.size == (width, height):
        return image
    across, down = float(image.width), float(image.height)
    if form.fit == "crop":
        scale = max(width / across, height / down)
        across, down = min(across, width / scale), min(down, height / scale)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
