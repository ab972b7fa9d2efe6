"""Whether a run can begin, what it will take, what would make it faster: all found out before its first step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise.core.objective import Batch
from unnoise.core.rng import Rng
from unnoise.data.dataset import Dataset, loaded
from unnoise.errors import UserError
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.state import State
from unnoise.train import check_capturable

CHECKED = 64
"""Items of a lazy column that are looked at."""


def check(recipe: Recipe, parts: Mapping[str, Any], data: Dataset) -> None:
    """Refuse data that codec or conditioner do not expect, and a grid that cannot be sampled; Raises UserError."""
    codec: Any = parts.get("codec")
    conditioner: Any = parts.get("conditioner")
    if hasattr(codec, "check"):
        codec.check(loaded(data.train["x"], CHECKED))
    if conditioner is not None:
        conditioner.check({k: loaded(v, CHECKED) for k, v in data.train.items() if k in conditioner.names})
    interval = getattr(parts["model"], "interval", None)
    if interval is not None:  # or a grid that cannot be sampled would be found out at the first preview
        recipe.sampling.check(interval)


def forecast(recipe: Recipe, state: State, data: Dataset, run: Runtime, facts: Mapping[str, Any]) -> str:
    """One line: parameters, data, memory and time to expect, from a trial pass that changes nothing.

    Args:
        recipe: what is trained.
        state: its networks; how many samples are to be seen.
        data: what it learns from.
        run: rank and world.
        facts: of the run: "precision", "compiled" and "captured", and "minutes" where the number of samples is not
            fixed yet.
    """
    parameters = sum(p.numel() for m in state.networks.values() for p in m.parameters())
    seconds, activations = _trial(recipe, state, data, run)
    # Weights, gradients and two moments; an average of each width. Sharded, a process holds its share of them.
    held = parameters / (run.world if run.sharded else 1)
    memory = (4 * held * (4 + len(recipe.widths)) + activations) / 2**30
    left = None if state.total is None else (state.total - state.seen) // recipe.batch
    if left is None:
        minutes = f"{facts['minutes']:.2g} minutes"
    else:  # the optimiser's steps would change the weights, and compiling takes long itself
        minutes = f"{left * seconds / 60:.2g} minutes of forward and backward passes"
        faster = [word for word in ("compiled", "captured") if facts.get(word)]
        minutes += f", before they are {' and '.join(faster)}" if faster else ""
    samples = f"{state.total:,} samples" if state.total else "as many samples as fit"
    kind = f"{run.device.type} x {run.world}" if run.world > 1 else run.device.type
    held_out = len(data.held_out["x"])
    return (
        f"{recipe.name}: {parameters:,} parameters; {len(data):,} items to train on, {held_out:,} held out; {samples} "
        f"in batches of {recipe.batch} on {kind} in {facts['precision']}; about {memory:.2g} GiB, {minutes}"
    )


def advice(recipe: Recipe, run: Runtime, compiled: bool, captured: bool) -> str | None:
    """What would make a run faster that is about to begin on a GPU; None where nothing is left out that would."""
    try:
        check_capturable(recipe, run)
    except UserError:
        return None
    left_out = [flag for flag, used in (("--compile", compiled), ("--capture", captured)) if not used]
    if not left_out:
        return None
    after = "" if compiled else ", once that has compiled for a minute"
    return f"faster on a GPU: {' '.join(left_out)}{after}"


def rehearse(recipe: Recipe, components: Mapping[str, Any], data: Dataset) -> None:
    """The losses of two items, of each phase: what does not fit together raises what training would."""
    batch, rng = _batch(recipe, data, 2, torch.device("cpu"))
    for phase in recipe.all_phases():
        phase.objective(components, batch, rng, 0)


def _batch(recipe: Recipe, data: Dataset, rows: int, device: torch.device) -> tuple[Batch, Rng]:
    """The first items, as a step of training is shown them, and their randomness."""
    batch = {k: v[torch.arange(rows) % len(v)].to(device) for k, v in data.train.items()}
    batch["position"] = torch.arange(rows, device=device)
    rng = Rng.of(range(rows), device)
    return (batch if recipe.augment is None else recipe.augment(batch, rng)), rng


def _memory() -> float:
    """Bytes that this host can still give, where it says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    kibibytes = {k: int(v.split()[0]) for k, _, v in (line.partition(":") for line in lines)}
    return 1024 * (kibibytes["MemAvailable"] + kibibytes["SwapFree"])


def _trial(recipe: Recipe, state: State, data: Dataset, run: Runtime) -> tuple[float, int]:
    """Seconds that a step takes here, and bytes that are kept for its backward pass."""
    device = run.device
    whole = recipe.batch // run.world // recipe.micro
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t.detach()  # itself, a result would hold the graph that holds it, and a parameter's place on a stream

    def once(rows: int) -> tuple[float, int]:
        kept.clear()
        shown, rng = _batch(recipe, data, rows, device)
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = recipe.objective(state.components, shown, rng, 0).mean
        loss.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began, sum(kept.values())

    buffers = [(b, b.clone()) for m in state.networks.values() for b in m.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cpu" and whole > 4:
            # A GPU says when its memory is used up; a host ends the process without a word.
            few, more = (once(rows)[1] for rows in (2, 4))
            if more + (more - few) / 2 * (whole - 4) > _memory():
                raise MemoryError
        once(whole)  # pays for warming up
        seconds, held = once(whole)
    for m in state.networks.values():
        m.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return seconds * recipe.micro, held
