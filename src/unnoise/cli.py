"""The command line: train | resume | join | sample | evaluate | compare | info | list."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from unnoise.errors import UserError
from unnoise.version import __version__

RUNS = Path("runs")
SHIPPED = "; where no such path exists, a model that comes with the package: see `unnoise list`"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. What the user can mend is one line on stderr and exit code 2."""
    # Libraries that warn or log in the user's terminal are ours to keep quiet.
    warnings.filterwarnings("ignore", module="torch")
    logging.getLogger("torch").setLevel(logging.ERROR)
    options = _parser().parse_args(arguments)
    try:
        options.run_command(options)
    except UserError as e:
        return _fail(str(e), e.exit_code)
    except ValueError as e:
        if not _is_ours(e):
            raise
        return _fail(str(e), 2)
    except FloatingPointError as e:
        return _fail(str(e), 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:
        if e.filename is None:
            raise
        return _fail(str(e), 2)
    return 0


def _fail(message: str, code: int) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"unnoise: {' '.join(message.split())}", file=sys.stderr)
    return code


def _is_ours(e: Exception) -> bool:
    """Whether our own code refused a value, so that the message names it and the remedy, or a library did."""
    *_, (frame, _) = traceback.walk_tb(e.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == "unnoise"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as all errors are."""
        self.exit(_fail(f"{message} (see {self.prog} --help)", 2))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="unnoise", description="Train, sample and evaluate diffusion models.")
    parser.add_argument("--version", action="version", version=f"unnoise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe in a new run folder", description=_train.__doc__)
    train.add_argument("recipe", metavar="NAME|FILE.py", help="a recipe (see `unnoise list`), or a file with recipe()")
    train.add_argument(
        "--data", metavar="PATH", help="pictures of your own for `images`; another path for other recipes"
    )
    train.add_argument("--size", metavar="N|HxW", help="pixels that pictures are brought to (default: their own)")
    train.add_argument("--mirror", action="store_true", help="train on pictures mirrored left to right too")
    train.add_argument("-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key, repeatable")
    train.add_argument("--seed", type=int, default=0, help="of weights, data order and noise (default 0)")
    train.add_argument("--precision", help="fp32, bf16 or fp16 (default: bf16 on GPUs that have it, else fp32)")
    train.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile the networks"
    )
    train.add_argument(
        "--capture", action=argparse.BooleanOptionalAction, default=False, help="replay training steps as a CUDA graph"
    )
    length = train.add_mutually_exclusive_group()
    length.add_argument("--samples", type=int, metavar="N", help="samples to see, in the place of the recipe's")
    length.add_argument("--minutes", type=float, metavar="M", help="train for so long instead")
    train.add_argument("--from", dest="parent", type=Path, metavar="RUN", help="start from the weights of another run")
    train.add_argument("--out", type=Path, metavar="RUN", help="the run folder (default runs/NAME)")
    train.add_argument("--tensorboard", action="store_true", help="also log to RUN/tensorboard (extra tensorboard)")
    train.set_defaults(run_command=_train)

    resume = commands.add_parser("resume", help="go on with a run", description=_resume.__doc__)
    resume.add_argument("run", type=Path, metavar="RUN")
    resume.add_argument("--samples", type=int, metavar="N", help="train to this number of samples instead")
    resume.add_argument("--tensorboard", action="store_true", help="also log to RUN/tensorboard (extra tensorboard)")
    resume.set_defaults(run_command=_resume)

    join = commands.add_parser("join", help="make one system of several runs", description=_join.__doc__)
    join.add_argument("out", type=Path, metavar="SYSTEM", help="the folder to make")
    join.add_argument("stages", nargs="+", metavar="NAME=RUN", help="a stage and its run, in the order of sampling")
    join.add_argument(
        "--link",
        action="append",
        metavar="TARGET.CONDITION=SOURCE",
        help="up.low=base: what base makes is low of up; repeatable (default: what each stage cannot do without is "
        "what the stage before makes)",
    )
    join.add_argument("--weights", default=None, metavar="WIDTH|raw", help="which weights, as for sample")
    join.set_defaults(run_command=_join)

    sample = commands.add_parser("sample", help="sample a run or a system", description=_sample.__doc__)
    sample.add_argument(
        "run", type=Path, metavar="RUN", help=f"a run, a checkpoint, a saved model or a system{SHIPPED}"
    )
    sample.add_argument("-n", type=int, default=16, help="how many (default 16)")
    sample.add_argument("--seed", type=int, default=0, help="of the first; sample i has seed + i (default 0)")
    sample.add_argument(
        "--cond",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="label=3, label=0,1,2 or label=all; low=FILE.npz: its column of this name, or else x; repeatable",
    )
    sample.add_argument("--sampler", help="see `unnoise list`; with arguments: 'Ancestral(eta=0.5)'")
    sample.add_argument("--steps", type=int, help="number of steps")
    sample.add_argument(
        "--guidance", metavar="SCALE", help="classifier-free guidance, 1 is off; hair=2,body=1.5: by attribute"
    )
    sample.add_argument(
        "--weights", default=None, metavar="WIDTH|raw", help="EMA of a relative width, or the weights as trained"
    )
    sample.add_argument("--batch", type=int, default=256, help="samples at a time; the result does not depend on it")
    sample.add_argument("--deterministic", action="store_true", help="to the bit the same for any batch, and slower")
    sample.add_argument(
        "--out", type=Path, help="x.png: a grid; x.npz: an archive; else a folder (default RUN/out, or ./out)"
    )
    sample.set_defaults(run_command=_sample)

    evaluate = commands.add_parser("evaluate", help="measure a run's samples", description=_evaluate.__doc__)
    evaluate.add_argument("run", type=Path, metavar="RUN", help=f"a run, a checkpoint or a saved model{SHIPPED}")
    evaluate.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of judge or data, repeatable"
    )
    evaluate.add_argument("-n", type=int, help="samples a repeat (default: the judge's own, mostly 1000)")
    evaluate.add_argument("--repeats", type=int, default=1, help="sample seeds, for a standard error (default 1)")
    evaluate.add_argument("--seed", type=int, default=1_000_000, help="of the first sample (default 1000000)")
    evaluate.add_argument("--steps", type=int, help="number of steps")
    evaluate.add_argument(
        "--guidance", metavar="SCALE", help="classifier-free guidance, 1 is off; hair=2,body=1.5: by attribute"
    )
    evaluate.add_argument("--weights", default=None, metavar="WIDTH|raw", help="which weights, as for sample")
    evaluate.add_argument(
        "--history",
        type=int,
        default=0,
        metavar="K",
        help="also measure K of the averages that the run kept as training went on (default 0)",
    )
    evaluate.add_argument("--out", type=Path, metavar="FOLDER", help="where to write what was found (default RUN)")
    evaluate.set_defaults(run_command=_evaluate)

    compare = commands.add_parser("compare", help="two evaluations side by side", description=_compare.__doc__)
    compare.add_argument("a", type=Path, metavar="A", help=f"a run that was evaluated, or an evaluation.json{SHIPPED}")
    compare.add_argument("b", type=Path, metavar="B")
    compare.set_defaults(run_command=_compare)

    info = commands.add_parser(
        "info", help="what recipes, runs, systems and data consist of", description=_info.__doc__
    )
    info.add_argument("what", metavar="NAME|FILE.py|RUN|SYSTEM|DATA", help="DATA: npz; pictures")
    info.set_defaults(run_command=_info)

    listing = commands.add_parser("list", help="recipes, samplers, networks, runs", description=_list.__doc__)
    listing.set_defaults(run_command=_list)

    for command in (train, resume):
        command.add_argument(
            "--shard",
            action=argparse.BooleanOptionalAction,
            default=None,
            help="under torchrun: each process holds a part of the networks (default: not; resume: as before)",
        )
        command.add_argument(
            "--workers", type=int, metavar="N", help="processes that read data larger than memory (default: by cores)"
        )
    for command in (sample, evaluate):
        command.add_argument(
            "--autoguidance", type=float, metavar="SCALE", help="guidance by a weaker network, 1 is off"
        )
        command.add_argument(
            "--weaker",
            type=float,
            metavar="SHARE",
            help="of --autoguidance: by the network as it was after this share of its training (default: the recipe's)",
        )
        command.add_argument(
            "--capture", action=argparse.BooleanOptionalAction, default=False, help="replay batches as a CUDA graph"
        )
    for command in (train, resume, sample, evaluate):
        command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    for command in (resume, join, sample, evaluate, info):
        command.add_argument("--types", metavar="FILE.py", help="a file with classes of yours that the run is made of")
    return parser


def _train(o: argparse.Namespace) -> None:
    """Train a recipe. The run lies in runs/NAME unless --out says otherwise."""
    from unnoise import fit, recipes
    from unnoise.override import override
    from unnoise.runtime import launch

    asked = {"data": o.data, "size": _size(o.size), "mirror": o.mirror or None}
    recipe, types = recipes.load(o.recipe, **{k: v for k, v in asked.items() if v is not None})
    for assignment in o.set:
        recipe = override(recipe, assignment)
    if o.minutes is not None and not o.minutes > 0:
        raise UserError(f"--minutes must be positive, got {o.minutes}")
    _at_least_one("--samples", o.samples)
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


def _resume(o: argparse.Namespace) -> None:
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

    if o.capture:
        require_cuda(device)
    weights = _weights(o)
    weaker = True if o.weaker is None and o.autoguidance not in (None, 1) else o.weaker
    model = system.load(o.run, weights=weights, device=device, types=_types(o), weaker=weaker)
    model.facts["weights"] = weights
    return model


def _join(o: argparse.Namespace) -> None:
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

    chosen: dict[str, Any] = {} if o.steps is None else {"steps": o.steps}
    if o.guidance is not None:
        chosen["guidance"] = parse(o.guidance, Guidance, None, "--guidance")
    if o.autoguidance is not None:
        chosen["autoguidance"] = o.autoguidance
    if getattr(o, "sampler", None):
        chosen["sampler"] = parse(o.sampler, Sampler, model.sampling.sampler, "--sampler")
    model.settings(**chosen)
    return chosen


def _sample(o: argparse.Namespace) -> None:
    """Sample a run or a system. Sample i depends on seed + i alone, not on n or batch. A stopped command goes on."""
    from unnoise.export import export
    from unnoise.runtime import pick_device

    _at_least_one("-n", o.n)
    _at_least_one("--batch", o.batch)
    model = _model(o, pick_device(o.device))
    settings = _settings(o, model)
    cond = _conditions(o.cond)
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


def _conditions(pairs: Sequence[str]) -> dict[str, Any]:
    from unnoise.data.arrays import read_npz

    cond: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not text:
            raise UserError(f"--cond {pair!r} is not understood: write label=3, label=0,1,2 or label=all")
        if text.endswith(".npz"):
            columns = read_npz(text)
            cond[name] = columns.get(name, columns["x"])
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


def _evaluate(o: argparse.Namespace) -> None:
    """Measure a run's samples, each figure beside that of held-out data: evaluation.json and report.html in RUN."""
    from dataclasses import replace

    from unnoise import report
    from unnoise.evaluation import history, measure
    from unnoise.metrics.figure import table
    from unnoise.override import override
    from unnoise.runtime import launch
    from unnoise.spec import build
    from unnoise.trial import Trial

    for name, value in (("-n", o.n), ("--repeats", o.repeats)):
        _at_least_one(name, value)
    if o.history < 0:
        raise UserError(f"--history must not be negative, got {o.history}")
    with launch(o.device) as run:
        model = _model(o, run.device)
        settings = _settings(o, model)
        if o.out is None and not o.run.exists():
            raise UserError(f"{o.run} comes with the package, where nothing is written: say where to, --out FOLDER")
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
        out.mkdir(parents=True, exist_ok=True)
        say = (lambda line: print(line, file=sys.stderr)) if run.is_main else (lambda line: None)
        given = {**settings, "captured": True} if o.capture else settings
        trial = Trial(o.n or judge.count, o.repeats, o.seed, given, say, run)
        found = measure(model, judge, data, trial)
        found = replace(found, measured={**found.measured, "set": o.set})
        if o.history:
            sampling = model.settings(**settings)
            weaker = None if sampling.autoguidance == 1 else sampling.weaker
            then = history(o.run, o.history, judge, data, trial, _weights(o), _types(o), weaker)
            found = replace(found, history=then)
        if not run.is_main:
            return
        found.save(out)
        print(table(found.figures))
        print(f"protocol {found.hash}; {report.of_run(o.run, found, model, data, trial, o.out)}")


def _compare(o: argparse.Namespace) -> None:
    """Two evaluations side by side, with what chance alone would explain; refused where their protocols differ."""
    from unnoise.evaluation import Evaluation, compared
    from unnoise.metrics.figure import comparison

    print(comparison(compared(Evaluation.read(o.a), Evaluation.read(o.b)), str(o.a), str(o.b)))


def _info(o: argparse.Namespace) -> None:
    """Every key of a recipe; what a run is and where it stands; what an npz file, or a folder, zip or tar of pictures,
    holds and what training would make of it."""
    from unnoise import info

    types = _types(o)
    for line in info.lines(o.what, types):
        print(line)


def _list(o: argparse.Namespace) -> None:
    """Recipes, which of them come with trained weights, samplers, networks, and the runs in ./runs."""
    from unnoise import nets, recipes, sample, shipped

    def summary(thing: Any) -> str:
        return (thing.__doc__ or "").strip().splitlines()[0]

    width = max(map(len, [*recipes.names(), *sample.__all__, *nets.__all__]))
    print("recipes")
    for name in recipes.names():
        ready = f" [with weights: unnoise sample {name}]" if name in shipped.names() else ""
        print(f"  {name:{width}}  {recipes.summary(name)}{ready}")
    for title, package in (("samplers", sample), ("networks", nets)):
        print(title)
        for name in package.__all__:
            print(f"  {name:{width}}  {summary(getattr(package, name))}")
    print("runs")
    for run in sorted(p.parent for p in RUNS.glob("*/latest")):
        print(f"  {run}")


if __name__ == "__main__":
    sys.exit(main())
