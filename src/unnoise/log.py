"""Where the numbers of a run go: a logger is anything with these two methods.

Weights & Biases, for example, in ten lines: see docs/how-to/loggers.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image as Pillow
from tqdm import tqdm

from unnoise.errors import UserError, is_disk_full


def say(line: str) -> None:
    """A line to the user, above a progress bar where there is one."""
    tqdm.write(line, file=sys.stderr)


@runtime_checkable
class Logger(Protocol):
    """Takes numbers and pictures as a run goes on; only the main process calls it."""

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        """Numbers (or lists of numbers) by name, after `seen` samples."""
        ...

    def image(self, seen: int, name: str, picture: Pillow.Image) -> None:
        """A picture."""
        ...


class JsonLines:
    """metrics.jsonl: one JSON object a line. A run that goes on first drops the lines after its checkpoint.

    Args:
        path: the file.
        seen: samples seen by the checkpoint that is gone on from.

    Raises:
        UserError: where it cannot be written; so does `log`.
    """

    def __init__(self, path: Path, seen: int = 0) -> None:
        self.path, self.torn = path, False
        kept = [line for line in read_lines(path) if line["seen"] <= seen]
        part = path.with_suffix(".part")
        with self._writing():
            part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf8")
            part.replace(path)

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        """Append one line, and before it the end of one that could not be written whole."""
        line = "\n" * self.torn + json.dumps({"seen": seen, **values}) + "\n"
        self.torn = True
        with self._writing(), self.path.open("a", encoding="utf8") as f:
            f.write(line)
        self.torn = False

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UserError(f"{self.path} could not be written: {e}" + ": make room" * is_disk_full(e)) from e

    def image(self, seen: int, name: str, picture: Pillow.Image) -> None:
        """Pictures have files of their own."""


class TensorBoard:
    """TensorBoard, from the extra "tensorboard".

    Args:
        path: the folder of its event files.
    """

    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            raise UserError("TensorBoard is an extra: pip install 'unnoise[tensorboard]'") from e
        self._open: Callable[[], Any] = lambda: SummaryWriter(str(path))

    @cached_property
    def writer(self) -> Any:
        """Opened, and its folder made, when there is something to write: a run begins in an empty folder."""
        return self._open()

    def log(self, seen: int, values: Mapping[str, Any]) -> None:
        """One scalar a number; lists get an index."""
        for name, value in values.items():
            for i, v in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(v, int | float):
                    self.writer.add_scalar(name if i is None else f"{name}/{i}", v, seen)
        self.writer.flush()

    def image(self, seen: int, name: str, picture: Pillow.Image) -> None:
        """One picture."""
        import numpy as np

        self.writer.add_image(name, np.asarray(picture.convert("RGB")), seen, dataformats="HWC")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; what a kill cut short, or is not what a run writes, is left out."""
    if not path.is_file():
        return []
    out = []
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line.decode("utf8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("seen"), int):
            out.append(value)
    return out


def read_json(path: Path) -> Any:
    """What a JSON file holds; Raises UserError naming a file that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is not readable: {e}") from e
