"""What a peer reaches after so many minutes: `minutes.py` for diffusers' U-Net, with DDPM's settings, made fast.

    python benchmarks/peer_minutes.py cifar10 [--minutes 7] [--steps 100] [--many 7] [--out FILE.json]

The data and the judge are those of the recipe. The network is DDPM's for CIFAR-10 in diffusers' UNet2DModel, trained as
`throughput.py` trains it at its best: bf16, channels_last, compiled, fused AdamW at 2e-4, batches of 256. Added to that
are what its examples and the paper have: pictures mirrored at random, a warm-up of 500 steps, a cosine over the
minutes, an average of decay min(0.9999, (1 + n) / (10 + n)). Attention has DDPM's one head, AdamW torch's decay of
weights. Samples are of diffusers' DDIMScheduler with clipped estimates. Each point is a run of its own; seconds, seeds
and repeats count as in `minutes.py`. Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import record
import torch
from minutes import SEED
from throughput import SMALL, Peer, Shape, diffusers_unet, wait

from unnoise import recipes
from unnoise.core.rng import Rng
from unnoise.data.dataset import loaded
from unnoise.metrics.figure import as_json
from unnoise.override import override
from unnoise.runtime import Runtime, pick_device
from unnoise.samples import Samples
from unnoise.trial import Trial

LR, WARMUP, DECAY = 2e-4, 500, 0.9999


class Sampled:
    """The averaged network under diffusers' DDIM, as judges ask for samples."""

    conditioner = None

    def __init__(self, peer: Peer, codec: Any, steps: int) -> None:
        from diffusers import DDIMScheduler

        self.peer, self.codec = peer, codec
        self.scheduler = DDIMScheduler(clip_sample=True, timestep_spacing="trailing", beta_end=0.02)
        self.scheduler.set_timesteps(steps)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int, batch: int) -> Samples:
        """n samples from seeds of their own, so many at a time."""
        parts = []
        for seeds in torch.arange(seed, seed + n).split(batch):
            x = Rng.of(seeds).normal(torch.zeros(len(seeds), *self.codec.shape)).to(self.peer.device)
            for t in self.scheduler.timesteps:
                eps = self.peer.predict(x.contiguous(memory_format=self.peer.layout), t.expand(len(x)).to(x.device))
                x = self.scheduler.step(eps, t, x).prev_sample
            parts.append(self.codec.decode(x.cpu()))
        return Samples(torch.cat(parts), torch.arange(seed, seed + n), {}, self.codec)


def trained(peer: Peer, minutes: float) -> dict[str, Any]:
    """Train for so many minutes, the first step apart."""
    began = time.perf_counter()
    losses, n = [], 0

    def step(share: float) -> None:
        lr = LR * min(1.0, (n + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        for group in peer.optimizer.param_groups:
            group["lr"] = lr
        peer.moved = 1 - min(DECAY, (1 + n) / (10 + n))
        peer.step()

    step(0.0)
    wait(peer.device)
    first, began = time.perf_counter() - began, time.perf_counter()
    while (seconds := time.perf_counter() - began) < 60 * minutes:
        n += 1
        step(seconds / (60 * minutes))
        if n % 10 == 0:  # or the queue would run ahead of the clock
            losses.append(float(peer.loss.detach()))
    wait(peer.device)
    seconds, seen = time.perf_counter() - began, n * peer.batch
    return {
        "minutes": minutes,
        "seen": seen,
        "seconds": seconds,
        "samples_per_second": seen / seconds,
        "first_step_seconds": first,
        "loss": statistics.fmean(losses[-10:]) if losses else None,  # of the last hundred steps, every tenth
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--minutes", type=float, nargs="+", default=[7.0])
    parser.add_argument("--many", type=float, nargs="*", default=[], help="minutes with three repeats")
    parser.add_argument("-n", type=int, default=10_000, help="samples that are measured")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=1000, help="samples at a time")
    parser.add_argument("--small", action="store_true", help="a network for two CPU cores")
    parser.add_argument("--judge", help="in the place of the recipe's")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    torch.backends.cudnn.benchmark = True
    recipe = recipes.load(o.recipe)[0]
    recipe = override(recipe, f"judge={o.judge}") if o.judge else recipe
    assert recipe.judge is not None
    codec, data = recipe.components()["codec"], recipe.data.load()
    points: list[dict[str, Any]] = []
    for minutes in sorted(o.minutes):
        torch.manual_seed(0)
        torch._dynamo.reset()
        net = diffusers_unet(SMALL if o.small else Shape())
        peer = Peer(net, lambda net, x, t: net(x, t).sample, 256, device, half=device.type == "cuda", tuned=True)
        peer.pictures, peer.mirrored = loaded(data.train["x"]).to(device), True
        points.append(point := trained(peer, minutes))
        peer.take_average()
        trial = Trial(o.n, 3 if minutes in o.many else 1, SEED, {"batch": o.batch}, run=Runtime(device))
        model, began = Sampled(peer, codec, o.steps), time.perf_counter()
        for i in range(trial.repeats):
            trial.samples(model, i, like=data.train)
        point |= {"steps": o.steps, "samples": o.n, "repeats": trial.repeats}
        point |= {"sampling_seconds": time.perf_counter() - began}
        point["figures"] = as_json(recipe.judge(model, data, trial))
        rate, figure = point["samples_per_second"], point["figures"][0]
        print(f"{minutes:g} min  {point['seen']:,} samples  {rate:,.0f}/s  {figure['name']} {figure['samples']:.4g}")
        record.write(o.out, device, {"peer": "diffusers", "points": points})


if __name__ == "__main__":
    main()
