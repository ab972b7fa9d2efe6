"""Run under jaxtyping: the shapes and types that annotations state are checked at every call of a test."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

CHECKED = ("core", "sample", "guide", "data", "modality", "metrics", "optim")
"""Networks are left out, which must be traceable in one graph, and kernels, which Triton reads itself."""

# Before anything of ours is imported. As for mypy, an int will do where a float is asked for (PEP 484).
hook = jaxtyping.install_import_hook(
    [
        f"unnoise.{package}.{file.stem}"
        for package in CHECKED
        for file in (Path(__file__).parents[1] / "src" / "unnoise" / package).glob("*.py")
        if not file.stem.endswith("_cuda")
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

torch.set_num_threads(1)
torch.backends.cudnn.allow_tf32 = False  # on a GPU too, float32 is float32

# Kernels are tested by Triton's interpreter where there is no GPU; Triton asks when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# What is kept between calls is kept for this session only: tests neither find nor leave anything in the user's cache.
_CACHE = tempfile.TemporaryDirectory(prefix="unnoise-cache-")
os.environ["UNNOISE_CACHE"] = _CACHE.name

# Tests work in folders of their own: `make test` may have named the data from the folder of the project.
if data := os.environ.get("UNNOISE_DATA"):
    os.environ["UNNOISE_DATA"] = str(Path(data).resolve())

# No test waits for the network, those in other processes included: what is not on this machine is refused at once.
os.environ |= {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "127.0.0.1,localhost",
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the tests of a file share is made once: by one worker, which runs all of them. So is the judge."""
    for item in items:
        definitions: Mapping[str, Any] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
        if "judge" in definitions:
            item.add_marker(pytest.mark.xdist_group("judge"))
        elif any(found[-1].scope == "module" for found in definitions.values()):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


_UNREAD: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Where the data are there, no test that needs them may be skipped."""
    if report.skipped and os.environ.get("UNNOISE_DATA") and "UNNOISE_DATA" in str(report.longrepr):
        _UNREAD.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _UNREAD:
        session.exitstatus = 1
        print(f"\nUNNOISE_DATA is set, and yet skipped for want of data: {', '.join(_UNREAD)}")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the run-time checker: for a wrong type on purpose, where our own error is what is tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@contextmanager
def _no_waiting() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once a process that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def no_waiting() -> Callable[[], AbstractContextManager[None]]:
    """Within what it returns, the host's waiting for a GPU is an error."""
    return _no_waiting


# Processes -----------------------------------------------------------------------------------------------------------

FORKS = """
import os
if os.fork():
    os._exit(0)  # no child of the tests' own process, some of which count them
import gc, json, runpy, signal, socket, sys
import numpy, PIL.Image, safetensors.torch, sklearn.datasets, torch, torch._dynamo  # seconds, and none of them ours
gc.freeze()  # else each process that ends takes a second to look through them
asked = socket.socket(fileno=int(sys.argv[1]))
while True:
    text, streams = b"", []
    while not text.endswith(b"\\n"):
        part, given, _, _ = socket.recv_fds(asked, 1 << 16, 3)
        if not part:
            sys.exit()
        text, streams = text + part, streams + given
    job = json.loads(text)
    if "wait" in job:
        pid, status = os.waitpid(job["wait"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if not answer and "imports" not in job:
            break
        if not answer:
            asked.close()
            asked = socket.socket(fileno=streams[0])
            exec(job["imports"])
            gc.freeze()
            continue
        for stream in streams:
            os.close(stream)
    asked.sendall(json.dumps(answer).encode() + b"\\n")
asked.close()
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
if job["session"]:
    os.setsid()
os.environ.clear()
os.environ.update(job["environment"])
os.chdir(job["folder"])
signal.signal(signal.SIGINT, signal.default_int_handler)
what, *sys.argv = job["arguments"]
sys.path[0] = os.path.dirname(what) if what not in ("-c", "-m") else os.getcwd() if what == "-m" else ""
if what == "-c":
    code, sys.argv[0] = sys.argv[0], "-c"
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
elif what == "-m":
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv.insert(0, what)
    runpy.run_path(what, run_name="__main__")
"""


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
            command = [sys.executable, "-c", FORKS, str(theirs.fileno())]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, pass_fds=[theirs.fileno()], env=environment, check=True)

    def ask(self, job: Mapping[str, Any], streams: list[int]) -> Any:
        message = json.dumps(job).encode() + b"\n"
        sent = socket.send_fds(self.socket, [message], streams) if streams else 0
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
        job = {"arguments": [str(a) for a in arguments], "folder": str(cwd or Path.cwd()), "session": session}
        with Path(os.devnull).open() as nothing, said[0].open("w") as out, said[1].open("w") as errors:
            streams = [nothing.fileno(), out.fileno(), errors.fileno() if stderr is None else stderr]
            pid = self.ask(job | {"environment": dict(os.environ if env is None else env)}, streams)
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


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Python]:
    """Starts Python programs, each in a process of its own."""
    started = Python(tmp_path_factory.mktemp("python"))
    yield started
    started.close()


# What is trained once ------------------------------------------------------------------------------------------------

TINY = ("model.net.width=8", "model.net.head_width=8", "judge.samples=512", "judge.width=8")
"""Overrides that make the digits recipe a matter of seconds."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the digits recipe, of 30 steps: for reading only."""
    from unnoise import Runtime, fit, recipes
    from unnoise.override import override

    recipe = recipes.load("digits")[0]
    for assignment in TINY:
        recipe = override(recipe, assignment)
    path = tmp_path_factory.mktemp("tiny") / "digits"
    fit.start(recipe, path, Runtime(), samples=30 * recipe.batch)
    return path


@pytest.fixture(scope="session")
def judge() -> Any:
    """The judge of the digits recipe, trained on its training data as `unnoise evaluate` trains it."""
    from unnoise import recipes

    recipe = recipes.load("digits")[0]
    assert recipe.judge is not None
    return recipe.judge.train(recipe.data.load().train, torch.device("cpu"))
