"""Downloads from a real server on this machine: whole, cut off and gone on with, wrong, missing, on a full disk."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from unnoise.data import home
from unnoise.data.fetch import Remote, cache_folder, fetch
from unnoise.errors import UserError

CONTENT = np.random.default_rng(0).bytes(700_000)


@dataclass
class Server:
    """What is served at /name, and how.

    Args:
        url: of the server.
        files: content by name.
        cut: bytes after which each of the next answers ends; the first of the list is used up.
        ranges: whether parts of files are sent.
        seen: for each request its name and its Range.
    """

    url: str
    files: dict[str, bytes]
    cut: list[int] = field(default_factory=list)
    ranges: bool = True
    seen: list[tuple[str, str | None]] = field(default_factory=list)

    def remote(self, name: str = "a.bin", content: bytes = CONTENT, *more: str) -> Remote:
        urls = tuple(f"{self.url}/{n}" for n in (name, *more))
        return Remote(urls, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, part = self.path[1:], self.headers.get("Range")
            state.seen.append((name, part))
            if name not in state.files:
                self.send_error(404)
                return
            content, start = state.files[name], 0
            if part and state.ranges:
                start = int(part.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + state.cut.pop(0) if state.cut else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *args: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{web.server_port}", {"a.bin": CONTENT})
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    web.shutdown()
    thread.join()
    web.server_close()


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.suffix != ".lock"}


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        path = fetch(server.remote(), tmp_path / "new" / "folder", "by A, CC0")
        assert path == tmp_path / "new" / "folder" / "a.bin" and path.read_bytes() == CONTENT
    assert server.seen == [("a.bin", None)] and names(path.parent) == {"a.bin"}
    assert capsys.readouterr().err == f"a.bin: 0.7 MB from {server.url}/a.bin: by A, CC0\n"


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_cut_off_is_gone_on_with(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut, server.ranges = [300_000, 250_000 if ranges else 550_000], ranges
    for there in (300_000, 550_000):
        message = rf"{server.url}/a.bin was cut off after {there} of 700000 bytes: run it again, or .*{tmp_path}/a.bin"
        with pytest.raises(UserError, match=message):
            fetch(server.remote(), tmp_path)
        assert names(tmp_path) == {"a.bin.part"}
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
    assert [part for _, part in server.seen] == [None, "bytes=300000-", "bytes=550000-"]
    assert names(tmp_path) == {"a.bin"}


def test_a_connection_that_breaks_is_a_download_cut_off(tmp_path: Path) -> None:
    """Without an end of the answer: the server resets the connection in the midst of it."""
    import socket
    import struct

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection = listening.accept()[0]
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 700000\r\n\r\n" + CONTENT[:100])
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=answer)
        thread.start()
        remote = Remote((f"http://127.0.0.1:{listening.getsockname()[1]}/a.bin",), "0" * 64, len(CONTENT))
        with pytest.raises(UserError, match=r"a.bin (was cut off after \d+ of 700000 bytes|cannot be reached)"):
            fetch(remote, tmp_path)
        thread.join()
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize(
    ("sent", "found"),
    [(CONTENT[:-1] + b"!", "700000 bytes"), (CONTENT + b"!", "700001 bytes")],
    ids=["other bytes", "too long"],
)
def test_another_file_is_refused_and_removed(server: Server, tmp_path: Path, sent: bytes, found: str) -> None:
    server.files["a.bin"] = sent
    message = rf"{server.url}/a.bin holds another file: {found} of sha256 [0-9a-f]{{12}}.*it was removed: run it again"
    with pytest.raises(UserError, match=message) as e:
        fetch(server.remote(), tmp_path)
    assert "\n" not in str(e.value) and names(tmp_path) == set()
    server.files["a.bin"] = CONTENT
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [b"x" * 100, CONTENT + b"more", CONTENT], ids=["other", "longer", "whole"])
def test_what_is_left_of_another_download_does_no_harm(server: Server, tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "a.bin.part").write_bytes(rest)
    if rest[:1] == b"x":
        with pytest.raises(UserError, match="holds another file"):
            fetch(server.remote(), tmp_path)
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
    assert rest != CONTENT or not server.seen  # nothing was left to be asked for


def test_the_next_url_is_tried(server: Server, tmp_path: Path) -> None:
    remote = server.remote("gone.bin", CONTENT, "a.bin")
    assert fetch(remote, tmp_path).name == "gone.bin" and [n for n, _ in server.seen] == ["gone.bin", "a.bin"]


def test_no_answer_names_url_file_and_remedy(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        fetch(server.remote("none.bin"), tmp_path)
    assert str(e.value) == (
        f"{server.url}/none.bin answers 404 Not Found: run it again, or fetch it by hand and save it as "
        f"{tmp_path}/none.bin"
    )
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/a cannot be reached: .*efused.*save it as"):
        fetch(Remote(("http://127.0.0.1:9/a",), "0" * 64, 1), tmp_path)
    assert not names(tmp_path)


def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    url = (f"{server.url}/a.bin",)
    with pytest.raises(UserError, match=rf"{tmp_path}/a.bin cannot be written: .* are needed, .* UNNOISE_CACHE"):
        fetch(Remote(url, "0" * 64, 1 << 60), tmp_path)
    assert server.seen == []
    if not Path("/dev/full").exists():
        pytest.skip("a device that is always full is Linux's")
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"a.bin cannot be written: No space left on device: free 1 MB, or set UNNOISE"):
        fetch(server.remote(), tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_a_folder_that_cannot_be(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a.bin cannot be written: .*set UNNOISE_CACHE"):
        fetch(server.remote(), tmp_path / "file")


def test_several_at_once_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: fetch(server.remote(), tmp_path), range(6)))
    assert {p.read_bytes() for p in paths} == {CONTENT} and server.seen == [("a.bin", None)]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNNOISE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "unnoise"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/unnoise")
    monkeypatch.setenv("UNNOISE_CACHE", "/y/z")
    assert cache_folder() == Path("/y/z")


def test_the_data_folder_comes_before_the_cache(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNNOISE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    assert home.locate("set", [server.remote()], "") == tmp_path / "cache" / "set"
    assert (tmp_path / "cache" / "set" / "a.bin").read_bytes() == CONTENT
    monkeypatch.delenv("UNNOISE_DATA")
    assert home.locate("set", [server.remote()], "") == tmp_path / "cache" / "set" and len(server.seen) == 1
    (tmp_path / "data" / "set").mkdir()
    monkeypatch.setenv("UNNOISE_DATA", str(tmp_path / "data"))
    assert home.locate("set", [server.remote()], "") == tmp_path / "data" / "set" and len(server.seen) == 1


def test_a_data_folder_that_does_not_help_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None at all before anything is downloaded; one that lacks the set where the download fails."""
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNNOISE_DATA", str(tmp_path / "nowhere"))
    remote = Remote(("http://127.0.0.1:9/a.bin",), "0" * 64, 1)
    for look in (lambda: home.locate("set", [remote], ""), lambda: home.find("set", "a.npz")):
        with pytest.raises(UserError, match=rf"^UNNOISE_DATA={tmp_path}/nowhere is no folder: set it to"):
            look()
    assert not (tmp_path / "cache").exists()
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(
        UserError, match=rf"^UNNOISE_DATA={tmp_path}/nowhere holds no set, and http://127.0.0.1:9/a.bin"
    ):
        home.locate("set", [remote], "")


def test_a_remote_is_checked() -> None:
    good = {"urls": ("https://a.org/b/c.gz",), "sha256": "0" * 64, "size": 3}
    assert Remote(**good).name == "c.gz"  # type: ignore[arg-type]
    for bad in ({"urls": ()}, {"urls": ("file:///etc/passwd",)}, {"sha256": "0" * 63}, {"size": 0}):
        with pytest.raises(ValueError, match=r"URLs that begin with|needs a sha256"):
            Remote(**{**good, **bad})  # type: ignore[arg-type]


@pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")
def test_published_hashes_are_those_of_the_files_here() -> None:
    """Three of MNIST's four files are the published ones to the byte; the fourth was compressed again."""
    from unnoise.data.mnist import REMOTES

    same = 0
    for remote in REMOTES:
        content = Path(os.environ["UNNOISE_DATA"], "mnist", remote.name).read_bytes()
        if remote.name.startswith("train-images"):
            continue
        assert len(content) == remote.size and hashlib.sha256(content).hexdigest() == remote.sha256
        same += 1
    assert same == 3
    assert all(re.fullmatch("[0-9a-f]{64}", r.sha256) for r in REMOTES)
