"""Where pictures lie: a folder, a zip or a tar, listed once and read file by file; nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, runtime_checkable

from unnoise.errors import UserError

LARGEST = 2**30
"""Bytes of a file in an archive above which it is skipped: no picture, or a bomb."""

Part = Literal["train", "held_out"]
Content = BufferedReader | BytesIO
"""What a file holds, to be read."""


class Tally:
    """Counts by reason, each with the first name that it was counted for."""

    def __init__(self) -> None:
        self.by_reason: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str) -> None:
        """One more."""
        count, first = self.by_reason.get(reason, (0, name))
        self.by_reason[reason] = (count + 1, first)


@runtime_checkable
class PictureFile(Protocol):
    """A file that may be a picture; a value that other processes can read as well."""

    @property
    def name(self) -> str:
        """How messages name it: its path in the folder or archive."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    def open(self) -> Content:
        """Its content; Raises OSError, EOFError, ValueError or zlib.error where that cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file of a folder.

    Args:
        name: its path in the folder.
        size: its bytes.
        path: where it is.
    """

    name: str
    size: int
    path: str

    def open(self) -> Content:
        """The file."""
        return Path(self.path).open("rb")


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


@dataclass(frozen=True)
class Listed:
    """The files of a set, in a fixed order.

    Args:
        files: in the order of their names.
        label: of each, the name of its class; empty where folders say so.
        part: of each, whether it is trained on or held out; empty where the set does not say.
        classes: names in the order of their numbers, where the set states them.
        packed: whether leading folders that all pictures share are to be overlooked: an archive of a folder holds it.
    """

    files: Sequence[PictureFile]
    label: Sequence[str | None] = ()
    part: Sequence[Part | None] = ()
    classes: tuple[str, ...] = ()
    packed: bool = False


def sorted_by_name(files: Sequence[PictureFile], packed: bool = False) -> Listed:
    """Files of a folder or an archive."""
    return Listed(sorted(files, key=lambda f: f.name), packed=packed)


def folders(files: Sequence[PictureFile], packed: bool) -> list[str | None]:
    """The folder of the first level that each file lies in; None: in none. See `Listed`."""
    parents = [PurePosixPath(f.name).parts[:-1] for f in files]
    shared = 0
    while packed and parents and len({p[: shared + 1] for p in parents}) == 1 and len(parents[0]) > shared:
        shared += 1
    return [p[shared] if len(p) > shared else None for p in parents]


def in_folder(path: Path, skipped: Tally) -> Listed:
    """The files below a folder, those of linked folders among them; hidden ones are left out."""
    found: list[PictureFile] = []
    seen: set[tuple[int, int]] = set()

    def enter(folder: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link back to where we are, or to what we have had
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                within = sorted(entries, key=lambda e: e.name)
        except OSError:
            skipped.add("folders that cannot be read", shown(folder.relative_to(path).as_posix()))
            return
        for entry in within:
            yield entry, shown(Path(entry.path).relative_to(path).as_posix())

    waiting = [path]
    while waiting:
        for entry, name in enter(waiting.pop()):
            if is_hidden(entry.name):
                continue
            try:
                if entry.is_dir():
                    waiting.append(Path(entry.path))
                elif entry.is_file():
                    found.append(OnDisk(name, entry.stat().st_size, entry.path))
                else:
                    skipped.add("links to nothing, or no files", name)
            except OSError:
                skipped.add("links to nothing, or no files", name)
    return sorted_by_name(found)


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


def is_hidden(part: str) -> bool:
    """Whether a system put it there and not the user: .git, .DS_Store, __MACOSX."""
    return part.startswith(".") or part == "__MACOSX"


def shown(name: str) -> str:
    """A name that can be printed: bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
