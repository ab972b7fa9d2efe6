"""The programs behind docs/tuning.md and the curve of the README, each run once, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from programs import Python

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
JUDGE = "Distances(features=Means(), count=64, compared=128)"
SMALL = ("--device", "cpu", "-s", "model.net.width=8")


def measured(python: Python, program: str, out: Path, *arguments: str) -> dict[str, Any]:
    """What it wrote, in a process of its own."""
    done = python.run(BENCHMARKS / program, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_arms_differ_in_their_setting_alone(python: Python, tmp_path: Path) -> None:
    arms = ("--arm", "a:", "--arm", "b:", "--arm", "c: optim.lr=1e-4", "--arm", "d: batch=250")
    settings = ("--samples", "256", "-n", "64", "-s", f"judge={JUDGE}", *SMALL)
    found = measured(python, "arms.py", tmp_path / "arms.json", "digits", *settings, *arms)["arms"]
    a, b, c = (
        {k: found[name][k] for k in ("loss", "trained", "held_out", "seen")}
        | {width: of["figures"] for width, of in found[name]["averages"].items()}
        for name in "abc"
    )
    assert a == b != c and a["seen"] == 256
    assert found["d"]["seen"] == 500


def test_arms_are_compared_at_the_same_levels_whichever_they_draw(python: Python, tmp_path: Path) -> None:
    arms = ("--arm", "still: optim.lr=1e-9", "--arm", "still, elsewhere: optim.lr=1e-9; objective.density.mean=2")
    settings = ("--samples", "256", "-n", "0", *SMALL)
    found = measured(python, "arms.py", tmp_path / "arms.json", "digits", *settings, *arms)["arms"]
    one, other = found["still"], found["still, elsewhere"]
    assert other["held_out"] == pytest.approx(one["held_out"], rel=1e-4)


def test_a_way_is_chosen_and_a_model_is_kept_that_solvers_read(python: Python, tmp_path: Path) -> None:
    ways = ("--way", "one: steps=1", "--way", "two: steps=2", "--way", "nine: steps=9")
    other = "Distances(features=Means(side=2), count=64, compared=128)"
    judges = ("-s", f"judge={JUDGE}", "--judge", other)
    settings = ("--minutes", "0.03", "-n", "64", *judges, *SMALL, "--save", str(tmp_path))
    [point] = measured(python, "minutes.py", tmp_path / "minutes.json", "digits", *settings, *ways, "--choose", "64")[
        "points"
    ]
    assert [found["way"] for found in point["chosen_by"]] == ["two", "nine"]
    best = min(point["chosen_by"], key=lambda found: found["figures"][0]["samples"])["way"]
    assert [found["way"] for found in point["measured"]] == [best, "one"]
    assert point["measured"][0]["figures"][0]["name"] == "fd-means2"
    found = measured(python, "solvers.py", tmp_path / "solvers.json", str(tmp_path / "digits-0.03"), "-n", "64", *ways)
    assert set(found["ways"]) == {"one", "two", "nine"}
    assert found["ways"]["one"]["figures"][0]["name"] == "fd-means8"  # the recipe's own judge is kept
    nine = (str(tmp_path / "digits-0.03"), "-n", "64", *ways, "--against", "itself: steps=9")
    found = measured(python, "solvers.py", tmp_path / "apart.json", *nine)["ways"]
    apart = {name: {f["name"]: f["samples"] for f in way["figures"]} for name, way in found.items()}
    assert set(apart["nine"]) == {"values", "values, median", "means8", "means8, median"}
    assert all(v == 0 for v in apart["nine"].values()) and set(found["nine"]["shares"].values()) == {1.0}
    for name in ("one", "two"):  # of 64 pixels the means are the values, as shares of 255
        assert 0 < apart[name]["means8, median"] == pytest.approx(64 * (apart[name]["values, median"] / 255) ** 2)


def test_ways_are_chosen_by_distances_alone(python: Python) -> None:
    """Another first figure may be the better the higher it is."""
    done = python.run(BENCHMARKS / "minutes.py", "digits", "--minutes", "0.03", "--choose", "64", *SMALL)
    assert done.returncode != 0 and "the judge of digits measures no distances first" in done.stderr


def test_the_start_of_sampling_is_measured_beside_its_closed_form(python: Python, tmp_path: Path) -> None:
    settings = ("--sigma-max", "3", "-n", "64", "--limit", "200", "--steps", "4", "--device", "cpu")
    found = measured(python, "start.py", tmp_path / "start.json", "digits", *settings)["recipes"]["digits"]
    assert found["pictures"] == 200 and found["shape"] == [1, 8, 8]
    zero, mean = found["rows"]
    assert (zero["start"], mean["start"]) == ("zero", "mean") and zero["off"] != mean["off"]
    assert 0 < abs(mean["normal"]) < abs(zero["normal"]) < 0.2
