"""Pictures in a zip or a tar, read by their place in it; nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath

from unnoise.data.picture_files import Content, Listed, PictureFile, Tally, is_hidden, shown, sorted_by_name
from unnoise.errors import UserError

LARGEST = 2**30
"""Bytes of a file in an archive above which it is skipped: no picture, or a bomb."""


@dataclass(frozen=True, slots=True)
class InTar:
    """A file in a tar that is not compressed, read by its place.

    Args:
        name: its path in the archive.
        size: its bytes.
        path: the archive.
        start: of its content in the archive.
    """

    name: str
    size: int
    path: str
    start: int

    def open(self) -> Content:
        """Its content."""
        with Path(self.path).open("rb") as f:
            f.seek(self.start)
            return BytesIO(_exactly(f, self.size))


@dataclass(frozen=True, slots=True)
class InZip:
    """A file in a zip, stored or deflated, read by its place.

    Args:
        name: its path in the archive.
        size: its bytes.
        path: the archive.
        start: of its local header.
        packed: bytes that it takes in the archive.
        deflated: whether they are compressed.
        crc: checksum of its content.
    """

    name: str
    size: int
    path: str
    start: int
    packed: int
    deflated: bool
    crc: int

    def open(self) -> Content:
        """Its content, checked."""
        with Path(self.path).open("rb") as f:
            f.seek(self.start)
            header = _exactly(f, 30)
            if header[:4] != b"PK\x03\x04":
                raise OSError("its place in the zip holds something else: the zip is damaged or has changed")
            f.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
            content = _exactly(f, self.packed)
        if self.deflated:
            content = zlib.decompressobj(-15).decompress(content, self.size + 1)
        if len(content) != self.size or zlib.crc32(content) != self.crc:
            raise OSError("its checksum in the zip is another: the zip is damaged")
        return BytesIO(content)


@dataclass(frozen=True, slots=True)
class Held:
    """A file held in memory: of a tar that can only be read from its beginning.

    Args:
        name: its path in the archive.
        content: its bytes.
    """

    name: str
    content: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.content)

    def open(self) -> Content:
        """Its content."""
        return BytesIO(self.content)


def _exactly(file: Content, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise EOFError("the archive is cut short")
    return content


def in_zip(path: Path, skipped: Tally) -> Listed:
    """The files of a zip; Raises UserError for one that is damaged, encrypted, or points outside of itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, struct.error) as e:
        raise UserError(f"{path} is not a readable zip: {e}: make or fetch it again") from e
    require_inside(path, (m.orig_filename for m in members))
    found: list[PictureFile] = []
    for m in members:
        if m.is_dir() or any(is_hidden(p) for p in PurePosixPath(m.filename).parts):
            continue
        if m.flag_bits & 1:
            raise UserError(f"{path} is encrypted ({shown(m.filename)}): unzip it, and name the folder")
        if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            skipped.add(f"compressed by the rare zip method {m.compress_type}", shown(m.filename))
        elif m.file_size > LARGEST:
            skipped.add("larger than 1 GiB", shown(m.filename))
        else:
            deflated = m.compress_type == zipfile.ZIP_DEFLATED
            place = (m.header_offset, m.compress_size, deflated, m.CRC)
            found.append(InZip(shown(m.filename), m.file_size, str(path), *place))
    return sorted_by_name(found, packed=True)


def in_tar(path: Path, skipped: Tally, memory: float) -> Listed:
    """The files of a tar, plain or compressed; those of a compressed one are held in memory as they are.

    Raises:
        UserError: for one that is damaged or points outside of itself; or is compressed, with files of more than
            `memory` bytes.
    """
    found: list[PictureFile] = []
    held = 0
    try:
        plain = _is_plain_tar(path)
        with tarfile.open(path) as tar:
            for m in tar:
                require_inside(path, [m.name])
                if m.isdir() or any(is_hidden(p) for p in PurePosixPath(m.name).parts):
                    continue
                name = shown(PurePosixPath(m.name).as_posix())
                if not m.isreg() or m.issparse():
                    skipped.add("links and devices", name)
                elif m.size > LARGEST:
                    skipped.add("larger than 1 GiB", name)
                elif plain:
                    found.append(InTar(name, m.size, str(path), m.offset_data))
                else:
                    held += m.size
                    if held > memory:
                        raise UserError(
                            f"{path} is compressed, so that its files are held in memory, and they take more than "
                            f"{memory / 2**30:g} GiB: decompress it to a plain .tar, or set memory=..."
                        )
                    file = tar.extractfile(m)
                    assert file is not None
                    found.append(Held(name, file.read()))
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as e:
        raise UserError(f"{path} is not a readable tar: {str(e).splitlines()[0]}: make or fetch it again") from e
    return sorted_by_name(found, packed=True)


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, mode="r:"):
            return True
    except tarfile.TarError:
        return False


def require_inside(path: Path, names: Iterator[str] | Sequence[str]) -> None:
    """Refuse an archive that has a member outside of itself: it is broken, or meant to do harm.

    Raises:
        UserError: naming the member.
    """
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or parts[0][1:2] == ":":
            raise UserError(f"{path} has a member that points outside of it, {shown(name)!r}: do not trust it")
