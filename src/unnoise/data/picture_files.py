"""Files that may be pictures, and those of a folder: listed once, and read as they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, runtime_checkable

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


def is_hidden(part: str) -> bool:
    """Whether a system put it there and not the user: .git, .DS_Store, __MACOSX."""
    return part.startswith(".") or part == "__MACOSX"


def shown(name: str) -> str:
    """A name that can be printed: bytes that are no UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
