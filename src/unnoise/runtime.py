"""Where a program runs: one process, or several that torchrun started.

The sole user of `torch.distributed`, but for `shards`, which reads and writes files by it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from unnoise.errors import UserError

GRACE = 0.2
"""Seconds for Gloo's threads to let go of the last tensors. Sharded networks keep the threads alive until Python ends;
one that needs the interpreter then, to free a tensor, aborts the process."""
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the networks' matrix products, by name; None leaves them in float32."""
_STANCE = threading.RLock()
"""What torch does with compiled networks is one thing for all threads: one changes it at a time."""


def default_precision(device: torch.device) -> str:
    """bf16 on GPUs that have it, fp32 elsewhere; fp16 is never chosen for the user."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def precision_of(name: str) -> torch.dtype | None:
    """The entry of `PRECISIONS`; Raises UserError for another name."""
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}: fp32, bf16 or fp16")
    return PRECISIONS[name]


def set_precision(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Of the matrix products of a network that has a precision to set, as denoisers have; others stay as they are."""
    if hasattr(network, "precision"):
        setattr(network, "precision", dtype)  # noqa: B010 (a tensor or a module to mypy)


def trained_precision(name: str, device: torch.device) -> str:
    """That in which a network was trained, on GPUs that have it; fp32 elsewhere."""
    there = device.type == "cuda" and (name != "bf16" or default_precision(device) == "bf16")
    return name if there else "fp32"


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
        raise UserError(f"device {name!r} was asked for, but PyTorch {torch.__version__} sees no CUDA: use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device {name!r} was asked for, but PyTorch sees no Apple GPU: use cpu")
    return device


@contextlib.contextmanager
def uncompiled(wanted: bool = True) -> Iterator[None]:
    """Within, if it is wanted, compiled networks run as they are: a mode or shape that is rare would compile anew."""
    if not wanted:
        yield
        return
    with _STANCE, torch.compiler.set_stance("force_eager"):
        yield


@dataclass(frozen=True)
class Runtime:
    """Rank, world and device of this process, and the few things that processes do together.

    Args:
        device: of this process.
        rank: 0 is the one that writes.
        world: number of processes.
        sharded: whether each process holds a part of every trained network, see `distribute`, or all of it.
    """

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1
    sharded: bool = False

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

    @property
    def joins(self) -> bool:
        """Whether this process takes part in what the main one does with the networks: all do that hold parts."""
        return self.is_main or self.sharded

    def sharding(self) -> Runtime:
        """The same, where each process holds a part of every trained network.

        Raises:
            UserError: where there is one process.
        """
        if self.world == 1:
            raise UserError(
                "networks are sharded among several processes, and there is one: "
                "start with torchrun --nproc-per-node 2 -m unnoise, or leave --shard away"
            )
        return replace(self, sharded=True)

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
        is reduced, however it is reached. Sharded networks reduce theirs by themselves.
        """
        if self.world == 1 or self.sharded or not any(p.requires_grad for p in module.parameters()):
            return module
        return DistributedDataParallel(module)

    @contextlib.contextmanager
    def accumulating(self, module: nn.Module, more: bool) -> Iterator[None]:
        """Within, gradients are not exchanged while there are more micro-batches to come."""
        if more and isinstance(module, DistributedDataParallel):
            with module.no_sync():
                yield
            return
        if self.sharded:
            from torch.distributed.fsdp import FSDPModule

            for part in module.modules():
                if isinstance(part, FSDPModule):
                    part.set_requires_gradient_sync(not more, recurse=False)
        yield

    def distribute(self, module: nn.Module) -> None:
        """Shard a network in place (FSDP2): of each parameter this process keeps its rows, as a DTensor of float32.

        Whatever is called of the network, `forward` or another public method, gathers the parameters of a block before
        the block and frees them after it, in the forward pass and again in the backward one; gradients are averaged
        over processes and scattered. All processes must make the same calls. Parameters are the main process's.

        Args:
            module: on any device; it ends on this process's, and never lies there as a whole.

        Raises:
            UserError: for a parameter without axes, which has no rows.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for name, p in module.named_parameters():
            if p.ndim == 0:
                raise UserError(f"a parameter without axes cannot be sharded: make {name!r} one of shape [1]")
        with torch.no_grad():
            for x in module.state_dict().values():
                x.copy_(self.first(x))
        _make_contiguous(module)
        mesh = init_device_mesh(self.device.type, (self.world,))
        for part in (*_blocks(module), module):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        _register_methods(module)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over processes; on every one."""
        return value if self.world == 1 else self.mean_(value.clone())

    def mean_(self, value: Tensor) -> Tensor:
        """The same, in the tensor's own place."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

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


# Sharded networks: what torch needs for them takes half a second to import, which nobody else should wait for ---------


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The parts of a network that are gathered one at a time; what is left of it is gathered as one.

    They are what its outermost lists (ModuleList, Sequential) hold, where that is made of parts itself and is called by
    nothing but `forward`. None where parameters are tied: those must be gathered together.
    """
    if len(list(module.named_parameters(remove_duplicate=False))) > len(list(module.parameters())):
        return []
    out: list[nn.Module] = []
    for part in module.children():
        if not isinstance(part, nn.ModuleList | nn.Sequential):
            out += _blocks(part)
            continue
        for block in part:
            if any(block.children()) and any(True for _ in block.parameters()) and not _methods(block):
                out.append(block)
            else:
                out += _blocks(block)
    return out


def _methods(module: nn.Module) -> list[str]:
    """The public methods of a module's own classes besides `forward`."""
    own = [c for c in type(module).__mro__ if c is not object and c.__module__.partition(".")[0] != "torch"]
    names = {k for c in own for k, f in vars(c).items() if inspect.isfunction(f) and not k.startswith("_")}
    return sorted(names - {"forward"})


def _register_methods(module: nn.Module) -> None:
    """Let the public methods of a sharded network gather its parameters, as `forward` does.

    A method that is called by another one finds them gathered, and must not free them at its end. What a method returns
    must not lie in them.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    inside = False

    def entry(name: str) -> None:
        plain = getattr(module, name)
        setattr(module, name, lambda *args, **kwargs: tree_map(_copied, plain(*args, **kwargs)))
        if name != "forward":
            register_fsdp_forward_method(module, name)
        gathering = getattr(module, name)

        @functools.wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return plain(*args, **kwargs)
            inside = True
            try:
                return gathering(*args, **kwargs)
            finally:
                inside = False

        setattr(module, name, call)

    for name in ("forward", *_methods(module)):
        entry(name)


def _copied(x: Any) -> Any:
    """A copy in the place of a parameter or of a view, whose memory may be that of one."""
    return x.clone() if isinstance(x, nn.Parameter) or (isinstance(x, Tensor) and x._is_view()) else x


def _make_contiguous(module: nn.Module) -> None:
    """Make parameters contiguous, as rows must be; convolutions that had channels innermost ask that of x instead."""
    for part in module.modules():
        for p in part.parameters(recurse=False):
            if not p.is_contiguous():
                p.data = p.data.contiguous()
                if isinstance(part, nn.Conv2d):
                    part.register_forward_pre_hook(_channels_last)


def _channels_last(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].contiguous(memory_format=torch.channels_last), *args[1:])


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
        if chosen.type != "cuda":
            time.sleep(GRACE)
        dist.destroy_process_group()
