"""Run under jaxtyping: the shapes and types that annotations state are checked at every call of a test."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from programs import Python

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
