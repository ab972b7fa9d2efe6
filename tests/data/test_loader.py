"""Columns that are read when they are asked for: the same batches whoever reads them, plain errors, no process left."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unnoise import Runtime, fit, forecast, recipes, session
from unnoise.checkpoint import locate, read
from unnoise.data import Digits, loader
from unnoise.data.dataset import Dataset, Lazy, View, loaded, split
from unnoise.data.loader import EACH, default_workers, read_ahead
from unnoise.data.stream import batches, items
from unnoise.errors import UserError
from unnoise.evaluate import loss_by_level
from unnoise.judges import Classifier
from unnoise.log import read_lines
from unnoise.state import State

if TYPE_CHECKING:
    from programs import Python

COUNT = 37


@dataclass(frozen=True)
class Files:
    """Gray PNG files 0.png, 1.png, .. of a folder."""

    folder: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Tensor:
        numbers = torch.arange(len(self))[rows].tolist()
        return torch.from_numpy(np.stack([self.one(Path(self.folder, f"{i}.png")) for i in numbers]))[:, None]

    def one(self, path: Path) -> Any:
        try:
            return np.array(Image.open(path))
        except Image.UnidentifiedImageError as e:
            raise UserError(f"{path} is not a picture") from e


@dataclass(frozen=True)
class Rows:
    """Numbers in memory that are read like a lazy column."""

    x: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> Tensor:
        return self.x[rows]


def write(x: Tensor, folder: Path) -> Files:
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(x[:, 0].numpy()):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return Files(str(folder), tuple(x.shape))


@pytest.fixture(scope="module")
def columns() -> dict[str, Tensor]:
    """Real digits, in memory."""
    return {k: loaded(v)[:COUNT] for k, v in Digits().load().train.items()}


@pytest.fixture
def files(columns: dict[str, Tensor], tmp_path: Path) -> dict[str, Any]:
    """The same digits, the pictures as files."""
    return {**columns, "x": write(columns["x"], tmp_path / "pictures")}


def take(count: int, found: dict[str, Any], **options: Any) -> list[dict[str, Tensor]]:
    with contextlib.closing(batches(found, 8, seed=2, **options)) as stream:
        return list(itertools.islice(stream, count))


def assert_same(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for k in one:
            assert one[k].dtype == other[k].dtype and torch.equal(one[k], other[k])


def children() -> set[int]:
    return {int(p) for p in Path("/proc/thread-self/children").read_text().split()}


def until(met: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


# Lazy columns in a data set ------------------------------------------------------------------------------------------


def test_a_split_of_a_lazy_column_is_a_view_of_the_same_items(
    columns: dict[str, Tensor], files: dict[str, Any]
) -> None:
    kept, lazy = (Dataset(*split(found, 0.3, 5)) for found in (columns, files))
    assert len(kept) == len(lazy) == 26
    for a, b in ((kept.train, lazy.train), (kept.held_out, lazy.held_out)):
        column = b["x"]
        assert isinstance(column, View) and isinstance(column, Lazy) and tuple(column.shape) == tuple(a["x"].shape)
        assert torch.equal(loaded(column), loaded(a["x"])) and torch.equal(loaded(b["label"]), loaded(a["label"]))
        assert torch.equal(column[2:5], a["x"][2:5])
        assert torch.equal(column[torch.tensor([3, 0, 3])], a["x"][torch.tensor([3, 0, 3])])
    again = split(lazy.train, 0.5, 1)[0]["x"]  # a view of a view
    assert torch.equal(loaded(again), loaded(split(kept.train, 0.5, 1)[0]["x"]))


def test_what_is_looked_at_of_a_lazy_column_is_spread_evenly(files: dict[str, Any], columns: dict[str, Tensor]) -> None:
    spread = torch.tensor([0, 9, 18, 27])  # floor of multiples of 37 / 4
    assert torch.equal(loaded(files["x"], 4), columns["x"][spread])
    assert torch.equal(loaded(files["x"], 100), columns["x"]) and loaded(columns["x"], 4) is columns["x"]
    assert len(loaded(View(files["x"], torch.arange(0)), 4)) == 0


def test_columns_of_other_lengths_are_refused(files: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"differ in length: \{'x': 37, 'label': 36\}"):
        Dataset({"x": files["x"], "label": torch.arange(36)}, {"x": files["x"]})


# The same batches, whoever reads them --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_do_not_depend_on_who_reads_them(
    columns: dict[str, Tensor], files: dict[str, Any], workers: int
) -> None:
    """Pitfall 21: nor on where a run goes on, in the middle of an epoch too. 12 batches are 2.6 epochs."""
    whole = take(12, columns)
    assert_same(take(12, files, workers=workers), whole)
    assert_same(take(5, files, workers=workers, seen=7 * 8), whole[7:])


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_of_any_number_share_the_batches(
    columns: dict[str, Tensor], files: dict[str, Any], workers: int
) -> None:
    """Pitfall 21, elastic: two processes go on with what one began, and together have its batches."""
    whole = take(6, columns)
    ranks = [take(4, files, workers=workers, seen=16, rows=Runtime(rank=r, world=2).shard(8)) for r in (0, 1)]
    joined = [{k: torch.cat([a[k], b[k]]) for k in a} for a, b in zip(*ranks, strict=True)]
    assert_same(joined, whole[2:])


def test_reading_leaves_other_randomness_alone(files: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    take(2, files, workers=2)
    assert torch.equal(torch.get_rng_state(), before)


# What is read ahead --------------------------------------------------------------------------------------------------


def drawn(workers: int, taken: int) -> int:
    """How many batches the reader has asked for when so many are taken."""
    x, count = torch.arange(100.0)[:, None], itertools.count()
    column = Rows(x, (100, 1), torch.float32)
    order = (torch.tensor([next(count) % 100] * 4) for _ in itertools.count())
    with contextlib.closing(read_ahead({"x": column}, order, 4, workers, False)) as stream:
        for i in range(taken):
            assert next(stream)["x"].flatten().tolist() == [i] * 4
    return next(count)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_so_many_batches_are_read_ahead_and_no_more(workers: int) -> None:
    assert drawn(workers, 10) == 10 + EACH * workers


def test_very_large_batches_are_read_by_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "AHEAD", 2 * EACH * 16)  # a batch has 16 bytes
    assert drawn(4, 5) == 5 + EACH * 2


def test_cores_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)))
    found = []
    for world in ("1", "2", "9", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", world)
        found.append(default_workers())
    assert found == [8, 3, 0, 0]


# What cannot be read -------------------------------------------------------------------------------------------------


def said(found: dict[str, Any], workers: int) -> tuple[int, str]:
    """How many batches came before the error, and its message."""
    stream = batches(found, 8, seed=2, workers=workers)
    count = 0
    with pytest.raises(UserError) as caught:
        for _ in stream:
            count += 1
    assert not children()
    return count, str(caught.value)


@pytest.mark.parametrize("workers", [0, 3])
def test_what_cannot_be_read_is_named_at_its_batch(files: dict[str, Any], workers: int) -> None:
    """Whoever reads, and however far ahead: the batches before it are given out."""
    folder = Path(files["x"].folder)
    order = items(COUNT, 2, torch.arange(COUNT)).tolist()
    (folder / f"{order[27]}.png").write_bytes(b"not a picture")  # of batch 3
    assert said(files, workers) == (3, f"{folder / f'{order[27]}.png'} is not a picture")
    (folder / f"{order[18]}.png").unlink()
    count, message = said(files, workers)
    assert count == 2 and message.startswith(f"column 'x' cannot be read in item {order[18]}: ")
    assert str(folder / f"{order[18]}.png") in message and "\n" not in message


@pytest.mark.parametrize("workers", [0, 1])
def test_numbers_that_are_not_finite_are_found_as_they_are_read(workers: int) -> None:
    """Named by their item in the whole, not in the part that is trained on."""
    x = torch.arange(60.0).reshape(20, 3)
    x[11, 1] = float("nan")
    column = View(Rows(x, (20, 3), torch.float32), torch.tensor([1, 11, 3, 4]))
    count, message = said({"x": column}, workers)
    assert count == 0 and message == "column 'x' holds NaN or infinity in item 11: remove it or repair the file"


class Mistaken(Rows):
    """A column whose code has a mistake."""

    def __getitem__(self, rows: Any) -> Tensor:
        raise RuntimeError("shapes (3, 4) and (5, 6) do not fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_a_column_is_told_as_it_is(workers: int) -> None:
    """And not as the end of the process that made it."""
    column = Mistaken(torch.zeros(20, 3), (20, 3), torch.float32)
    with pytest.raises(RuntimeError, match=r"shapes \(3, 4\) and \(5, 6\) do not fit"):
        next(batches({"x": column}, 8, seed=0, workers=workers))


def test_a_column_keeps_its_promise() -> None:
    for column in (
        Rows(torch.zeros(20, 3), (20, 4), torch.float32),
        Rows(torch.zeros(20, 4, dtype=torch.uint8), (20, 4), torch.float32),
    ):
        with pytest.raises(UserError, match=r"column 'x' promises torch.float32 \[8, 4\] and gives"):
            next(batches({"x": column}, 8, seed=0, workers=0))


def test_a_number_of_workers_is_checked(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 0, got -1"):
        next(batches(files, 8, seed=0, workers=-1))
    with pytest.raises(UserError, match="at least 0, got -2"):
        fit.start(recipes.load("digits")[0], tmp_path / "run", Runtime(), samples=64, workers=-2)
    assert not (tmp_path / "run").exists()


# Processes begin and end ---------------------------------------------------------------------------------------------


def test_a_reader_that_is_killed_is_one_clear_error(files: dict[str, Any]) -> None:
    """At the batch that is waited for, and not in whatever line the main process is in as it ends."""
    with contextlib.closing(batches(files, 8, seed=2, workers=2)) as stream:
        next(stream)
        readers = children()
        assert len(readers) == 2
        os.kill(min(readers), signal.SIGKILL)
        os.waitid(os.P_PID, min(readers), os.WEXITED | os.WNOWAIT)
        with pytest.raises(UserError, match=r"ended by itself .* --workers 0 reads without") as caught:
            for _ in stream:
                pass
    assert "\n" not in str(caught.value) and not children()


def test_no_reader_is_left_when_a_stream_is_closed_or_dropped(files: dict[str, Any]) -> None:
    before = children()
    stream = batches(files, 8, seed=2, workers=2)
    next(stream)
    assert len(children() - before) == 2
    stream.close()
    assert children() == before
    dropped = batches(files, 8, seed=2, workers=2)
    next(dropped)
    del dropped
    assert children() == before


RECIPE = """
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unnoise import recipes
from unnoise.data.dataset import Dataset, split
from unnoise.override import override


@dataclass(frozen=True)
class Files:
    folder: str
    shape: tuple
    dtype: torch.dtype = torch.uint8

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        files = [Path(self.folder, f"{i}.png") for i in torch.arange(len(self))[rows].tolist()]
        return torch.from_numpy(np.stack([np.array(Image.open(f)) for f in files]))[:, None]


@dataclass(frozen=True)
class Folder:
    path: str
    stream: bool = True

    def load(self):
        label = torch.from_numpy(np.load(Path(self.path, "label.npy")))
        x = Files(self.path, (len(label), 1, 8, 8))
        columns = {"x": x if self.stream else x[:], "label": label}
        return Dataset(*split(columns, 0.2, 0))


def recipe():
    found = recipes.load("digits")[0]
    for change in CHANGES:
        found = override(found, change)
    return replace(found, data=Folder(FOLDER), judge=None)
"""
CHANGES = (
    "model.net.width=8",
    "model.net.multipliers=1",
    "model.net.attention=",
    "model.net.middle_attention=false",
    "batch=16",
    "log_every=5",
    "sampling.steps=2",
)


@pytest.fixture(scope="module")
def recipe(columns: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a recipe that streams a folder of real digits."""
    folder = tmp_path_factory.mktemp("streamed")
    write(columns["x"], folder / "pictures")
    np.save(folder / "pictures" / "label.npy", columns["label"].numpy())
    file = folder / "streamed.py"
    file.write_text(RECIPE.replace("CHANGES", repr(CHANGES)).replace("FOLDER", repr(str(folder / "pictures"))))
    return file


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on the same digits in memory."""
    from unnoise.override import override

    run = tmp_path_factory.mktemp("whole") / "run"
    fit.start(override(recipes.load(str(recipe))[0], "data.stream=false"), run, Runtime(), samples=320)
    return run


def weights(run: Path) -> dict[str, Tensor]:
    return read(locate(run)).weights["model"]


def assert_same_run(a: Path, b: Path) -> None:
    assert all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())
    first, second = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(run / "metrics.jsonl")]
        for run in (a, b)
    )
    assert first == second and len(first) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_run_is_the_run_in_memory(recipe: Path, whole: Path, tmp_path: Path, workers: int) -> None:
    """To the bit, with its losses on held-out data; checks, forecast and previews included."""
    found, types = recipes.load(str(recipe))
    fit.start(found, tmp_path / "run", Runtime(), samples=320, types=types, workers=workers)
    assert_same_run(whole, tmp_path / "run")
    assert not children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_whose_data_cannot_be_read_is_saved_and_goes_on(
    recipe: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(forecast, "CHECKED", 1)  # or the picture would be refused before training
    found, types = recipes.load(str(recipe))
    shutil.copytree(found.data.path, tmp_path / "pictures")  # type: ignore[attr-defined]
    data: Any = replace(found.data, path=str(tmp_path / "pictures"))
    train = data.load().train["x"]
    item = int(train.items[items(len(train), 0, torch.arange(16, 30)).max()])  # of step 2
    file = tmp_path / "pictures" / f"{item}.png"
    good = file.read_bytes()
    file.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=rf"item {item}: .* saved after 16 samples; .* unnoise resume"):
        fit.start(replace(found, data=data), tmp_path / "run", Runtime(), samples=320, types=types, workers=workers)
    file.write_bytes(good)
    fit.resume(tmp_path / "run", Runtime(), types=types)
    assert_same_run(whole, tmp_path / "run")


def test_losses_and_judges_read_lazy_columns(recipe: Path, columns: dict[str, Tensor], files: dict[str, Any]) -> None:
    found, cpu = recipes.load(str(recipe))[0], torch.device("cpu")
    parts = State(found, 0, cpu, None).components
    assert loss_by_level(found.objective, parts, files, cpu) == loss_by_level(found.objective, parts, columns, cpu)
    judge = Classifier(found.codec, classes=10, width=8, samples=128, batch=32)
    a, b = (judge.train(c, cpu).features(columns["x"]) for c in (columns, files))
    assert torch.equal(a, b)


def test_data_that_are_not_the_codecs_are_refused_before_training(recipe: Path, tmp_path: Path) -> None:
    from unnoise.override import override

    found = override(recipes.load(str(recipe))[0], "codec.high=4")
    with pytest.raises(UserError, match="the data range from 0 to 16"):
        fit.start(found, tmp_path / "run", Runtime(), samples=64)


@contextlib.contextmanager
def training(python: Python, recipe: Path, run: Path) -> Iterator[tuple[Any, list[int]]]:
    """`python -m unnoise train` with two readers, in a group of its own as a shell makes it; and the readers."""
    command = ["-m", "unnoise", "train", recipe, "--samples", 10_000_000, "--out", run, "--workers", 2]
    process = python.start(*command, "--device", "cpu", session=True)
    try:
        until(lambda: (run / "metrics.jsonl").is_file() and len(read_lines(run / "metrics.jsonl")) >= 1)
        readers = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert len(readers) == 2
        yield process, readers
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_saves_the_run_and_ends_the_readers(
    python: Python, recipe: Path, whole: Path, tmp_path: Path, number: int, code: int
) -> None:
    """Ctrl-C in a terminal, and what ends a job, reach the readers too; the run goes on as if not stopped."""
    run = tmp_path / "run"
    with training(python, recipe, run) as (process, readers):
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        seen = int(locate(run).name)
        assert said.splitlines()[-1] == (
            f"unnoise: stopped and saved after {seen} samples; go on with: unnoise resume {run}"
        )
        assert "Traceback" not in said and not any(alive(pid) for pid in readers)


def test_readers_end_when_the_run_is_killed(python: Python, recipe: Path, tmp_path: Path) -> None:
    with training(python, recipe, tmp_path / "run") as (process, readers):
        process.kill()
        process.wait()
        until(lambda: not any(alive(pid) for pid in readers), 30)


def test_a_streamed_run_goes_on_from_the_command_line(recipe: Path, whole: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, gone on with by other numbers of readers: to the bit the same run."""
    from unnoise.cli import main

    run = tmp_path / "run"
    found, types = recipes.load(str(recipe))

    class Stop:
        def log(self, seen: int, values: Any) -> None:
            if seen == 160:
                os.kill(os.getpid(), signal.SIGTERM)

        def image(self, seen: int, name: str, picture: Any) -> None: ...

    with pytest.raises(session.Interrupted):
        fit.start(found, run, Runtime(), samples=320, types=types, loggers=[Stop()], workers=1)
    assert int(locate(run).name) == 160
    assert main(["resume", str(run), "--types", str(recipe), "--workers", "2", "--device", "cpu"]) == 0
    assert_same_run(whole, run)
