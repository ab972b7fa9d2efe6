"""Devices by name, rows by rank, and what real processes do together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from unnoise.errors import UserError
from unnoise.runtime import PRECISIONS, Runtime, launch, pick_device, trained_precision

if TYPE_CHECKING:
    from programs import Python

CUDA = torch.cuda.is_available()


def test_the_fastest_device_is_picked() -> None:
    assert pick_device().type == ("cuda" if CUDA else "mps" if torch.backends.mps.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:", "tpux", "", "cuda:-1"])
def test_an_unknown_device_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match="unknown device"):
        pick_device(name)


@pytest.mark.skipif(CUDA, reason="there is a CUDA GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_do(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}'.*sees no CUDA.*use cpu"):
        pick_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="sees no Apple GPU"):
        pick_device("mps")


@pytest.mark.skipif(not CUDA, reason="needs a CUDA GPU")
def test_a_gpu_beyond_the_last_is_refused() -> None:
    with pytest.raises(UserError, match=f"there are {torch.cuda.device_count()} CUDA GPUs"):
        pick_device(f"cuda:{torch.cuda.device_count()}")


def test_a_network_runs_as_it_was_trained_where_the_device_can() -> None:
    """A GPU takes twice the time in float32, and a CPU mostly has no other arithmetic that is fast."""
    gpu, bf16 = torch.device("cuda"), CUDA and torch.cuda.is_bf16_supported()
    assert [trained_precision(name, gpu) for name in PRECISIONS] == ["fp32", "bf16" if bf16 else "fp32", "fp16"]
    for device in ("cpu", "mps"):
        assert {trained_precision(name, torch.device(device)) for name in PRECISIONS} == {"fp32"}


def test_rows_are_shared_out_evenly_and_completely() -> None:
    rows = torch.arange(12)
    for world in (1, 2, 3, 4, 6, 12):
        parts = [rows[Runtime(rank=r, world=world).shard(12)] for r in range(world)]
        assert torch.equal(torch.cat(parts), rows) and len({len(p) for p in parts}) == 1


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 10 does not divide among 4 processes: choose a multiple"):
        Runtime(rank=0, world=4).shard(10)


def test_alone_nothing_is_exchanged() -> None:
    run = Runtime()
    module, value = nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    assert run.is_main and run.wrap(module) is module and run.mean(value) is value
    assert run.broadcast(0.1) == 0.1 and run.any(True) is True and run.any(False) is False
    run.barrier()
    assert not Runtime(rank=1, world=2).is_main


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launch("cpu") as run:
        assert (run.device, run.rank, run.world) == (torch.device("cpu"), 0, 1)


WORKER = """
import json, sys, torch
from unnoise.runtime import launch
from unnoise.errors import UserError

with launch("cpu") as run:
    value = torch.tensor([1.0, 2.0]) * (run.rank + 1)
    found = {
        "rank": run.rank, "world": run.world, "device": str(run.device),
        "mean": run.mean(value).tolist(), "given": value.tolist(),
        "broadcast": run.broadcast(0.1 + run.rank), "exact": run.broadcast(float(2**40 + 1 + run.rank)),
        "one": run.any(run.rank == 1), "none": run.any(False), "all": run.any(True),
        "shard": list(range(8))[run.shard(8)],
    }
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 1.0 + run.rank)  # wrapping starts all from the main process's
    wrapped = run.wrap(net)
    found["start"] = net.weight.item()
    for i in range(2):
        with run.accumulating(wrapped, more=i == 0):
            wrapped(torch.ones(1, 1) * (run.rank + 1) * (i + 1)).sum().backward()
            found[f"grad{i}"] = net.weight.grad.item()
    frozen = torch.nn.Linear(1, 1).requires_grad_(False)
    found["frozen"] = run.wrap(frozen) is frozen
    run.barrier()
    with open(f"{sys.argv[1]}/{run.rank}.json", "w") as f:
        json.dump(found, f)
"""


def test_two_real_processes_agree(python: Python, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf8")
    python.group(2, script, tmp_path)
    found = [json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1)]
    for rank, one in enumerate(found):
        assert (one["rank"], one["world"], one["device"]) == (rank, 2, "cpu")
        assert one["mean"] == [1.5, 3.0] and one["given"] == [1.0 + rank, 2.0 + 2 * rank]  # the input is not changed
        assert one["broadcast"] == 0.1 and one["exact"] == 2.0**40 + 1  # float64: clocks and counts are exact
        assert (one["one"], one["none"], one["all"]) == (True, False, True)
        assert one["shard"] == [[0, 1, 2, 3], [4, 5, 6, 7]][rank]
        assert one["start"] == 1.0 and one["frozen"]
        assert one["grad0"] == 1.0 + rank  # not yet exchanged
        assert one["grad1"] == pytest.approx((1 + 2 + 2 + 4) / 2)  # both micro-batches of both, averaged
