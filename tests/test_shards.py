"""Sharded runs: what they write, and that any number of processes goes on with it.

This file is its own worker: `test_shards.py FOLDER` does in two processes what `two` says, in three `three`.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from unnoise import checkpoint, fit, session
from unnoise.checkpoint import CheckpointError, contents_of, locate, read
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Arrays, Digits
from unnoise.errors import UserError
from unnoise.log import read_lines
from unnoise.modality import Image, Labels
from unnoise.model import Model
from unnoise.nets import MLP, Transformer, UNet
from unnoise.nets.published import ddpm_cifar10
from unnoise.optim import AdamW
from unnoise.parts import whole
from unnoise.recipe import Recipe, Sampling
from unnoise.runtime import Runtime, _blocks, launch
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build

if TYPE_CHECKING:
    from programs import Python

HALF, WHOLE = 48, 96
"""Samples seen where runs change hands, and at their end."""


def digits(folder: Path) -> Recipe:
    """A U-Net with attention, trained in pieces, on batches that 1, 2 and 3 processes share."""
    net = Build(
        UNet, channels=1, width=8, multipliers=(1,), blocks=1, attention=(1,), head_width=8, labels={"label": 10}
    )
    return Recipe(
        name="digits",
        data=Arrays(str(folder / "digits.npz"), held_out=0.05),
        codec=Image(shape=(1, 8, 8), low=0, high=16),
        conditioner=Labels({"label": 10}),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.75)),
        objective=Denoising(LogNormalSigma(-0.6, 1.1)),
        optim=AdamW(lr=2e-3, eps=1e-4),
        batch=12,
        micro=2,
        log_every=2,
        sampling=Sampling(Heun(), KarrasGrid(sigma_min=0.01, sigma_max=40), steps=2),
    )


class Called(nn.Module):
    """A network to be called in every way: with tied weights, by methods within methods, for a parameter itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale = nn.Linear(4, 4, bias=False), nn.Parameter(torch.ones(3))
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.SiLU()) for _ in range(2))
        self.layers[1][0].weight = self.stem.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def scales(self) -> Tensor:
        return self.scale[:2]

    def encode(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        for layer in self.layers:
            h = layer(h) + self.stem(h)
        return h.sum() * self.scales().sum()


def called(run: Runtime) -> float:
    """The largest difference of outputs and gradients from those of the whole network, which is the main process's."""
    torch.manual_seed(run.rank)
    net, alone = Called(), Called()
    run.distribute(net)
    alone.load_state_dict({k: whole(x) for k, x in net.state_dict().items()})
    x = torch.arange(8.0).reshape(2, 4) / 8
    pairs = [(net(x), alone(x)), (net.encode(x), alone.encode(x)), (net.scales(), alone.scales())]
    for mine, theirs in pairs:
        mine.sum().backward()
        theirs.sum().backward()
    pairs += [(whole(p.grad), q.grad) for p, q in zip(net.parameters(), alone.parameters(), strict=True)]
    return max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


def two(folder: Path, run: Runtime) -> dict[str, Any]:
    """Of each of two processes: what the tests below want to know."""
    state = fit.start(digits(folder), folder / "two", run, samples=HALF, sharded=True)
    average = {k: x for k, x in state.ema.state(0.1).items() if x.is_floating_point()}
    parameters = {f"model.{k}" for k, _ in state.components["model"].named_parameters()}
    found: dict[str, Any] = {
        "sharded": sorted(k for k, x in average.items() if type(x).__name__ == "DTensor") == sorted(parameters),
        "held": sum(average[k].to_local().numel() for k in parameters),
        "moments": sum(x.to_local().numel() for k, x in state.groups()["optim-0"].items() if k.endswith("exp_avg_sq")),
    }
    found["called"] = called(run.sharding())
    run.barrier()
    if run.is_main:
        for copy in ("back", "ddp", "one", "three"):
            shutil.copytree(folder / "two", folder / copy)
    run.barrier()
    fit.resume(folder / "plain", run, samples=WHOLE, sharded=True)
    fit.resume(folder / "back", run, samples=WHOLE)
    fit.resume(folder / "ddp", run, samples=WHOLE, sharded=False)
    fit.start(digits(folder), folder / "child", run, samples=12, sharded=True, parent=folder / "two")
    # One of the two has no room left on its disk:
    contents, limits = contents_of(state.components, state.groups(), {}), resource.getrlimit(resource.RLIMIT_FSIZE)
    if run.rank == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        checkpoint.commit(folder / "two", 2 * WHOLE, contents, run.sharding())
    except CheckpointError as e:
        found["refusal"] = str(e)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return found


def three(folder: Path, run: Runtime) -> dict[str, Any]:
    """Of each of three processes."""
    fit.resume(folder / "three", run, samples=WHOLE)
    return {}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    session.SAVE_EVERY = 0.0  # in every eighth step, which here is the last: it is saved once
    with launch("cpu") as run:
        found = {2: two, 3: three}[run.world](folder, run)
        (folder / f"{run.world}-{run.rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def runs(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were begun, and gone on with, by one, two and three processes; "whole" by one alone."""
    folder = tmp_path_factory.mktemp("runs")
    data = Digits().load().train  # as a file, since scikit-learn takes its seconds in every process
    np.savez(folder / "digits.npz", x=data["x"][:400].numpy(), label=data["label"][:400].numpy())
    fit.start(digits(folder), folder / "whole", Runtime(), samples=WHOLE)
    fit.start(digits(folder), folder / "half", Runtime(), samples=HALF)
    shutil.copytree(folder / "half", folder / "plain")
    python.group(2, __file__, folder)
    python.group(3, __file__, folder)
    fit.resume(folder / "one", Runtime(), samples=WHOLE)
    return folder


def tensors(run: Path) -> dict[str, Tensor]:
    """Every tensor of the latest checkpoint but for the sums of losses, of which each process has its own."""
    found = read(locate(run))
    both = {**found.weights, **{k: v for k, v in found.groups.items() if k != "train"}}
    return {f"{k}/{name}": x for k, named in both.items() for name, x in named.items()}


def difference(a: Path, b: Path) -> float:
    """The largest difference of any weight, average or moment."""
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys() and any(k.startswith("optim-0") for k in first)
    assert all(first[k].shape == second[k].shape and first[k].dtype == second[k].dtype for k in first)
    return max(float((first[k].double() - second[k].double()).abs().max()) for k in first)


HANDS = {
    "one": "two processes, then one",
    "back": "two processes, then two",
    "three": "two processes, then three",
    "ddp": "two processes, then two that hold all",
    "plain": "one process, then two",
}


@pytest.mark.parametrize("name", HANDS)
def test_any_number_of_processes_goes_on(runs: Path, name: str, record_property: Any) -> None:
    """The same weights, averages, moments, losses and pictures as of one process that was not stopped."""
    figure = difference(runs / "whole", runs / name)
    print(f"{HANDS[name]}: {figure:.2g}")
    record_property("difference", figure)
    assert figure < 1e-5
    assert (locate(runs / name) / "shards").is_dir() == (name in ("back", "three", "plain"))
    assert read(locate(runs / name)).facts["sharded"] == (name != "ddp")
    alone, found = (read_lines(runs / n / "metrics.jsonl") for n in ("whole", name))
    assert [line["seen"] for line in found] == [line["seen"] for line in alone]
    for a, b in zip(alone, found, strict=True):
        assert {k: b[k] for k in ("loss", "held_out")} == pytest.approx(
            {k: a[k] for k in ("loss", "held_out")}, rel=1e-4
        )
    assert {f.name for f in (runs / name / "ema").iterdir()} >= {f.name for f in (runs / "whole" / "ema").iterdir()}
    a, b = (np.asarray(PIL.Image.open(runs / n / "samples" / f"{WHOLE:09d}.png")).astype(int) for n in ("whole", name))
    assert a.std() > 10 and abs(a - b).max() <= 16  # a level of the data


def test_pitfall_19_averages_are_made_of_shards_and_saved(runs: Path) -> None:
    """The EMA lives in DTensors, half of each on a process, none of them empty for want of gathering; what is saved by
    torch.distributed.checkpoint is the average of one process, and one process samples it."""
    ranks = [json.loads((runs / f"2-{r}.json").read_text()) for r in (0, 1)]
    count = sum(p.numel() for p in digits(runs).components()["model"].parameters())
    for what in ("held", "moments"):
        held = [rank[what] for rank in ranks]
        assert sum(held) == count and min(held) > 0.4 * count
    assert all(rank["sharded"] for rank in ranks)
    saved, alone = (read(locate(runs / name)).groups for name in ("two", "half"))
    for width in ("ema-0.05", "ema-0.1"):
        assert saved[width].keys() == alone[width].keys()
        assert max(float((saved[width][k] - x).abs().max()) for k, x in alone[width].items()) < 1e-5
    a, b = (Model.load(runs / name).sample(2, seed=3, label=[1, 2]).raw for name in ("two", "half"))
    assert float((a.float() - b.float()).abs().max()) <= 1


def test_a_network_may_be_called_in_any_way(runs: Path) -> None:
    assert all(json.loads((runs / f"2-{r}.json").read_text())["called"] < 1e-5 for r in (0, 1))


def test_a_process_writes_its_part_and_nothing_is_pickled(runs: Path) -> None:
    folder = locate(runs / "two")
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert listed.keys() == files.keys() - {"manifest.json"}
    parts = [f for name, f in files.items() if name.startswith("shards/")]
    assert len(parts) == 2 and {f.suffix for f in files.values()} == {".json", ".safetensors"}
    sizes = sorted(f.stat().st_size for f in parts)
    assert sizes[0] > 0.6 * sizes[1]
    whole = sum(x.numel() * x.element_size() for x in tensors(runs / "two").values())
    assert sum(f.stat().st_size for f in folder.rglob("weights.safetensors")) < 0.1 * whole


@pytest.mark.parametrize("damage", ["missing", "changed", "extra"])
def test_damaged_shards_are_refused_by_name(runs: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(locate(runs / "two"), tmp_path / "c"))
    part = sorted((folder / "shards").iterdir())[1]
    if damage == "missing":
        part.unlink()
    elif damage == "changed":
        part.write_bytes(part.read_bytes()[:-1] + b"x")
    else:
        part = Path(shutil.copy(part, part.with_name("shard-3.safetensors")))
    with pytest.raises(CheckpointError, match=part.name):
        read(folder)


def test_a_full_disk_of_one_process_leaves_what_was_there(runs: Path) -> None:
    """The error is that of all processes, nothing is half-written, and `latest` is what it was."""
    ranks = [json.loads((runs / f"2-{r}.json").read_text()) for r in (0, 1)]
    assert all("File too large" in rank["refusal"] for rank in ranks)
    assert sorted(f.name for f in (runs / "two" / "checkpoints").iterdir()) == [".lock", "0", str(HALF)]
    assert locate(runs / "two").name == str(HALF)


def test_a_sharded_run_starts_from_other_weights(runs: Path) -> None:
    begun = read(runs / "child" / "checkpoints" / "0")
    parent = Model.load(runs / "two").denoiser.state_dict()
    for found in (begun.weights["model"], {k.removeprefix("model."): x for k, x in begun.groups["ema-0.1"].items()}):
        assert all(torch.equal(found[k], x) for k, x in parent.items())


# Wrong use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "compiled", "match"),
    [
        (1, False, "among several processes, and there is one: start with torchrun"),
        (2, True, "compiled cannot be sharded: leave --compile or --shard away"),
    ],
)
def test_what_cannot_be_sharded_is_refused(tmp_path: Path, world: int, compiled: bool, match: str) -> None:
    with pytest.raises(UserError, match=match):
        fit.start(digits(tmp_path), tmp_path / "a", Runtime(world=world), sharded=True, compiled=compiled)
    assert not (tmp_path / "a").exists()


def test_one_process_is_not_asked_to_shard(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unnoise.cli import main

    assert main(["resume", str(runs / "half"), "--samples", "60", "--shard", "--device", "cpu"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "there is one" in said[0] and "leave --shard away" in said[0]
    assert locate(runs / "half").name == str(HALF)


class Scaled(nn.Module):
    """A network with a number that has no axes."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))


def test_a_parameter_without_axes_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"make 'factor' one of shape \[1\]"):
        Runtime(world=2, sharded=True).distribute(Scaled())


def test_a_network_without_parameters_is_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="an optimiser needs parameters"):
        AdamW().build(nn.Identity().parameters())


# Blocks --------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A head that is the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))
        self.blocks[2][0].weight = self.blocks[0][0].weight


class Named(nn.Module):
    """A block that is called by another name than forward."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Tied(), Named.Part()])

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2), nn.SiLU())

        def encode(self, x: Tensor) -> Tensor:
            return self.inner(x)


@pytest.mark.parametrize(
    ("make", "count", "share"),
    [
        (lambda: Preconditioned(ddpm_cifar10(), Edm()), 11 + 3 + 12, 0.9),
        (lambda: Transformer(vocabulary=5, width=32, depth=3), 3, 0.8),
        (lambda: MLP(channels=2, width=32, blocks=2), 2, 0.7),
        (Tied, 0, 0.0),
    ],
)
def test_blocks_are_the_stages_of_a_network(make: Callable[[], nn.Module], count: int, share: float) -> None:
    """And hold nearly all of its parameters, none of them twice."""
    module = make()
    blocks = _blocks(module)
    held = [p for block in blocks for p in block.parameters()]
    assert len(blocks) == count and len({id(p) for p in held}) == len(held)
    assert not any(isinstance(b, nn.ModuleList | nn.ModuleDict) for b in blocks)  # which PyTorch 2.11 refuses to shard
    assert sum(p.numel() for p in held) >= share * sum(p.numel() for p in module.parameters())


def test_a_block_is_called_by_forward_alone() -> None:
    module = Named()
    assert _blocks(module.blocks[1]) == [] and module.blocks[1] not in _blocks(module)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
