"""Where a program runs: one process, or several that torchrun started. The sole user of `torch.distributed`."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unnoise.errors import UserError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the networks' matrix products, by name; None leaves them in float32."""


def default_precision(device: torch.device) -> str:
    """bf16 on GPUs that have it, fp32 elsewhere; fp16 is never chosen for the user."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def pick_device(name: str | None = None) -> torch.device:
    """The device by name; without one the fastest there is.

    Raises:
        UserError: where a device is asked for that is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda", "mps")
    except RuntimeError:
        known = False
    if not known:
        raise UserError(f"unknown device {name!r}: cpu, cuda, cuda:1, mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {name!r} was asked for, but PyTorch {torch.__version__} sees no CUDA: use --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device {name!r} was asked for, but PyTorch sees no Apple GPU: use --device cpu")
    return device


@dataclass(frozen=True)
class Runtime:
    """Rank, world and device of this process, and the few things that processes do together.

    Args:
        device: of this process.
        rank: 0 is the one that writes.
        world: number of processes.
    """

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1

    @property
    def machine(self) -> str:
        """What is computed on: "2 x NVIDIA H200", "x86_64 cpu, 2 threads"."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{platform.machine()} {self.device.type}, {torch.get_num_threads()} threads"
        return name if self.world == 1 else f"{self.world} x {name}"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def shard(self, n: int) -> slice:
        """This process's rows of a batch of n.

        Raises:
            UserError: where n does not divide evenly: then results would depend on the number of processes.
        """
        if n % self.world:
            raise UserError(f"a batch of {n} does not divide among {self.world} processes: choose a multiple")
        own = n // self.world
        return slice(self.rank * own, (self.rank + 1) * own)

    def share(self, n: int) -> slice:
        """This process's stretch of n rows, of which nothing depends on how they are divided."""
        each = -(-n // self.world)
        return slice(min(self.rank * each, n), min((self.rank + 1) * each, n))

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """All n rows, of which each process has its `share`; on every one, on the device of `rows`."""
        if self.world == 1:
            return rows
        each = -(-n // self.world)
        own = torch.zeros(each, *rows.shape[1:], dtype=rows.dtype, device=self.device)
        own[: len(rows)] = rows
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own)
        return torch.cat(parts)[:n].to(rows.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over processes; itself where there is one.

        What is wrapped is a whole phase, whose forward is the objective's call: every parameter that the loss reaches
        is reduced, however it is reached.
        """
        if self.world == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        return DistributedDataParallel(module)

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, more: bool) -> Iterator[None]:
        """Within, gradients are not exchanged while there are more micro-batches to come."""
        if more and isinstance(module, DistributedDataParallel):
            with module.no_sync():
                yield
        else:
            yield

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over processes; on every one."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def broadcast(self, value: float) -> float:
        """The main process's number; on every one."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def first(self, value: Tensor) -> Tensor:
        """The main process's tensor; on every one, where each has one of the same shape and type."""
        if self.world == 1:
            return value
        own = value.to(self.device, copy=True).contiguous()
        dist.broadcast(own, 0)
        return own.to(value.device)

    def any(self, value: bool) -> bool:
        """Whether any process says so; on every one."""
        return value if self.world == 1 else bool(self.mean(torch.tensor(float(value), device=self.device)) > 0)

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()


@contextlib.contextmanager
def launch(device: str | None = None) -> Iterator[Runtime]:
    """The runtime that the environment asks for: torchrun's group where it started us, else this process alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Runtime(pick_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = pick_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    options: dict[str, Any] = {"device_id": chosen} if chosen.type == "cuda" else {}
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", **options)
    try:
        yield Runtime(chosen, dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
