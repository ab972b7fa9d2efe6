"""What `unnoise info` says of a recipe, a run, a model, a system or a file of data."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unnoise import checkpoint, recipes, shipped, system
from unnoise.core.objective import EDGES
from unnoise.data import Images
from unnoise.data.arrays import read_npz
from unnoise.data.found import told
from unnoise.data.home import AbsentError, at_hand
from unnoise.data.picture_column import readable
from unnoise.errors import UserError
from unnoise.forecast import check, rehearse
from unnoise.log import read_lines
from unnoise.override import keys
from unnoise.recipe import Recipe
from unnoise.spec import build

MEASURED = 512
"""Pictures of a set larger than memory whose colours are measured."""
SHOWN = 8
"""Sizes and classes that are named."""


def lines(what: str, types: Sequence[type] = ()) -> Iterator[str]:
    """Lines about a recipe's name or file, a folder of a run, a model or a system, or a file or folder of data."""
    path = Path(what)
    if path.suffix == ".npz":
        yield from _data(path)
    elif system.is_system(path):
        yield from _system(path)
    elif (path / "latest").is_file() or (path / "manifest.json").is_file():
        yield from _run(path, types)
    elif path.suffix == ".py" or what in recipes.names():
        if what in shipped.names():
            yield from _shipped(what)
        recipe = recipes.load(what)[0]
        yield from _recipe(recipe)
        yield _next(recipe, shlex.quote(what))
    elif path.is_dir():
        yield from _folder(path)
    elif path.is_file():
        yield from _pictures(path)
    elif path.exists() or "/" in what:
        raise UserError(f"{what} is neither a run folder, nor an npz file, nor a recipe, nor pictures")
    else:
        recipes.load(what)  # its error names the nearest


def _folder(path: Path) -> Iterator[str]:
    try:
        yield from _pictures(path)
    except UserError as e:
        try:
            checkpoint.locate(path)
        except UserError as no_run:
            raise UserError(f"{no_run}; and {e}") from e
        raise


def _pictures(path: Path) -> Iterator[str]:
    """What training would make of pictures; all of a set that fits into memory are decoded for it."""
    source = Images(str(path))
    there = source.found()
    side = None
    if there.shape is None or min(there.shape[1:]) > 128:
        sides = sorted(min(size) for size, count in there.sizes.items() for _ in range(count))
        side = max([8, *(n for n in (16, 32, 64, 128) if n <= sides[len(sides) // 2])])
        source = Images(str(path), size=side)
    found, data = source.read()
    assert found.shape is not None
    yield f"{found.count:,} pictures in {path}"
    yield "sizes (H x W): " + _listed({f"{h}x{w}": n for (h, w), n in found.sizes.items()})
    yield "pixels: " + _listed(found.modes)
    if found.classes:
        yield f"{len(found.classes)} classes: " + _listed(found.classes)
    if found.alone:
        yield f"classes of one picture, which is trained on and not held out: {', '.join(found.alone[:SHOWN])}"
    if found.twice:
        yield f"{found.twice:,} are there twice, which stay in one part"
    for counts, word in ((found.skipped, "skipped"), (found.converted, "converted")):
        if counts:
            yield told(counts, word)
    parts = [part["x"] for part in (data.train, data.held_out) if len(part["x"])]
    few = not all(isinstance(x, torch.Tensor) for x in parts)
    mean, std = _colours([readable(parts[0], MEASURED)] if few else [x for x in parts if isinstance(x, torch.Tensor)])
    of = f", of {min(MEASURED, len(parts[0]))} of them" if few else ""
    yield f"mean {' '.join(mean)}, standard deviation {' '.join(std)}, by channel{of}"
    yield (
        f"training would see {found.dtype} {list(found.shape)}, {len(data):,} to train on and "
        f"{len(data.held_out['x']):,} held out{', read picture by picture' if few else ''}"
    )
    yield f"next: unnoise train images --data {shlex.quote(str(path))}" + (f" --size {side}" if side else "")


def _listed(counts: Mapping[str, int]) -> str:
    more = f", and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else ""
    return ", ".join(f"{k} ({n:,})" for k, n in list(counts.items())[:SHOWN]) + more


def _colours(parts: Sequence[torch.Tensor]) -> tuple[list[str], list[str]]:
    """Mean and standard deviation of each channel of pictures [N, C, H, W]."""
    sums, count = torch.zeros(2, parts[0].shape[1], dtype=torch.float64), 0
    for few in (x for part in parts for x in torch.split(part, 256)):  # the copy in float64 of all might not fit
        values = few.double()
        sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        count += values[:, 0].numel()
    mean, square = sums / count
    std = (square - mean**2).clamp(min=0).sqrt()
    return [f"{float(v):.4g}" for v in mean], [f"{float(v):.4g}" for v in std]


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


def _next(recipe: Recipe, name: str) -> str:
    """How to train a recipe, or why that would be refused: found out by all that comes before the first step."""
    try:
        components = recipe.components()
        with at_hand():
            data = recipe.data.load()
        check(recipe, components, data)
        rehearse(recipe, components, data)
    except AbsentError as e:
        return f"next: unnoise train {name}, which downloads {e} first"
    except Exception as e:  # a library's too: the traceback is training's to show
        kind = "" if isinstance(e, UserError | ValueError) else f"{type(e).__name__}: "
        return f"unnoise train {name} would be refused: {kind}{' '.join(str(e).split())}"
    return f"next: unnoise train {name}"


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
    log = [line for line in read_lines(path / "metrics.jsonl") if "loss" in line]
    if log:
        last, blank = log[-1], [None] * (len(EDGES) + 1)
        held = next((line for line in reversed(log) if "held_out" in line), dict[str, Any]())
        beside = f", held out {held['held_out']:.4f}" if held else ""
        beside += f" after {held['seen']:,} samples" if held and held is not last else ""
        yield f"loss {last['loss']:.4f}{beside}, by log-SNR:"
        bounds = ["-inf", *(f"{e:g}" for e in EDGES), "inf"]
        columns = last.get("loss_by_logsnr") or blank, held.get("held_out_by_logsnr") or blank
        for low, high, a, b in zip(bounds, bounds[1:], *columns, strict=False):
            if a is not None or b is not None:
                show = [f"{v:9.4f}" if v is not None else " " * 9 for v in (a, b)]
                yield f"  {low:>5} .. {high:<5} {show[0]} {show[1]}"
    if "recipe" in facts:
        yield from _recipe(build(facts["recipe"], types, lazy=True))


def _shipped(name: str) -> Iterator[str]:
    folder = shipped.WEIGHTS / name
    yield from _contents(folder, checkpoint.read(folder))
    yield f"these weights come with the package: unnoise sample {name}; model card: {folder / shipped.CARD}"


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
    columns = read_npz(path)
    for name, column in columns.items():
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
    x = columns["x"]
    if len(x) and (x.ndim == 4 or (x.ndim == 3 and x.dtype == torch.uint8)) and min(x.shape) and _is_finite(x):
        yield from _pictures(path)


def _is_finite(x: torch.Tensor) -> bool:
    return not x.is_floating_point() or bool(torch.isfinite(x).all())
