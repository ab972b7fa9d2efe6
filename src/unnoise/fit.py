"""A run: a folder in which a recipe is trained, watched, saved and gone on with.

runs/digits/
    latest, checkpoints/     see `checkpoint`; checkpoints/.lock is held by the process that trains
    ema/<seen>.safetensors   snapshots of the averaged weights, for any other width afterwards
    metrics.jsonl            a line every so many steps
    samples/<seen>.png       the same seeds again and again
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from unnoise import checkpoint, shipped
from unnoise.data.dataset import loaded
from unnoise.errors import UserError
from unnoise.forecast import advice
from unnoise.lock import alone
from unnoise.log import Logger, say
from unnoise.model import Model
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime, default_precision, pick_device, precision_of
from unnoise.session import Session, whole_batches
from unnoise.spec import build
from unnoise.state import State
from unnoise.train import check_capturable

MEASURED_BY = 2048
"""Items of a lazy column that a codec measures its numbers by."""


def start(
    recipe: Recipe,
    path: str | Path,
    run: Runtime | None = None,
    *,
    seed: int = 0,
    precision: str | None = None,
    compiled: bool = False,
    captured: bool = False,
    samples: int | None = None,
    minutes: float | None = None,
    parent: Path | None = None,
    types: Sequence[type] = (),
    loggers: Sequence[Logger] = (),
    workers: int | None = None,
    sharded: bool = False,
) -> State:
    """Train a recipe in a new run folder.

    Args:
        recipe: what to train.
        path: the folder; it must not exist, or be empty.
        run: rank and world; None: this process alone, on the fastest device.
        seed: of everything.
        precision: "fp32", "bf16" or "fp16"; None: `default_precision`.
        compiled: torch.compile the networks, for training; what is looked at meanwhile is evaluated as it is.
        captured: replay training steps as a CUDA graph, see `train.train`.
        samples: samples to see, in the place of the recipe's.
        minutes: instead, how long to train: the rate over 5 % of it, once steps are warm, says how many samples, and is
            looked at again until the learning rate begins to fall (`session.Pace`).
        parent: a run or model whose weights to start from, where they fit.
        types: classes of the user's in the recipe or the parent.
        loggers: besides metrics.jsonl.
        workers: processes that read data larger than memory, see `data.stream.batches`; the run is the same with any.
        sharded: of several processes, let each hold a part of every trained network (`Runtime.distribute`).

    Raises:
        UserError: for what the user can mend; nothing is lost.
    """
    path, run = Path(path), run or Runtime(pick_device())
    run = _sharding(run, compiled) if sharded else run
    _require_free(path)
    run.barrier()  # or the main process might write there before another has looked
    precision = precision or default_precision(run.device)
    dtype = precision_of(precision)
    if captured:
        check_capturable(recipe, run)
    data = recipe.data.load()
    total = None if minutes is not None else whole_batches(recipe.samples if samples is None else samples, recipe.batch)
    state = State(recipe, seed, run.device, total, dtype, shard=run.distribute if run.sharded else None)
    measure = getattr(state.components["codec"], "measure", None)
    if measure is not None:  # a codec with numbers of its own: the scale of latents
        measure(loaded(data.train["x"], MEASURED_BY))
    if parent is not None:
        _adopt(state, parent, types, run)
    facts = {
        "precision": precision,
        "compiled": compiled,
        "captured": captured,
        "sharded": sharded,
        "minutes": minutes,
        "elapsed": 0.0,
        "about": data.about,
    }
    session = Session(recipe, path, run, state, data, facts, loggers, workers)
    session.prepare()
    if run.is_main and (line := advice(recipe, run, compiled, captured)):
        say(line)
    if run.is_main:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    with _alone(path, run):
        if run.is_main:
            _require_free(path)  # another process may have begun meanwhile, and be done
        session.save()
        session.loop()
    return state


def resume(
    path: str | Path,
    run: Runtime | None = None,
    *,
    samples: int | None = None,
    types: Sequence[type] = (),
    loggers: Sequence[Logger] = (),
    workers: int | None = None,
    sharded: bool | None = None,
) -> State:
    """Go on with a run where its last checkpoint stands; the same run as if it had not been stopped.

    Where that checkpoint is damaged, it says so and goes on from the one before.

    Args:
        path: the run folder.
        run: rank and world, which may be others than before; None: this process alone, on the fastest device.
        samples: train to this number of samples instead.
        types: classes of the user's in the recipe.
        loggers: besides metrics.jsonl.
        workers: processes that read data larger than memory, as for `start`.
        sharded: as for `start`; None: as the run was begun, where there are several processes.
    """
    path, run = Path(path), run or Runtime(pick_device())
    with _alone(path, run):
        contents, notice = checkpoint.go_on(shipped.find(path), run)
        if notice and run.is_main:
            say(notice)
        facts = contents.facts
        if not (path / "latest").is_file() or "recipe" not in facts:
            raise checkpoint.CheckpointError(
                f"{path} is a checkpoint or a saved model, not a run: name the run's own folder"
            )
        facts = {**facts, "sharded": facts.get("sharded", False) if sharded is None else sharded}
        if sharded or (facts["sharded"] and run.world > 1):
            run = _sharding(run, facts["compiled"])
        recipe = build(facts["recipe"], types, lazy=True)
        data = recipe.data.load()
        state = State(
            recipe,
            facts["seed"],
            run.device,
            facts["total"],
            precision_of(facts["precision"]),
            checkpoint.components(contents, types),
            run.distribute if run.sharded else None,
        )
        state.load(contents.groups)
        state.seen = facts["seen"]
        if samples is not None:
            state.total = whole_batches(samples, recipe.batch)
            if state.total < state.seen:
                raise UserError(f"--samples {samples} is fewer than the {state.seen:,} that {path} has seen")
        if state.total is not None and state.seen >= state.total:
            raise UserError(f"{path} is complete: {state.seen} samples seen; --samples N trains it further")
        session = Session(recipe, path, run, state, data, facts, loggers, workers)
        session.prepare()
        session.loop()
        return state


def _sharding(run: Runtime, compiled: bool) -> Runtime:
    if compiled:
        raise UserError("a network that is compiled cannot be sharded: leave --compile or --shard away")
    return run.sharding()


def _alone(path: Path, run: Runtime) -> AbstractContextManager[None]:
    """Within, no other process trains in the folder."""
    return alone(path / "checkpoints" / ".lock", f"{path} is being trained", run.is_main, run.broadcast)


def _require_free(path: Path) -> None:
    """Refuse a folder that holds more than a start leaves that is killed before its first checkpoint."""
    if path.exists() and not (
        path.is_dir() and all(f.name == "checkpoints" or f.suffix == ".part" for f in path.iterdir())
    ):
        raise UserError(f"{path} exists: `unnoise resume {path}` goes on with it, --out chooses another folder")


def _adopt(state: State, parent: Path, types: Sequence[type], run: Runtime) -> None:
    """Start from another run's averaged weights, where names and shapes agree."""
    model = Model.load(parent, types=types)
    fresh = checkpoint.adopt_weights(state.components["model"], model.denoiser.state_dict(), parent)
    for width in state.ema.widths:
        state.ema.load(width, state.named)
    if fresh and run.is_main:
        say(f"from {parent}: all weights but {len(fresh)} that differ in shape or name ({', '.join(fresh[:3])}, ..)")
