"""Recipes: one file a run, each a function `recipe()` that returns a `Recipe`, with what it measured beside it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from unnoise.data import Mirror
from unnoise.errors import UserError, nearest
from unnoise.modality import Image
from unnoise.recipe import Recipe
from unnoise.spec import fields_of


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]


def load(name: str, **given: Any) -> tuple[Recipe, list[type]]:
    """The recipe of this name, or that of a file that ends in .py, and the types that the file defines.

    Args:
        name: of the recipe, or the file.
        given: what the user says of the data: data (a path), size (a number or (H, W)), mirror (True). Where `recipe()`
            has a parameter of this name it is passed on; else data is the source's path, size its size and that of the
            codec, mirror the augmentation.

    Raises:
        UserError: for a name that is unknown (naming the nearest), a file without `recipe()`, or something that a
            recipe cannot be told.
    """
    own = name.endswith(".py")
    if own:
        module = _import_file(Path(name))
        if not callable(getattr(module, "recipe", None)):
            raise UserError(f"{name} defines no function recipe() that returns a Recipe")
    elif name not in names():
        raise UserError(f"unknown recipe {name!r}{nearest(name, names())} (a file of your own ends in .py)")
    else:
        module = importlib.import_module(f"{__name__}.{name}")
    taken = {k: v for k, v in given.items() if k in inspect.signature(module.recipe).parameters}
    try:
        found = module.recipe(**taken)
    except (TypeError, ValueError, AttributeError) as e:
        if not own:
            raise
        raise UserError(f"recipe() of {name} failed: {type(e).__name__}: {e}") from e
    if not isinstance(found, Recipe):
        raise UserError(f"recipe() of {name} returned {type(found).__name__}, not a Recipe")
    for key in given.keys() - taken.keys():
        found = _told(found, key, given[key])
    return found, _defined(module) if own else []


def _told(recipe: Recipe, key: str, value: Any) -> Recipe:
    """The recipe with one thing said of its data."""
    if key == "mirror":
        if recipe.augment is not None:
            raise UserError(
                f"{recipe.name} has augment={recipe.augment} already: leave --mirror out, or set augment=.."
            )
        if len(getattr(recipe.codec, "shape", ())) != 3:
            raise UserError(f"--mirror is for pictures, and {recipe.name} is of another kind of data")
        return dataclasses.replace(recipe, augment=Mirror())
    field = {"data": "path", "size": "size"}[key]
    if field not in fields_of(recipe.data):
        source = type(recipe.data).__name__
        raise UserError(f"--{key} says nothing to {recipe.name}: its source {source} has no {field}; see images")
    if key == "size" and isinstance(recipe.codec, Image):
        sides = (value, value) if isinstance(value, int) else tuple(value)
        recipe = dataclasses.replace(
            recipe, codec=dataclasses.replace(recipe.codec, shape=(recipe.codec.shape[0], *sides))
        )
    try:
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **{field: value}))  # type: ignore[type-var]
    except (TypeError, ValueError) as e:
        raise UserError(f"--{key} {value}: {e}") from e


def types_of(path: str) -> list[type]:
    """The classes that a file of the user's defines."""
    return _defined(_import_file(Path(path)))


def _defined(module: ModuleType) -> list[type]:
    return [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix != ".py":
        raise UserError(f"{path} is no Python file: its name ends in .py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise UserError(f"{path} could not be run: {type(e).__name__}: {e}") from e
    return module
