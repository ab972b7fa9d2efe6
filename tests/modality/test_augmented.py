"""What an augmentation did is told in training, stays out of samples, and changes nothing of how a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise import fit
from unnoise.checkpoint import read
from unnoise.core.condition import Conditioner, drop
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.level import Level
from unnoise.core.objective import Batch, Components, Denoising, Loss
from unnoise.core.parameterization import Edm
from unnoise.core.rng import Rng
from unnoise.data import Augment, Digits, Mirror
from unnoise.data.dataset import Dataset
from unnoise.data.stream import batches
from unnoise.errors import UserError
from unnoise.evaluate import loss_by_level
from unnoise.modality import Augmented, Image, Labels, SizeEnergy
from unnoise.model import Model
from unnoise.nets import UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.override import override
from unnoise.recipe import Recipe, Sampling
from unnoise.runtime import Runtime
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build, build, describe
from unnoise.state import State
from unnoise.train import AUGMENT, train

CPU = torch.device("cpu")
RUN = Runtime(CPU)
CODEC = Image(shape=(1, 8, 8), low=0, high=16)
TINY = {"channels": 1, "width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "middle_attention": False}


def plain(**changes: Any) -> Recipe:
    """A small class-conditional recipe without augmentation."""
    base: dict[str, Any] = {
        "name": "plain",
        "data": Digits(),
        "codec": CODEC,
        "conditioner": Labels({"label": 10}),
        "model": denoiser(labels={"label": 10}),
        "objective": Denoising(LogNormalSigma(-0.6, 1.1), drop=0.3),
        "optim": AdamW(lr=2e-3, rate=Trapezoid(warmup=64, decay=0.5)),
        "batch": 16,
        "samples": 64,
        "sampling": Sampling(Heun(), KarrasGrid(sigma_min=0.02, sigma_max=20), steps=5),
    }
    return Recipe(**base | changes)


def augmented(**changes: Any) -> Recipe:
    """The same with all of it."""
    base: dict[str, Any] = {
        "conditioner": Augmented(Labels({"label": 10})),
        "model": denoiser(labels={"label": 10}, vectors={"augment": 9}),
        "augment": Augment(p=0.5),
    }
    return plain(**base | changes)


def denoiser(**changes: Any) -> Build[Any]:
    return Build(Preconditioned, net=Build(UNet, **TINY | changes), parameterization=Edm(0.75))


# The conditioner ----------------------------------------------------------------------------------------------------


def test_what_was_done_is_passed_on_and_zeros_without() -> None:
    conditioner, rng = Augmented(Labels({"label": 10})), Rng.of(range(3))
    assert isinstance(conditioner, Conditioner)
    done = torch.randn(3, 9)
    cond = conditioner.encode({"label": torch.tensor([1, 2, 3]), "augment": done}, rng)
    assert torch.equal(cond["augment"], done) and cond["label"].tolist() == [1, 2, 3]
    cond = conditioner.encode(conditioner.ask({"label": 4}, torch.arange(3)), rng)
    assert torch.equal(cond["augment"], torch.zeros(3, 9)) and cond["label"].tolist() == [4, 4, 4]
    alone = Augmented(width=5)
    assert torch.equal(alone.encode(alone.ask({}, torch.arange(3)), rng)["augment"], torch.zeros(3, 5))


def test_labels_are_dropped_and_what_was_done_is_not() -> None:
    conditioner, n = Augmented(Labels({"label": 10, "style": 4}, apart=0.5)), 400
    rng, done = Rng.of(range(n)), torch.randn(n, 9)
    raw = {"label": torch.arange(n) % 10, "style": torch.arange(n) % 4, "augment": done}
    cond = conditioner.encode(raw, rng)
    null = conditioner.null(cond)
    assert (null["label"] == 10).all() and torch.equal(null["augment"], done)
    dropped = drop(cond, null, rng, 0.5)
    assert 150 < (dropped["label"] == 10).sum() < 250 and torch.equal(dropped["augment"], done)
    thinned = conditioner.thin(cond, rng)
    inner = Labels({"label": 10, "style": 4}, apart=0.5).thin({k: raw[k] for k in ("label", "style")}, rng)
    assert (thinned["label"] == 10).any() and torch.equal(thinned["augment"], done)
    assert all(torch.equal(thinned[k], inner[k]) for k in inner)
    without = conditioner.without(cond, "style")
    assert (without["style"] == 4).all() and torch.equal(without["label"], cond["label"])
    assert torch.equal(without["augment"], done) and conditioner.alone == ("label", "style")


def test_a_vector_beside_it_is_nulled_as_ever() -> None:
    """A condition of another kind inside: its null keeps the size, drops the energy, and what was done stays."""
    inner = SizeEnergy(first=2, counts=(3, 1), means=(-5.0, -9.0), stds=(1.0, 2.0), most=4)
    conditioner, rng = Augmented(inner, width=2), Rng.of(range(2))
    raw = {"size": torch.tensor([2, 3]), "energy": torch.tensor([-4.0, -9.0])}
    cond = conditioner.encode(raw | {"augment": torch.ones(2, 2)}, rng)
    null, expected = conditioner.null(cond), inner.null(inner.encode(raw))
    assert null.keys() == {"mask", "vector", "augment"} and torch.equal(null["augment"], torch.ones(2, 2))
    assert all(torch.equal(null[k], expected[k]) for k in expected)
    assert torch.equal(conditioner.thin(cond, rng)["vector"], cond["vector"])


def test_nobody_asks_for_it() -> None:
    labelled, alone = Augmented(Labels({"label": 10})), Augmented()
    assert labelled.names == ("label",) and alone.names == ()
    with pytest.raises(UserError, match="unknown condition 'augment'"):
        labelled.ask({"augment": 1}, torch.arange(2))
    with pytest.raises(UserError, match=r"takes no conditions, got \['label'\]"):
        alone.ask({"label": 1}, torch.arange(2))
    with pytest.raises(UserError, match="label=10 is out of range"):
        labelled.check({"label": torch.tensor([10])})


def test_weights_that_training_would_not_find_are_refused() -> None:
    class Owner(nn.Module):
        names: tuple[str, ...] = ()

        def check(self, raw: Any) -> None: ...
        def ask(self, asked: Any, seeds: Tensor) -> dict[str, Tensor]: ...
        def encode(self, raw: Any, rng: Rng) -> dict[str, Tensor]: ...
        def null(self, cond: Any) -> dict[str, Tensor]: ...

    with pytest.raises(ValueError, match="conditions without weights, got Owner"):
        Augmented(Owner())


# The network --------------------------------------------------------------------------------------------------------


def test_a_network_told_zeros_is_the_one_without() -> None:
    torch.manual_seed(0)
    net = UNet(**TINY, labels={"label": 3}, vectors={"augment": 9})
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    bare = UNet(**TINY, labels={"label": 3})
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if "vectors" not in k})
    x, c, label, done = torch.randn(3, 1, 8, 8), torch.rand(3), torch.arange(3), torch.randn(3, 9)
    done[1] = 0
    told, untold = net(x, c, label=label, augment=done), bare(x, c, label=label)
    assert torch.equal(net(x, c, label=label, augment=torch.zeros(3, 9)), untold)
    change = (told - untold).abs().amax((1, 2, 3))
    assert change[1] < 1e-6 and change[0] > 1e-3 and change[2] > 1e-3  # each row its own
    with pytest.raises(ValueError, match=r"misses the condition 'augment'.*augment \(9 channels\)"):
        net(x, c, label=label)
    with pytest.raises(ValueError, match=r"\['vector'\] cannot be names"):
        UNet(**TINY, vectors={"vector": 9})
    with pytest.raises(ValueError, match=r"\['label'\] cannot be names"):
        UNet(**TINY, labels={"label": 3}, vectors={"label": 9})


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_are_those_of_the_network_without(guidance: float) -> None:
    torch.manual_seed(0)
    told = augmented().components()
    with torch.no_grad():
        for p in told["model"].parameters():
            p.add_(0.1 * torch.randn_like(p))
    bare = plain().components()["model"]
    bare.load_state_dict({k: v for k, v in told["model"].state_dict().items() if "vectors" not in k})
    one, other = (
        Model(model, CODEC, told["process"], conditioner, plain().sampling).sample(6, guidance=guidance, label="all")
        for model, conditioner in ((told["model"], told["conditioner"]), (bare, Labels({"label": 10})))
    )
    assert torch.equal(one.raw, other.raw) and len(one.raw.unique()) > 5
    assert one.cond.keys() == {"label"}


# The recipe ---------------------------------------------------------------------------------------------------------


def test_what_the_network_is_not_told_is_refused() -> None:
    with pytest.raises(ValueError, match=r"column 'augment', which no conditioner tells.*leak.*or take Mirror"):
        plain(augment=Augment())
    with pytest.raises(ValueError, match="leak"):
        plain(augment=Augment(), conditioner=None)
    assert plain(augment=Mirror()).augment == Mirror()


def test_it_is_set_by_name_and_described() -> None:
    assert override(plain(), "augment=Mirror()").augment == Mirror()
    assert override(plain(), "augment=mirror").augment == Mirror()
    assert override(augmented(), "augment=none").augment is None
    assert override(augmented(), "augment=Augment(p=0.3, rotate=0, whole=true)").augment == Augment(
        p=0.3, rotate=0, whole=True
    )
    assert override(augmented(), "augment.p=0.25").augment == Augment(p=0.25)
    recipe = augmented()
    assert build(describe(recipe), lazy=True).augment == recipe.augment
    old = {k: v for k, v in describe(recipe).items() if k != "augment"}  # of a run before there was one
    assert build(old, lazy=True).augment is None


# Training -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A loss that keeps what it was shown."""

    shown: list[Batch] = field(default_factory=list)

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        self.shown.append(dict(batch))
        value = next(components["model"].parameters()).square().sum().expand(len(batch["x"]))
        return Loss(value, torch.ones_like(value))


@pytest.mark.parametrize("augment", [Augment(p=0.5), Mirror()])
def test_what_a_row_becomes_depends_on_seed_and_place_only(augment: Any) -> None:
    """Batches of 16, of 8 in two pieces, and the rows of the second of two processes: the same row by row."""
    data, rows = Digits().load(), {}
    for batch, micro, seen, part in [(16, 1, 0, slice(None)), (8, 2, 0, slice(None)), (16, 1, 16, slice(8, 16))]:
        recording = Recording()
        recipe = augmented(augment=augment, objective=recording, batch=batch, micro=micro)
        state = State(recipe, 5, CPU, 32)
        state.seen = seen
        stream = batches(data.train, batch, seed=5, seen=seen, rows=part)
        assert list(islice(train(recipe, state, stream, RUN), 4))
        for shown in recording.shown:
            for i, place in enumerate(shown["position"].tolist()):
                row = {k: v[i] for k, v in shown.items()}
                assert all(torch.equal(v, rows.setdefault(place, row)[k]) for k, v in row.items())
    assert len(rows) == 32
    place, row = 7, rows[7]
    raw = next(batches(data.train, 1, seed=5, seen=place))
    alone = augment(raw, Rng.of(5).fold(AUGMENT, torch.tensor([place])))
    assert all(torch.equal(v[0], row[k]) for k, v in alone.items())
    assert any(not torch.equal(rows[i]["x"], next(batches(data.train, 1, seed=5, seen=i))["x"][0]) for i in range(8))


def test_held_out_data_stay_as_they_are() -> None:
    recording, data = Recording(), Digits().load()
    recipe = augmented(objective=recording)
    loss_by_level(recipe.objective, State(recipe, 0, CPU, 32).components, data.held_out, CPU)
    assert all("augment" not in shown for shown in recording.shown)
    assert torch.equal(torch.cat([s["x"] for s in recording.shown]), data.held_out["x"][:512])


def test_training_that_was_stopped_goes_on_as_if_not() -> None:
    data, recipe = Digits().load().train, augmented()
    whole, half, rest = (State(recipe, seed, CPU, 96) for seed in (0, 0, 1))
    for state, steps in ((whole, 6), (half, 3)):
        assert len(list(islice(train(recipe, state, batches(data, 16, seed=0), RUN), steps))) == steps
    rest.components["model"].load_state_dict(half.components["model"].state_dict())
    rest.load(half.groups())
    rest.seen, rest.seed = half.seen, half.seed
    assert len(list(train(recipe, rest, batches(data, 16, seed=0, seen=half.seen), RUN))) == 3
    assert all(torch.equal(x, whole.named[k]) for k, x in rest.named.items())
    assert any("vectors" in k and bool(x.any()) for k, x in whole.named.items())  # and it learns from what it is told


def test_data_that_cannot_be_augmented_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave the column 'low'"):
        fit.start(plain(augment=Mirror(), data=WithLow()), tmp_path / "run", RUN, samples=16, types=[WithLow])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@dataclass(frozen=True)
class WithLow:
    """Digits, and their small pictures."""

    def load(self) -> Dataset:
        data = Digits().load()
        return replace(
            data,
            **{k: {**getattr(data, k), "low": getattr(data, k)["x"][..., ::2, ::2]} for k in ("train", "held_out")},
        )


# From another run ---------------------------------------------------------------------------------------------------


def test_a_run_with_augmentation_begins_as_the_one_without_that_it_comes_from(tmp_path: Path) -> None:
    fit.start(plain(), tmp_path / "old", RUN, samples=64)
    fit.start(augmented(), tmp_path / "new", RUN, samples=32, parent=tmp_path / "old")
    old = Model.load(tmp_path / "old").denoiser
    new = Model.load(tmp_path / "new" / "checkpoints" / "0", weights="raw").denoiser
    x, label, level = torch.randn(4, 1, 8, 8), torch.tensor([0, 5, 9, 10]), Level(torch.ones(4), torch.full((4,), 0.5))
    with torch.no_grad():
        told = new(x, level, {"label": label, "augment": torch.randn(4, 9)}).x0
        assert torch.equal(told, old(x, level, {"label": label}).x0)  # whatever it is told: that is learned from here
    later = read(tmp_path / "new" / "checkpoints" / "32").weights["model"]
    assert later["net.embed.vectors.augment.weight"].any()


def test_from_another_number_of_classes_only_their_table_is_fresh(tmp_path: Path) -> None:
    fit.start(plain(), tmp_path / "old", RUN, samples=16)
    few = augmented(
        conditioner=Augmented(Labels({"label": 4})),
        model=denoiser(labels={"label": 4}, vectors={"augment": 9}),
        data=FewDigits(),
    )
    fit.start(few, tmp_path / "new", RUN, samples=16, parent=tmp_path / "old", types=[FewDigits])
    old = Model.load(tmp_path / "old").denoiser.state_dict()
    start = read(tmp_path / "new" / "checkpoints" / "0").weights["model"]
    fresh = {k for k, v in start.items() if k not in old or not torch.equal(v, old[k])}
    assert fresh == {"net.embed.labels.label.weight", "net.embed.vectors.augment.weight"}
    back = plain(samples=16)  # and back again: what the new one has beyond the old is left behind
    fit.start(back, tmp_path / "back", RUN, samples=16, parent=tmp_path / "new")
    assert "net.embed.vectors.augment.weight" not in read(tmp_path / "back" / "checkpoints" / "0").weights["model"]


@dataclass(frozen=True)
class FewDigits:
    """The digits 0 to 3."""

    def load(self) -> Dataset:
        data = Digits().load()
        few = {
            k: {n: v[getattr(data, k)["label"] < 4] for n, v in getattr(data, k).items()} for k in ("train", "held_out")
        }
        return replace(data, **few)


# No leak ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flags:
    """Pictures [1, 4, 4] whose left half is bright, or dark by a little."""

    def load(self) -> Dataset:
        x = torch.zeros(64, 1, 4, 4)
        x[..., :2] = torch.linspace(0.8, 1.0, 64)[:, None, None, None]
        return Dataset({"x": x}, {"x": x[:0]})


@pytest.mark.parametrize("told", [True, False])
def test_mirrored_training_leaks_into_samples_only_where_it_is_not_told(told: bool) -> None:
    """Half of the training pictures are mirrored. Told of it, a network makes what the data are; else half of each."""
    net = Build(UNet, **TINY | {"width": 16}, **({"vectors": {"augment": 9}} if told else {}))
    recipe = Recipe(
        name="flags",
        data=Flags(),
        codec=Image(shape=(1, 4, 4), low=0, high=1, dtype="float32"),
        conditioner=Augmented() if told else None,
        augment=Augment(p=0.01) if told else Mirror(),
        model=Build(Preconditioned, net=net, parameterization=Edm(0.9)),
        objective=Denoising(LogNormalSigma(0.0, 1.4)),
        optim=AdamW(lr=5e-3, rate=Trapezoid(warmup=640, decay=0.5)),
        batch=64,
    )
    state, data = State(recipe, 0, CPU, 64 * 150), recipe.data.load()
    for _ in train(recipe, state, batches(data.train, 64, seed=0), RUN):
        pass
    parts, sampling = state.components, Sampling(Heun(), KarrasGrid(sigma_min=0.02, sigma_max=20), steps=8)
    with state.averaged(0.1):
        model = Model(parts["model"], parts["codec"], parts["process"], parts.get("conditioner"), sampling)
        raw = model.sample(200).raw
    right = (raw[..., :2].mean((1, 2, 3)) > raw[..., 2:].mean((1, 2, 3))).double().mean()
    assert right > 0.97 if told else 0.3 < right < 0.7
