"""What each command does, with the options that `cli` has read."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unnoise.errors import UserError

RUNS = Path("runs")


def train(o: argparse.Namespace) -> None:
    """Train a recipe. The run lies in runs/NAME unless --out says otherwise."""
    from unnoise import fit, recipes
    from unnoise.override import override
    from unnoise.runtime import launch

    asked = {"data": o.data, "size": _size(o.size), "mirror": o.mirror or None}
    recipe, types = recipes.load(o.recipe, **{k: v for k, v in asked.items() if v is not None})
    for assignment in o.set:
        recipe = override(recipe, assignment)
    if o.minutes is not None and not 0 < o.minutes < math.inf:
        raise UserError(f"--minutes must be positive and finite, got {o.minutes}")
    _at_least_one("--samples", o.samples)
    if o.out is None and (recipe.name in ("", "..") or Path(recipe.name).name != recipe.name):
        raise UserError(f"the run would be called {recipe.name!r}, which names no folder in {RUNS}: set name, or --out")
    out = o.out or RUNS / recipe.name
    with launch(o.device) as run:
        state = fit.start(
            recipe,
            out,
            run,
            seed=o.seed,
            precision=o.precision,
            compiled=o.compile,
            captured=o.capture,
            samples=o.samples,
            minutes=o.minutes,
            parent=o.parent,
            types=types,
            loggers=_loggers(o, out) if run.is_main else [],
            workers=o.workers,
            sharded=bool(o.shard),
        )
        if run.is_main:
            print(f"{out}: done{_next(out, state.components)}")


def _size(text: str | None) -> int | tuple[int, int] | None:
    """ "64" or "64x96": height before width."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(s.isdecimal() and int(s) > 0 for s in sides):
        raise UserError(f"--size is a number of pixels such as 64, or height x width such as 64x96, got {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def resume(o: argparse.Namespace) -> None:
    """Go on with a run from its last checkpoint, as if it had not been stopped."""
    from unnoise import fit
    from unnoise.runtime import launch

    _at_least_one("--samples", o.samples)
    with launch(o.device) as run:
        loggers = _loggers(o, o.run) if run.is_main else []
        state = fit.resume(
            o.run, run, samples=o.samples, types=_types(o), loggers=loggers, workers=o.workers, sharded=o.shard
        )
        if run.is_main:
            print(f"{o.run}: done{_next(o.run, state.components)}")


def _next(run: Path, components: Mapping[str, Any]) -> str:
    """What to do with a run: sample it as a picture, or as files; nothing where it is no denoiser."""
    if "process" not in components:
        return ""
    return f"; unnoise sample {run}" + (" --out samples.png" if hasattr(components["codec"], "grid") else "")


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")


def _loggers(o: argparse.Namespace, out: Path) -> list[Any]:
    from unnoise.log import TensorBoard

    return [TensorBoard(out / "tensorboard")] if o.tensorboard else []


def _types(o: argparse.Namespace) -> list[type]:
    from unnoise.recipes import types_of

    return types_of(o.types) if o.types else []


def _weights(o: argparse.Namespace) -> Any:
    try:
        return o.weights if o.weights in (None, "raw") else float(o.weights)
    except ValueError:
        raise UserError(f"--weights is an EMA width such as 0.1, or raw; got {o.weights!r}") from None


def _model(o: argparse.Namespace, device: Any) -> Any:
    from unnoise import system
    from unnoise.capture import require_cuda
    from unnoise.model import Model
    from unnoise.trained import no_weaker

    if o.capture:
        require_cuda(device)
    weights = _weights(o)
    weaker = True if o.weaker is None and o.autoguidance not in (None, 1) else o.weaker
    given = {"weights": weights, "device": device, "precision": o.precision, "types": _types(o), "weaker": weaker}
    model = system.load(o.run, **given)
    model.facts["weights"] = weights
    own = model.sampling
    if isinstance(model, Model) and o.autoguidance is None and own.autoguidance != 1 and model.weaker is None:
        raise no_weaker(o.run, model.facts.get("seen", 0), own.weaker)
    return model.compile() if o.compile else model


def join(o: argparse.Namespace) -> None:
    """Make one folder of several models: each is told, as a condition, what an earlier one makes."""
    from unnoise.model import Model
    from unnoise.system import Link, System

    weights, types = _weights(o), _types(o)
    runs: dict[str, str] = {}
    for stage in o.stages:
        name, _, run = stage.partition("=")
        if not name or not run:
            raise UserError(f"stage {stage!r} is not understood: write NAME=RUN, as in base=runs/mnist16")
        if name in runs:
            raise UserError(f"stage {name!r} is named twice")
        runs[name] = run
    links = None if o.link is None else [Link.parse(text) for text in o.link]
    joined = System({k: Model.load(run, weights=weights, types=types) for k, run in runs.items()}, links)
    joined.save(o.out)
    print(f"{o.out}: {joined}; unnoise sample {o.out} --out samples.png")


def _settings(o: argparse.Namespace, model: Any) -> dict[str, Any]:
    from unnoise.core.sampler import Sampler
    from unnoise.override import parse
    from unnoise.recipe import Guidance
    from unnoise.sample.grids import Grid
    from unnoise.samples import SETTINGS

    own = model.sampling
    read = {"sampler": (Sampler, own.sampler), "grid": (Grid, own.grid), "guidance": (Guidance, None)}
    chosen: dict[str, Any] = {}
    for name in SETTINGS:
        value = getattr(o, name)
        if value is not None:
            chosen[name] = parse(value, *read[name], f"--{name}") if name in read else value
    sampling = model.settings(**chosen)
    stages = list(sampling.values()) if isinstance(sampling, dict) else [sampling]
    if o.weaker is not None and all(s.autoguidance == 1 for s in stages):
        raise UserError(
            f"--weaker {o.weaker:g} does nothing without autoguidance: add --autoguidance 2, or leave it out"
        )
    if o.interval is not None and all(s.passes == 1 for s in stages):
        raise UserError("--interval does nothing without guidance: add --guidance or --autoguidance, or leave it out")
    return chosen


def sample(o: argparse.Namespace) -> None:
    """Sample a run or a system. Sample i depends on seed + i alone, not on n or batch. A stopped command goes on."""
    from unnoise.export import export
    from unnoise.runtime import pick_device

    _at_least_one("-n", o.n)
    _at_least_one("--batch", o.batch)
    model = _model(o, pick_device(o.device))
    settings = _settings(o, model)
    cond = conditions(o.cond)
    out = o.out or (o.run / "out" if (o.run / "latest").is_file() else Path("out"))  # checkpoints are pruned
    quiet = not sys.stderr.isatty()
    settings |= {"deterministic": o.deterministic, "captured": o.capture}
    try:
        files = export(model, out, o.n, seed=o.seed, batch=o.batch, quiet=quiet, cond=cond, **settings)
    except KeyboardInterrupt:
        stopped = UserError(f"stopped; the same command goes on with {out}")
        stopped.exit_code = 130
        raise stopped from None
    by_default = [] if cond else list(model.conditions(1, o.seed, cond))
    if by_default:
        print(f"no --cond: {', '.join(by_default)}: a function of each sample's seed", file=sys.stderr)
    print(f"{out}: {o.n} samples" + ("" if len(files) == 1 else f" in {len(files)} files"))


def conditions(pairs: Sequence[str]) -> dict[str, Any]:
    """What --cond says, by name."""
    from unnoise.data.arrays import read_npz

    cond: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not text:
            raise UserError(f"--cond {pair!r} is not understood: write label=3, label=0,1,2 or label=all")
        if name in cond:
            raise UserError(f"--cond {name} is given twice, the second time as {pair!r}: write label=0,1,2 for several")
        if text.endswith(".npz"):
            columns = read_npz(text, (name, "x"))
            cond[name] = columns[name if name in columns else "x"]
        else:
            cond[name] = "all" if text == "all" else [_number(name, v) for v in text.split(",")]
    return cond


def _number(name: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        said = f"{name}={text}"
        raise UserError(f"--cond {said!r} is not understood: write label=3, label=0,1,2 or label=all") from None


def evaluate(o: argparse.Namespace) -> None:
    """Measure a run's samples, each figure beside that of held-out data: evaluation.json and report.html in RUN."""
    from dataclasses import replace

    from unnoise import report
    from unnoise.evaluation import history, measure
    from unnoise.metrics.figure import table
    from unnoise.override import override
    from unnoise.runtime import launch
    from unnoise.spec import build
    from unnoise.trial import Trial

    for name, value in (("-n", o.n), ("--repeats", o.repeats), ("--batch", o.batch)):
        _at_least_one(name, value)
    if o.history < 0:
        raise UserError(f"--history must not be negative, got {o.history}")
    with launch(o.device) as run:
        model = _model(o, run.device)
        settings = _settings(o, model)
        if o.out is None and not o.run.exists():
            raise UserError(f"{o.run} comes with the package, where nothing is written: say where to, --out FOLDER")
        if o.out is None and (o.run / "../../latest").is_file():  # checkpoints are pruned
            o.out = Path(f"evaluation-{o.run.name}")
        if "recipe" not in model.facts:
            raise UserError(
                f"{o.run} is a saved model, not a run: it does not say what data and judge it is measured by"
            )
        recipe = build(model.facts["recipe"], _types(o), lazy=True)
        for assignment in o.set:
            if not assignment.startswith(("judge", "data")):
                raise UserError(f"--set {assignment!r}: a trained run is measured with another judge or data only")
            recipe = override(recipe, assignment)
        judge = recipe.judge
        if judge is None:
            raise UserError(f"the recipe {recipe.name} names no judge to read its samples by")
        data, out = recipe.data.load(), o.out or o.run

        def earlier(judge: Any, trial: Trial) -> Any:
            sampling = model.settings(**settings)
            weaker = None if sampling.autoguidance == 1 else sampling.weaker
            how = _weights(o), _types(o), weaker, model.precision, o.compile
            return history(o.run, o.history, judge, data, trial, *how)

        if o.history:  # read all that it is made of before anything is measured
            earlier(lambda *_: (), Trial(1, run=run))
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):  # or it would be found out after all is measured
            raise UserError(f"nothing may be written in {out}: say where else, --out FOLDER")
        say = (lambda line: print(line, file=sys.stderr)) if run.is_main else (lambda line: None)
        given = {"batch": o.batch, **settings, **({"captured": True} if o.capture else {})}
        trial = Trial(o.n or judge.count, o.repeats, o.seed, given, say, run)
        found = measure(model, judge, data, trial)
        found = replace(found, measured={**found.measured, "set": o.set})
        if run.is_main:  # before the history, which may take long
            found.save(out)
            print(table(found.figures), flush=True)
        if o.history:
            found = replace(found, history=earlier(judge, trial))
        if not run.is_main:
            return
        found.save(out)
        print(f"protocol {found.hash}; {report.of_run(o.run, found, model, data, trial, o.out)}")


def compare(o: argparse.Namespace) -> None:
    """Two evaluations side by side, with what chance alone would explain; refused where their protocols differ."""
    from unnoise.evaluation import Evaluation, compared
    from unnoise.metrics.figure import comparison

    print(comparison(compared(Evaluation.read(o.a), Evaluation.read(o.b)), str(o.a), str(o.b)))


def info(o: argparse.Namespace) -> None:
    """Every key of a recipe, and whether it can be trained; what a run is and where it stands; what an npz file, or a
    folder, zip or tar of pictures, holds and what training would make of it."""
    from unnoise.info import lines

    for line in lines(o.what, _types(o)):
        print(line)


def list_(o: argparse.Namespace) -> None:
    """Recipes, which of them come with trained weights, samplers, grids, networks, and the runs in ./runs."""
    from unnoise import nets, recipes, sample, shipped
    from unnoise.sample import grids

    def summary(thing: Any) -> str:
        return (thing.__doc__ or "").strip().splitlines()[0]

    kinds = {"samplers": sample, "grids": grids, "networks": nets}
    width = max(map(len, [*recipes.names(), *(name for kind in kinds.values() for name in kind.__all__)]))
    print("recipes")
    for name in recipes.names():
        ready = f" [with weights: unnoise sample {name}]" if name in shipped.names() else ""
        print(f"  {name:{width}}  {recipes.summary(name)}{ready}")
    for title, kind in kinds.items():
        print(title)
        for name in kind.__all__:
            print(f"  {name:{width}}  {summary(getattr(kind, name))}")
    print("runs")
    for run in sorted(p.parent for p in RUNS.glob("*/latest")):
        print(f"  {run}")
