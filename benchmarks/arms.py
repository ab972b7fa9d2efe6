"""What does a setting do? Paired short runs of a recipe, each measured: the figures of docs/tuning.md.

    python benchmarks/arms.py cifar10 --seconds 45 -n 5000 --capture --out FILE.json
        --arm 'lr 1e-3: optim.lr=1e-3' --arm 'lr 1e-2: optim.lr=1e-2' --arm 'no dropout: model.net.dropout=0'

An arm is a name and assignments as of `unnoise train -s`, separated by semicolons; `recipe=NAME` first takes another
recipe. All see the same data in the same order for the same seconds of steps, decay among them, compilation apart, and
are sampled from seeds that no reported figure is of. Each average that the recipe tracks is measured, and the loss is
kept as it went. An arm that fails is noted.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from minutes import CHOOSING, Trunk, measured

from unnoise import recipes
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.nets import kernels
from unnoise.optim import Trapezoid
from unnoise.override import override
from unnoise.recipe import Recipe
from unnoise.runtime import pick_device


def recipe_of(name: str, common: list[str], arm: list[str]) -> Recipe:
    """The recipe with the assignments of all arms, then with those of this one."""
    if arm and arm[0].startswith("recipe="):
        name, arm = arm[0].removeprefix("recipe="), arm[1:]
    recipe = recipes.load(name)[0]
    for assignment in (*common, *arm):
        recipe = override(recipe, assignment)
    return recipe


def run(recipe: Recipe, data: Dataset, device: torch.device, o: argparse.Namespace) -> dict[str, Any]:
    """One arm, trained and measured."""
    trunk, rate = Trunk(recipe, data, device, o), getattr(recipe.optim, "rate", None)
    if not isinstance(rate, Trapezoid):
        raise UserError(f"the rate of {recipe.name} is {rate}, not a Trapezoid")
    trunk.advance(o.seconds * (1 - rate.decay))
    averages = {}
    with trunk.branch(rate.decay):
        trunk.advance(None)
        for width in recipe.widths:
            trunk.average = width
            averages[f"{width:g}"] = measured(trunk, trunk.ways[0], o.n, 1, o, CHOOSING)
        return {
            "parameters": sum(p.numel() for p in trunk.state.components["model"].parameters()),
            "seen": trunk.state.seen,
            "seconds": trunk.clock.seconds,
            "loss": list(trunk.losses),
            "averages": averages,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--arm", action="append", default=[], required=True)
    parser.add_argument("--seconds", type=float, default=45.0, help="of training, of each arm")
    parser.add_argument("-n", type=int, default=5000, help="samples that are measured")
    parser.add_argument("-s", "--set", action="append", default=[], help="of all arms")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--batch", type=int, default=1000, help="samples at a time")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    o.precision = o.average = o.autoguidance = o.weaker = None
    device = pick_device(o.device)
    torch.backends.cudnn.benchmark = True
    arms: dict[str, Any] = {}
    data: Dataset | None = None
    for text in o.arm:
        name, _, assignments = text.partition(":")
        recipe = recipe_of(o.recipe, o.set, [part.strip() for part in assignments.split(";") if part.strip()])
        recipe = replace(recipe, sampling=replace(recipe.sampling, autoguidance=1.0))
        data = data or recipe.data.load()
        try:
            with kernels.using("auto"):
                arms[name] = found = run(recipe, data, device, o)
            first = {k: v["figures"][0]["samples"] for k, v in found["averages"].items()}
            loss = f", loss {found['loss'][-1][1]:.4f}" if found["loss"] else ""
            shares = next(iter(found["averages"].values()))["shares"]
            print(f"{name}: {found['seen']:,} samples{loss}, by average {first}, {shares}", flush=True)
        except (UserError, RuntimeError, ArithmeticError) as e:
            arms[name] = {"failed": f"{type(e).__name__}: {e}"}
            print(f"{name}: {arms[name]['failed']}", flush=True)
        record.write(o.out, device, {"seconds": o.seconds, "samples": o.n, "arms": arms})
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
