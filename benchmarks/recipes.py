"""Train and evaluate recipes side by side, each on two threads: the figures that stand in their files.

    python benchmarks/recipes.py [NAME ...] [--jobs 8] [--out benchmarks/results/recipes.json]

Runs lie in runs/NAME, which must not exist. A recipe that builds on another waits for it. Printed are minutes of
training and evaluating, and each recipe's table; written are the figures with their protocols.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from unnoise import recipes
from unnoise.spec import Pending, fields_of
from unnoise.trained import Trained


def parents(value: Any) -> set[str]:
    """The recipes that a recipe's components are taken from."""
    if isinstance(value, Trained):
        return {value.recipe}
    return set().union(*(parents(v) for v in fields_of(value).values())) if isinstance(value, Pending) else set()


def command(name: str, *arguments: str, log: Path, threads: int) -> float:
    """Run one command; the seconds that it took."""
    began = time.monotonic()
    with log.open("a") as f:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-m", "unnoise", *arguments], stdout=f, stderr=f, env=environment, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{name}: {' '.join(arguments)} ended with {done.returncode}: {log.read_text()[-600:]}")
    return time.monotonic() - began


def measure(name: str, waits: list[Future[Any]], threads: int, extra: list[str]) -> dict[str, Any]:
    """Train and evaluate one recipe."""
    for wait in waits:
        wait.result()
    log = Path("runs") / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    run = f"runs/{name}"
    trained = command(name, "train", name, *extra, "--out", run, "--device", "cpu", log=log, threads=threads)
    evaluated = command(name, "evaluate", run, "--device", "cpu", log=log, threads=threads)
    found = json.loads((Path(run) / "evaluation.json").read_text())
    print(f"\n{name}: trained {trained / 60:.1f} min, evaluated {evaluated / 60:.1f} min", flush=True)
    for figure in found["figures"]:
        print("   ", {k: round(v, 4) if isinstance(v, float) else v for k, v in figure.items()}, flush=True)
    return {"train_seconds": round(trained), "evaluate_seconds": round(evaluated), **found}


def main() -> None:
    """Measure the recipes that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=recipes.names())
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", nargs="*", default=[], help="further arguments of `unnoise train`")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recipes.json"))
    o = parser.parse_args()
    needs = {}
    for name in o.names:
        recipe = recipes.load(name)[0]
        needs[name] = set().union(*(parents(v) for v in (recipe.model, recipe.codec, *recipe.more.values())))
    order = sorted(o.names, key=lambda n: (bool(needs[n]), n))  # one step deep is as deep as it goes
    started: dict[str, Future[dict[str, Any]]] = {}
    results: dict[str, Any] = {}
    with ThreadPoolExecutor(o.jobs) as pool:
        for name in order:
            waits = [started[n] for n in needs[name] if n in started]
            started[name] = pool.submit(measure, name, waits, o.threads, o.train)
        for name, future in started.items():
            try:
                results[name] = future.result()
            except RuntimeError as e:
                print(f"\n{e}", flush=True)
    where = {"threads": o.threads, "jobs": o.jobs, "processor": platform.processor(), "torch": torch.__version__}
    o.out.parent.mkdir(parents=True, exist_ok=True)
    o.out.write_text(
        json.dumps({"command": "python benchmarks/recipes.py", "where": where, "recipes": results}, indent=1)
    )


if __name__ == "__main__":
    main()
