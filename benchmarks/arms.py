"""What does a setting do? Paired short runs of a recipe, each measured: the figures of docs/tuning.md.

    python benchmarks/arms.py cifar10 --seconds 45 -n 5000 --capture --out FILE.json
        --arm 'lr 1e-3: optim.lr=1e-3' --arm 'lr 1e-2: optim.lr=1e-2' --arm 'no dropout: model.net.dropout=0'

An arm is a name and assignments as of `unnoise train -s`, separated by semicolons; `recipe=NAME` first takes another
recipe. All see the same data in the same order for the same seconds of steps, decay among them, compilation apart, or
with --samples for as many samples: such arms differ in the setting alone, and small differences of the loss tell. They
are sampled from seeds that no reported figure is of (-n 0: not at all), and each average that the recipe tracks is
measured. Kept are the loss as it went and, of the recipe's own average, what `minutes.py` calls its fit, of all arms at
the levels that the recipe draws without them: so a density tells what it gives and takes at each level. An arm that
fails is noted.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from minutes import CHOOSING, Trunk, fit, measured, told

from unnoise import recipes
from unnoise.core.density import Density
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.nets import kernels
from unnoise.optim import Trapezoid
from unnoise.override import override
from unnoise.recipe import Recipe
from unnoise.runtime import PRECISIONS, pick_device


def recipe_of(name: str, common: list[str], assignments: str) -> Recipe:
    """The recipe with the assignments of all arms, then with those of this one; unguided."""
    arm = [part.strip() for part in assignments.split(";") if part.strip()]
    if arm and arm[0].startswith("recipe="):
        name, arm = arm[0].removeprefix("recipe="), arm[1:]
    recipe = recipes.load(name)[0]
    for assignment in (*common, *arm):
        recipe = override(recipe, assignment)
    return replace(recipe, sampling=replace(recipe.sampling, autoguidance=1.0))


def at_levels_of(own: Any, other: Any) -> Any:
    """An objective at the levels that another one draws, where both draw from densities that are given."""
    drawn = all(isinstance(getattr(objective, "density", None), Density) for objective in (own, other))
    return replace(own, density=other.density) if drawn else own


def run(recipe: Recipe, common: Recipe, data: Dataset, device: torch.device, o: argparse.Namespace) -> dict[str, Any]:
    """One arm, trained and measured; `common`: the recipe without what this arm changes."""
    trunk, rate = Trunk(recipe, data, device, o), getattr(recipe.optim, "rate", None)
    if not isinstance(rate, Trapezoid):
        raise UserError(f"the rate of {recipe.name} is {rate}, not a Trapezoid")
    if o.samples is None:
        trunk.advance(o.seconds * (1 - rate.decay))
    trunk.end(trunk.state.seen / (1 - rate.decay) if o.samples is None else o.samples)
    trunk.advance(None)
    fitted = fit(trunk, at_levels_of(recipe.objective, common.objective), o)
    averages, [way] = {}, trunk.ways
    for width in recipe.widths if o.n else ():
        trunk.average = width
        averages[f"{width:g}"] = measured(trunk, way, o.n, 1, o, CHOOSING)
    return {
        "parameters": sum(p.numel() for p in trunk.state.components["model"].parameters()),
        "seen": trunk.state.seen,
        "seconds": trunk.clock.seconds,
        "loss": list(trunk.losses),
        **fitted,
        "averages": averages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--arm", action="append", default=[], required=True)
    parser.add_argument("--seconds", type=float, default=45.0, help="of training, of each arm")
    parser.add_argument("--samples", type=int, help="of training, of each arm, in the place of --seconds")
    parser.add_argument("-n", type=int, default=5000, help="samples that are measured")
    parser.add_argument("-s", "--set", action="append", default=[], help="of all arms")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--batch", type=int, default=1000, help="samples at a time")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    o.average = o.way = None
    device = pick_device(o.device)
    torch.backends.cudnn.benchmark = True
    common = recipe_of(o.recipe, o.set, "")
    arms: dict[str, Any] = {}
    data: Dataset | None = None
    parts = [text.partition(":") for text in o.arm]
    for name, recipe in [(name, recipe_of(o.recipe, o.set, assignments)) for name, _, assignments in parts]:
        data = data or recipe.data.load()
        try:
            with kernels.using("auto"):
                arms[name] = found = run(recipe, common, data, device, o)
            print(
                f"{name}: {found['seen']:,} samples, loss {found['trained']:.5f}, held out {found['held_out']:.5f}",
                flush=True,
            )
            for width, of in found["averages"].items():
                told(f"average {width}", of)
        except (UserError, RuntimeError, ArithmeticError) as e:
            arms[name] = {"failed": f"{type(e).__name__}: {e}"}
            print(f"{name}: {arms[name]['failed']}", flush=True)
        record.write(o.out, device, {"measured": o.n, "arms": arms})
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
