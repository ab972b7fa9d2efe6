"""Downloads: into a folder of their own, checked before they have a name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from unnoise.errors import UserError, is_disk_full
from unnoise.lock import waiting
from unnoise.version import __version__

CACHE = "UNNOISE_CACHE"
"""The environment variable that names the folder of downloads."""

_PIECE = 1 << 18
"""Bytes read at a time."""

_PATIENCE = 30.0
"""Seconds without a byte after which a server is given up."""


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Args:
        urls: where it is, in the order in which they are tried.
        sha256: of its bytes, 64 hexadecimal digits.
        size: in bytes.
        name: of the file; None: the last part of the first URL.
    """

    urls: tuple[str, ...]
    sha256: str
    size: int
    name: str = ""

    def __post_init__(self) -> None:
        if not self.urls or not all(u.startswith(("https://", "http://")) for u in self.urls):
            raise ValueError(f"a file to download has URLs that begin with https:// or http://, got {self.urls}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or self.size < 1:
            raise ValueError(f"{self.urls[0]} needs a sha256 of 64 digits and a size >= 1")
        if not self.name:
            object.__setattr__(self, "name", self.urls[0].rsplit("/", 1)[-1])


def cache_folder() -> Path:
    """Where downloads are kept: what UNNOISE_CACHE names, else "unnoise" in XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(CACHE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unnoise"


def fetch(remote: Remote, folder: str | Path, about: str = "") -> Path:
    """The file in `folder`; downloaded where it is not there, with progress on a terminal.

    It is written beside its name with ".part" added and gets its name when size and sha256 are right. What a broken
    connection leaves is gone on with at the next call, where the server sends parts of files. Of several processes one
    downloads and the others wait for it.

    Args:
        remote: the file.
        folder: made where it is missing.
        about: source and licence, told when a download begins.

    Raises:
        UserError: naming URL, file and remedy: no answer, an error of the server, a download cut off, a wrong checksum,
            a full disk.
    """
    folder = Path(folder)
    path = folder / remote.name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with waiting(folder / f"{remote.name}.lock"):
            if not path.is_file():
                line = f"{remote.name}: {remote.size / 1e6:.1f} MB from {remote.urls[0]}"
                tqdm.write(f"{line}: {about}" if about else line, file=sys.stderr)
                _download(remote, folder / f"{remote.name}.part", path)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror or e}: {_remedy(remote, path, e)}") from e
    return path


class _NoAnswerError(Exception):
    """Why this URL did not do: another one may."""


def _download(remote: Remote, part: Path, path: Path) -> None:
    """The whole content, checked, under its name; Raises UserError where no URL does, OSError where the disk fails."""
    missing = remote.size - (part.stat().st_size if part.exists() else 0)
    if missing > (free := shutil.disk_usage(part.parent).free):
        raise OSError(errno.ENOSPC, f"{missing / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")
    failures = []
    for url in remote.urls:
        try:
            _receive(url, remote, part)
            _check(url, remote, part)
            part.replace(path)
            return
        except _NoAnswerError as e:
            failures.append(str(e))
    if part.exists() and not part.stat().st_size:
        part.unlink()
    raise UserError(f"{'; '.join(failures)}: run it again, or {_by_hand(path)}")


def _receive(url: str, remote: Remote, part: Path) -> None:
    """Append to `part` what it lacks; Raises _NoAnswerError."""
    with part.open("ab") as file:
        start = file.tell()
        if start > remote.size:  # of another file
            start = file.truncate(0)
        if start == remote.size:
            return
        request = urllib.request.Request(url, headers={"User-Agent": f"unnoise/{__version__}"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        with _answer(url, request) as answer:
            if start and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                start = file.truncate(0)  # all of it is sent
            _copy(url, answer, file, start, remote)


def _answer(url: str, request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as e:
        with e:
            raise _NoAnswerError(f"{url} answers {e.code} {e.reason}") from e
    except (OSError, http.client.HTTPException) as e:
        raise _NoAnswerError(f"{url} cannot be reached: {getattr(e, 'reason', e)}") from e


def _copy(url: str, answer: http.client.HTTPResponse, file: BinaryIO, start: int, remote: Remote) -> None:
    """Write the answer to the file, of which `start` bytes are there; Raises _NoAnswerError where it ends too early."""
    there = start
    with tqdm(
        total=remote.size, initial=start, desc=remote.name, unit="B", unit_scale=True, disable=None, leave=False
    ) as bar:
        while there <= remote.size:  # one byte more shows that it is another file
            try:
                piece = answer.read(_PIECE)
            except (OSError, http.client.HTTPException) as e:
                raise _NoAnswerError(f"{url} was cut off after {there} of {remote.size} bytes") from e
            if not piece:
                break
            file.write(piece)
            there += len(piece)
            bar.update(len(piece))
    if there < remote.size:
        raise _NoAnswerError(f"{url} was cut off after {there} of {remote.size} bytes")


def _check(url: str, remote: Remote, part: Path) -> None:
    """Refuse and remove a file of another content; Raises _NoAnswerError."""
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if (size := part.stat().st_size) != remote.size or found != remote.sha256:
        part.unlink()
        raise _NoAnswerError(
            f"{url} holds another file: {size} bytes of sha256 {found[:12]}.., not {remote.size} of "
            f"{remote.sha256[:12]}..; it was removed"
        )


def _remedy(remote: Remote, path: Path, e: OSError) -> str:
    if is_disk_full(e):
        return f"free {remote.size / 1e6:.0f} MB, or set {CACHE} to a folder on another disk"
    return f"set {CACHE} to a folder that can be written to, or {_by_hand(path)}"


def _by_hand(path: Path) -> str:
    return f"fetch it by hand and save it as {path}"
