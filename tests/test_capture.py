"""What may be captured uploads nothing and waits for nothing: seen without a GPU, on the device "meta".

Its tensors have shapes and no numbers, so that any recipe is a matter of a second. What torch's kernels for GPUs do by
themselves is not seen: tests/gpu.
"""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from two import Two

import unnoise.sample
from unnoise import recipes
from unnoise.core.density import LogitNormalTime, UniformTime
from unnoise.core.discrete import UniformTokens
from unnoise.core.level import CLEAN, Level
from unnoise.core.noise import TableIndex
from unnoise.core.objective import Denoising
from unnoise.core.rng import Rng
from unnoise.core.schedule import Linear, ScaledLinear, Table, ZeroTerminal
from unnoise.core.weight import EdmWeight, Sigmoid
from unnoise.data import Mirror
from unnoise.modality import Molecules, Spectra, Waves
from unnoise.model import Model
from unnoise.optim import Muon
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.state import State
from unnoise.train import train
from unnoise.trained import Trained
from unnoise.walks import SEED

META = torch.device("meta")
SOURCE = str(Path(unnoise.sample.__file__).parents[1])


class _Dispatched(TorchDispatchMode):
    """Notes operations between devices, but those that kernels take a host's number for, and looks at numbers."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if op is torch.ops.aten._local_scalar_dense.default and given[0].is_meta:
            self.found.append(_where("item"))
            return 1
        out = None if "aten::_fused" in op.name() else op(*args, **(kwargs or {}))  # those have no kernels for "meta"
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        # A kernel with two operands takes a number of the host's as an argument; others have it uploaded.
        plain = torch.Tag.pointwise in op.tags and len(given) == 2 and not any(x.ndim for x in given if x.is_cpu)
        if len({x.is_cpu for x in given + made}) == 2 and not plain:
            self.found.append(_where(str(op)))
        return out


class _Called(TorchFunctionMode):
    """Notes tensors of the device that are made of the host's numbers, which "meta" does without a copy."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = f(*args, **(kwargs or {}))
        if f in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            made = args[0].is_meta and any(isinstance(i, list) for i in index)
        else:
            numbers = f in (torch.tensor, Tensor.new_tensor, torch.as_tensor) and not isinstance(args[-1], Tensor)
            made = numbers and out.is_meta
        if made:
            self.found.append(_where(f.__name__))
        return out


def _where(what: str) -> str:
    frames = [x for x in traceback.extract_stack() if x.filename.startswith(SOURCE)]
    return " < ".join([what, *(f"{Path(x.filename).name}:{x.lineno} {x.line}" for x in frames[:-4:-1])])


@contextlib.contextmanager
def uploads() -> Iterator[list[str]]:
    """What is moved between the host and the device within: operation and places."""
    found: list[str] = []
    with _Called(found), _Dispatched(found):
        yield found


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With "meta" in the place of a GPU, networks of other runs as fresh ones, and a call in the place of a graph."""
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    for kind, module in (("fused", "torch.optim.optimizer"), ("foreach", "torch.utils._foreach_utils")):
        name = f"_get_{kind}_kernels_supported_devices"
        monkeypatch.setattr(importlib.import_module(module), name, lambda: ["meta"])
    monkeypatch.setattr(Trained, "__call__", lambda self: recipes.load(self.recipe)[0].components()["model"])
    monkeypatch.setattr("unnoise.walks.Captured", lambda call, device, warm: call)
    monkeypatch.setattr("unnoise.core.philox._ROUNDS", 4)  # of ten, which differ in numbers alone: here there are none


def rows(parts: dict[str, Any], n: int) -> dict[str, Tensor]:
    """A batch of blank data with whatever the conditioner asks for."""
    codec, conditioner = parts["codec"], parts.get("conditioner")
    raw = {"x": codec.decode(codec.blank(n)), "position": torch.arange(n)}
    if conditioner is not None:
        needed = {k: conditioner.image.decode(conditioner.image.blank(n)) for k in getattr(conditioner, "needs", ())}
        raw |= conditioner.ask(needed, torch.arange(n))
        raw.pop("augment", None)  # of a small picture, which training draws itself
    return raw


@pytest.mark.parametrize("name", recipes.names())
def test_a_step_of_training_uploads_nothing(name: str) -> None:
    check_step(recipes.load(name)[0])


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({"optim": Muon(weight_decay=0.1), "micro": 2}, None),
        ({"augment": Mirror(), "objective": Denoising(stratify=False)}, torch.float16),
        ({"objective": Denoising(UniformTime(ZeroTerminal(ScaledLinear())), weight=EdmWeight())}, None),
        ({"objective": Denoising(LogitNormalTime(), weight=Sigmoid(absolute=True))}, None),
    ],
)
def test_other_settings_upload_nothing(changes: dict[str, Any], precision: torch.dtype | None) -> None:
    check_step(replace(recipes.load("digits")[0], **changes), precision)


@pytest.mark.parametrize("precision", [None, torch.float16])
def test_a_step_of_several_processes_uploads_nothing(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype | None
) -> None:
    """Two graphs, and what is exchanged between them."""
    monkeypatch.setattr("unnoise.train.Captured", lambda call, device: call)
    monkeypatch.setattr("unnoise.train.check_capturable", lambda recipe, run: None)
    check_step(recipes.load("digits")[0], precision, Two(META, 0, 2), captured=True)


def check_step(
    recipe: Recipe, precision: torch.dtype | None = None, run: Runtime = Runtime(META), captured: bool = False
) -> None:
    """A second step of training moves nothing: the first may make what is made once."""
    parts = recipe.components()
    batch = {k: v.to(META) for k, v in rows(parts, recipe.batch).items()}
    with uploads() as found:
        state = State(recipe, 0, META, recipe.samples, precision, components=parts)
        steps = train(recipe, state, iter([batch, batch]), run, captured=captured)
        next(steps)
        found.clear()
        next(steps)
    assert not found, "\n".join(sorted(set(found)))


SAMPLERS: list[Any] = [getattr(unnoise.sample, name)() for name in unnoise.sample.__all__]


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *(("digits", sampler) for sampler in SAMPLERS),
        *((name, None) for name in ("digits_fast", "digits_likelihood", "ddpm_cifar10", "flowers500", "mnist32")),
        *((name, None) for name in ("qm7", "shakespeare", "sprites")),
    ],
    ids=str,
)
def test_a_walk_of_samples_uploads_nothing(name: str, sampler: Any) -> None:
    recipe = recipes.load(name)[0]
    parts = recipe.components()
    raw = rows(parts, 4)
    model = Model(parts["model"].eval(), parts["codec"], parts["process"], parts.get("conditioner"), recipe.sampling)
    model.to(META)
    draw: Any = model._walks(sampler=sampler, steps=2).recorded(4)
    cond = model._cond({k: v for k, v in raw.items() if k not in ("x", "position")}, raw["position"])
    inputs = {SEED: raw["position"].to(META), **cond}
    with uploads() as found:
        draw(inputs)
        found.clear()
        draw(inputs)
    assert not found, "\n".join(sorted(set(found)))


TABLES: list[Any] = [Linear(), ScaledLinear(), Table((0.1, 0.2, 0.3)), ZeroTerminal(Table((0.1, 0.2, 0.3)))]
SOUND = {"length": 512, "rate": 8000}
ROWS = Rng(Rng.of(range(4)).key.to(META))
BLANK = torch.empty(4, 6, device=META)
LEVEL = Level(torch.empty(4, device=META), torch.empty(4, device=META))


PIECES: dict[str, Callable[[], Any]] = {
    **{f"{table}": lambda table=table: table(BLANK) for table in TABLES},
    **{f"{table} at one time": lambda table=table: table(BLANK[0, 0].double()) for table in TABLES},
    **{f"{table} uniform": lambda table=table: UniformTime(table)(BLANK) for table in TABLES},
    **{f"{table} by index": lambda table=table: TableIndex(table)(LEVEL) for table in TABLES},
    **{f"{table} by one index": lambda table=table: TableIndex(table)(LEVEL.at(0)) for table in TABLES},
    "waves": lambda: Waves(**SOUND, scales=(1.0, 2.0)).encode(torch.empty(4, 1, 512, device=META)),
    "spectra": lambda: Spectra(**SOUND).encode(torch.empty(4, 1, 512, device=META)),
    "one-hot": lambda: Molecules(tokens=False).encode(torch.empty(4, Molecules().most, 4, device=META)),
    "tokens": lambda: UniformTokens(5).forward(BLANK.long(), CLEAN, LEVEL, ROWS),
}


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES.keys())
def test_pieces_upload_nothing(piece: Callable[[], Any]) -> None:
    with uploads() as found:
        piece()
        found.clear()
        piece()
    assert not found, "\n".join(sorted(set(found)))


@pytest.mark.parametrize(
    "piece",
    [
        lambda: torch.empty(2, device=META) + torch.ones(2).to(META),
        lambda: torch.tensor([1.0], device=META),
        lambda: torch.where(torch.ones(()) > 0, BLANK, BLANK),
        lambda: BLANK[[0, 1]],
        lambda: BLANK[BLANK[0, 0].long()],
        lambda: BLANK.copy_(torch.ones(4, 6)),
        lambda: bool(BLANK[0, 0] > 0),
    ],
)
def test_an_upload_is_found(piece: Callable[[], Any]) -> None:
    with uploads() as found:
        BLANK * torch.ones(()) - 1
        assert not found
        piece()
    assert found
