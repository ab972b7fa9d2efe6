"""Which solver, how many steps, how guided? The distances of one trained model's samples, each way beside its seconds.

    python benchmarks/solvers.py SAVED [-n 10000] [--compile --capture] [--out FILE.json]
        --way '18 steps:' --way 'converged: steps=144; sampler=Heun()' --way 'guided: autoguidance=1.5'

SAVED is a run or what `minutes.py --save` kept. A way is a name and assignments to what the model's `Sampling` says,
separated by semicolons: steps=36, grid.sigma_min=0.002, sampler=Heun(). Each draws the same noise, from seeds that no
reported figure is of, and its samples are compared with the training data as the recipe's judge `Distances` compares
them. Seconds are those after a first batch, which compiles and records and is stated apart. Beside them stand plain
statistics, as shares of those of the training data: mean and standard deviation of the values, and the standard
deviation of the difference between neighbours, which blurring and noise change first.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import record
import torch
from minutes import CHOOSING, plain_statistics, ruler, shares, told, ways

from unnoise.data.dataset import loaded
from unnoise.evaluate import compared
from unnoise.metrics.figure import as_json
from unnoise.model import Model
from unnoise.nets import kernels
from unnoise.recipe import Recipe
from unnoise.reference import mapped, references
from unnoise.runtime import PRECISIONS, Runtime, pick_device
from unnoise.spec import build
from unnoise.trial import Trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved")
    parser.add_argument("--way", action="append", required=True)
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
    real = references(reader, data, judge.compared, trial)
    whole, found = plain_statistics(loaded(data.train["x"])), {}
    widest = max(real, key=lambda k: real[k].train.shape[1])
    for name, sampling in chosen.items():
        model.sampling, began = sampling, time.perf_counter()
        with kernels.using("auto"):
            replace(trial, n=min(o.batch, o.n)).samples(model, like=data.train)
            took = {"first_batch_seconds": time.perf_counter() - began}
            began = time.perf_counter()
            raw = replace(trial).samples(model, like=data.train).raw
        took["sampling_seconds"] = time.perf_counter() - began
        features = mapped(reader, raw, trial)
        figures = [
            f
            for k, of in real.items()
            for f in compared([features[k]], of, k, trial, neighbours=o.neighbours and k == widest)
        ]
        took["judging_seconds"] = time.perf_counter() - began - took["sampling_seconds"]
        found[name] = {**took, "shares": shares(raw, whole), "figures": as_json(figures)}
        told(name, found[name])
        record.write(o.out, device, {"samples": o.n, "seed": CHOOSING, "precision": model.precision, "ways": found})


if __name__ == "__main__":
    main()
