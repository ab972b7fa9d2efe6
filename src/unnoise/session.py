"""One process's stretch of a run: the loop around `train` that watches, logs, saves and can be stopped."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from unnoise import checkpoint
from unnoise.core.objective import Batch
from unnoise.data.dataset import Dataset, require_finite
from unnoise.data.stream import batches
from unnoise.errors import UserError, is_out_of_memory
from unnoise.evaluate import loss_by_level
from unnoise.forecast import check, forecast
from unnoise.log import JsonLines, Logger, say
from unnoise.model import Model
from unnoise.optim import snapshot_due
from unnoise.parts import whole
from unnoise.preview import preview
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime, uncompiled
from unnoise.spec import describe
from unnoise.state import State
from unnoise.train import Progress, train
from unnoise.version import __version__

MEASURED = 0.05
"""The share of its minutes after which a run says, from its rate, how many samples it is to see; again after each."""
AMENDED = 0.02
"""By how much that number is to be off before it is changed."""
WARM = 8
"""Steps before that: the first ones allocate, tune, compile and are recorded, which may take longer than the share."""
SAVE_EVERY = 60.0
"""Seconds between checkpoints: what a kill can cost."""
PREVIEWS = 4
"""Grids of samples in a run, at most: see `affordable`."""
LOOKING, FREE = 0.1, 10.0
"""The share of a run's time that grids may take, and seconds that they may take in any case."""
WATCHED = 512
"""Held-out items that the loss is watched on."""
DENSE = 32
"""Lines of the log in each e-fold of their number that tell the held-out loss; all of the first 40 do."""


class Interrupted(UserError):
    """The user (or the system) asked the run to stop; it is saved."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Pace:
    """How many samples fit into so many seconds, from the rate so far: said after every 5 % of them.

    Not once, since what a run does besides its steps (grids of samples, checkpoints), and what others do on its
    machine, comes later. The rate is that of all steps since they are warm: a grid would make up most of a short while.

    Args:
        seconds: of the whole run.
        batch: samples a step.
        seen: samples before the first step of this stretch.
    """

    def __init__(self, seconds: float, batch: int, seen: int) -> None:
        self.seconds, self.batch, self.first = seconds, batch, seen
        self.warm: float | None = None
        """Seconds until steps were warm."""
        self.said = 0.0
        """And until a number was said last."""
        self.rate = 0.0
        """Samples a second, once it is known."""

    def total(self, seen: int, elapsed: float) -> int:
        """After a step: how many samples the run is to see in all, in whole batches; 0 where there is nothing to say.

        Args:
            seen: samples so far.
            elapsed: seconds so far.
        """
        steps = (seen - self.first) // self.batch
        if steps < WARM:
            return 0
        if self.warm is None:
            self.warm = self.said = elapsed
        if steps < 2 * WARM or elapsed - self.said < MEASURED * self.seconds:
            return 0
        self.rate = (steps - WARM) * self.batch / max(elapsed - self.warm, 1e-9)
        self.said = elapsed
        return whole_batches(seen + round(self.rate * max(0.0, self.seconds - elapsed)), self.batch)


def watch_due(line: int) -> bool:
    """Whether this line of the log, counted from 1, tells the held-out loss: each of the first ones, ever fewer later.

    On a fast device a look at held-out data takes as long as many steps: of 16,000 lines 231 do.
    """
    return line == 1 or math.floor(DENSE * math.log(line)) > math.floor(DENSE * math.log(line - 1))


def affordable(grids: Sequence[float], elapsed: float) -> bool:
    """Whether there is time for another grid like those before: one of a sampler of 1,000 steps may take half a minute.

    Args:
        grids: seconds that each took so far.
        elapsed: seconds of the run so far.
    """
    return not grids or sum(grids) * (1 + 1 / len(grids)) <= max(FREE, LOOKING * elapsed)


class Session:
    """One process's stretch of a run, from a checkpoint to the end or to an interruption."""

    def __init__(
        self,
        recipe: Recipe,
        path: Path,
        run: Runtime,
        state: State,
        data: Dataset,
        facts: Mapping[str, Any],
        loggers: Sequence[Logger],
        workers: int | None = None,
    ) -> None:
        self.recipe, self.path, self.run, self.state, self.data = recipe, path, run, state, data
        self.facts, self.begun = dict(facts), time.monotonic()
        self.before = float(facts["elapsed"])
        self.facts["machines"] = list(dict.fromkeys([*facts.get("machines", ()), run.machine]))
        self.loggers: list[Logger] = list(loggers)
        if workers is not None and workers < 0:
            raise UserError(f"the number of workers is at least 0, got {workers}")
        self.workers = workers
        self.stopped: int | None = None
        self.pace: Pace | None = None
        if state.total is None:
            self.pace = Pace(60 * float(facts["minutes"]), recipe.batch, state.seen)
        self.said = state.seen, self.begun
        self.watched: dict[str, Tensor] = {}
        self.grids: list[float] = []

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, earlier stretches included."""
        return self.before + time.monotonic() - self.begun

    def prepare(self) -> None:
        """Check data and sampling settings, say what is to come, compile: all before the first step."""
        check(self.recipe, self.state.components, self.data)
        self.run.shard(self.recipe.batch)
        if self.run.is_main and self.data.notice:
            say(self.data.notice)
        if self.run.joins:
            self.watched = {k: v[:WATCHED] for k, v in self.data.held_out.items()}
            for k, column in self.watched.items():
                require_finite(column, k)  # a lazy one's are new here
            with self._memory():
                line = forecast(self.recipe, self.state, self.data, self.run, self.facts)
            if self.run.is_main:
                say(line)
        if self.facts["compiled"]:
            self.state.compile()

    def loop(self) -> None:
        """Train to the end, or until a signal; save either way."""
        state, recipe, run = self.state, self.recipe, self.run
        if run.is_main:
            self.loggers.insert(0, JsonLines(self.path / "metrics.jsonl", state.seen))
        rows = run.shard(recipe.batch)
        given: dict[str, Any] = {"seed": state.seed, "seen": state.seen, "rows": rows, "device": run.device}
        stream = closing(batches(self.data.train, recipe.batch, workers=self.workers, **given))
        saved = time.monotonic()
        # A captured run may go on elsewhere: its steps are the same where nothing can be captured.
        captured = self.facts.get("captured", False) and run.device.type == "cuda" and not run.sharded
        with self._signals(), self._bar() as bar, self._memory(), stream as source:
            for progress in train(recipe, state, self._saving(source), run, captured=captured):
                step = state.seen // recipe.batch
                if self.pace is not None and (state.total is None or step % 8 == 0):
                    self._fix_total(self.pace)
                if bar is not None:
                    bar.total = state.total
                    bar.update(recipe.batch)
                if snapshot_due(state.seen, recipe.batch) and run.joins:
                    self.snapshot()
                if step % recipe.log_every == 0 or state.seen == state.total:
                    self.log(progress, bar)
                if "process" in state.components and self._preview_due():
                    self.preview()
                if self._save_due(step, saved):
                    self.save()
                    saved = time.monotonic()
                if step % 8 == 0 or run.world == 1:
                    self._stop_if_asked()
        if run.joins:
            self.snapshot()
        self.save()

    def _saving(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """Batches; one that cannot be read is met between two steps, and the run is saved there."""
        try:
            yield from source
        except UserError as e:
            if self.run.sharded or not self.state.seen:  # others would have to save their parts
                raise
            raise UserError(f"{e}; {self._saved()}") from e

    def _save_due(self, step: int, saved: float) -> bool:
        """Whether the last checkpoint is old; where all write a part of one, by the main process's clock."""
        due = time.monotonic() - saved > SAVE_EVERY
        return step % 8 == 0 and self.run.any(due and self.run.is_main) if self.run.sharded else due

    def _fix_total(self, pace: Pace) -> None:
        """A run of so many minutes: its rate says how many samples it is to see, until that bears on the next step."""
        state, upcoming = self.state, self.state.seen + self.recipe.batch
        total = int(self.run.broadcast(pace.total(state.seen, self.elapsed)))
        if not total:
            return
        optims = [phase.optim for phase in state.phases]
        same = all(optim.lr_at(upcoming, state.total) == optim.lr_at(upcoming, total) for optim in optims)
        when = f"once warm, after {pace.warm:.0f} s"
        if state.total is not None:
            if not same:
                self.pace = None
            if not same or abs(total - state.total) <= AMENDED * state.total:
                return
            when = "so far"
        state.total = total
        if self.run.is_main:
            repeats = f"; --samples {total} repeats this run" if same else ""
            say(f"{pace.rate:.0f} samples/s {when}: {total} samples fit{repeats}")

    def _preview_due(self) -> bool:
        """At the end, and at each part of the run before if the main process has time for it."""
        total, seen, batch = self.state.total, self.state.seen, self.recipe.batch
        if total is None or seen * PREVIEWS // total == (seen - batch) * PREVIEWS // total:
            return False
        return seen == total or self.run.any(self.run.is_main and affordable(self.grids, self.elapsed))

    def preview(self) -> None:
        """A grid of samples of the averaged weights."""
        began = time.monotonic()
        if self.run.joins:
            folder = self.path / "samples" if self.run.is_main else None
            with _optional(), self.state.averaged(self.recipe.average), uncompiled(self.facts["compiled"]):
                preview(self.model(), folder, self.state.seen, self.data, self.loggers)
        self.grids.append(time.monotonic() - began)

    def log(self, progress: Progress, bar: Any) -> None:
        """A line of metrics: training loss and, where `watch_due`, held-out loss, also by log-SNR."""
        state, recipe = self.state, self.recipe
        due = state.seen == state.total or watch_due(state.seen // recipe.batch // recipe.log_every)
        values: dict[str, Any] = {**state.read_window(self.run), "lr": progress.lr, "norm": float(progress.norm)}
        if due and self.run.joins and len(self.watched["x"]):
            with uncompiled(self.facts["compiled"]):
                values |= loss_by_level(recipe.objective, state.components, self.watched, self.run.device, WATCHED)
        if not self.run.is_main:
            return
        values |= {"seconds": round(self.elapsed, 2)}
        for logger in self.loggers:
            with _optional():
                logger.log(state.seen, values)
        (before, then), self.said = self.said, (state.seen, time.monotonic())
        rate = (state.seen - before) / max(self.said[1] - then, 1e-9)
        held_out = f"  held out {values['held_out']:.4f}" if "held_out" in values else ""
        line = f"loss {values['loss']:.4f}{held_out}"
        if bar is not None:
            bar.set_postfix_str(line)
        else:
            of = f" of {state.total}" if state.total else ""
            say(f"{state.seen}{of} samples  {line}  {rate:.0f} samples/s")
        if values["skipped"]:
            say(f"{values['skipped']} steps with gradients that were not finite were skipped so far")

    def model(self) -> Model:
        """The model as it stands, sharing the weights in training; a weaker network to guide it is not at hand."""
        parts, sampling = self.state.components, replace(self.recipe.sampling, autoguidance=1.0)
        return Model(parts["model"], parts["codec"], parts.get("process"), parts.get("conditioner"), sampling)

    def snapshot(self) -> None:
        """The averaged weights in bf16, for reconstruction at any width."""
        tensors = {}
        for width in self.state.ema.widths:
            for name, x in self.state.ema.state(width).items():
                tensors[f"{width:g}/{name}"] = whole(x.to(torch.bfloat16) if x.is_floating_point() else x).cpu()
        if not self.run.is_main:
            return
        with _optional():
            checkpoint.save_tensors(tensors, self.path / "ema" / f"{self.state.seen}.safetensors")

    def save(self) -> None:
        """A checkpoint, by the main process, or by all that hold parts of it."""
        if not self.run.joins:
            return
        state, recipe = self.state, self.recipe
        facts = {
            **self.facts,
            "name": recipe.name,
            "recipe": describe(recipe),
            "sampling": describe(recipe.sampling),
            "average": recipe.average,
            "trains": list(recipe.trains),
            "seed": state.seed,
            "seen": state.seen,
            "total": state.total,
            "elapsed": self.elapsed,
            "unnoise": __version__,
            "torch": torch.__version__,
        }
        contents = checkpoint.contents_of(state.components, state.groups(), facts)
        checkpoint.commit(self.path, state.seen, contents, self.run if self.run.sharded else Runtime())

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within, Ctrl-C and SIGTERM ask the loop to stop after its step; a second Ctrl-C stops at once.

        Of several processes it does not: torchrun passes on the Ctrl-C that the terminal has sent to each already.
        """

        def ask(number: int, frame: FrameType | None) -> None:
            if self.stopped is not None and self.run.world == 1:
                raise KeyboardInterrupt
            self.stopped = number

        try:
            before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are somebody else's
            yield
            return
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def _saved(self) -> str:
        """Save, and say so."""
        self.save()
        return f"saved after {self.state.seen} samples; go on with: unnoise resume {self.path}"

    def _stop_if_asked(self) -> None:
        if self.state.seen != self.state.total and self.run.any(self.stopped is not None):
            said = self._saved()
            self.run.barrier()  # torchrun ends all processes as soon as one has ended
            raise Interrupted(f"stopped and {said}", 128 + (self.stopped or signal.SIGTERM))

    @contextmanager
    def _bar(self) -> Iterator[Any]:
        """A progress bar on a terminal, nothing elsewhere."""
        if not (self.run.is_main and sys.stderr.isatty()):
            yield None
            return
        with tqdm(total=self.state.total, initial=self.state.seen, unit=" samples", unit_scale=True) as bar:
            yield bar

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Within, out of memory is an error that says what to do."""
        try:
            yield
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            shape = tuple(getattr(self.recipe.codec, "shape", ()))
            raise UserError(
                f"out of memory with batches of {self.recipe.batch} of size {shape} on {self.run.device}. Any of these "
                f"helps: -s micro={2 * self.recipe.micro} (same result, slower), "
                f"-s batch={max(1, self.recipe.batch // 2)}, --precision bf16. Nothing that was saved is lost"
            ) from e


@contextmanager
def _optional() -> Iterator[None]:
    """Within, a file that cannot be written costs that file alone, and a line that says so.

    A checkpoint written at once would lack the same room; by the time of the next one there may be some.
    """
    try:
        yield
    except UserError as e:
        if not isinstance(e.__cause__, OSError | SafetensorError):
            raise
        say(f"{e}; training goes on")


def whole_batches(samples: int, batch: int) -> int:
    """The number of samples, rounded up to whole batches; Raises UserError where there are none."""
    if samples < 1:
        raise UserError(f"the number of samples must be at least 1, got {samples}")
    return -(-samples // batch) * batch
