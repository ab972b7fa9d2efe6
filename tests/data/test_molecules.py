"""Molecules: QM7's own numbers, xyz files there and back, and every kind of bad file."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import Molecules, Qm7, read_xyz, write_xyz
from unnoise.data.molecules import pack
from unnoise.data.xyz import SYMBOLS
from unnoise.errors import UserError

real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")

WATER = "3\n-232.6\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
SALT = "2\n-98\nNa 0 0 0\nCl 2.36 0 0\n"


@real
def test_qm7_is_what_it_is_said_to_be() -> None:
    data = Qm7().load()
    assert len(data) == 6391 and len(data.held_out["x"]) == 710
    both = {k: torch.cat([data.train[k], data.held_out[k]]) for k in data.train}
    x, size, energy = both["x"], both["size"], both["energy"]
    assert x.shape == (7101, 23, 4) and x.dtype == torch.float32 and "MIT" in data.about
    assert (int(size.min()), int(size.max()), int(size.sum())) == (4, 23, 109_600)
    z = x[..., 3]
    assert z.unique().tolist() == [0, 1, 6, 7, 8, 16] and int(z.sum()) == 372_354
    assert torch.equal(z > 0, torch.arange(23) < size[:, None])  # padding is at the end
    assert float(x[z == 0].abs().sum()) == 0
    assert float(x[..., :3].sum(1).abs().max()) < 1e-4  # centred
    assert energy.double().sum().item() == pytest.approx(-10_909_450.4245, abs=1e-3)
    seen = {row.numpy().tobytes() for row in data.train["x"]}
    assert len(seen) == 6391 and not any(row.numpy().tobytes() in seen for row in data.held_out["x"])


@real
def test_qm7_keeps_every_distance() -> None:
    file = np.load(Path(os.environ["UNNOISE_DATA"], "molecules", "qm7_3d.npz"))
    x = Qm7(held_out=0.0).load().train["x"].double()
    for i in (0, 5, 3000, 7100):
        stored = torch.from_numpy(file["R"][file["offset"][i] : file["offset"][i + 1]]).double()
        found = x[i, : len(stored), :3]
        assert torch.allclose(torch.cdist(found, found), torch.cdist(stored, stored), atol=2e-6)


@real
def test_bonds_to_hydrogen_have_their_length() -> None:
    """C-H is 1.09 angstrom, whatever the molecule: units and rows are right."""
    x = Qm7().load().held_out["x"]
    distance = torch.cdist(x[..., :3], x[..., :3])
    distance = distance.masked_fill((x[..., 3] != 6)[:, None, :], math.inf)  # [molecule, atom, carbon]
    nearest = distance.amin(2)[x[..., 3] == 1]
    bonds = nearest[nearest < 1.3]
    assert len(bonds) > 5000 and bonds.median().item() == pytest.approx(1.10, abs=0.02)


def test_there_and_back(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    molecules = []
    for n in (1, 4, 9):
        z = torch.randint(1, 119, (n, 1), generator=generator)
        molecules.append(torch.cat([100 * torch.randn(n, 3, generator=generator), z], 1))
    write_xyz(molecules, tmp_path / "a.xyz", ["one", "", "3"])
    found, comments = read_xyz(tmp_path / "a.xyz")
    assert comments == ["one", "", "3"]
    assert len(found) == 3 and all(torch.equal(a, b) for a, b in zip(found, molecules, strict=True))


def test_padding_is_not_written(tmp_path: Path) -> None:
    x, size = pack([torch.tensor([[1.0, 0, 0, 8], [3, 0, 0, 1]]), torch.tensor([[5.0, 5, 5, 6]])])
    assert size.tolist() == [2, 1]
    assert x.tolist() == [[[-1, 0, 0, 8], [1, 0, 0, 1]], [[0, 0, 0, 6], [0, 0, 0, 0]]]
    write_xyz(list(x), tmp_path / "a.xyz")
    assert (tmp_path / "a.xyz").read_text() == "2\n\nO  -1 0 0\nH  1 0 0\n1\n\nC  0 0 0\n"


def test_the_periodic_table() -> None:
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 118
    known = {1: "H", 6: "C", 26: "Fe", 47: "Ag", 57: "La", 71: "Lu", 79: "Au", 92: "U", 103: "Lr", 118: "Og"}
    assert {z: SYMBOLS[z - 1] for z in known} == known


def test_spellings(tmp_path: Path) -> None:
    """Symbols in any case, atomic numbers, tabs, more columns, other line ends, blank lines between and after."""
    text = "\r\n2\r\nform\x0cfeed\r\n CL\t1.0e0 -2 .5 0.1 0.2\r\n8 0 0 0\r\n\r\n1\r\n\r\nh 0 0 0\r\n\r\n"
    (tmp_path / "a.xyz").write_bytes(text.encode())
    found, comments = read_xyz(tmp_path / "a.xyz")
    assert [m.tolist() for m in found] == [[[1, -2, 0.5, 17], [0, 0, 0, 8]], [[0, 0, 0, 1]]]
    assert comments == ["form\x0cfeed", ""]


def test_a_folder_and_a_file_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "both.xyz").write_text(SALT + WATER)
    one = Molecules(str(tmp_path / "both.xyz"), held_out=0.0).load().train
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.xyz").write_text(SALT)
    (tmp_path / "folder" / "b.xyz").write_text(WATER)
    two = Molecules(str(tmp_path / "folder"), held_out=0.0).load().train
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert one["x"].shape == (2, 3, 4) and one["energy"].tolist() == pytest.approx([-98, -232.6])
    assert one["x"][0].tolist() == [pytest.approx([-1.18, 0, 0, 11]), pytest.approx([1.18, 0, 0, 17]), [0, 0, 0, 0]]
    assert len(Molecules(str(tmp_path / "both.xyz"), held_out=0.5).load().held_out["x"]) == 1


@pytest.mark.parametrize("comment", ["", "E = -98", "nan", "-98 kcal"])
def test_energies_are_there_only_where_all_are(tmp_path: Path, comment: str) -> None:
    (tmp_path / "a.xyz").write_text(WATER + SALT.replace("-98", comment))
    assert set(Molecules(str(tmp_path / "a.xyz")).load().train) == {"x", "size"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "holds no molecule"),
        (WATER.replace("O 0", "Qq 0"), "line 3: there is no element 'Qq'"),
        (WATER.replace("O 0", "0 0"), "line 3: there is no element '0'"),
        (WATER.replace("O 0", "119 0"), "line 3: there is no element '119'"),
        (SALT + WATER.replace("0.1173", "nan"), "line 7: coordinates must be finite, found '0 0 nan'"),
        (WATER.replace("0.1173", "inf"), "line 3: coordinates must be finite"),
        (WATER.replace("0.1173", "1.0D-1"), "line 3: coordinates are three numbers, found '0 0 1.0D-1'"),
        (WATER.replace(" 0.1173", ""), "line 3: an atom is `symbol x y z`, found 'O 0 0'"),
        (WATER.replace("3\n", "4\n", 1), "line 1: 4 atoms stated, but the file ends after 3"),
        ("4" + WATER[1:] + SALT, r"line 6: an atom is .* found '2': is the count of line 1 right"),
        ("2" + WATER[1:], "line 5: a number of atoms is due, found 'H 0 -0.7572 -0.4692': is the count before it"),
        ("0\n\n", "line 1: a number of atoms is due, found '0'"),
        ("-1\n\n", "line 1: a number of atoms is due, found '-1'"),
        ("9" * 5000, "line 1: a number of atoms is due"),
        ("3", "line 1: 3 atoms stated, but the file ends after 0"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(UserError, match=message) as e:
        Molecules(str(tmp_path / "a.xyz")).load()
    assert str(tmp_path / "a.xyz") in str(e.value)


def test_bad_bytes_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"1\n\xe4\nH 0 0 0\n")
    with pytest.raises(UserError, match="not UTF-8: byte 0xe4 at offset 2"):
        read_xyz(tmp_path / "a.xyz")
    with pytest.raises(UserError, match=r"no such file: .*b\.xyz"):
        Molecules(str(tmp_path / "b.xyz")).load()
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no \.xyz files in"):
        Molecules(str(tmp_path / "none")).load()


def test_bad_npz_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "q.npz"
    good = {"Z": np.array([8, 1, 1]), "R": np.zeros((3, 3)), "offset": np.array([0, 1, 3])}
    np.savez(path, **good)
    with pytest.raises(UserError, match=r"has no array 'atomization_energy', only \['R', 'Z', 'offset'\]"):
        Qm7(path=str(path)).load()
    for offset in ([0, 1, 4], [1, 1, 3], [0, 3, 3], [0, 3]):
        np.savez(path, **{**good, "offset": np.array(offset)}, atomization_energy=np.zeros(2))
        with pytest.raises(UserError, match="contradicts itself"):
            Qm7(path=str(path)).load()
    whole = path.read_bytes()
    for content in (whole[:-60], whole[:5], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"q\.npz is"):
            Qm7(path=str(path)).load()
    np.savez(path, **{**good, "R": np.full((3, 3), np.nan)}, atomization_energy=np.zeros(2))
    with pytest.raises(UserError, match="'x' holds NaN"):
        Qm7(path=str(path)).load()
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    with pytest.raises(UserError, match=r"molecules/qm7_3d.npz .* UNNOISE_DATA"):
        Qm7().load()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    atom = torch.tensor([[0.0, 0, 0, 1]])
    for molecule, message in (
        (torch.zeros(2, 4), "molecule 0 has atomic numbers"),
        (atom * 119, "119"),
        (-atom, "-1"),
        (atom * math.nan, "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            write_xyz([molecule], tmp_path / "a.xyz")
    for comments in ([], ["a", "b"], ["a\nb"]):
        with pytest.raises(ValueError, match="1 molecules need as many comments"):
            write_xyz([atom], tmp_path / "a.xyz", comments)
