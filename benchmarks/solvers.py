"""Which solver, how many steps, how guided? The distances of one trained model's samples, each way beside its seconds.

    python benchmarks/solvers.py SAVED [-n 10000] [--compile --capture] [--out FILE.json]
        --way '18 steps:' --way 'converged: steps=144; sampler=Heun()' --way 'guided: autoguidance=1.5'
    python benchmarks/solvers.py cifar10 -n 96 --against 'converged: sampler=UniPC(p=3); steps=100' --way '18 steps:'

SAVED is a run, a shipped model, or what `minutes.py --save` kept. A way is a name and assignments to what the model's
`Sampling` says, separated by semicolons: steps=36, grid.sigma_min=0.002, sampler=Heun(). Each draws the same noise,
from seeds that no reported figure is of, and its samples are compared with the training data as the recipe's judge
`Distances` compares them. Seconds are those after a first batch, where that compiles or records, which is stated apart.
Beside them stand plain statistics, as shares of those of the training data: mean and standard deviation of the values,
and the standard deviation of the difference between neighbours, which blurring and noise change first.

With --against no training data are compared with: each sample stands beside what that way makes of the same noise. Of
values it is the root mean square difference, of features the squared distance, over samples a mean and a median, which
single pictures that become others do not move; the statistics are shares of that way's. A solver's error shows in a
hundred samples so, on a CPU too. Whether it is one that a distance of many samples sees, it does not say.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from minutes import CHOOSING, plain_statistics, ruler, shares, told, ways
from torch import Tensor

from unnoise.data.dataset import Columns, loaded
from unnoise.evaluate import compared
from unnoise.metrics.figure import Figure, as_json
from unnoise.model import Model
from unnoise.nets import kernels
from unnoise.recipe import Recipe, Sampling
from unnoise.reference import mapped, references
from unnoise.runtime import PRECISIONS, Runtime, pick_device
from unnoise.spec import build
from unnoise.trial import Trial


def drawn(model: Model, sampling: Sampling, trial: Trial, like: Columns, warm: bool) -> tuple[Tensor, dict[str, float]]:
    """Samples, and the seconds of them; where a first batch is to compile or to record, those of that apart."""
    model.sampling, took, began = sampling, {}, time.perf_counter()
    with kernels.using("auto"):
        if warm:
            replace(trial, n=min(trial.settings["batch"], trial.n)).samples(model, like=like)
            took, began = {"first_batch_seconds": time.perf_counter() - began}, time.perf_counter()
        raw = replace(trial).samples(model, like=like).raw
    return raw, {**took, "sampling_seconds": time.perf_counter() - began}


def apart(values: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> list[Figure]:
    """How far samples are from others that set out from the same noise, by what they are compared in."""
    figures = []
    for name, x in values.items():
        squares = (x.double() - others[name].double()).square().flatten(1)
        each = squares.mean(1).sqrt() if name == "values" else squares.sum(1)
        error = float(each.std() / len(each) ** 0.5)
        figures += [Figure(name, float(each.mean()), error=error), Figure(f"{name}, median", float(each.median()))]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved")
    parser.add_argument("--way", action="append", required=True)
    parser.add_argument("--against", metavar="WAY", help="compare sample by sample with this way")
    parser.add_argument("-n", type=int, default=10_000, help="samples")
    parser.add_argument("--batch", type=int, default=1000, help="samples at a time")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the networks, in the place of the run's own")
    parser.add_argument("--neighbours", action="store_true", help="precision, recall, density and coverage too")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    torch.backends.cudnn.benchmark = True
    model = Model.load(o.saved, device=device, precision=o.precision)
    if o.compile:
        model.compile()
    recipe: Recipe = build(model.facts["recipe"], lazy=True)
    chosen = ways(replace(recipe, sampling=model.sampling), o.way)
    judge = ruler(recipe)
    data, reader = recipe.data.load(), judge.features.load(device)
    trial = Trial(o.n, seed=CHOOSING, settings={"batch": o.batch, "captured": o.capture}, run=Runtime(device))
    found: dict[str, Any] = {}
    if o.against:
        [other] = ways(replace(recipe, sampling=model.sampling), [o.against]).values()
        expected, _ = drawn(model, other, trial, data.train, warm=False)
        near = {"values": expected, **mapped(reader, expected, trial)}
        whole = plain_statistics(expected)
    else:
        real = references(reader, data, judge.compared, trial)
        whole = plain_statistics(loaded(data.train["x"]))
        widest = max(real, key=lambda k: real[k].train.shape[1])
    for name, sampling in chosen.items():
        raw, took = drawn(model, sampling, trial, data.train, warm=o.compile or o.capture)
        began, features = time.perf_counter(), mapped(reader, raw, trial)
        if o.against:
            figures = apart({"values": raw, **features}, near)
        else:
            figures = [
                f
                for k, of in real.items()
                for f in compared([features[k]], of, k, trial, neighbours=o.neighbours and k == widest)
            ]
        took["judging_seconds"] = time.perf_counter() - began
        found[name] = {**took, "shares": shares(raw, whole), "figures": as_json(figures)}
        told(name, found[name])
        record.write(o.out, device, {"samples": o.n, "seed": CHOOSING, "precision": model.precision, "ways": found})


if __name__ == "__main__":
    main()
