"""Train the judge of a recipe, and write its weights where the package brings them: python benchmarks/judges.py mnist

The file in src/unnoise/judges/weights/ states data, recipe and seed that it was made of, and its name is their hash; a
judge that is trained otherwise does not find it. How it reads held-out data goes to benchmarks/results/judges.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from unnoise import cache, recipes
from unnoise.checkpoint import save_tensors
from unnoise.data.dataset import Dataset, loaded
from unnoise.judges import Classifier
from unnoise.judges.several import each
from unnoise.judges.taught import KIND, WEIGHTS, key
from unnoise.metrics import share, worst_share
from unnoise.runtime import pick_device

RESULTS = Path(__file__).parent / "results" / "judges.json"


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--device", default="cpu")
    o = parser.parse_args()
    recipe, device = recipes.load(o.recipe)[0], pick_device(o.device)
    judge = next(j for j in each(recipe.judge) if isinstance(j, Classifier))
    data: Dataset = recipe.data.load()
    began = time.perf_counter()
    reader = judge.train(data.train, device)
    seconds = time.perf_counter() - began
    asked = loaded(data.held_out[judge.label])
    right = reader.read(loaded(data.held_out["x"])) == asked
    columns = {k: data.train[k] for k in ("x", judge.label)}
    made_of = key(judge.recipe(None), columns, judge.seed)
    path = WEIGHTS / cache.name_of(KIND, made_of)
    save_tensors(reader.net.cpu().state_dict(), path, {cache.KEY: cache.canonical(made_of)})
    row = {
        "command": f"python benchmarks/judges.py {o.recipe} --device {o.device}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "read_right": share(right)._asdict(),
        "worst_class": worst_share(right, asked)[1]._asdict(),
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256_of_weights": reader.digest,
    }
    print(json.dumps(row, indent=1))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, o.recipe: row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
