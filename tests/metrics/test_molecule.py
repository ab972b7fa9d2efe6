"""Molecules built by hand, the invariances of space, and the row of real molecules."""

import dataclasses
import importlib.metadata
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.errors import UserError
from unnoise.metrics.molecule import (
    EDM,
    VERSION,
    atom_stability,
    bond_length_distance,
    bond_orders,
    molecule_stability,
    stable_atoms,
    validity,
)

CORNERS = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


def molecule(*atoms: tuple[float, float, float, int], size: int = 8) -> torch.Tensor:
    """One molecule [1, size, 4]."""
    x = torch.zeros(1, size, 4)
    x[0, : len(atoms)] = torch.tensor(atoms)
    return x


def pair(a: int, b: int, distance: float) -> torch.Tensor:
    return molecule((0, 0, 0, a), (distance, 0, 0, b))


def methane(length: float = 1.09, hydrogens: int = 4, size: int = 8) -> torch.Tensor:
    return molecule((0, 0, 0, 6), *((*(length * c).tolist(), 1) for c in CORNERS[:hydrogens]), size=size)


def qm7() -> torch.Tensor:
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA names no folder of data")
    z = dict(np.load(Path(os.environ["UNNOISE_DATA"]) / "molecules" / "qm7_3d.npz"))
    counts = np.diff(z["offset"])
    x = np.zeros((len(counts), counts.max(), 4), np.float32)
    x[np.arange(counts.max()) < counts[:, None]] = np.concatenate([z["R"], z["Z"][:, None]], 1)
    return torch.from_numpy(x)


# Bonds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "limits"),
    [
        (6, 6, (1.64, 1.39, 1.23)),
        (6, 7, (1.57, 1.34, 1.19)),
        (6, 8, (1.53, 1.25, 1.16)),
        (7, 7, (1.55, 1.30, 1.13)),
        (7, 8, (1.50, 1.26)),
        (8, 8, (1.58, 1.26)),
        (6, 16, (1.92, 1.65)),
        (8, 16, (1.61,)),
        (1, 6, (1.19,)),
        (1, 1, (0.84,)),
        (9, 6, (1.45,)),
        (16, 16, (2.14,)),
    ],
)
def test_bonds_end_where_the_table_says(a: int, b: int, limits: tuple[float, ...]) -> None:
    """Lengths of the table plus 10, 5 and 3 pm; in either order of the atoms."""
    for order, limit in enumerate(limits, 1):
        for x, y in ((a, b), (b, a)):
            assert bond_orders(pair(x, y, limit - 1e-4))[0, 0, 1] == order
            assert bond_orders(pair(x, y, limit + 1e-4))[0, 0, 1] == order - 1
    assert bond_orders(pair(a, b, 0.3))[0, 1, 0] == len(limits)  # whatever is nearer


def test_every_pair_of_elements_has_a_single_bond() -> None:
    assert {frozenset(pair.split("-")) for pair in EDM.single} == {
        frozenset((a, b)) for a in "HCNOFS" for b in "HCNOFS"
    }
    for longer, shorter in ((EDM.single, EDM.double), (EDM.double, EDM.triple)):
        assert all(shorter[pair] < longer[pair] for pair in shorter)


def test_methane_is_stable_and_its_radical_is_not() -> None:
    orders = bond_orders(methane())[0]
    assert orders[0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    assert torch.equal(orders, orders.T) and orders.sum() == 8
    both = torch.cat([methane(), methane(hydrogens=3)])
    assert stable_atoms(both)[:, :5].tolist() == [
        [True] * 5,
        [False, True, True, True, True],
    ]  # the last one is padding
    assert atom_stability(both) == 8 / 9
    assert molecule_stability(both) == 1 / 2
    assert molecule_stability(methane(1.2)) == 0
    assert molecule_stability(torch.cat([methane(), torch.zeros(1, 8, 4)])) == 1 / 2  # no atoms: not stable


def test_sulphur_has_two_four_or_six_bonds() -> None:
    """S F_n with the fluorine on a ring; that near neighbours there bind each other is not looked at."""
    angle = torch.arange(7) * 2 * math.pi / 7
    for n in range(1, 8):
        around = [(1.5 * math.cos(t), 1.5 * math.sin(t), 0.0, 9) for t in angle[:n].tolist()]
        x = molecule((0, 0, 0, 16), *around)
        order = bond_orders(x)[0, 0].sum()
        assert order == n
        assert bool(stable_atoms(x)[0, 0]) == (n in {2, 4, 6})


def test_neither_motion_nor_order_nor_padding_matters() -> None:
    generator = torch.Generator().manual_seed(0)
    elements = torch.tensor([1, 1, 1, 6, 6, 7, 8, 9, 16])
    x = torch.cat([2 * torch.rand(40, 9, 3, generator=generator), elements.expand(40, 9)[..., None].float()], 2)
    orders = bond_orders(x)
    assert len(orders.unique()) == 4
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    moved = torch.cat([x[..., :3] @ turn + torch.tensor([5.0, -3, 1]), x[..., 3:]], 2)
    assert (bond_orders(moved) != orders).sum() == 0
    p = torch.randperm(9, generator=generator)
    assert torch.equal(bond_orders(x[:, p]), orders[:, p][:, :, p])
    wide = torch.cat([torch.zeros(40, 3, 4), x], 1)
    assert torch.equal(bond_orders(wide)[:, 3:, 3:], orders) and bond_orders(wide).sum() == orders.sum()
    assert atom_stability(wide) == atom_stability(x)
    assert molecule_stability(wide) == molecule_stability(x)
    assert bond_length_distance(wide, x) == dict.fromkeys(bond_length_distance(x, x), 0.0)


# RDKit ----------------------------------------------------------------------------------------------------------------


def test_validity_of_molecules_by_hand() -> None:
    pytest.importorskip("rdkit")
    hydrogen = torch.tensor([[9.0, 0, 0, 1], [9.74, 0, 0, 1]])
    two = methane()
    two[0, 5:7] = hydrogen  # a fragment: the larger one is looked at
    five = methane()
    five[0, 5] = torch.tensor([0, 0, -1.09, 1])
    found = validity(torch.cat([methane(), two, five, pair(6, 8, 1.13), torch.zeros(1, 8, 4), pair(7, 7, 1.10)]))
    smiles = "[H]C([H])([H])[H]"
    assert found.smiles[:3] == (smiles, smiles, None)  # carbon has five bonds
    assert found.smiles[3:] == (None, None, "N#N")  # neutral C#O: oxygen has three bonds
    assert (found.valid, found.unique) == (3 / 6, 2 / 3)
    nothing = validity(five)
    assert nothing.valid == 0 and math.isnan(nothing.unique)


# Lengths --------------------------------------------------------------------------------------------------------------


def test_distance_of_bond_lengths_by_hand() -> None:
    moved = bond_length_distance(methane(1.09), methane(1.12))
    assert moved == {"C-H": pytest.approx(0.03, abs=1e-6)}
    # half of the reference at 1.09, half at 1.13: half of the mass goes 0.04 far; counts need not agree
    mixed = torch.cat([methane(1.09), methane(1.13), methane(1.09), methane(1.13)])
    assert bond_length_distance(methane(1.09), mixed) == {"C-H": pytest.approx(0.02, abs=1e-6)}
    reference = torch.cat([methane(), pair(7, 8, 1.4)])
    assert bond_length_distance(methane(), reference) == {"C-H": 0, "N-O": math.inf}
    assert bond_length_distance(reference, methane()) == {"C-H": 0}


# Real molecules -------------------------------------------------------------------------------------------------------


def test_qm7_is_the_row_to_compare_with() -> None:
    """Pitfall 35: versioned metric, data row. All 7,101 molecules, by these rules; between two random halves the bond
    lengths differ by thousandths of an angstrom."""
    x = qm7()
    assert VERSION == "edm-1662cb33"
    assert atom_stability(x) == pytest.approx(0.9952, abs=1e-4)
    assert molecule_stability(x) == pytest.approx(0.9682, abs=1e-4)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    found = bond_length_distance(x[order[:3550]], x[order[3550:]])
    assert list(found) == ["C-H", "N-H", "O-H", "C-C", "C-N", "C-O", "C-S", "N-N", "N-O", "N-S", "O-S"]
    assert max(found[k] for k in ("C-H", "C-C", "C-N", "C-O")) < 0.004


def test_validity_of_qm7() -> None:
    """RDKit 2026.09: 0.9831 and 0.9968; its rules may move a little."""
    pytest.importorskip("rdkit")
    found = validity(qm7())
    assert found.valid == pytest.approx(0.9831, abs=0.003)
    assert found.unique == pytest.approx(0.9968, abs=0.003)


# The version ----------------------------------------------------------------------------------------------------------


def test_another_table_has_another_version() -> None:
    """Pitfall 35: versioned metric. Every number counts, their order of writing does not."""
    others = [
        dataclasses.replace(EDM, name="other"),
        dataclasses.replace(EDM, margins=(10, 5, 2)),
        dataclasses.replace(EDM, valences={**EDM.valences, "S": (4,)}),
        *(
            dataclasses.replace(EDM, **{field: {**getattr(EDM, field), "C-C": 133}})
            for field in ("single", "double", "triple")
        ),
    ]
    assert len({VERSION, *(rules.version for rules in others)}) == len(others) + 1
    assert dataclasses.replace(EDM, double=dict(reversed(EDM.double.items()))).version == VERSION
    assert repr(EDM) == f"Rules({VERSION})"


def test_other_rules_judge_otherwise() -> None:
    strict = dataclasses.replace(EDM, margins=(0, 0, 0))
    assert molecule_stability(methane(1.12)) == 1
    assert molecule_stability(methane(1.12), strict) == 0


def test_the_version_of_rdkit_is_part_of_the_result() -> None:
    pytest.importorskip("rdkit")
    found = [int(part) for part in validity(methane()).rdkit.split(".")]
    installed = [int(part) for part in importlib.metadata.version("rdkit").split(".")]
    assert found[: len(installed)] == installed


# Mistakes -------------------------------------------------------------------------------------------------------------


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([methane(), methane()])
    chlorine = x.clone()
    chlorine[1, 2, 3] = 17
    with pytest.raises(UserError, match="atom 2 of molecule 1 has atomic number 17"):
        bond_orders(chlorine)
    broken = x.clone()
    broken[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="molecule 1 is not"):
        bond_orders(broken)
    for share in (atom_stability, molecule_stability):
        with pytest.raises(ValueError, match="no molecule has an atom"):
            share(torch.zeros(2, 8, 4))
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match=r"unnoise\[molecules\]"):
        validity(x)
