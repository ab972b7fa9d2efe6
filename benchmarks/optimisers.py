"""AdamW and Muon on one recipe: held-out losses after as many samples, at several learning rates.

    python benchmarks/optimisers.py [--recipe digits] [--samples N] [--seeds 0 1] [--device cuda] [-s KEY=VALUE]

Both have the recipe's profile of the learning rate, clipping and weight decay; AdamW its moments, which Muon takes for
what is no matrix. Of equal seeds, weights, order and noise are the same. The held-out loss is that of fixed levels and
noise, four times a run with the weights as they are and at its end with their average too. Written besides: the
arithmetic that Muon adds to a step of the CIFAR-10 network of DDPM, counted, not measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from unnoise import recipes
from unnoise.data.stream import batches
from unnoise.evaluate import loss_by_level
from unnoise.nets.published import ddpm_cifar10
from unnoise.optim import AdamW, Muon, hidden_matrices
from unnoise.override import override
from unnoise.recipe import Recipe
from unnoise.runtime import PRECISIONS, Runtime, default_precision, pick_device
from unnoise.state import State
from unnoise.train import train

MARKS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the run after which the held-out loss is taken."""


def arms(recipe: Recipe, adamw: list[float], muon: list[float]) -> Iterator[tuple[str, float, Recipe]]:
    """The recipe under each optimiser and learning rate."""
    own: Any = recipe.optim
    shared = {k: getattr(own, k) for k in ("betas", "eps", "weight_decay", "rate", "clip")}
    rates = {AdamW: adamw or [own.lr / 2, own.lr, own.lr * 2], Muon: muon or [own.lr, own.lr * 2, own.lr * 4]}
    for kind, several in rates.items():
        for lr in several:
            yield kind.__name__, lr, replace(recipe, optim=kind(lr=lr, **shared))


def measure(recipe: Recipe, seed: int, device: torch.device, precision: torch.dtype | None) -> dict[str, Any]:
    """Train, and take the held-out loss on the way."""
    data, run = recipe.data.load(), Runtime(device)
    steps = -(-recipe.samples // recipe.batch)
    state = State(recipe, seed, device, steps * recipe.batch, precision)
    due = {round(share * steps) * recipe.batch: share for share in MARKS}

    def held_out() -> float:
        return loss_by_level(recipe.objective, state.components, data.held_out, device, 2048)["held_out"]

    losses, began = {}, time.monotonic()
    for step in train(recipe, state, batches(data.train, recipe.batch, seed=seed, device=device), run):
        if step.seen in due:
            losses[str(due[step.seen])] = held_out()
    with state.averaged(recipe.average):
        average = held_out()
    skipped = int(state.bad[:, 2].sum())
    seconds = round(time.monotonic() - began)
    return {"held_out": losses, "held_out_average": average, "skipped": skipped, "seconds": seconds}


def arithmetic(batch: int = 512, size: int = 32, iterations: int = 5) -> dict[str, float]:
    """Floating-point operations of a step of DDPM's CIFAR-10 network, forward and backward, and of Muon's part in it.

    Of a matrix [n, k], n <= k, an iteration takes X X^T and P X with 2 n^2 k each, and A A with 2 n^3.
    """
    with torch.device("meta"):
        net, x, c = ddpm_cifar10(), torch.empty(1, 3, size, size), torch.empty(1)
    with FlopCounterMode(display=False) as counter:
        net(x, c).sum().backward()
    matrices = hidden_matrices([net])
    shapes = [sorted((w.shape[0], w[0].numel())) for w in matrices]
    muon = iterations * sum(4 * n * n * k + 2 * n**3 for n, k in shapes)
    step = counter.get_total_flops() * batch
    parameters = sum(w.numel() for w in matrices)
    groups = len({tuple(s) for s in shapes})
    facts = {"batch": batch, "matrices": len(shapes), "of shapes": groups, "parameters": parameters}
    return {**facts, "step": step, "muon": muon, "ratio": muon / step}


def main() -> None:
    """Train and measure each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--samples", type=int, help="samples to train on, in the place of the recipe's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--adamw", nargs="+", type=float, default=[], metavar="LR", help="recipe's, half, twice")
    parser.add_argument("--muon", nargs="+", type=float, default=[], metavar="LR", help="recipe's, twice, four times")
    parser.add_argument("-s", "--set", action="append", default=[], help="as of `unnoise train`")
    parser.add_argument("--device", default=str(pick_device()))
    parser.add_argument("--precision", help="as of `unnoise train`; that of the device, unless given")
    parser.add_argument("--out", type=Path, help="benchmarks/results/optimisers_RECIPE.json, unless given")
    o = parser.parse_args()
    recipe = recipes.load(o.recipe)[0]
    for assignment in [*o.set, *([f"samples={o.samples}"] if o.samples else [])]:
        recipe = override(recipe, assignment)
    device = pick_device(o.device)
    precision = o.precision or default_precision(device)
    found: list[dict[str, Any]] = []
    for name, lr, arm in arms(recipe, o.adamw, o.muon):
        for seed in o.seeds:
            line = {"optim": name, "lr": lr, "seed": seed}
            found.append(line | measure(arm, seed, device, PRECISIONS[precision]))
            print(found[-1], flush=True)
    command = " ".join(["python", "benchmarks/optimisers.py", *sys.argv[1:]])
    shown = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    where = {"device": shown, "precision": precision, "torch": torch.__version__}
    content = {"command": command, "where": where, "samples": recipe.samples, "arms": found}
    content["arithmetic"] = arithmetic()
    print(content["arithmetic"])
    out = o.out or Path(f"benchmarks/results/optimisers_{o.recipe}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
