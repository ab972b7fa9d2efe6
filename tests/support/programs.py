"""Python programs in processes of their own, which need not import the libraries each for itself."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORKS = Path(__file__).with_name("forks.py")


class Python:
    """`python ...` in processes of their own, forked from one that has imported the libraries, and nothing of ours.

    What libraries read from the environment as they are imported, they have read; the rest is as if started anew.

    Args:
        folder: for what the processes say.
        of: another, from which this one is forked, to run the code `imports` first.
        imports: such as imports of ours, where it is not what happens at them that is tested.
    """

    def __init__(self, folder: Path, of: Python | None = None, imports: str = "") -> None:
        self.folder, self.numbers = folder, itertools.count()
        self.socket, theirs = socket.socketpair()
        self.answers = self.socket.makefile()
        with theirs:
            if of is not None:
                of.ask({"imports": imports}, [theirs.fileno()])
                return
            command = [sys.executable, str(FORKS), str(theirs.fileno())]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, pass_fds=[theirs.fileno()], env=environment, check=True)

    def ask(self, order: Mapping[str, Any], files: list[int]) -> Any:
        message = json.dumps(order).encode() + b"\n"
        sent = socket.send_fds(self.socket, [message], files) if files else 0
        self.socket.sendall(message[sent:])
        return json.loads(self.answers.readline())

    def start(
        self,
        *arguments: Any,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stderr: int | None = None,
        session: bool = False,
    ) -> Process:
        """As of `subprocess.Popen`; what it says is kept in files, but for a `stderr` that is given."""
        said = [self.folder / f"{next(self.numbers)}.txt" for _ in range(2)]
        order = {"arguments": [str(a) for a in arguments], "folder": str(cwd or Path.cwd()), "session": session}
        with Path(os.devnull).open() as nothing, said[0].open("w") as out, said[1].open("w") as errors:
            files = [nothing.fileno(), out.fileno(), errors.fileno() if stderr is None else stderr]
            pid = self.ask(order | {"environment": dict(os.environ if env is None else env)}, files)
        return Process(self, pid, said)

    def run(self, *arguments: Any, timeout: float = 300, **given: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **given)
        try:
            out, err = process.communicate(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)

    def group(
        self, count: int, *arguments: Any, env: Mapping[str, str] | None = None, timeout: float = 300
    ) -> list[tuple[str, str]]:
        """As of torchrun on one host: `count` processes that find each other, and all end where one fails."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
        ranks = [(env or os.environ) | group | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)]
        processes = [self.start(*arguments, env=env) for env in ranks]
        end = time.monotonic() + timeout
        try:
            while None in (codes := [process.poll() for process in processes]) and not any(codes):
                assert time.monotonic() < end, "a group that does not end"
                time.sleep(0.01)
        finally:
            for process in processes:
                process.kill()
        said = [process.communicate() for process in processes]
        assert not any(codes), "\n".join(err[-3000:] for _, err in said)
        return said

    def close(self) -> None:
        """Which ends the one that forks."""
        self.answers.close()
        self.socket.close()


class Process:
    """One of them, as `subprocess.Popen` has it."""

    def __init__(self, of: Python, pid: int, said: list[Path]) -> None:
        self.of, self.pid, self.said = of, pid, said
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.of.ask({"wait": self.pid}, [])
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)
        return code

    @property
    def text(self) -> str:
        """What it said so far, errors last."""
        return "".join(file.read_text(encoding="utf8") for file in self.said)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it said, once it has ended."""
        self.wait(timeout)
        out, err = (file.read_text(encoding="utf8") for file in self.said)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
