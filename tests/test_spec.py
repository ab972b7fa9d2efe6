"""Values and modules as JSON: nothing is lost, nothing foreign is built."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import unnoise
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma, UniformTime
from unnoise.core.discrete import Absorbing
from unnoise.core.level import Level
from unnoise.core.noise import ClippedLogSnr, TableIndex
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm, V
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.schedule import Cosine, Shifted, Table, ZeroTerminal
from unnoise.core.space import ZeroCoM
from unnoise.core.weight import EdmWeight, MinSnr
from unnoise.data import Arrays, Text
from unnoise.errors import UserError
from unnoise.judges import Classifier, Means
from unnoise.judges.classifier import Classification
from unnoise.modality import Image, Labels, Plain
from unnoise.nets import MLP, ConvClassifier, ResidualClassifier, UNet
from unnoise.optim import AdamW, InverseSqrt, Muon, Trapezoid
from unnoise.recipe import Phase, Recipe, Sampling
from unnoise.recipes.digits import recipe as digits
from unnoise.sample import Ancestral, Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build, SpecError, build, describe

PACKAGES = ("sample", "core", "optim", "modality", "data", "judges", "recipe")
# What carries more than a value: functions, other denoisers, tensors, trained networks, loaded data, files found.
HELD = {"Cfg", "Interval", "TrainedClassifier", "Dataset", "Rng", "Step", "Normal", "Mixture", "Empirical"}
HELD |= {"Known", "TrainedAttributes", "Trial", "Extractor", "View", "Pictures", "Survey", "Found", "Listed"}
HELD |= {"Header", "Held", "OnDisk", "InTar", "InZip", "InTable"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Table": {"betas": (0.1, 0.2, 0.3)},
    "TableIndex": {"table": Table((0.1, 0.2))},
    "ZeroTerminal": {"table": Table((0.1, 0.2))},
    "Shifted": {"schedule": Cosine(), "shift": -1.5},
    "Image": {"shape": (3, 8, 4), "low": -1.5, "dtype": "float32"},
    "Plain": {"shape": (2,), "std": 2.0},
    "Absorbing": {"vocabulary": 5},
    "UniformTokens": {"vocabulary": 5},
    "Product": {"parts": {"where": Gaussian(ZeroCoM()), "what": Absorbing(3)}},
    "MaskedTokens": {"process": Absorbing(5)},
    "Joint": {"process": Product({"a": Gaussian()}), "weights": {"a": MinSnr()}, "factors": {"a": 0.5}},
    "LearnedVariance": {"mean": V()},
    "data.molecules.Molecules": {"path": "x.xyz"},
    "RollingGrid": {"count": 3, "lag": 2},
    "ResampledGrid": {"grid": KarrasGrid(), "repeats": 3},
    "Lattice": {"count": 17, "step": 0.125},
    "Waves": {"length": 512, "rate": 8000},
    "Spectra": {"length": 4096, "rate": 8000},
    "LowRes": {"image": Image(shape=(1, 4, 4)), "size": (8, 8), "labels": Labels()},
    "SizeEnergy": {"first": 4, "counts": (1, 2), "means": (-900.0, -1000.0), "stds": (30.0, 20.0)},
    "Characters": {"alphabet": "ab", "length": 4},
    "NextToken": {"vocabulary": 4},
    "Attributes": {"codec": Image(shape=(1, 8, 8)), "classes": {"hair": 3, "body": 2}},
    "AttributeClassification": {"classes": {"hair": 3, "body": 2}},
    "ClassificationAccuracy": {"classifier": Classifier(Image(shape=(1, 8, 8)), classes=10)},
    "FewSteps": {"judge": Classifier(Image(shape=(1, 8, 8)), classes=10), "teacher": Sampling()},
    "BitsPerToken": {"text": Text(length=8)},
    "judges.reconstruction.Reconstruction": {"image": Image(shape=(1, 8, 8))},
    "Several": {"judges": (Classifier(Image(shape=(1, 8, 8)), classes=10),), "train": 5},
    "SuperResolution": {"reader": Classifier(Image(shape=(1, 8, 8)), classes=10)},
    "Recordings": {"path": "x", "length": 100, "rate": 8000},
    "Arrays": {"path": "x.npz", "held_out": 0.25},
    "Images": {"path": "x", "size": (8, 6)},
    "Form": {"shape": (3, 8, 6)},
    "Remote": {"urls": ("https://a.org/b.gz",), "sha256": "0" * 64, "size": 7},
    "Distances": {"features": Means(3)},
    "Classifier": {"codec": Image(shape=(1, 8, 8)), "classes": 10},
    "DeepClassifier": {"codec": Image(shape=(1, 8, 8)), "classes": 10},
    "InverseSqrt": {"warmup": 5, "reference": 7},
    "Phase": {"objective": Denoising(), "modules": ("model", "critic"), "optim": AdamW(lr=0.5), "every": 3},
    "Recipe": {
        "name": "all of it",
        "data": Arrays("x.npz"),
        "model": Build(Preconditioned, net=Build(UNet, channels=1, attention=()), parameterization=Edm()),
        "codec": Image(shape=(1, 8, 8)),
        "conditioner": Labels({"label": 4}),
        "more": {"critic": Build(MLP, channels=2), "number": 3},
        "phases": (Phase(Denoising(weight=MinSnr()), ("critic",), AdamW()),),
        "sampling": Sampling(Ancestral(eta=0.5), guidance=2.0, low=-math.inf, high=3.0),
        "judge": Classifier(Image(shape=(1, 8, 8)), classes=4),
    },
}


def arguments(cls: type) -> dict[str, Any]:
    """By the name of the class or, where two have the same, by that of the module too."""
    name = f"{cls.__module__.removeprefix('unnoise.')}.{cls.__name__}"
    return ARGUMENTS.get(name, ARGUMENTS.get(cls.__name__, {}))


def dataclasses_of(package: str) -> list[type]:
    """The public frozen dataclasses that a package's modules define."""
    home = importlib.import_module(f"unnoise.{package}")
    names = [m.name for m in pkgutil.iter_modules(getattr(home, "__path__", []), f"{home.__name__}.")]
    names = [n for n in names if not n.endswith("_cuda")]  # kernels, which need triton
    found = []
    for module in [home, *map(importlib.import_module, names)]:
        for k, v in vars(module).items():
            if isinstance(v, type) and dataclasses.is_dataclass(v) and v.__module__ == module.__name__ and k[0] != "_":
                found.append(v)
    return found


VALUES = [cls for package in PACKAGES for cls in dataclasses_of(package) if cls.__name__ not in HELD]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(describe(value), allow_nan=False))


def same(a: Any, b: Any) -> bool:
    """Equality by content; the arguments of `Build`s may come back as tuples where lists were given."""
    return describe(a) == describe(b) and type(a) is type(b)


def test_the_values_are_found() -> None:
    names = {cls.__name__ for cls in VALUES}
    assert len(VALUES) > 40
    assert {"Heun", "Ancestral", "KarrasGrid", "Cosine", "Trapezoid", "AdamW", "Labels", "Digits", "Recipe"} <= names
    assert {"MinSnr", "LogNormalSigma", "Edm", "Angle", "Gaussian", "Euclidean", "Denoising", "Phase"} <= names


@pytest.mark.parametrize("cls", VALUES, ids=lambda c: f"{c.__module__.rpartition('.')[2]}.{c.__name__}")
def test_a_value_is_itself_after_json(cls: type[Any]) -> None:
    value = cls(**arguments(cls))
    again = build(through_json(value))
    assert type(again) is cls
    if cls is Recipe:  # the modules that it describes are built, unless asked not to
        again = build(through_json(value), lazy=True)
        assert isinstance(again.model, Build) and isinstance(again.more["critic"], Build)
    else:
        assert again == value
    assert same(again, value)


@pytest.mark.parametrize("cls", VALUES, ids=lambda c: f"{c.__module__.rpartition('.')[2]}.{c.__name__}")
def test_every_number_of_a_value_is_kept(cls: type[Any]) -> None:
    """With a value other than the default in every number and flag that may be changed."""
    value = cls(**arguments(cls))
    for f in dataclasses.fields(cls):
        old = getattr(value, f.name)
        for new in [not old] if isinstance(old, bool) else [old + 1, old / 2] if isinstance(old, int | float) else []:
            try:
                changed = dataclasses.replace(value, **{f.name: type(old)(new)})
            except (ValueError, TypeError, OverflowError, UserError):
                continue
            assert getattr(build(through_json(changed), lazy=True), f.name) == type(old)(new)


def test_the_types_of_a_value_survive() -> None:
    """A phase is a phase again, a mapping a mapping, a nested value the class of its own module."""
    value = ARGUMENTS["Recipe"] | {"optim": AdamW(rate=Trapezoid()), "samples": 7}
    again = build(through_json(Recipe(**value)), lazy=True)
    assert isinstance(again.phases[0], Phase) and again.all_phases()[1].modules == ("critic",)
    assert isinstance(again.more, Mapping) and again.more["number"] == 3
    muon = Recipe(**value | {"optim": Muon(lr=0.5, rate=Trapezoid(9), clip=None)})
    assert build(through_json(muon), lazy=True).optim == muon.optim
    two = {"a": Cosine(0.5), "b": unnoise.optim.Cosine(3)}  # one name, two classes
    assert build(through_json(two)) == two


@pytest.mark.parametrize("number", [math.inf, -math.inf, 1e-300, 0.1, 2**53 + 0.0, -0.0])
def test_floats_are_kept_to_the_bit(number: float) -> None:
    again = build(through_json({"x": number}))["x"]
    assert math.copysign(1, again) == math.copysign(1, number) and again == number


def test_nan_is_kept() -> None:
    assert math.isnan(build(through_json({"x": math.nan}))["x"])


MODULES: list[tuple[type[Any], dict[str, Any]]] = [
    (MLP, {"channels": 2, "width": 8, "labels": {"label": 3}}),
    (UNet, {"channels": 1, "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_width": 8}),
    (ConvClassifier, {"channels": 1, "classes": 4, "width": 8}),
    (ResidualClassifier, {"channels": 1, "classes": 4, "width": 8}),
    (Preconditioned, {"net": Build(MLP, channels=2, width=8), "parameterization": V(), "noise": ClippedLogSnr()}),
    (Preconditioned, {"net": Build(MLP, channels=2, width=8), "parameterization": Edm(), "interval": (-9, math.inf)}),
]


@pytest.mark.parametrize("cls, arguments", MODULES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_module_is_described_by_its_arguments(cls: type[Any], arguments: dict[str, Any]) -> None:
    module = Build(cls, **arguments)()
    spec = through_json(module)
    again = build(spec)
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == shapes
    assert describe(again) == describe(module)
    lazy = build(spec, lazy=True)
    assert isinstance(lazy, Build) and describe(lazy()) == describe(module)
    again.load_state_dict(module.state_dict())  # and it computes the same
    if cls is MLP:
        x, c = torch.ones(1, 2), torch.ones(1)
        assert torch.equal(again(x, c, label=torch.tensor([1])), module(x, c, label=torch.tensor([1])))


def test_the_digits_recipe_is_self_describing() -> None:
    """Pitfall 17: no flag has to be typed again."""
    recipe = digits()
    again = build(through_json(recipe), lazy=True)
    assert describe(again) == describe(recipe)
    assert {k: type(v) for k, v in again.components().items()} == {k: type(v) for k, v in recipe.components().items()}


# What may be built --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "torch.nn.modules.linear.Linear",
        "pathlib.Path",
        "unnoise.spec.Build",
        "unnoise.checkpoint.Path",  # ours by name, but not by origin
        "unnoise.checkpoint.write",
        "unnoise.runtime.DistributedDataParallel",
        "unnoise.model.Model",
        "unnoise.checkpoint.os.system",
        "unnoise.no_such_module.Thing",
        "unnoise.sample.ode.NoSuchThing",
        "unnoise.__main__.sys",
        "unnoise",
        "unnoisy.thing.Thing",
        "",
        "Heun",
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_foreign_types_are_refused(name: str, lazy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr("os.system", no)
    monkeypatch.setattr("subprocess.Popen", no)
    with pytest.raises(SpecError, match="not one of unnoise's"):
        build({"$type": name, "command": "true"}, lazy=lazy)
    with pytest.raises(SpecError, match="not one of unnoise's"):
        build({"$map": {"inner": [{"$type": name}]}}, lazy=lazy)


def test_naming_the_program_does_not_run_it() -> None:
    with pytest.raises(SpecError):  # not SystemExit
        build({"$type": "unnoise.__main__.Recipe"})


class Mine(nn.Module):
    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.size, self.scale = size, scale


@dataclasses.dataclass(frozen=True)
class Cosine2:
    offset: float = 0.0


def test_types_that_the_caller_passes_are_built() -> None:
    spec = through_json(Mine(3, math.inf))
    with pytest.raises(SpecError, match=r"Mine.*--types"):
        build(spec)
    with pytest.raises(SpecError):
        build(spec, [Cosine2])
    again = build(spec, [Cosine2, Mine])
    assert isinstance(again, Mine) and again.size == 3 and again.scale == math.inf
    assert build(through_json(Cosine2(2.0)), [Cosine2]) == Cosine2(2.0)
    # the file of a user's classes may be imported under another name
    assert isinstance(build({**spec, "$type": "somewhere.else_.Mine"}, [Mine]), Mine)


def test_a_type_of_the_users_does_not_stand_for_one_of_ours() -> None:
    theirs = type("Cosine", (Cosine2,), {})
    assert type(build(through_json(Cosine()), [theirs])) is Cosine
    assert type(build(through_json(theirs()), [theirs])) is theirs


@pytest.mark.parametrize(
    "spec, match",
    [
        ({"$type": "unnoise.sample.ancestral.Ancestral", "etta": 1.0}, "etta"),
        ({"$type": "unnoise.sample.ancestral.Ancestral", "eta": -1.0}, "eta"),
        ({"$type": "unnoise.core.weight.P2", "gamma": "x", "k": None}, "P2"),
        ({"eta": 1.0}, r"without \$type"),
        ({}, r"without \$type"),
        ({"$type": 5}, r"without \$type"),
        ({"$float": "ten"}, r"without \$type"),
        ({"$map": 3}, r"without \$type"),
    ],
)
def test_a_description_that_does_not_fit_is_an_error_of_ours(spec: Any, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        build(spec)


def test_what_cannot_be_described_says_so() -> None:
    class Forgetful(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.linear = nn.Linear(size, size)

    with pytest.raises(SpecError, match=r"self\.size = size"):
        describe(Forgetful(3))

    class Open(nn.Module):
        def __init__(self, size: int = 1, **more: int) -> None:
            super().__init__()
            self.size, self.more = size, more

    for value in (Open(more=3), Build(Open, more=3)):  # {"more": {"more": 3}} would build another
        with pytest.raises(SpecError, match=r"Open cannot be saved: its constructor takes \*\*more"):
            describe(value)
    for value in (torch.ones(2), object(), {1, 2}, lambda: 0, Level(torch.ones(()), torch.ones(())).logsnr):
        with pytest.raises(SpecError):
            describe(value)


class Bare(nn.Module):
    """Without a constructor of its own."""


def test_a_module_without_arguments_is_described() -> None:
    assert list(describe(Bare())) == ["$type"] and type(build(describe(Bare()), [Bare])) is Bare


# Build --------------------------------------------------------------------------------------------------------------


def test_a_build_is_checked_and_makes_fresh_modules() -> None:
    net = Build(MLP, channels=2, width=8)
    assert net() is not net() and net().width == 8
    assert net.replace(width=16)().width == 16 and net.args["width"] == 8
    assert net == Build(MLP, channels=2, width=8) != net.replace(width=16)
    assert net == net.replace(dropout=0.0) and hash(net) == hash(net.replace(dropout=0.0))  # which is the default
    assert net.all_args()["blocks"] == 3 and net.all_args()["channels"] == 2
    with pytest.raises(TypeError, match="wdith"):
        Build(MLP, channels=2, wdith=8)
    with pytest.raises(TypeError, match="channels"):
        Build(MLP)
    outer = Build(Preconditioned, net=net, parameterization=V())
    assert outer().net is not outer().net


def test_nested_values_keep_their_own_arguments() -> None:
    value = Denoising(UniformTime(Shifted(ZeroTerminal(Table((0.1, 0.2))), -2.0)), EdmWeight(0.7), drop=0.0)
    assert build(through_json(value)) == value
    noise = TableIndex(Table((0.01,) * 5))
    assert build(through_json(noise)) == noise
    grid = Sampling(Heun(), KarrasGrid(sigma_max=None), high=2.0)
    assert build(through_json(grid)) == grid
    assert build(through_json(Classification(shift=2))) == Classification(shift=2)
    assert build(through_json(InverseSqrt(1, 2))) == InverseSqrt(1, 2)
    assert build(through_json(Plain((2, 3)))) == Plain((2, 3))
    assert build(through_json(LogNormalSigma(-1.0, 2.0))) == LogNormalSigma(-1.0, 2.0)
