"""The classification accuracy score of a run at several guidance scales: python benchmarks/cas.py RUN 1.0,1.1,1.25

The judge of the recipe trains its classifier on 50,000 samples at each scale. The scale is chosen by how it reads real
training digits, which a classifier of samples never saw; the test set is read beside.
"""

from __future__ import annotations

import argparse
import time

import torch

from unnoise.data.dataset import Columns, loaded
from unnoise.judges import ClassificationAccuracy, Classifier, Several
from unnoise.metrics import share
from unnoise.model import Model
from unnoise.runtime import Runtime, pick_device
from unnoise.spec import build
from unnoise.trial import Trial

CHOSEN_BY = 20_000


def main() -> None:
    """Sample, train, read, scale by scale; then the same of real data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("scales", type=lambda text: [float(g) for g in text.split(",")])
    parser.add_argument("-n", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=7_000_000)
    parser.add_argument("--device")
    o = parser.parse_args()
    device = pick_device(o.device)
    model = Model.load(o.run, device=device)
    recipe = build(model.facts["recipe"], (), lazy=True)
    judges = recipe.judge.judges if isinstance(recipe.judge, Several) else [recipe.judge]
    learner: Classifier = next(j for j in judges if isinstance(j, ClassificationAccuracy)).classifier
    data = recipe.data.load()

    def row(what: str, columns: Columns) -> None:
        began = time.perf_counter()
        reader = learner.train(columns, device)
        for part, which in (("training", data.train), ("test", data.held_out)):
            x, asked = (loaded(which[k])[:CHOSEN_BY] for k in ("x", learner.label))
            found = share(reader.read(x) == asked)
            print(
                f"{what}: {found.value:.4f} +- {found.error:.4f} of {len(x):,} real {part} items read right", end="; "
            )
        print(f"{time.perf_counter() - began:.0f} s", flush=True)

    for g in o.scales:
        trial = Trial(o.n, 1, o.seed, {"guidance": g}, print, Runtime(device))
        samples = trial.samples(model, like=data.train)
        row(f"{o.n:,} samples at guidance {g:g}", {"x": samples.raw, learner.label: samples.cond[learner.label]})
    rows = torch.arange(min(o.n, len(data)))
    row(f"{len(rows):,} real items", {k: data.train[k][rows] for k in ("x", learner.label)})


if __name__ == "__main__":
    main()
