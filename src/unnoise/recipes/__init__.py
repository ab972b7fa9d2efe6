"""Recipes: one file a run, each a function `recipe()` that returns a `Recipe`, with what it measured beside it."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from unnoise.errors import UserError, nearest
from unnoise.recipe import Recipe


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def summary(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]


def load(name: str) -> tuple[Recipe, list[type]]:
    """The recipe of this name, or that of a file that ends in .py, and the types that the file defines.

    Raises:
        UserError: for a name that is unknown (naming the nearest), or a file without `recipe()`.
    """
    if name.endswith(".py"):
        module = _import_file(Path(name))
        if not callable(getattr(module, "recipe", None)):
            raise UserError(f"{name} defines no function recipe() that returns a Recipe")
        types = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
        try:
            found = module.recipe()
        except (TypeError, ValueError, AttributeError) as e:
            raise UserError(f"recipe() of {name} failed: {type(e).__name__}: {e}") from e
    else:
        if name not in names():
            raise UserError(f"unknown recipe {name!r}{nearest(name, names())}; a file of your own ends in .py")
        found, types = importlib.import_module(f"{__name__}.{name}").recipe(), []
    if not isinstance(found, Recipe):
        raise UserError(f"recipe() of {name} returned {type(found).__name__}, not a Recipe")
    return found, types


def types_of(path: str) -> list[type]:
    """The classes that a file of the user's defines."""
    module = _import_file(Path(path))
    return [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        raise UserError(f"{path} could not be run: {type(e).__name__}: {e}") from e
    return module
