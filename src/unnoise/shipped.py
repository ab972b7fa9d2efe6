"""Trained models that come with the package: weights/NAME, as `Model.save` writes it, with a model card and figures.

Whatever takes the folder of a run takes NAME too. NAME is that of the recipe; `benchmarks/ship.py` makes the folders.
Nothing is ever written to them where the package is installed.
"""

from __future__ import annotations

from pathlib import Path

from unnoise.checkpoint import CheckpointError
from unnoise.errors import nearest

WEIGHTS = Path(__file__).parent / "weights"
CARD = "README.md"
"""The model card in each folder."""
_RECIPES = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """The models that come with the package."""
    return sorted(file.parent.name for file in WEIGHTS.glob("*/manifest.json"))


def find(path: str | Path) -> Path:
    """The folder that is meant: `path` where anything is there, else that of the shipped model of this name.

    A path of several parts is returned as it is.

    Raises:
        CheckpointError: for a name that is neither; it says how to train a recipe, and else names the nearest model.
    """
    path = Path(path)
    name = path.name
    if path.exists() or path != Path(name):
        return path
    if name in names():
        return WEIGHTS / name
    if (_RECIPES / f"{name}.py").is_file():
        raise CheckpointError(
            f"no such run: {name}. This recipe comes without weights: train it with `unnoise train {name}`, then name "
            f"the folder runs/{name}"
        )
    raise CheckpointError(
        f"no such run: {name}, and no weights of this name come with the package{nearest(name, names())}"
    )
