"""What share of a training step goes into drawing randomness? python benchmarks/noise_share.py [--recipe digits]

All draws of the step (levels, noise, dropped conditions) are timed alone, with the step's own shapes and keys, against
the whole step, in one process. The result goes to benchmarks/results/noise_share_<device>.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import record
import torch

from unnoise import recipes
from unnoise.core.density import uniforms
from unnoise.core.rng import Rng
from unnoise.data.stream import batches
from unnoise.runtime import PRECISIONS, Runtime, default_precision, pick_device
from unnoise.state import State
from unnoise.train import train


def median_ms(f: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        f()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--device")
    parser.add_argument("--steps", type=int, default=60)
    o = parser.parse_args()
    device = pick_device(o.device)
    recipe, _ = recipes.load(o.recipe)
    data = recipe.data.load()
    state = State(recipe, 0, device, None, PRECISIONS[default_precision(device)])
    steps = train(recipe, state, batches(data.train, recipe.batch, seed=0, device=device), Runtime(device))
    for _ in range(5):
        next(steps)
    step = median_ms(lambda: next(steps), device, o.steps)

    position = torch.arange(recipe.batch, device=device)
    x = torch.zeros(recipe.batch, *recipe.codec.shape, device=device)

    def draw() -> None:
        rng = Rng.of(0, device).fold(0, position)
        uniforms(rng.fold(0), position)
        rng.fold(3).uniform(x[:, 0, 0, 0])
        rng.fold(1).normal(x)

    for _ in range(5):
        draw()
    noise = median_ms(draw, device, o.steps)
    normal = median_ms(lambda: Rng(torch.stack([position, position], -1)).normal(x), device, o.steps)
    result = {
        "threads": torch.get_num_threads(),
        "recipe": recipe.name,
        "batch": recipe.batch,
        "step_ms": step,
        "all_draws_ms": noise,
        "noise_ms": normal,
        "all_draws_share": noise / step,
        "noise_share": normal / step,
    }
    path = Path(__file__).parent / "results" / f"noise_share_{device.type}.json"
    record.write(path, device, result)
    print(f"step {step:.2f} ms; all draws {noise:.2f} ms, {noise / step:.1%}; noise {normal:.2f}, {normal / step:.1%}")


if __name__ == "__main__":
    main()
