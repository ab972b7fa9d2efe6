"""Molecules judged: real molecules in the place of samples, and a tiny run through the command line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.cli import main
from unnoise.data import Qm7, read_xyz
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import Stability
from unnoise.judges.molecule import measured
from unnoise.metrics.figure import Figure
from unnoise.metrics.molecule import VERSION
from unnoise.model import Model
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

pytest.importorskip("rdkit", reason="RDKit is not installed: pip install 'unnoise[molecules]'")
pytestmark = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data sets")

TINY = ["-s", "model.net.width=8", "-s", "model.net.depth=1", "-s", "sampling.steps=3", "-s", "batch=16"]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def data() -> Dataset:
    """A part of QM7."""
    whole = Qm7().load()
    return Dataset({k: v[:200] for k, v in whole.train.items()}, {k: v[:100] for k, v in whole.held_out.items()})


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Qm7:
    """Every 25th molecule of QM7, of all sizes, as a file of its own."""
    whole = np.load(Path(os.environ["UNNOISE_DATA"]) / "molecules" / "qm7_3d.npz")
    rows, offset = range(0, len(whole["atomization_energy"]), 25), whole["offset"]
    atoms = np.concatenate([np.arange(offset[i], offset[i + 1]) for i in rows])
    ends = np.cumsum([0, *(offset[i + 1] - offset[i] for i in rows)])
    path = tmp_path_factory.mktemp("few") / "qm7.npz"
    energy = whole["atomization_energy"][list(rows)]
    np.savez(path, Z=whole["Z"][atoms], R=whole["R"][atoms], offset=ends, atomization_energy=energy)
    return Qm7(path=str(path))


@pytest.fixture(scope="module")
def run(few: Qm7, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps: for reading only."""
    out = tmp_path_factory.mktemp("qm7") / "run"
    assert (
        main(["train", "qm7", *TINY, f"-s=data.path={few.path}", "--samples=320", "--device=cpu", f"--out={out}"]) == 0
    )
    return out


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: Any) -> Result:
        capsys.readouterr()
        return Result(main([str(a) for a in arguments]), *capsys.readouterr())

    return call


def named(sets: list[Tensor], data: Dataset) -> dict[str, Figure]:
    return {f.name: f for f in measured(sets, data, ("C-H", "C-C"))}


# Figures --------------------------------------------------------------------------------------------------------------


def test_held_out_molecules_are_judged_as_themselves(data: Dataset) -> None:
    found = named([data.held_out["x"]], data)
    assert all(f.samples == f.real for f in found.values())
    assert found["stable atoms"].samples > 0.99 and found["stable molecules"].samples > 0.9
    assert found["valid"].samples > 0.9 and found["unique among valid"].samples > 0.9
    assert found["new among valid"].samples > 0.9  # QM7 has each molecule once
    assert 0 < found["bond lengths C-H, distance"].samples < 0.01


def test_training_molecules_are_not_new(data: Dataset) -> None:
    found = named([data.train["x"][:50]], data)
    assert found["new among valid"].samples == 0.0


def test_noise_breaks_molecules_more_and_more(data: Dataset) -> None:
    x = data.held_out["x"]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * (x[..., 3:] > 0)
    noise[..., 3] = 0
    rows = [named([x + s * noise], data) for s in (0.0, 0.05, 0.1, 0.3)]
    for name in ("stable atoms", "stable molecules"):
        values = [row[name].samples for row in rows]
        assert values == sorted(values, reverse=True) and values[-1] < values[0] / 2
    lengths = [row["bond lengths C-H, distance"].samples for row in rows]
    assert lengths[:3] == sorted(lengths[:3]) and lengths[2] > 3 * lengths[0]


def test_repeats_give_standard_errors(data: Dataset) -> None:
    x = data.held_out["x"]
    found = named([x[:50], x[50:]], data)["stable molecules"]
    a, b = (named([part], data)["stable molecules"].samples for part in (x[:50], x[50:]))
    assert found.samples == pytest.approx((a + b) / 2) and found.error == pytest.approx(abs(a - b) / 2)


def test_one_molecule_again_and_again_is_not_unique(data: Dataset) -> None:
    found = named([data.held_out["x"][:1].repeat(10, 1, 1)], data)
    assert found["unique among valid"].samples == 0.1


def test_atoms_far_apart_have_no_bonds(data: Dataset) -> None:
    """RDKit fills them with hydrogen and finds them valid: stability says what validity does not."""
    x = data.held_out["x"][:5] * torch.tensor([50.0, 50, 50, 1])
    found = named([x], data)
    assert found["stable atoms"].samples == 0.0 and found["valid"].samples == 1.0
    assert 1.3 < found["bond lengths C-C, distance"].samples < 1.6  # the mean length: as if all of its own were 0


def test_a_pair_that_is_never_bound_is_refused(data: Dataset) -> None:
    with pytest.raises(UserError, match=r"no molecule of the data has a bond S-S: set judge\.pairs"):
        measured([data.held_out["x"]], data, ("S-S",))


def test_pitfall_35_the_protocol_names_the_rules(run: Path, few: Qm7, cli: Callable[..., Result]) -> None:
    """Scores depend on rules of bonds and on RDKit: versions, seeds, repeats and the data's own row are on record."""
    from rdkit import rdBase

    judge = Stability()
    assert isinstance(judge, Judge) and build(describe(judge)) == judge
    assert judge.protocol == {"rules": VERSION, "rdkit": rdBase.rdkitVersion}
    result = cli("evaluate", run, "-n", 12, "--repeats", 2, "--seed", 5, "--device", "cpu")
    assert result.code == 0, result.err
    assert "stable atoms" in result.out and "real data" in result.out
    record = json.loads((run / "evaluation.json").read_text())
    protocol = record["protocol"]
    assert (protocol["rules"], protocol["rdkit"]) == (VERSION, rdBase.rdkitVersion)
    assert (protocol["samples"], record["measured"]["repeats"], record["measured"]["seed"]) == (12, 2, 5)
    figures = {f["name"]: f for f in record["figures"]}
    assert figures["stable atoms"]["real"] > 0.99 and figures["stable atoms"]["error"] is not None
    again = Stability()(Model.load(run), few.load(), Trial(12, 2, 5))
    assert {f.name: f.samples for f in again} == {k: f["samples"] for k, f in figures.items()}


def test_a_model_of_other_data_is_refused(run: Path) -> None:
    pictures = {"x": torch.zeros(4, 1, 8, 8)}
    with pytest.raises(UserError, match="molecules are"):
        Stability()(Model.load(run), Dataset(pictures, pictures), Trial(4))


# The command line -----------------------------------------------------------------------------------------------------


def test_a_run_writes_molecules_of_the_sizes_asked_for(run: Path, tmp_path: Path, cli: Callable[..., Result]) -> None:
    out = tmp_path / "molecules"
    result = cli(
        "sample", run, "-n", 4, "--cond", "size=9,12", "--cond", "energy=-1100", "--device", "cpu", "--out", out
    )
    assert result.code == 0, result.err
    files = sorted(out.glob("*.xyz"))
    assert [f.name for f in files[:2]] == ["seed000000-size9-energy-1100.xyz", "seed000001-size12-energy-1100.xyz"]
    for file, size in zip(files, (9, 12, 9, 12), strict=True):
        (molecule,), _ = read_xyz(file)
        assert len(molecule) == size and {*molecule[:, 3].tolist()} <= {1.0, 6.0, 7.0, 8.0, 16.0}
        assert float(molecule[:, :3].mean(0).abs().max()) < 1e-4
    assert cli("sample", run, "-n", 3, "--device", "cpu", "--out", tmp_path / "x.npz").code == 0
    with np.load(tmp_path / "x.npz") as archive:
        assert archive["x"].shape == (3, 23, 4)
        assert ((archive["x"][..., 3] > 0).sum(1) == archive["size"]).all()


def test_info_names_the_parts(run: Path, cli: Callable[..., Result]) -> None:
    assert "SizeEnergy" in cli("info", "qm7").out
    assert cli("info", run).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cond", "size=99"], "size=99 is out of range: molecules have 4 to 23 atoms"),
        (["--cond", "label=1"], "unknown condition 'label'"),
        (["--out", "x.png"], "is not a picture: write .npz, or a folder"),
        (["--sampler", "Heun()"], "Heun works on one tensor, not on a state of parts: use Ancestral"),
    ],
)
def test_wrong_input_is_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Result],
    unchecked: None,
    arguments: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("sample", run, "-n", 2, "--device", "cpu", *arguments)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()
