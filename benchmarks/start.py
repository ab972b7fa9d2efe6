"""How bright samples are beside the data, by what sampling starts from: python benchmarks/start.py flowers emoji nuclei

    [--sigma-max 80 160] [-n 600] [--limit 2040] [--steps 24] [--out FILE.json]

The denoiser is the exact one of a recipe's training pictures, without conditions: no network is at fault, but the noise
that sampling starts from (see `unnoise.walks.Walks.start`) and, little, the solver. "normal" is what normal data of the
same mean and covariance would be off by, a closed form. All in units of the raw data, means over pixels.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor, nn

from unnoise import recipes
from unnoise.core.estimate import Estimate
from unnoise.core.level import Level
from unnoise.data.dataset import loaded
from unnoise.model import Model
from unnoise.recipe import Recipe, Sampling
from unnoise.runtime import pick_device
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid

STARTS = ("zero", "mean")


class Exact(nn.Module):
    """The posterior mean of data that are exactly these points, as `core.exact.Empirical`, by one matrix product."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.register_buffer("points", points.flatten(1))

    def forward(self, x: Tensor, level: Level, cond: Any = None, *, to: Any = None) -> Estimate:
        alpha, sigma = level.alpha.to(x), level.sigma.to(x)
        square = self.points.square().sum(1)
        likely = (alpha * (x.flatten(1) @ self.points.T) - alpha**2 * square / 2) / sigma**2
        return Estimate((likely.softmax(1) @ self.points).reshape(x.shape))


def normal(points: Tensor, sigma: float) -> dict[str, float]:
    """By how much samples of N(mean, covariance) are off from noise of sigma around zero and around the estimate."""
    flat = points.flatten(1).double()
    mean = flat.mean(0)
    _, singular, axes = torch.linalg.svd(flat - mean, full_matrices=False)
    variance = singular**2 / len(flat)
    share = variance / (variance + sigma**2)
    along = axes @ mean
    off = {"zero": share.sqrt(), "mean": share**1.5}
    return {start: -float((axes.T @ (along * of)).mean()) for start, of in off.items()}


def measured(recipe: Recipe, sigmas: list[float], device: torch.device, o: argparse.Namespace) -> dict[str, Any]:
    """A row for each largest noise and start."""
    raw = loaded(recipe.data.load().train["x"])
    raw = raw[torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))[: o.limit]]
    codec: Any = recipe.codec
    points = codec.encode(raw)
    scale = float(raw.float().std() / points.std())
    bright = raw.float().flatten(1).mean(1)
    error = float(bright.std()) / math.sqrt(o.n)
    rows: list[dict[str, Any]] = []
    found = {
        "pictures": len(raw),
        "shape": list(raw.shape[1:]),
        "mean": float(bright.mean()),
        "error": error,
        "rows": rows,
    }
    print(f"{recipe.name}: {len(raw)} of {tuple(raw.shape[1:])}, mean {bright.mean():.1f}, samples' error {error:.1f}")
    for sigma in sigmas:
        expected = normal(points, sigma)
        for start in STARTS:
            grid = KarrasGrid(sigma_min=0.05, sigma_max=sigma)
            sampling = Sampling(sampler=Heun(), grid=grid, steps=o.steps, start=start)
            model = Model(Exact(points), codec, sampling=sampling).to(device)
            off = float(model.sample(o.n, batch=200).raw.float().mean() - bright.mean())
            rows.append({"sigma_max": sigma, "start": start, "off": off, "normal": scale * expected[start]})
            print(f"  {sigma:g} {start}: {off:+.1f} (normal data {scale * expected[start]:+.1f})", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--sigma-max", type=float, nargs="+", default=[80.0, 160.0])
    parser.add_argument("-n", type=int, default=600, help="samples")
    parser.add_argument("--limit", type=int, default=2040, help="training pictures at most")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    found = {name: measured(recipes.load(name)[0], o.sigma_max, device, o) for name in o.recipes}
    record.write(o.out, device, {"samples": o.n, "steps": o.steps, "recipes": found})


if __name__ == "__main__":
    main()
