"""Train the recipe flowers500 with and without augmentation, and say how far samples are from new data and from copies.

    python benchmarks/small_data.py [--arms told mirror none] [--seeds 0] [--samples N] [--out FILE.json] [-s KEY=VALUE]

Arms: told, the recipe; mirror, half of the pictures mirrored, which the network is not told; none, the data as they
are. Runs lie in runs/small_data/ARM-SEED, which must not exist. Printed and written are the figures of each arm, and
the same of real data.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise import recipes
from unnoise.data.dataset import Dataset, loaded, permutation
from unnoise.metrics import Moments, frechet_distance, nearest_distances
from unnoise.model import Model
from unnoise.runtime import pick_device

ARMS = {"told": [], "mirror": ["-s", "augment=Mirror()"], "none": ["-s", "augment=none"]}


def figures(made: Tensor, data: Dataset) -> dict[str, float]:
    """What pictures have of the distribution, and what of the training set. Real data's own: `made` held out.

    distance: Frechet distance of 8 x 8 area means, in squared units of the range, to the held-out pictures.
    memorisation: median distance of 16 x 16 area means to the nearest training picture or its mirror image, as a
        ratio to that of held-out pictures: 1 for new pictures, towards 0 for copies.
    copies: share nearer to one than 99 % of the held-out pictures are.
    """
    train, held_out = loaded(data.train["x"]), loaded(data.held_out["x"])
    known = means(torch.cat([train, train.flip(-1)]), 16)
    own, new = nearest_distances(means(made, 16), known), nearest_distances(means(held_out, 16), known)
    return {
        "distance": frechet_distance(Moments.of(means(made, 8)), Moments.of(means(held_out, 8))),
        "memorisation": float(own.median() / new.median()),
        "copies": float((own < new.quantile(0.01)).double().mean()),
    }


def means(x: Tensor, size: int) -> Tensor:
    """Area means [N, C * size^2] of pictures, in units of the range."""
    parts = [F.adaptive_avg_pool2d(part.double() / 255, size).flatten(1) for part in x.split(1000)]
    return torch.cat(parts)


def trained(arm: str, seed: int, more: Sequence[str]) -> tuple[Path, float]:
    """The run of an arm, and the seconds that it took."""
    run, began = Path(f"runs/small_data/{arm}-{seed}"), time.monotonic()
    command = [sys.executable, "-m", "unnoise", "train", "flowers500", "--seed", str(seed), "--out", str(run)]
    subprocess.run([*command, *more, *ARMS[arm]], check=True)
    return run, time.monotonic() - began


def main() -> None:
    """Train and measure each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("-n", type=int, default=2000, help="samples that are measured")
    parser.add_argument("--samples", type=int, help="samples to train on, in the place of the recipe's")
    parser.add_argument("-s", "--set", action="append", default=[], help="as of `unnoise train`")
    parser.add_argument("--device", default=str(pick_device()))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/small_data.json"))
    o = parser.parse_args()
    data = recipes.load("flowers500")[0].data.load()
    train, held_out = loaded(data.train["x"]), loaded(data.held_out["x"])
    chosen = held_out[permutation(len(held_out), 0)[: o.n]]
    real = {"held out": figures(chosen, data), "training": figures(train, data)}
    print(real, flush=True)
    more = ["--device", o.device, *(f"--set={s}" for s in o.set)]
    more += ["--samples", str(o.samples)] if o.samples else []
    arms: list[dict[str, Any]] = []
    for arm in o.arms:
        for seed in o.seeds:
            run, seconds = trained(arm, seed, more)
            model = Model.load(run, device=o.device)
            made = model.sample(o.n, seed=1_000_000).raw
            arms.append({"arm": arm, "seed": seed, "seconds": round(seconds), "seen": model.facts["seen"]})
            arms[-1] |= figures(made, data)
            print(arms[-1], flush=True)
    name = torch.cuda.get_device_name(o.device) if o.device.startswith("cuda") else o.device
    command = " ".join(["python", "benchmarks/small_data.py", *sys.argv[1:]])
    where = {"device": name, "torch": torch.__version__}
    o.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "where": where, "n": o.n, "data": data.about, "real": real, "arms": arms}
    o.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
