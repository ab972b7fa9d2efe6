"""How fast is a training step, and an evaluation of the network in sampling, beside what a user would pick instead?

    python benchmarks/throughput.py [--small] [--rounds 3] [--seconds 5] [--only NAME ..] [--out FILE.json]

One device, one run, one network and arithmetic: DDPM's U-Net for CIFAR-10 (35.7 M parameters, dropout 0.1), or with
--small one that two CPU cores can train. A step is all of it: pictures as bytes on the device, noise, forward,
backward, clipping, AdamW with float32 masters, one average of the weights. "evaluations" are bare forward passes
without gradients, "sampled" those of whole sampling runs of 20 steps. Each program is built anew in each round, and its
figures are medians over rounds; "first step" is the wall time of the first round from the built network to the end of
its first step, compilation included. FLOPs are counted in the network's forward pass and taken three times for a step.

Peers are the extra `peers`: diffusers' UNet2DModel as its training script has it, and the best way that a user can
have it; denoising-diffusion-pytorch (its own U-Net: another number of FLOPs). One that is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unnoise import recipes
from unnoise.data.stream import batches
from unnoise.model import Model
from unnoise.nets import kernels
from unnoise.runtime import PRECISIONS, Runtime, pick_device, uncompiled
from unnoise.sample import Euler
from unnoise.spec import Build
from unnoise.state import State
from unnoise.train import train

PICTURES, STEPS = 50_000, 20
TABLE = (
    ("parameters", "parameters", 1),
    ("batch", "batch", 1),
    ("trained_per_second", "trained/s", 1),
    ("evaluations_per_second", "evals/s", 1),
    ("sampled_evaluations_per_second", "sampled/s", 1),
    ("training_tflops", "TFLOP/s", 1),
    ("share_of_ceiling", "ceiling %", 100),
    ("peak_gib", "peak GiB", 1),
    ("first_step_seconds", "first step", 1),
)
"""Columns of the printed table: figure, head, factor."""


@dataclass(frozen=True)
class Shape:
    """Of the network and its batches."""

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    batch: int = 512
    plain_batch: int = 128
    """Of a peer's script as it stands."""


SMALL = Shape(width=32, multipliers=(1, 2), blocks=1, batch=32, plain_batch=32)


class Program:
    """A network, its training step and its sampling."""

    batch: int
    net: nn.Module

    def step(self) -> None:
        """One step of training."""
        raise NotImplementedError

    def evaluate(self) -> None:
        """One bare evaluation of the network on a batch, without gradients."""
        raise NotImplementedError

    def sample(self) -> int:
        """A whole sampling run of a batch; the number of evaluations of the network a sample, 0 where not measured."""
        return 0


class Ours(Program):
    """The recipe `ddpm_cifar10` through the loop and the driver that every user takes."""

    def __init__(
        self,
        shape: Shape,
        device: torch.device,
        precision: str,
        *,
        compiled: bool = False,
        fused: bool = False,
        captured: bool = False,
    ) -> None:
        recipe = recipes.load("ddpm_cifar10")[0]
        assert isinstance(recipe.model, Build)
        net = recipe.model.args["net"].replace(width=shape.width, multipliers=shape.multipliers, blocks=shape.blocks)
        self.recipe = replace(
            recipe,
            model=recipe.model.replace(net=net),
            batch=shape.batch,
            widths=(0.05,),
            average=0.05,
            log_every=10**9,
        )
        self.batch, self.device, self.captured = shape.batch, device, captured
        self.kernels: Literal["fused", "eager"] = "fused" if fused else "eager"
        self.state = State(self.recipe, 0, device, None, PRECISIONS[precision])
        self.denoiser = self.state.components["model"]
        self.net = self.denoiser.net
        if compiled:
            self.state.compile()
        x = torch.randint(256, (PICTURES, 3, 32, 32), dtype=torch.uint8)
        stream = batches({"x": x}, self.batch, seed=0, device=device)
        self.steps = train(self.recipe, self.state, stream, Runtime(device), captured=captured)
        self.x = torch.randn(self.batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        self.c = torch.full((self.batch,), 0.5, device=device)
        parts = self.state.components
        self.model = Model(self.denoiser, parts["codec"], parts["process"], None, self.recipe.sampling)

    def step(self) -> None:
        self.net.train()
        with kernels.using(self.kernels):
            next(self.steps)

    def evaluate(self) -> None:
        self.net.eval()
        half = self.denoiser.precision
        with (
            torch.no_grad(),
            kernels.using(self.kernels),
            torch.autocast(self.device.type, half, enabled=half is not None),
        ):
            self.net(self.x, self.c)

    def sample(self) -> int:
        self.net.eval()
        with kernels.using(self.kernels):
            self.model.sample(self.batch, batch=self.batch, steps=STEPS, sampler=Euler(), captured=self.captured)
        return STEPS


class Peer(Program):
    """Somebody else's network in the training loop of its examples."""

    def __init__(
        self,
        net: nn.Module,
        call: Callable[[nn.Module, Tensor, Tensor], Tensor],
        batch: int,
        device: torch.device,
        *,
        half: bool = False,
        tuned: bool = False,
    ) -> None:
        self.batch, self.device, self.call, self.half = batch, device, call, half
        self.net = net.to(device, memory_format=torch.channels_last) if tuned else net.to(device)
        self.layout = torch.channels_last if tuned else torch.contiguous_format
        self.own = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.own]
        self.optimizer = torch.optim.AdamW(self.own, lr=1e-4, fused=tuned or None)
        self.tuned, self.run = tuned, torch.compile(self.net) if tuned else self.net
        self.pictures = torch.randint(256, (PICTURES, 3, 32, 32), dtype=torch.uint8).to(device)
        betas = torch.linspace(1e-4, 0.02, 1000, device=device)
        self.kept = torch.cumprod(1 - betas, 0)
        self.x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=self.layout)
        self.t = torch.full((batch,), 500, device=device)
        self.mirrored, self.moved = False, 1e-3
        """Whether half of the pictures are mirrored, and how far the average moves in a step."""
        self.loss = torch.zeros(())

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else contextlib.nullcontext()

    def step(self) -> None:
        self.net.train()
        index = torch.randint(len(self.pictures), (self.batch,), device=self.device)
        x = (self.pictures[index].float() / 127.5 - 1).contiguous(memory_format=self.layout)
        if self.mirrored:
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=self.device) < 0.5, x.flip(3), x)
        t, eps = torch.randint(1000, (self.batch,), device=self.device), torch.randn_like(x)
        kept = self.kept[t][:, None, None, None]
        with self._cast():
            out = self.call(self.run, kept.sqrt() * x + (1 - kept).sqrt() * eps, t)
        self.loss = F.mse_loss(out.float(), eps)
        self.loss.backward()
        nn.utils.clip_grad_norm_(self.own, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if self.tuned:
                torch._foreach_lerp_(self.average, self.own, self.moved)
            else:
                for a, p in zip(self.average, self.own, strict=True):
                    a.lerp_(p, self.moved)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's answer in evaluation."""
        self.net.eval()
        with torch.no_grad(), self._cast():
            return self.call(self.run, x, t)

    def evaluate(self) -> None:
        self.predict(self.x, self.t)

    @torch.no_grad()
    def take_average(self) -> None:
        """Take the averaged weights."""
        for p, a in zip(self.own, self.average, strict=True):
            p.copy_(a)


def diffusers_unet(shape: Shape) -> nn.Module:
    """UNet2DModel with the layers of DDPM's network."""
    from diffusers import UNet2DModel

    attends = [i == 1 for i in range(len(shape.multipliers))]
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=shape.blocks,
        block_out_channels=tuple(shape.width * m for m in shape.multipliers),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=min(32, shape.width // 4),
        dropout=0.1,
        attention_head_dim=None,
    )


def ddpm_unet(shape: Shape) -> nn.Module:
    """The U-Net of denoising-diffusion-pytorch, of the same widths."""
    from denoising_diffusion_pytorch import Unet

    attends = tuple(i == 1 for i in range(len(shape.multipliers)))
    return Unet(dim=shape.width, dim_mults=shape.multipliers, flash_attn=torch.cuda.is_available(), full_attn=attends)


def programs(shape: Shape, device: torch.device) -> dict[str, Callable[[], Program]]:
    """What is measured, by name."""

    def diffusers(batch: int, **how: bool) -> Peer:
        return Peer(diffusers_unet(shape), lambda net, x, t: net(x, t).sample, batch, device, **how)

    def ddpm(batch: int, **how: bool) -> Peer:
        return Peer(ddpm_unet(shape), lambda net, x, t: net(x, t), batch, device, **how)

    half = device.type == "cuda"
    name = "bf16" if half else "fp32"
    ours: dict[str, dict[str, Any]] = {f"eager, {name}": {}, f"compiled, {name}": {"compiled": True}}
    if half:
        ours |= {
            "eager, kernels, captured, bf16": {"fused": True, "captured": True},
            "compiled, kernels, captured, bf16": {"fused": True, "compiled": True, "captured": True},
        }
    else:  # where the processor multiplies in bfloat16 this is what a user would take
        ours |= {"eager, bf16": {"precision": "bf16"}}
    found: dict[str, Callable[[], Program]] = {
        f"unnoise, {kind}": lambda how=how: Ours(shape, device, **{"precision": name, **how})  # type: ignore[misc]
        for kind, how in ours.items()
    }
    found["diffusers, its script's default, fp32"] = lambda: diffusers(shape.plain_batch)
    if half:
        found["diffusers, bf16"] = lambda: diffusers(shape.batch, half=True)
    found[f"diffusers, {name}, channels_last, fused AdamW, compiled"] = lambda: diffusers(
        shape.batch, half=half, tuned=True
    )
    found[f"denoising-diffusion-pytorch, {name}"] = lambda: ddpm(shape.batch, half=half)
    return found


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def rate(call: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """Calls a second, over a window of at least so many seconds."""
    wait(device)
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < seconds:
        call()
        count += 1
        if count % 4 == 0:  # or the queue would run ahead of the clock
            wait(device)
    wait(device)
    return count / (time.perf_counter() - began)


def measure(make: Callable[[], Program], seconds: float, device: torch.device) -> dict[str, float]:
    """One round of one program."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    program = make()
    wait(device)
    began = time.perf_counter()
    program.step()
    wait(device)
    first = time.perf_counter() - began
    for _ in range(3):
        program.step()
    trained = program.batch * rate(program.step, seconds, device)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    for _ in range(3):
        program.evaluate()
    evaluated = program.batch * rate(program.evaluate, seconds, device)
    for _ in range(3):  # where it is captured, one warms up and one records
        each = program.sample()
    sampled = each * program.batch * rate(program.sample, seconds, device) if each else float("nan")
    program.net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, uncompiled():
        program.evaluate()
    flops = counter.get_total_flops() / program.batch
    return {
        "parameters": float(sum(p.numel() for p in program.net.parameters())),
        "batch": float(program.batch),
        "gflop_forward": flops / 1e9,
        "trained_per_second": trained,
        "evaluations_per_second": evaluated,
        "sampled_evaluations_per_second": sampled,
        "training_tflops": 3 * flops * trained / 1e12,
        "first_step_seconds": first,
        "peak_gib": peak,
    }


def ceiling(device: torch.device) -> float:
    """TFLOP/s of a large matrix product, in bfloat16 on a GPU and in float32 on a CPU."""
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1536, torch.float32)
    a, b = torch.randn(2, n, n, device=device).to(dtype).unbind(0)
    for _ in range(3):
        a @ b
    return 2 * n**3 * rate(lambda: a @ b, 1.0, device) / 1e12


def rounds(o: argparse.Namespace, shape: Shape, device: torch.device) -> Iterator[tuple[str, dict[str, float] | str]]:
    """Each program in each round: its figures, or why it has none."""
    missing: set[str] = set()
    for _ in range(o.rounds):
        for name, make in programs(shape, device).items():
            if name in missing or (o.only and not any(part in name for part in o.only)):
                continue
            torch._dynamo.reset()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                yield name, measure(make, o.seconds, device)
            except (ImportError, RuntimeError) as e:
                if name.startswith("unnoise"):
                    raise
                missing.add(name)
                yield name, f"left out: {type(e).__name__}: {str(e).splitlines()[0][:160]}"


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--small", action="store_true", help="a network for two CPU cores")
    parser.add_argument("--batch", type=int, help="in the place of 512 (32 with --small)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--only", nargs="+", help="programs whose name contains one of these")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    torch.backends.cudnn.benchmark = True
    shape = SMALL if o.small else Shape()
    shape = replace(shape, batch=o.batch) if o.batch else shape
    top = ceiling(device)
    print(f"matrix products: {top:.3g} TFLOP/s", flush=True)
    found: dict[str, list[dict[str, float]]] = {}
    notes: dict[str, str] = {}
    for name, figures in rounds(o, shape, device):
        if isinstance(figures, str):
            notes[name] = figures
            print(f"{name}: {figures}", flush=True)
        else:
            found.setdefault(name, []).append(figures)
            print(f"{name}: {figures['trained_per_second']:,.0f} trained/s", flush=True)
        if o.out:  # after each, so that a run that is stopped keeps what it has
            write(o, device, top, summed_up(found, top), notes)
    print("\n" + " ".join([f"{'program':56}", *(f"{head:>10}" for _, head, _ in TABLE)]))
    for r in summed_up(found, top):
        cells = ["" if r[k] is None else format(r[k] * factor, ",.5g") for k, _, factor in TABLE]
        print(" ".join([f"{r['program']:56}", *(f"{cell:>10}" for cell in cells)]))


def summed_up(found: dict[str, list[dict[str, float]]], top: float) -> list[dict[str, Any]]:
    """Medians over rounds."""
    rows = []
    for name, several in found.items():
        row: dict[str, Any] = {k: statistics.median(f[k] for f in several) for k in several[0]}
        row["first_step_seconds"] = several[0]["first_step_seconds"]  # later rounds find compiled code
        row["share_of_ceiling"] = row["training_tflops"] / top
        row["each_round"] = [round(f["trained_per_second"], 1) for f in several]
        rows.append(
            {"program": name, **{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}}
        )
    return rows


def write(
    o: argparse.Namespace, device: torch.device, top: float, rows: list[dict[str, Any]], notes: dict[str, str]
) -> None:
    result = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {p: version(p) for p in ("triton", "diffusers", "denoising-diffusion-pytorch")},
        "matrix_tflops": top,
        "rounds": o.rounds,
        "seconds": o.seconds,
        "rows": rows,
        "left_out": notes,
    }
    record.write(o.out, device, result)


if __name__ == "__main__":
    main()
