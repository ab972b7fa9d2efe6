"""Dotted overrides: every type is read, every slip is answered with what would have been right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogitNormalTime, UniformTime
from unnoise.core.noise import ClippedLogSnr
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm, V
from unnoise.core.schedule import Cosine, Karras, Rectified, Shifted
from unnoise.core.space import ZeroCoM
from unnoise.core.weight import EdmWeight, MinSnr
from unnoise.data import Arrays
from unnoise.modality import Labels, Plain
from unnoise.nets import MLP, UNet
from unnoise.optim import AdamW, Constant, Muon, Trapezoid
from unnoise.optim import Cosine as CosineRate
from unnoise.override import OverrideError, keys, override, parse
from unnoise.recipe import Recipe, Sampling
from unnoise.recipes.digits import recipe as digits
from unnoise.sample import RK4, Ancestral, DPMpp2M, Euler, Heun, Midpoint
from unnoise.sample.grids import KarrasGrid, LogSnrGrid, TrailingGrid, UniformGrid
from unnoise.spec import Build, fields_of

RECIPE = digits()


def get(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = fields_of(value)[part]
    return value


@pytest.mark.parametrize(
    "assignment, expected",
    [
        # numbers
        ("batch=32", 32),
        ("samples=1_000", 1000),
        ("samples=1e5", 100_000),
        ("optim.lr=2e-4", 2e-4),
        ("optim.lr=1", 1.0),
        ("sampling.low=-inf", -math.inf),
        ("sampling.high=inf", math.inf),
        ("sampling.high=-3.5", -3.5),
        ("model.net.width=32", 32),
        ("data.held_out=0.3", 0.3),
        # None, where it may be
        ("optim.clip=none", None),
        ("optim.clip=2", 2.0),
        ("conditioner=None", None),
        ("objective.weight=none", None),
        ("judge=none", None),
        ("model.net.head_width=null", None),
        ("model.net.vector=4", 4),
        # truth
        ("objective.stratify=false", False),
        ("objective.stratify=No", False),
        ("objective.stratify=1", True),
        ("model.net.middle_attention=False", False),
        # words
        ("name=mine", "mine"),
        ("codec.dtype=float32", "float32"),
        ("model.net.norm=additive", "additive"),
        ("objective.model=student", "student"),
        # several
        ("widths=0.05,0.1,0.2", (0.05, 0.1, 0.2)),
        ("optim.betas=(0.9, 0.95)", (0.9, 0.95)),
        ("codec.shape=3,16,32", (3, 16, 32)),
        ("model.interval=-9,inf", (-9.0, math.inf)),
        ("model.net.multipliers=1,2,2", (1.0, 2.0, 2.0)),
        ("model.net.attention=[1, 2]", (1, 2)),
        ("model.net.attention=4", (4,)),
        ("model.net.attention=", ()),
        ("model.net.dropout=0.2", 0.2),
        ("model.net.dropout=0,0.2", (0.0, 0.2)),
        ("conditioner.classes=label=3", {"label": 3}),
        ("conditioner.classes=label=3, style=2", {"label": 3, "style": 2}),
        ("model.net.labels=label=7", {"label": 7}),
        # values of ours, by name
        ("optim.rate=Cosine(warmup=10)", CosineRate(warmup=10)),
        ("optim.rate=constant", Constant()),
        ("optim.rate.decay=0.25", 0.25),
        ("objective.weight=MinSnr(gamma=3)", MinSnr(gamma=3.0)),
        ("objective.weight=EdmWeight", EdmWeight()),
        ("objective.density=UniformTime(schedule=Cosine(offset=0))", UniformTime(Cosine(0.0))),
        ("objective.density=LogitNormalTime(schedule=Rectified)", LogitNormalTime(Rectified())),
        (
            "objective.density=UniformTime(schedule=Shifted(schedule=Karras(), shift=-1.5), high=0.9)",
            UniformTime(Shifted(Karras(), -1.5), high=0.9),
        ),
        ("objective=Denoising(weight=MinSnr(gamma=2), stratify=False)", Denoising(weight=MinSnr(2.0), stratify=False)),
        ("objective=Denoising(weight=None, drop=0)", Denoising(drop=0.0)),
        ("objective.process.space=ZeroCoM", ZeroCoM()),
        ("sampling.sampler=Ancestral(eta=0.5)", Ancestral(eta=0.5)),
        ("sampling.sampler=Ancestral(eta=0.5, variance='large')", Ancestral(eta=0.5, variance="large")),
        ("sampling.sampler=Ancestral(variance=large)", Ancestral(variance="large")),
        ("sampling.sampler=Euler()", Euler()),
        ("sampling.sampler=dpmpp2m", DPMpp2M()),
        ("sampling.sampler=RK4", RK4()),
        ("sampling.sampler=Midpoint", Midpoint()),
        ("sampling.grid=UniformGrid", UniformGrid()),
        ("sampling.grid=TrailingGrid()", TrailingGrid()),
        ("sampling.grid=KarrasGrid(sigma_max=None, rho=5)", KarrasGrid(sigma_max=None, rho=5.0)),
        ("sampling.grid=LogSnrGrid(low=-9, frame=flow)", LogSnrGrid(low=-9.0, frame="flow")),
        ("sampling=Sampling(steps=3, high=inf, low=-inf)", Sampling(steps=3)),
        ("model.parameterization=V", V()),
        ("model.parameterization=Edm(sigma_data=0.5)", Edm(0.5)),
        ("model.noise=ClippedLogSnr(low=-9, high=9)", ClippedLogSnr(-9.0, 9.0)),
        ("model.net=MLP(channels=2, width=16)", Build(MLP, channels=2, width=16)),
        (
            "model.net=UNet(channels=1, multipliers=(1, 2), labels={'label': 10})",
            Build(UNet, channels=1, multipliers=(1.0, 2.0), labels={"label": 10}),
        ),
        ("conditioner=Labels(classes={'label': 3})", Labels({"label": 3})),
        ("codec=Plain(shape=(2,), std=3)", Plain((2,), std=3.0)),
        ("data=Arrays(path='my data/x=1.npz', held_out=0)", Arrays("my data/x=1.npz", held_out=0.0)),
        ("data=Arrays(path=x.npz)", Arrays("x.npz")),
        ("data=Arrays(path=my-data/of-2024/x.npz, held_out=-0.0)", Arrays("my-data/of-2024/x.npz", held_out=-0.0)),
        ("judge.codec.shape=1,16,16", (1, 16, 16)),
    ],
)
def test_a_value_is_set_and_nothing_else(assignment: str, expected: Any) -> None:
    path = assignment.partition("=")[0]
    before = {k.name: repr(k.value) for k in keys(RECIPE)}
    changed = override(RECIPE, assignment)
    found = get(changed, path)
    assert found == expected and type(found) is type(expected)
    after = {k.name: repr(k.value) for k in keys(changed)}
    related = {k for k in before.keys() | after.keys() if k.startswith(f"{path}.") or f"{path}.".startswith(f"{k}.")}
    assert {k: v for k, v in after.items() if k not in related} == {k: before[k] for k in before if k not in related}
    assert {k.name: repr(k.value) for k in keys(RECIPE)} == before  # the recipe itself is a value
    assert isinstance(changed, Recipe)


@pytest.mark.parametrize(
    "assignment, message",
    [
        # keys
        ("bach=3", "unknown key 'bach': did you mean batch?"),
        ("optim.learning_rate=3", "unknown key 'optim.learning_rate'"),
        ("optim.lrr=3", "did you mean optim.lr?"),
        ("sampling.smapler=Heun", "did you mean sampling.sampler?"),
        ("model.net.widht=3", "did you mean model.net.width?"),
        ("optim.lr.x=3", "unknown key 'optim.lr.x'"),
        ("=3", "unknown key ''"),
        ("batch", "write key=value"),
        # types
        ("batch=2.5", "batch is an integer, got '2.5'"),
        ("batch=inf", "batch is an integer, got 'inf'"),
        ("batch=nan", "batch is an integer, got 'nan'"),
        ("batch=many", "batch is an integer, got 'many'"),
        ("batch=none", "batch is an integer, got 'none'"),
        ("batch=", "batch is an integer, got ''"),
        ("optim.lr=fast", "optim.lr is a number, got 'fast'"),
        ("optim.lr=none", "optim.lr is a number, got 'none'"),
        ("optim.betas=0.9", "optim.betas has 2 entries, got 1"),
        ("optim.betas=0.9,x", "optim.betas is a number, got 'x'"),
        ("model.net.multipliers=1,b", "model.net.multipliers is a number, got 'b'"),
        ("model.net.attention=1.5", "model.net.attention is an integer, got '1.5'"),
        ("conditioner.classes=label", "conditioner.classes is an integer"),
        ("objective.stratify=maybe", "objective.stratify is true or false, got 'maybe'"),
        ("codec.dtype=float16", "did you mean float32?"),
        ("model.net.norm=adative", "did you mean adaptive?"),
        # names
        ("sampling.sampler=Huen", "sampling.sampler='Huen' is unknown: did you mean Heun?"),
        ("sampling.sampler=Ancestrall(eta=1)", "did you mean Ancestral?"),
        ("sampling.sampler=Ancestral(etta=1)", "Ancestral has no argument 'etta': did you mean eta?"),
        ("sampling.sampler=Ancestral(eta=x)", "sampling.sampler.eta is a number, got 'x'"),
        ("sampling.sampler=Ancestral(variance=huge)", "sampling.sampler.variance='huge'"),
        ("sampling.sampler=Ancestral(0.5)", "write a name with named arguments"),
        ("sampling.sampler=Ancestral(eta=", "is not a name with arguments"),
        ("sampling.sampler=__import__('os').system('true')", "write a name with named arguments"),
        ("sampling.sampler=Ancestral(eta=__import__('os'))", "sampling.sampler.eta is a number"),
        ("sampling.sampler=7", "write a name with named arguments"),
        ("objective.density=UniformTime(schedule=Cosin())", "did you mean Cosine?"),
        ("objective.weight=MinSnrr", "did you mean MinSnr?"),
        ("optim.rate=Trapezium", "did you mean Trapezoid?"),
        # kinds: a right name in the wrong place
        ("sampling.sampler=UniformGrid", "'UniformGrid' is unknown"),
        ("sampling.grid=Heun", "'Heun' is unknown"),
        ("optim.rate=AdamW", "'AdamW' is unknown"),
        ("optim.rate=Rectified", "'Rectified' is unknown"),
        ("objective.density=Cosine", "'Cosine' is unknown"),
        ("objective.weight=V", "'V' is unknown"),
        ("model.parameterization=MinSnr", "'MinSnr' is unknown"),
        ("model.noise=Edm", "'Edm' is unknown"),
        ("model.net=Preconditioned", "'Preconditioned' is unknown"),
        ("conditioner=Image(shape=(1,8,8))", "'Image' is unknown"),
        ("codec=Labels", "'Labels' is unknown"),
        ("judge=Several(judges=(Distances(count=9), Means(side=2)))", "'Distances': what may stand here has no names"),
        # values that their owner refuses
        ("optim.lr=-1", "lr must be > 0 and finite, got -1"),
        ("optim.lr=inf", "lr must be > 0 and finite, got inf"),
        ("micro=3", "a batch of 64 does not divide into 3 pieces"),
        ("sampling.steps=0", "steps must be at least 1, got 0"),
        ("sampling.guidance=nan", "guidance must be finite"),
        ("sampling.low=inf", "guidance acts between two log-SNR, low < high, got inf and inf"),
        ("objective.drop=1.5", "drop is a probability"),
        ("widths=0.05", "average 0.1 is not one of the widths"),
        ("model.net=MLP(channels=2, depth=3)", "MLP has no argument 'depth'"),
        ("model.net=MLP(width=8)", "channels"),
    ],
)
def test_a_slip_is_answered_with_what_is_right(assignment: str, message: str) -> None:
    with pytest.raises(OverrideError) as caught:
        override(RECIPE, assignment)
    assert message in str(caught.value)


def test_every_sampler_grid_and_rate_is_reached_by_its_name() -> None:
    """A newcomer's sampler is one line in `__all__`, and nothing else to touch."""
    from unnoise import optim, sample
    from unnoise.sample import grids

    for name in sample.__all__:
        assert type(override(RECIPE, f"sampling.sampler={name}").sampling.sampler) is getattr(sample, name)
    for name in grids.__all__:
        assert type(override(RECIPE, f"sampling.grid={name}").sampling.grid) is getattr(grids, name)
    for name in ("Constant", "Cosine", "Linear", "Trapezoid"):
        assert type(override(RECIPE, f"optim.rate={name}").optim.rate) is getattr(optim, name)


def test_the_optimiser_is_changed_by_its_name_and_keeps_its_keys() -> None:
    muon = override(RECIPE, "optim=Muon(lr=3e-3, momentum=0.9)")
    assert muon.optim == Muon(lr=3e-3, momentum=0.9)
    for assignment in ("optim.lr=1e-3", "optim.nesterov=no", "optim.other=0.5", "optim.rate=Trapezoid(warmup=10)"):
        muon = override(muon, assignment)
    expected = Muon(lr=1e-3, momentum=0.9, nesterov=False, other=0.5, rate=Trapezoid(warmup=10))
    assert muon.optim == expected and dataclasses.replace(RECIPE, optim=expected) == muon
    assert {k.name for k in keys(RECIPE) if k.name.startswith("optim.")} < {k.name for k in keys(muon)}
    assert override(muon, "optim=adamw").optim == AdamW()
    nested = override(RECIPE, "optim=Muon(lr=3e-3, rate=Trapezoid(decay=0.25))").optim
    assert nested == Muon(lr=3e-3, rate=Trapezoid(decay=0.25))
    for slip, message in (("optim=Moun", "did you mean Muon?"), ("optim=Trapezoid", "'Trapezoid' is unknown")):
        with pytest.raises(OverrideError) as caught:
            override(RECIPE, slip)
        assert message in str(caught.value)


def test_keys_list_every_key_with_its_value_and_meaning() -> None:
    listed = {k.name: k for k in keys(RECIPE)}
    assert {f.name for f in dataclasses.fields(Recipe)} <= listed.keys()
    assert {"model.net.width", "model.parameterization.sigma_data", "optim.rate.decay", "sampling.grid.rho"} <= set(
        listed
    )
    for key in listed.values():
        assert key.value is get(RECIPE, key.name) or key.value == get(RECIPE, key.name)
    assert listed["batch"].value == 64 and listed["batch"].meaning == "samples a step, over all processes."
    assert listed["model.net.width"].value == 24
    assert listed["model.net.blocks"].value == 1
    assert listed["model.net.vector"].value is None  # a default that the recipe does not state
    assert all(listed[f.name].meaning for f in dataclasses.fields(Recipe))
    assert isinstance(listed["model.net"].value, Build) and isinstance(listed["optim.rate"].value, Trapezoid)
    assert type(listed["model"].value) is Build and listed["model"].value.cls is Preconditioned
    assert listed["sampling.sampler"].value == Heun()


@pytest.mark.parametrize(
    "text, hint, expected",
    [
        ("3", int, 3),
        ("-3e2", float, -300.0),
        ("a=b", str, "a=b"),
        ("yes", bool, True),
        ("2", int | None, 2),
        ("none", int | None, None),
        ("b", Literal["a", "b"], "b"),
        ("1,2", tuple[int, ...], (1, 2)),
        ("()", tuple[int, ...], ()),
        ("1,2.5", tuple[int, float], (1, 2.5)),
        ("1,2", Sequence[int], (1, 2)),
        ("1,2", float | Sequence[float], (1.0, 2.0)),
        ("(1,2),(3,)", tuple[tuple[int, ...], ...], ((1, 2), (3,))),
        ("((1,2),(3,))", tuple[tuple[int, ...], ...], ((1, 2), (3,))),
        ("(MinSnr(gamma=2), EdmWeight())", tuple[MinSnr | EdmWeight, ...], (MinSnr(2.0), EdmWeight())),
        ("0.5", float | Sequence[float], 0.5),
        ("a=1,b=2", Mapping[str, int], {"a": 1, "b": 2}),
        ("{'a': 1, 'b': 2}", dict[str, int], {"a": 1, "b": 2}),
        ("", dict[str, int], {}),
    ],
)
def test_each_type_is_read(text: str, hint: Any, expected: Any) -> None:
    found = parse(text, hint)
    assert found == expected and type(found) is type(expected)


def test_overrides_follow_one_another() -> None:
    recipe = RECIPE
    for assignment in ("widths=0.05,0.1,0.2", "average=0.2", "batch=32", "micro=4", "optim.rate=Constant(warmup=64)"):
        recipe = override(recipe, assignment)
    assert (recipe.average, recipe.batch, recipe.micro, recipe.optim.rate) == (0.2, 32, 4, Constant(64))
