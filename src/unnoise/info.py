"""What `unnoise info` says of a recipe, a run, a model, a system or a file of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from unnoise import checkpoint, recipes, system
from unnoise.core.objective import EDGES
from unnoise.data.arrays import read_npz
from unnoise.errors import UserError
from unnoise.log import read_lines
from unnoise.override import keys
from unnoise.spec import build


def lines(what: str, types: Sequence[type] = ()) -> Iterator[str]:
    """Lines about a recipe's name or file, a folder of a run, a model or a system, or an npz file."""
    path = Path(what)
    if path.suffix == ".npz":
        yield from _data(path)
    elif system.is_system(path):
        yield from _system(path)
    elif path.is_dir():
        yield from _run(path, types)
    elif path.suffix == ".py" or what in recipes.names():
        yield from _recipe(recipes.load(what)[0])
    elif path.exists() or "/" in what:
        raise UserError(f"{what} is neither a run folder, nor an npz file, nor a recipe")
    else:
        recipes.load(what)  # its error names the nearest


def _recipe(recipe: Any) -> Iterator[str]:
    entries = list(keys(recipe))
    parents = {k.name.rpartition(".")[0] for k in entries}
    width = min(40, max(len(k.name) for k in entries))
    for key in entries:
        # A value whose parts have lines of their own is named by its type only.
        value = type(key.value).__name__ if key.name in parents and key.value is not None else str(key.value)
        if key.name in parents and hasattr(key.value, "cls"):
            value = key.value.cls.__name__
        yield f"{key.name:{width}}  {value:24}  {key.meaning}".rstrip()


def _system(path: Path) -> Iterator[str]:
    stages, links = system.read(path)
    yield f"system in {path}: {' -> '.join(stages)}"
    for link in links:
        yield f"{link.condition} of {link.target} is what {link.source} makes"
    for name in stages:
        first, *rest = _contents(path / name, checkpoint.read(path / name))
        yield f"{name}: {first}"
        yield from (f"  {line}" for line in rest)
    yield f"`unnoise info {path / stages[-1]}` says all of a stage"


def _run(path: Path, types: Sequence[type]) -> Iterator[str]:
    folder = checkpoint.locate(path)
    contents = checkpoint.read(folder)
    facts = contents.facts
    yield from _contents(folder, contents)
    log = read_lines(path / "metrics.jsonl")
    if log:
        last = log[-1]
        yield f"loss {last['loss']:.4f}, held out {last.get('held_out', float('nan')):.4f}, by log-SNR:"
        bounds = ["-inf", *(f"{e:g}" for e in EDGES), "inf"]
        own, held = last["loss_by_logsnr"], last.get("held_out_by_logsnr") or [None] * len(last["loss_by_logsnr"])
        for low, high, a, b in zip(bounds, bounds[1:], own, held, strict=False):
            if a is not None or b is not None:
                show = [f"{v:9.4f}" if v is not None else " " * 9 for v in (a, b)]
                yield f"  {low:>5} .. {high:<5} {show[0]} {show[1]}"
    if "recipe" in facts:
        yield from _recipe(build(facts["recipe"], types, lazy=True))


def _contents(folder: Path, contents: checkpoint.Contents) -> Iterator[str]:
    facts = contents.facts
    yield f"{facts.get('name', 'model')} in {folder}"
    parameters = {k: sum(v.numel() for v in w.values()) for k, w in contents.weights.items()}
    yield "components: " + ", ".join(
        f"{k} ({parameters[k]:,} numbers)" if k in parameters else k for k in contents.specs
    )
    if "seen" in facts:
        of = f" of {facts['total']:,}" if facts.get("total") else ""
        yield (
            f"{facts['seen']:,}{of} samples seen in {facts.get('elapsed', 0) / 60:.1f} minutes, seed {facts['seed']}, "
            f"{facts['precision']}; unnoise {facts['unnoise']}, torch {facts['torch']}"
        )


def _data(path: Path) -> Iterator[str]:
    for name, column in read_npz(path).items():
        kind = str(column.dtype).removeprefix("torch.")
        values = column.double()
        bad = int((~torch.isfinite(values)).sum())
        values = values[torch.isfinite(values)]
        if not len(values):
            yield f"{name}: {kind} {list(column.shape)}" + (f", {bad} NaN or infinite" if bad else "")
            continue
        yield (
            f"{name}: {kind} {list(column.shape)}, {float(values.min()):g} to {float(values.max()):g}"
            + (
                f", mean {float(values.mean()):.4g}, standard deviation {float(values.std(correction=0)):.4g}"
                if name == "x"
                else ""
            )
            + (f", {bad} NaN or infinite" if bad else "")
        )
        if name == "label" and column.ndim == 1 and not column.is_floating_point():
            counts = list(Counter(column.tolist()).values())
            yield f"  {len(counts)} classes, {min(counts)} to {max(counts)} items each"
