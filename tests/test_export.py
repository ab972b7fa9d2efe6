"""Sampling onto the disk: gone on with where it was stopped, and refused where something else lies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from unnoise.errors import UserError
from unnoise.export import export
from unnoise.modality import Image, Plain
from unnoise.model import Model
from unnoise.sample import Ancestral

if TYPE_CHECKING:
    from programs import Python


@pytest.fixture
def model(tiny: Path) -> Model:
    model = Model.load(tiny)
    model.sampling = replace(model.sampling, steps=2)
    return model


class Stopped(Exception):
    pass


def stopping(model: Model, after: int) -> Model:
    """The model, which fails when it is asked for a sample more than `after` times."""
    forward, calls = model.denoiser.forward, iter(range(10**9))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= after:
            raise Stopped
        return forward(*args, **kwargs)

    model.denoiser.forward = counted  # type: ignore[method-assign]
    return model


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_a_stopped_folder_is_gone_on_with(model: Model, tmp_path: Path) -> None:
    whole = export(model, tmp_path / "whole", 10, batch=3, quiet=True)
    assert [f.name for f in whole] == [f"seed{i:06d}-label{i}.png" for i in range(10)]
    with pytest.raises(Stopped):
        export(stopping(Model.load(model_of(tmp_path, model)), 13), tmp_path / "out", 10, batch=3, quiet=True)
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "out").glob("*.png")}
    assert 3 <= len(before) < 10
    export(model, tmp_path / "out", 10, batch=3, quiet=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    for name, time in before.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == time  # not made again
    more = export(model, tmp_path / "out", 12, batch=5, quiet=True)
    assert len(more) == 12 and all(f.is_file() for f in more)


def model_of(tmp_path: Path, model: Model) -> Path:
    """The model, saved: to be loaded once more."""
    if not (tmp_path / "model").exists():
        model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("suffix", [".png", ".npz"])
def test_a_stopped_archive_or_grid_is_gone_on_with(model: Model, tmp_path: Path, suffix: str) -> None:
    (whole,) = export(model, tmp_path / f"whole{suffix}", 10, batch=4, quiet=True, cond={"label": [3, 1]})
    out = tmp_path / f"out{suffix}"
    with pytest.raises(Stopped):
        other = stopping(Model.load(model_of(tmp_path, model)), 9)
        export(other, out, 10, batch=4, quiet=True, cond={"label": [3, 1]})
    assert not out.exists()
    assert len(list((tmp_path / f"out{suffix}.parts").glob("*.npz"))) == 1
    export(model, out, 10, batch=4, quiet=True, cond={"label": [3, 1]})
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(["model", whole.name, out.name])
    if suffix == ".png":
        assert out.read_bytes() == whole.read_bytes()
    else:
        with np.load(out) as a, np.load(whole) as b:
            assert a["label"].tolist() == [3, 1] * 5 and a["seed"].tolist() == list(range(10))
            assert all(np.array_equal(a[k], b[k]) for k in b.files)
    with pytest.raises(UserError, match="exists: choose another --out or remove it"):
        export(model, out, 10, quiet=True)


def test_archives_do_not_depend_on_the_batch(model: Model, tmp_path: Path) -> None:
    model.codec = Image((1, 8, 8), 0, 16, dtype="float32")
    made = []
    for batch in (10, 3):
        (file,) = export(model, tmp_path / f"{batch}.npz", 10, seed=4, batch=batch, quiet=True)
        with np.load(file) as archive:
            made.append({k: archive[k] for k in archive.files})
    assert made[0]["seed"].tolist() == made[1]["seed"].tolist() == list(range(4, 14))
    assert np.abs(made[0]["x"] - made[1]["x"]).max() < 16e-3
    assert np.abs(made[0]["x"] - np.asarray(model.sample(10, seed=4))).max() < 16e-3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 3}, "sampling"),
        ({"guidance": 2.0}, "sampling"),
        ({"sampler": Ancestral()}, "sampling"),
        ({"cond": {"label": 4}}, "cond"),
        ({"deterministic": True}, "deterministic"),
    ],
    ids=str,
)
def test_samples_made_otherwise_are_not_mixed(model: Model, tmp_path: Path, change: dict[str, Any], named: str) -> None:
    out = tmp_path / "out"
    export(model, out, 2, quiet=True)
    before = contents(out)
    with pytest.raises(UserError, match=f"holds samples made otherwise \\(another {named}\\)"):
        export(model, out, 4, quiet=True, **change)
    assert contents(out) == before
    export(model, out, 2, quiet=True)


def test_the_samples_of_two_models_are_not_mixed(model: Model, tmp_path: Path, tiny: Path) -> None:
    """Two runs of one recipe have the same name, length and settings: the weights tell them apart."""
    export(model, tmp_path / "out", 2, quiet=True)
    other = Model.load(tiny)
    other.sampling = model.sampling
    export(other, tmp_path / "out", 3, quiet=True)  # the same weights
    with torch.no_grad():
        next(other.denoiser.parameters()).flatten()[0] += 1e-3
    with pytest.raises(UserError, match="another weights"):
        export(other, tmp_path / "out", 3, quiet=True)


def test_long_conditions_are_told_apart(model: Model, tmp_path: Path) -> None:
    labels = torch.zeros(3000, dtype=torch.int64)
    export(model, tmp_path / "out", 1, quiet=True, cond={"label": labels})
    labels = labels.clone()
    labels[1500] = 1
    with pytest.raises(UserError, match="another cond"):
        export(model, tmp_path / "out", 1, quiet=True, cond={"label": labels})


def test_places_that_are_not_ours_are_left_alone(model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for out, message in (
        ("mine", "holds other things"),
        ("x.jpeg", "'.jpeg'"),
        ("mine/thesis.txt/x", "cannot be made"),
    ):
        with pytest.raises(UserError, match=message):
            export(model, tmp_path / out, 2, quiet=True)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    model.codec = Plain((1, 8, 8))
    with pytest.raises(UserError, match="not a picture"):
        export(model, tmp_path / "x.png", 2, quiet=True)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]


def test_what_failed_before_the_first_sample_does_not_stand_in_the_way(model: Model, tmp_path: Path) -> None:
    for out in ("x.npz", "folder"):
        with pytest.raises(FloatingPointError):
            export(model, tmp_path / out, 2, quiet=True, guidance=1e30)
        assert export(model, tmp_path / out, 2, quiet=True, guidance=2.0)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="leave it out"):
            export(model, tmp_path / "captured", 2, quiet=True, captured=True)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["folder", "x.npz"]


WORKER = """
import sys
from pathlib import Path
from unnoise.export import export
from unnoise.model import Model
from unnoise.errors import UserError
try:
    export(Model.load(sys.argv[1]), Path(sys.argv[2]), 32, batch=4, steps=10, quiet=True)
except UserError as e:
    sys.exit(f"refused: {e}")
"""


def test_of_two_processes_one_makes_an_archive(python: Python, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    both = [python.start("-c", WORKER, tiny, out) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    (refused,) = [text for text in said if text]
    assert refused.startswith(f"refused: {out} ")
    assert "is being made by another process: wait for it, or stop it" in refused or "exists" in refused
    with np.load(out) as archive:
        assert len(archive["x"]) == 32
    assert [f.name for f in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_on_a_full_disk_the_same_command_goes_on(model: Model, tmp_path: Path) -> None:
    part = tmp_path / "x.part.npz"
    part.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left .*: make room; the same command goes on where it stopped$"):
        export(model, tmp_path / "x.npz", 6, batch=3, quiet=True)
    part.unlink()
    before = {f.name for f in (tmp_path / "x.npz.parts").iterdir()}
    assert len(before) == 3  # two chunks, and what they were made with
    export(stopping(model, 0), tmp_path / "x.npz", 6, batch=3, quiet=True)  # nothing is sampled again
    assert [f.name for f in tmp_path.iterdir()] == ["x.npz"]


def test_what_they_were_made_with_lies_beside_them(model: Model, tmp_path: Path) -> None:
    export(model, tmp_path / "out", 1, quiet=True, cond={"label": "all"}, steps=1)
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["cond"] == {"label": "all"} and record["sampling"]["steps"] == 1
    assert len(record["weights"]) == 64
