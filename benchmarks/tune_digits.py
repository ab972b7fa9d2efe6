"""Settings of the digits recipe beside each other: python benchmarks/tune_digits.py [--device cuda] [--processes 6]

Each is trained on 64,000 samples unless it says otherwise, sampled with three guidance scales g from other seeds than
those that are reported, and read by the recipe's judge. Writes benchmarks/results/tune_digits.jsonl, a line each;
fd, recall and near are ratios to those of real data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from unnoise import recipes
from unnoise.data.stream import batches
from unnoise.evaluate import judged
from unnoise.model import Model
from unnoise.override import override
from unnoise.runtime import Runtime, pick_device
from unnoise.state import State
from unnoise.train import train

BASE = ["samples=64000", "model.net.width=32"]
SETTINGS = {
    "b128 lr2e-3": ["batch=128"],
    "b64 lr1e-3": ["optim.lr=1e-3"],
    "b64 lr2e-3": [],
    "b64 lr3e-3": ["optim.lr=3e-3"],
    "b64 lr2e-3 nodrop": ["model.net.dropout=0"],
    "b64 lr2e-3 m-1.0 s1.0": ["objective.density.mean=-1.0", "objective.density.std=1.0"],
    "b64 lr2e-3 m-.3 s1.0": ["objective.density.mean=-0.3", "objective.density.std=1.0"],
    "b64 lr2e-3 sd.6": ["model.parameterization.sigma_data=0.6"],
    "b64 w24 84k": ["model.net.width=24", "samples=84000"],
    "b64 w40 46k": ["model.net.width=40", "samples=46000", "model.net.head_width=16"],
    "b64 drop.2 cfgdrop.2": ["objective.drop=0.2"],
    "b64 block": ["model.net.resample=block"],
}

RATIOS = {
    "fd": "Frechet distance to half of the real data",
    "recall": "recall-judge",
    "near": "nearest training item",
}
"""Figures of which the ratio to real data is kept, by what they are called in the results."""


def measure(job: tuple[str, str]) -> list[dict[str, Any]]:
    name, device_name = job
    torch.set_num_threads(1)
    device, recipe = pick_device(device_name), recipes.load("digits")[0]
    for assignment in [*BASE, *SETTINGS[name]]:
        recipe = override(recipe, assignment)
    data = recipe.data.load()
    assert recipe.judge is not None
    judge = recipe.judge.train(data.train, device)
    state = State(recipe, 0, device, -(-recipe.samples // recipe.batch) * recipe.batch)
    for _ in train(recipe, state, batches(data.train, recipe.batch, seed=0, device=device), Runtime(device)):
        pass
    parts, lines = state.components, []
    model = Model(parts["model"], parts["codec"], parts["process"], parts["conditioner"], recipe.sampling)
    for width in recipe.widths:
        with state.averaged(width):
            for guidance in (1.0, 1.15, 1.3):
                sets = [model.sample(1000, guidance=guidance, seed=1000 * k) for k in (1, 2)]
                found = judged([(s.raw, s.cond["label"]) for s in sets], data, judge, halves=True)
                figures = {f.name: f for f in found}
                ratios = {k: figures[f].samples / (figures[f].real or 1) for k, f in RATIOS.items()}
                read, worst = figures["read as asked"], figures["worst class"]
                line = {"name": name, "width": width, "g": guidance, "read": read.samples, "worst": worst.samples}
                lines.append({**line, **ratios, "judge": read.real})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default=None)
    parser.add_argument("--processes", type=int, default=6)
    o = parser.parse_args()
    path = Path(__file__).parent / "results" / "tune_digits.jsonl"
    jobs = [(name, str(pick_device(o.device))) for name in SETTINGS]
    with multiprocessing.get_context("spawn").Pool(o.processes) as pool, path.open("w") as out:
        for lines in pool.imap(measure, jobs):
            for line in lines:
                out.write(json.dumps(line) + "\n")
                print(line)


if __name__ == "__main__":
    main()
