"""The examples and tutorials run to their ends, where each of them asserts its own numbers.

Pitfall 26: training scripts needed a source install of an unreleased version. Here the trainer is library API and a
recipe is a file: each script runs in a folder of its own against the installed package, of this very version.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from programs import Python

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
PICTURES = {
    "01_from_noise_levels_to_digits": [
        "exact.png",
        "forward.png",
        "guidance.png",
        "loss.png",
        "loss_by_level.png",
        "memorised.png",
        "order.png",
        "samples.png",
        "schedules.png",
    ],
    "edit_noise": ["edit_noise.png"],
    "two_moons": ["two_moons.png"],
}


def run(python: Python, *command: str | Path, cwd: Path) -> None:
    """In a process of its own, which must end well."""
    done = python.run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def check_pictures(folder: Path, name: str) -> None:
    """Exactly the pictures that are expected, none of them of one colour."""
    assert sorted(p.name for p in folder.glob("*.png")) == PICTURES.get(name, [])
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            low, high = picture.convert("L").getextrema()
            assert high - low > 100, f"{path.name} is blank"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
    assert {p.stem for p in [*EXAMPLES, *TUTORIALS]} >= PICTURES.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_runs_to_its_end(python: Python, path: Path, tmp_path: Path) -> None:
    run(python, path, cwd=tmp_path)
    check_pictures(tmp_path, path.stem)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorial_runs_to_its_end(python: Python, path: Path, tmp_path: Path) -> None:
    run(python, path, tmp_path / "pictures", cwd=tmp_path)
    check_pictures(tmp_path / "pictures", path.stem)


def test_pitfall_26_a_recipe_of_ones_own_is_trained_and_sampled_from_the_command_line(
    python: Python, tmp_path: Path
) -> None:
    recipe = ROOT / "examples" / "own_recipe.py"
    command = ["-m", "unnoise"]
    run(python, *command, "train", recipe, "--samples", "512", "--device", "cpu", "--out", "own", cwd=tmp_path)
    options = ["--types", recipe, "-n", "10", "--cond", "label=all", "--device", "cpu"]
    run(python, *command, "sample", "own", *options, "--out", "own.npz", cwd=tmp_path)
    assert (tmp_path / "own.npz").stat().st_size > 0
