"""Tensors that take long to make and follow from what they are made of: judges' weights, statistics of real data.

A file is addressed by its key, which states everything that the tensors depend on and is written into it: what is found
is what was asked for, or an error. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unnoise.checkpoint import CheckpointError, load_tensors, save_tensors
from unnoise.data.dataset import Columns
from unnoise.data.fetch import cache_folder
from unnoise.errors import UserError
from unnoise.runtime import Runtime

KEY = "key"
BLOCK = 4096
"""Rows hashed at a time."""


def name_of(kind: str, key: Mapping[str, Any]) -> str:
    """The name of the file with the tensors of a key."""
    return f"{kind}-{digest(key)[:20]}.safetensors"


def tensors(
    kind: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]], run: Runtime
) -> Mapping[str, Tensor]:
    """The tensors of this key: read where a file has them, else made, and kept where the disk takes them.

    Args:
        kind: what they are; the beginning of the file's name.
        key: JSON: everything that they depend on.
        make: makes them, all processes together; those of the main one are everyone's.
        run: the processes, of which the main one writes.
    """
    path = cache_folder() / name_of(kind, key)
    if not run.any(not path.is_file()):
        try:
            return read(path, key)
        except CheckpointError:  # damaged: made again
            pass
    made = {k: run.first(v) for k, v in make().items()}
    if run.is_main:
        with contextlib.suppress(CheckpointError, OSError):  # a full disk costs time only
            save_tensors(made, path, {KEY: canonical(key)})
    return made


def read(path: Path, key: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The tensors of a file.

    Raises:
        CheckpointError: where it is damaged.
        UserError: where they were made of anything else than `key` says, naming what differs.
    """
    try:
        with safe_open(path, "pt") as f:
            found = json.loads((f.metadata() or {}).get(KEY, "null"))
    except (OSError, SafetensorError, ValueError) as e:
        raise CheckpointError(f"{path} is not a readable safetensors file: {e}") from e
    if not isinstance(found, dict):
        raise UserError(f"{path} does not say what it was made of: it is not of unnoise's making")
    if differing := differences(found, json.loads(canonical(key))):
        raise UserError(f"{path} was made of something else: {'; '.join(differing)}")
    return load_tensors(path)


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, a line each: "judge.samples: 512 and 40000"."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(a.keys() | b.keys())
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{name}.{k}" if name else k)]
    return [] if a == b else [f"{name}: {json.dumps(a)} and {json.dumps(b)}"]


def canonical(value: Any) -> str:
    """One text for equal JSON values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """The sha256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def digest_of(columns: Columns) -> str:
    """The sha256 of columns of data: their names, shapes, types and every byte."""
    found = hashlib.sha256()
    for name in sorted(columns):
        column = columns[name]
        found.update(canonical([name, list(column.shape), str(column.dtype)]).encode())
        for start in range(0, len(column), BLOCK):
            rows = column[start : start + BLOCK].cpu().contiguous()
            found.update(rows.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@cache
def code() -> str:
    """The sha256 of this package's source: what training makes depends on all of it."""
    found = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        found.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return found.hexdigest()
