"""The report of a run that was evaluated."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise.data import Images
from unnoise.data.dataset import Column, Dataset
from unnoise.errors import UserError
from unnoise.evaluation import Evaluation
from unnoise.log import read_lines
from unnoise.model import Model
from unnoise.report.page import Report, write
from unnoise.report.pictures import Pairs
from unnoise.samples import Samples
from unnoise.spec import build
from unnoise.trial import Trial

DRAWN = 100
"""Samples to look at, about: of classes as many each, at least one and at most `EACH`."""
EACH = 10
PAIRS = 24
"""Of these the nearest to training pictures are shown beside them."""
SEARCHED = 50_000
"""Training pictures that are searched, spread evenly over all there are."""
PRODUCTS = 2**31
"""Differences of pixels that the search for held-out pictures may take where there are more than `DRAWN` of them."""
BLOCK = 2048


def of_run(run: Path, found: Evaluation, model: Model, data: Dataset, trial: Trial, out: Path | None = None) -> Path:
    """Write RUN/report.html, or OUT/report.html, and return its path.

    It draws some `DRAWN` samples of its own, from the trial's seed on, in this process alone.

    Args:
        run: the folder.
        found: what was measured.
        model: what it was measured of.
        data: what the model learned from.
        trial: how it was measured.
        out: the folder to write to, which exists; None: that of the run.

    Raises:
        UserError: where it cannot be written.
    """
    samples, codec = _drawn(model, data, trial), _codec(model)
    classes = {} if samples is None else _classes(samples, codec, _names(model))
    content = Report(
        recipe=str(found.measured.get("name") or model.facts.get("name", "model")),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        device=str(found.measured.get("device", model.device)),
        figures=found.figures,
        facts=_facts(found, data),
        pairs=None if samples is None else _pairs(samples, codec, data),
        classes=classes,
        samples=None if samples is None or classes else codec.pictures(samples.raw),
        lines=read_lines(run / "metrics.jsonl"),
        history=[
            {"seen": at["seen"], "name": f.name, "value": f.samples, "error": f.error}
            for at in found.history
            for f in at["figures"]
        ],
        protocol=found.protocol,
        protocol_hash=found.hash,
        measured=found.measured,
        command=_command(run, found, model, trial, out),
    )
    return write((out or run) / "report.html", content)


def _facts(found: Evaluation, data: Dataset) -> dict[str, Any]:
    seen = found.measured.get("seen")
    return ({"Samples seen": f"{seen:,}"} if seen is not None else {}) | ({"Data": data.about} if data.about else {})


def _command(run: Path, found: Evaluation, model: Model, trial: Trial, out: Path | None) -> str:
    words = ["unnoise", "evaluate", str(run), "-n", trial.n, "--repeats", trial.repeats, "--seed", trial.seed]
    for name, value in trial.settings.items():
        shown = ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        several = shown if isinstance(shown, list | tuple) else (shown,)
        words += ["--capture"] if name == "captured" else [f"--{name}", *several]
    sampling = found.measured.get("sampling", {})
    if sampling.get("autoguidance", 1) != 1:
        words += ["--weaker", sampling["weaker"]]
    for assignment in found.measured.get("set", ()):
        words += ["-s", assignment]
    if model.facts.get("weights") is not None:
        words += ["--weights", model.facts["weights"]]
    if "precision" in found.measured:
        words += ["--precision", found.measured["precision"]]
    if found.history:
        words += ["--history", len(found.history)]
    if out is not None:
        words += ["--out", out]
    return shlex.join(map(str, words))


def _drawn(model: Model, data: Dataset, trial: Trial) -> Samples | None:
    """Samples of pictures, by class where there are classes; None of anything else, and where one is not finite."""
    if _codec(model) is None:
        return None
    needs = getattr(model.conditioner, "needs", ())
    columns = data.held_out if len(data.held_out["x"]) else data.train
    n, cond = DRAWN, dict[str, Any]()
    if needs:
        n = min(n, len(columns["x"]))
        cond = {k: columns[k][:n] for k in needs}
    elif "label" in getattr(model.conditioner, "names", ()):
        every = sorted(set(model.conditions(BLOCK, trial.seed, {"label": "all"})["label"].tolist()))
        n, cond = len(every) * max(1, min(EACH, DRAWN // len(every))), {"label": every}
    try:
        return model.sample(n, seed=trial.seed, **trial.settings, **cond)
    except FloatingPointError:
        return None


def _codec(model: Model) -> Any:
    """What makes pictures of samples: the codec, or that of the pictures that it brings latents back to; or None."""
    codecs = (model.codec, getattr(model.codec, "image", None))
    return next((c for c in codecs if hasattr(c, "pictures")), None)


def _classes(samples: Samples, codec: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures by class: by its number, which sampling asks for, and by its name where it has one."""
    label = samples.cond.get("label")
    if label is None:
        return {}
    pictures, classes = codec.pictures(samples.raw), label.cpu().numpy()
    return {
        f"{k}: {names[k]}" if 0 <= k < len(names) else str(k): pictures[classes == k]
        for k in sorted(set(classes.tolist()))
    }


def _names(model: Model) -> Sequence[str]:
    """What the data that the run began with call their classes; nothing where they do not say, or cannot be read."""
    recipe = model.facts.get("recipe")
    try:
        source = build(recipe["data"]) if isinstance(recipe, Mapping) and "data" in recipe else None
        if isinstance(source, Images):
            return [*replace(source, memory=0).read()[0].classes]
    except UserError:
        return ()
    names = getattr(source, "names", ())
    return names if isinstance(names, list | tuple) else ()


def _pairs(samples: Samples, codec: Any, data: Dataset) -> Pairs | None:
    train = data.train["x"]
    if not len(samples) or tuple(train.shape[1:]) != tuple(samples.raw.shape[1:]):
        return None
    count = min(SEARCHED, len(train))
    searched = torch.arange(count) * len(train) // count
    near, items = _nearest(samples.raw, train, searched)
    order = near.argsort()[:PAIRS]
    # As many held-out items as do not take long.
    items_of_real = data.held_out["x"][: max(DRAWN, PRODUCTS // (count * math.prod(train.shape[1:])))]
    held_out = float(_nearest(items_of_real, train, searched)[0].median()) if len(items_of_real) else None
    median = f", the median is that of {len(items_of_real):,} held-out ones" if held_out is not None else ""
    return Pairs(
        codec.pictures(samples.raw[order.to(samples.raw.device)]),
        codec.pictures(train[searched[items[order]]]),
        near[order].tolist(),
        held_out,
        f"Distances are Euclidean, between pixels as the data hold them, to {count:,} of {len(train):,} training "
        f"pictures{median}; shown are {len(order)} of {len(samples)} samples.",
    )


def _nearest(x: Tensor, train: Column, searched: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of x the distance to the nearest of the training items, and which of `searched` it is."""
    rows = x.cpu().flatten(1).double()
    least, items = torch.full((len(x),), torch.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(searched), BLOCK):
        block = train[searched[start : start + BLOCK]].cpu().flatten(1).double()
        found = torch.cdist(rows, block, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        nearer = found.values < least
        least, items = torch.where(nearer, found.values, least), torch.where(nearer, found.indices + start, items)
    return least, items
