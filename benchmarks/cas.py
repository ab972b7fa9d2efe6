"""The classification accuracy score of a run, guided in several ways.

    python benchmarks/cas.py RUN 1.0,1.1,1.25 [--autoguidance 1,1.5] [--capture] [--out FILE.json]

The judge of the recipe trains its classifier on 50,000 samples of each guidance scale; with --autoguidance of each of
these scales for each of the others. A way is chosen by how its classifier reads real training items, which it never
saw; the test set is read beside, and last both by the classifier that real training items taught. RUN may be what
`minutes.py --save` kept.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import record
import torch

from unnoise.data.dataset import Columns, loaded
from unnoise.judges import ClassificationAccuracy, Classifier
from unnoise.judges.several import each
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
    scales = {"type": lambda text: [float(g) for g in text.split(",")]}
    parser.add_argument("scales", **scales)
    parser.add_argument("--autoguidance", default=[None], help="scales, the model's own by default", **scales)
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--batch", type=int, default=1000, help="samples at a time")
    parser.add_argument("-n", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=7_000_000)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    model = Model.load(o.run, device=device)
    recipe = build(model.facts["recipe"], (), lazy=True)
    scores = [j for j in each(recipe.judge) if isinstance(j, ClassificationAccuracy)]
    if not scores:
        raise SystemExit(f"{o.run}: its judge is {recipe.judge}, without a ClassificationAccuracy to learn by")
    learner: Classifier = scores[0].classifier
    data = recipe.data.load()

    rows: list[dict[str, Any]] = []

    def row(what: str, columns: Columns, **of: Any) -> None:
        began = time.perf_counter()
        reader = learner.train(columns, device)
        found = {}
        for part, which in (("training", data.train), ("test", data.held_out)):
            x, asked = (loaded(which[k])[:CHOSEN_BY] for k in ("x", learner.label))
            found[part] = share(reader.read(x) == asked)
        seconds = time.perf_counter() - began
        read = {k: {"value": v.value, "error": v.error} for k, v in found.items()}
        rows.append({**of, "of": what, "items": len(columns["x"]), "learning_seconds": seconds, **read})
        right = "; ".join(f"{v.value:.4f} +- {v.error:.4f} of real {k} items" for k, v in found.items())
        print(f"{len(columns['x']):,} {what}: {right} read right; {seconds:.0f} s", flush=True)
        record.write(o.out, device, {"run": o.run, "rows": rows})

    for g in o.scales:
        for scale in o.autoguidance:
            way = {"guidance": g, **({} if scale is None else {"autoguidance": scale})}
            settings = {**way, "batch": o.batch, "captured": o.capture}
            trial, began = Trial(o.n, 1, o.seed, settings, run=Runtime(device)), time.perf_counter()
            samples = trial.samples(model, like=data.train)
            columns = {"x": samples.raw, learner.label: samples.cond[learner.label]}
            said = ", ".join(f"{k} {v:g}" for k, v in way.items())
            row(f"samples at {said}", columns, **way, sampling_seconds=time.perf_counter() - began)
    some = torch.arange(min(o.n, len(data)))
    row("real items", {k: data.train[k][some] for k in ("x", learner.label)})


if __name__ == "__main__":
    main()
