"""A recipe is one value: it is checked when it is made, and makes fresh components."""

from __future__ import annotations

import math
import os
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import nn

from unnoise import recipes
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma, UniformTime
from unnoise.core.level import Level
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm, V
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.schedule import Cosine
from unnoise.core.space import ZeroCoM
from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.modality import Image, Labels
from unnoise.nets import MLP
from unnoise.optim import AdamW
from unnoise.recipe import Phase, Recipe, Sampling
from unnoise.spec import Build


def small(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "name": "small",
        "data": Digits(),
        "model": Build(Preconditioned, net=Build(MLP, channels=2, width=8), parameterization=Edm()),
        "codec": Image(shape=(1, 8, 8), low=0, high=16),
    }
    return Recipe(**base | changes)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"micro": 0}, "micro must be at least 1, got 0"),
        ({"samples": -1}, "samples must be at least 1, got -1"),
        ({"patience": 0}, "patience"),
        ({"log_every": 0}, "log_every"),
        ({"batch": 6, "micro": 4}, "a batch of 6 does not divide into 4 pieces"),
        ({"average": 0.07}, r"average 0\.07 is not one of the widths"),
        ({"widths": ()}, "is not one of the widths"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**change)


def test_sampling_is_checked() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Sampling(steps=0)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="guidance must be finite"):
            Sampling(guidance=bad)
    for low, high in ((5.0, -4.6), (1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=f"low < high, got {low} and {high}"):
            Sampling(low=low, high=high)


def test_a_recipe_is_frozen_and_averages_by_default() -> None:
    """Pitfall 20: an average of the weights is kept and chosen unless a recipe says otherwise."""
    recipe = small()
    with pytest.raises(FrozenInstanceError):
        recipe.batch = 3  # type: ignore[misc]
    assert len(recipe.widths) >= 2 and recipe.average in recipe.widths


def test_components_are_fresh_each_time() -> None:
    recipe = small(more={"critic": Build(MLP, channels=2, width=8), "number": 3})
    a, b = recipe.components(), recipe.components()
    assert a.keys() == b.keys() == {"model", "codec", "process", "critic", "number"}  # no conditioner: none was asked
    assert a["model"] is not b["model"] and a["critic"] is not b["critic"] and a["number"] == 3
    assert a["codec"] is recipe.codec and a["process"] == Gaussian()
    assert "conditioner" in small(conditioner=Labels()).components()
    assert small(objective=Denoising(process=Gaussian(ZeroCoM()))).components()["process"] == Gaussian(ZeroCoM())


def test_the_interval_of_the_denoiser_is_that_of_the_density() -> None:
    """Pitfall 6: what a model was trained for is inside it, and follows from the recipe."""
    density = LogNormalSigma(-0.6, 1.1)
    model = small(objective=Denoising(density=density)).components()["model"]
    assert model.interval == pytest.approx(density.interval)
    wide = Build(Preconditioned, net=Build(MLP, channels=2), parameterization=Edm(), interval=(-30.0, 30.0))
    assert small(model=wide, objective=Denoising(density=density)).components()["model"].interval == (-30, 30)


def test_a_density_that_leaves_the_interval_is_refused() -> None:
    model = Build(Preconditioned, net=Build(MLP, channels=2), parameterization=V(), interval=(-5.0, 5.0))
    with pytest.raises(ValueError, match=r"the density draws log-SNR in .*, the denoiser is for \[-5, 5\]"):
        small(model=model, objective=Denoising(UniformTime(Cosine()))).components()


def test_what_is_not_denoising_has_no_process() -> None:
    class Mean:
        def __call__(self, *args: Any) -> Any: ...

    assert "process" not in small(objective=Mean()).components()


def test_the_models_phase_comes_first() -> None:
    other = Phase(Denoising(), ("critic",), AdamW(lr=1.0), every=2)
    recipe = small(phases=(other,), optim=AdamW(lr=0.5))
    first, second = recipe.all_phases()
    assert (tuple(first.modules), first.optim.lr, first.every) == (("model",), 0.5, 1)
    assert first.objective is recipe.objective and second is other


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_that_come_with_the_package_can_be_built(name: str) -> None:
    recipe, types = recipes.load(name)
    assert recipe.name == name and not types and recipes.summary(name)
    if name in ("latent", "digits_fast"):  # built in the tests of their parts, where there is a run to build on
        with pytest.raises(UserError, match=r"no such run: runs/\w+, which this recipe builds on: unnoise train \w+"):
            recipe.components()
        return
    parts = recipe.components()
    assert isinstance(parts["model"], nn.Module)
    if name not in ("digits", "digits_likelihood") and not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA names no folder of data")
    if name == "images":  # a template: its data are the user's
        with pytest.raises(UserError, match="which pictures\\? --data PATH"):
            recipe.data.load()
        return
    data, codec = recipe.data.load(), parts["codec"]
    codec.check(data.train["x"][:256])
    x, blank = codec.encode(data.train["x"][:2], Rng.of(range(2))), codec.blank(2)
    for k in blank if isinstance(blank, dict) else ["all"]:
        a, b = (x[k], blank[k]) if isinstance(blank, dict) else (x, blank)
        assert a.shape == b.shape and a.dtype == b.dtype, k
    if "process" in parts:
        levels = recipe.sampling.levels(parts["model"].interval)
        assert isinstance(levels, Level) and len(levels.alpha) == recipe.sampling.steps + 1


def test_a_recipe_can_be_changed_as_a_value() -> None:
    recipe = small()
    assert replace(recipe, batch=4).batch == 4 and recipe.batch == 128
    assert replace(recipe, batch=4) != recipe and replace(recipe) == recipe
    torch.manual_seed(0)  # values hold no weights: two equal recipes are equal whatever was drawn
    assert small() == recipe


def test_files_of_ones_own_are_recipes(tmp_path: Any) -> None:
    from unnoise.errors import UserError

    good = tmp_path / "mine.py"
    good.write_text(
        "from unnoise.recipes.digits import recipe as digits\nimport dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\nclass Own:\n    x: int = 1\n"
        "def recipe():\n    return dataclasses.replace(digits(), name='mine')\n",
        encoding="utf8",
    )
    recipe, types = recipes.load(str(good))
    assert recipe.name == "mine" and [t.__name__ for t in types] == ["Own"]
    for text, match in [
        ("x = 1", "defines no function recipe"),
        ("def recipe(): return 3", "returned int, not a Recipe"),
        ("raise KeyError('broken')", "could not be run: KeyError"),
    ]:
        bad = tmp_path / f"bad{len(match)}.py"
        bad.write_text(text, encoding="utf8")
        with pytest.raises(UserError, match=match):
            recipes.load(str(bad))
    with pytest.raises(UserError, match="no such file"):
        recipes.load(str(tmp_path / "nowhere.py"))
    with pytest.raises(UserError, match="did you mean digits"):
        recipes.load("digit")
