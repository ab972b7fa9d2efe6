"""Files of data: where they are, and reading them whole."""

from __future__ import annotations

import codecs
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unnoise.data.fetch import Remote, cache_folder, fetch
from unnoise.errors import UserError

VARIABLE = "UNNOISE_DATA"
"""The environment variable that names the folder of data."""

_AT_HAND = ContextVar("at_hand", default=False)

_MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00"}


def named_folder() -> Path | None:
    """The folder that UNNOISE_DATA names; None where it is not set; Raises UserError where there is no such folder."""
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_dir():
        raise UserError(f"{VARIABLE}={named} is no folder: set it to the folder that holds the data, or unset it")
    return Path(named) if named else None


def find(*parts: str) -> Path:
    """The file or folder at `parts` below the folder that UNNOISE_DATA names.

    Raises:
        UserError: where the variable is not set or names no folder, or there is nothing at that place.
    """
    wanted, root = "/".join(parts), named_folder()
    if root is None:
        raise UserError(
            f"{wanted} is looked for in the folder that the environment variable {VARIABLE} names, which is not set: "
            "set it, or pass path=..."
        )
    path = root.joinpath(*parts)
    if not path.exists():
        raise UserError(f"no such file: {path}: set {VARIABLE} to the folder that holds {wanted}, or pass path=...")
    return path


class AbsentError(UserError):
    """What is to be downloaded first: a name, and how much."""


@contextmanager
def at_hand() -> Iterator[None]:
    """Within, nothing is downloaded: what would be is an `AbsentError`."""
    token = _AT_HAND.set(True)
    try:
        yield
    finally:
        _AT_HAND.reset(token)


def locate(name: str, remotes: Sequence[Remote], about: str) -> Path:
    """The folder of a named set: `name` in UNNOISE_DATA, else in the cache, where what is missing is downloaded.

    Args:
        name: of the folder.
        remotes: the files of the set.
        about: source and licence, told when a download begins.

    Raises:
        UserError: where the variable names no folder; where a download fails, as `fetch` tells.
        AbsentError: within `at_hand`, where there is something to download.
    """
    root, folder = named_folder(), cache_folder() / name
    if root and (root / name).exists():
        return root / name
    missing = sum(remote.size for remote in remotes if not (folder / remote.name).is_file())
    if missing and _AT_HAND.get():
        raise AbsentError(f"{name} ({missing / 1e6:.0f} MB)")
    try:
        for remote in remotes:
            fetch(remote, folder, about)
    except UserError as e:
        if root is None:
            raise
        raise UserError(f"{VARIABLE}={root} holds no {name}, and {e}") from e
    return folder


def read_bytes(path: str | Path) -> bytes:
    """The content of a file; that of a gzip or xz file decompressed.

    What is compressed is known by its first bytes; a name in .gz or .xz with other ones is refused.

    Raises:
        UserError: for a file that is missing, empty, damaged or not what its name says.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is a folder, not a file" if path.is_dir() else f"no such file: {path}")
    try:
        data = path.read_bytes()
        if not data:
            raise UserError(f"{path} is empty: fetch it again")
        kind = next((k for k, magic in _MAGIC.items() if data.startswith(magic)), "")
        if path.suffix in _MAGIC and kind != path.suffix:
            raise UserError(
                f"{path} is not a {path.suffix[1:]} file: fetch it again, or rename it if it is decompressed"
            )
        if kind == ".gz":
            return gzip.decompress(data)
        return lzma.decompress(data) if kind == ".xz" else data
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise UserError(f"{path} is damaged or cut short: {e}: fetch it again") from e


def read_tar(path: str | Path) -> dict[str, bytes]:
    """The files in a tar, compressed or not, by name, in its order; nothing is written to disk.

    Raises:
        UserError: for a tar that is missing, damaged or none.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is a folder, not a tar" if path.is_dir() else f"no such file: {path}")
    try:
        with tarfile.open(path) as tar:
            return {m.name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m))}
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise UserError(f"{path} is not a readable tar: {str(e).splitlines()[0]}: fetch it again") from e


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, plain, gzip or xz, without its byte order mark; line ends as they are.

    Raises:
        UserError: as `read_bytes`, and for bytes that are not UTF-8, naming the first.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8").removeprefix(codecs.BOM_UTF8.decode())
    except UnicodeDecodeError as e:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[e.start]:02x} at offset {e.start}: convert it (iconv -t utf-8)"
        ) from e


def read_arrays(path: str | Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names in an npz file, or of all where none is named; nothing is unpickled.

    Raises:
        UserError: for a file that is missing, damaged, not npz or without one of the arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is a folder, not an npz file" if path.is_dir() else f"no such file: {path}")
    try:
        with path.open("rb") as f:
            if not (head := f.read(6)).startswith(b"PK"):
                kind = "an npy file, which is one array" if head == b"\x93NUMPY" else "no archive of arrays"
                raise UserError(f"{path} is not a readable npz file but {kind}: save with np.savez(path, x=array)")
            f.seek(0)
            with np.load(f, allow_pickle=False) as file:
                there = file.files
                found = {k: file[k] for k in names or there if k in there}
    except (ValueError, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as e:
        if "allow_pickle" in str(e):
            raise UserError(f"{path} holds Python objects, which are not read: save arrays of numbers") from e
        raise UserError(f"{path} is damaged or cut short: {e}: fetch it again") from e
    if other := [k for k, a in found.items() if not isinstance(a, np.ndarray)]:
        raise UserError(f"{path} is a zip, not an npz file: {other[0]!r} in it is no array")
    if missing := [k for k in names if k not in found]:
        raise UserError(f"{path} has no array {missing[0]!r}, only {sorted(there) or 'nothing'}")
    return found
