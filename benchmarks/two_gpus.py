"""What a second GPU is worth: samples a second of 1 and of 2 processes, that each hold all of a network or half of it.

    python benchmarks/two_gpus.py [--compile --capture] [--out benchmarks/results/two_gpus.json]
    python benchmarks/two_gpus.py --device cpu --small --seconds 1          tiny networks and Gloo: does it run?

The 64-pixel network of ADM (296 million parameters, bf16 where the GPU has it), `--batch` a process; and the recipe
`cifar10`, with the recipe's batch in each process; both on random pictures. Each case is started by torchrun for
itself. Besides: the most memory that the main process took of its GPU while it trained and while a
checkpoint was written, and the seconds of that. `--compile` and `--capture` are for networks that each process holds
whole.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from throughput import wait

from unnoise import checkpoint, recipes
from unnoise.core.denoiser import Preconditioned
from unnoise.data.stream import batches
from unnoise.modality import Image, Labels
from unnoise.nets import UNet
from unnoise.nets.published import adm
from unnoise.optim import AdamW
from unnoise.recipe import Recipe
from unnoise.runtime import PRECISIONS, Runtime, default_precision, launch
from unnoise.spec import Build, fields_of
from unnoise.state import State
from unnoise.train import train

CASES = [
    (network, processes, sharded)
    for network in ("adm64", "cifar10")
    for processes, sharded in ((1, False), (2, False), (2, True))
]
TINY = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_width": 8}


def recipe_of(network: str, processes: int, batch: int, small: bool) -> Recipe:
    """The recipe `cifar10`, or the same with ADM's network and optimiser and batches of `batch`, in each process.

    Small: with little networks and pictures.
    """
    base = recipes.load("cifar10")[0]
    base = replace(base, batch=base.batch * processes)
    size, net = 32, base.model.args["net"]
    if network == "adm64":
        size, net = 64, Build(UNet, **fields_of(adm(64, learned_variance=False)))
        optim = AdamW(lr=1e-4)
        base = replace(base, conditioner=Labels({"label": 1000}), batch=batch * processes, optim=optim)
    if small:
        size, net = size // 4, net.replace(**TINY)
    model = Build(Preconditioned, **{**base.model.args, "net": net})
    return replace(base, codec=Image(shape=(3, size, size)), model=model)


def columns_of(recipe: Recipe, device: torch.device) -> dict[str, torch.Tensor]:
    """Random pictures of the recipe's shape, and labels where it is told them."""
    x = torch.randint(256, (1024, *recipe.codec.shape), dtype=torch.uint8, device=device)
    if recipe.conditioner is None:
        return {"x": x}
    return {"x": x, "label": torch.randint(recipe.conditioner.classes["label"], (1024,), device=device)}


def rate(steps: Iterator[Any], skip: int, seconds: float, run: Runtime) -> float:
    """Steps a second, after `skip` of them: as many as fit, by the first few, and none waits for the device."""

    def timed(n: int) -> float:
        run.barrier()
        wait(run.device)
        began = time.perf_counter()
        for _ in range(n):
            next(steps)
        wait(run.device)
        return time.perf_counter() - began

    for _ in range(skip):
        next(steps)
    count = max(1, int(run.broadcast(4 * seconds / timed(4))))
    return count / timed(count)


def memory(device: torch.device) -> float:
    """The most memory in GiB that was taken since this was asked last; 0 on CPUs."""
    if device.type != "cuda":
        return 0.0
    most = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return round(most / 2**30, 2)


def measure(o: argparse.Namespace) -> None:
    """One case, in each of its processes."""
    with launch(o.device) as run:
        run = run.sharding() if o.case[2] == "sharded" else run
        recipe = recipe_of(o.case[0], run.world, o.batch, o.small)
        precision = default_precision(run.device)
        shard = run.distribute if run.sharded else None
        state = State(recipe, 0, run.device, None, PRECISIONS[precision], shard=shard)
        if o.compile and not run.sharded:
            state.compile()
        columns = columns_of(recipe, run.device)
        rows = run.shard(recipe.batch)
        with closing(batches(columns, recipe.batch, seed=0, rows=rows, device=run.device)) as stream:
            steps = train(recipe, state, stream, run, captured=o.capture and not run.sharded)
            found = rate(steps, 3 if o.small else 20, o.seconds, run)
        trained, folder = memory(run.device), Path(os.environ["TWO_GPUS"])
        contents, began = checkpoint.contents_of(state.components, state.groups(), {}), time.perf_counter()
        if run.joins:
            checkpoint.commit(folder / "run", state.seen, contents, run if run.sharded else Runtime())
        saved = time.perf_counter() - began
        if run.is_main:
            row = {
                "network": o.case[0],
                "parameters": sum(p.numel() for p in state.components["model"].parameters()),
                "processes": run.world,
                "held": "half" if run.sharded else "all",
                "batch": recipe.batch,
                "precision": precision,
                "compiled": bool(o.compile and not run.sharded),
                "captured": bool(o.capture and not run.sharded),
                "samples_per_second": round(found * recipe.batch, 1),
                "memory_gib": trained,
                "saving_memory_gib": memory(run.device),
                "save_seconds": round(saved, 2),
            }
            (folder / "row.json").write_text(json.dumps(row))


def start(o: argparse.Namespace, network: str, processes: int, sharded: bool) -> dict[str, Any]:
    """One case, by torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        arguments = ["--case", network, str(processes), "sharded" if sharded else "whole", *sys.argv[1:]]
        subprocess.run([*torchrun, __file__, *arguments], check=True, env={**os.environ, "TWO_GPUS": folder})
        return json.loads(Path(folder, "row.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu or cuda (default: the fastest there is)")
    parser.add_argument("--small", action="store_true", help="tiny networks and pictures")
    parser.add_argument("--batch", type=int, default=32, help="of the network of ADM, a process (default 32)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (default 20)")
    parser.add_argument("--compile", action="store_true", help="torch.compile what is not sharded")
    parser.add_argument("--capture", action="store_true", help="replay steps of what is not sharded as a CUDA graph")
    parser.add_argument("--networks", nargs="+", default=["adm64", "cifar10"], choices=["adm64", "cifar10"])
    parser.add_argument("--held", nargs="+", default=["all", "half"], choices=["all", "half"], help="of the networks")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    if o.case:
        measure(o)
        return
    rows = []
    print(f"{'network':10} {'processes':>9} {'each holds':>10} {'samples/s':>10} {'GiB':>7} {'saved in s':>10}")
    for network, processes, sharded in CASES:
        if network in o.networks and ("half" if sharded else "all") in o.held:
            rows.append(row := start(o, network, processes, sharded))
            figures = f"{row['samples_per_second']:10} {row['memory_gib']:7} {row['save_seconds']:10}"
            print(f"{network:10} {processes:9} {row['held']:>10} {figures}", flush=True)
    cuda = torch.cuda.is_available() and o.device != "cpu"
    result = {
        "cores": os.cpu_count(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "rows": rows,
    }
    record.write(o.out, torch.device("cuda" if cuda else "cpu"), result)


if __name__ == "__main__":
    main()
