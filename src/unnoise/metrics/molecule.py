"""Molecules as atoms in space: bonds by distance, and what chemistry makes of them.

A set of molecules is one tensor x, float32 [B, A, 4]: x, y, z in angstrom and the atomic number Z, 0 for padding. Bonds
are guessed from distances alone, so every figure is one of the rules as much as of the molecules: real data do not
reach 1, and a protocol names `VERSION`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from unnoise.errors import UserError

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 16: "S"}


@dataclass(frozen=True, repr=False)
class Rules:
    """When two atoms are bound, and how many bonds an atom may have.

        order >= 1 where d < single + margins[0]
        order >= 2 where also d < double + margins[1]
        order = 3 where also d < triple + margins[2]

    Args:
        name: where they come from.
        single: lengths of bonds in pm, by pair of symbols, in either order; a pair that is missing never binds.
        double: likewise.
        triple: likewise.
        margins: in pm.
        valences: the numbers of bonds, each counted by its order, that make an atom stable.
    """

    name: str
    single: Mapping[str, int]
    double: Mapping[str, int]
    triple: Mapping[str, int]
    margins: tuple[int, int, int]
    valences: Mapping[str, tuple[int, ...]]

    @property
    def version(self) -> str:
        """The name and a digest of every number: another table has another version."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def __repr__(self) -> str:
        return f"Rules({self.version})"


# fmt: off
EDM = Rules(
    name="edm",
    single={
        "H-H": 74, "C-H": 109, "N-H": 101, "O-H": 96, "F-H": 92, "S-H": 134,
        "C-C": 154, "C-N": 147, "C-O": 143, "C-F": 135, "C-S": 182,
        "N-N": 145, "N-O": 140, "N-F": 136, "N-S": 168,
        "O-O": 148, "O-F": 142, "O-S": 151, "F-F": 142, "F-S": 158, "S-S": 204,
    },
    double={"C-C": 134, "C-N": 129, "C-O": 120, "C-S": 160, "N-N": 125, "N-O": 121, "O-O": 121},
    triple={"C-C": 120, "C-N": 116, "C-O": 113, "N-N": 110},
    margins=(10, 5, 3),
    valences={"H": (1,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "S": (2, 4, 6)},
)
# fmt: on
"""Of Hoogeboom et al. 2022, arXiv:2203.17003, appendix; S may also have 2 or 6 bonds, where their code has 4 only.

The margins were tuned by their authors on QM9. The table has no double bond of S with O.
"""

VERSION = EDM.version


class Validity(NamedTuple):
    """What RDKit makes of a set of molecules.

    Args:
        valid: share that it accepts, of all.
        unique: share of different ones among the valid; NaN where none is valid.
        smiles: canonical SMILES of the largest fragment of each molecule, None where it is not valid.
        rdkit: the version of RDKit, whose rules change.
    """

    valid: float
    unique: float
    smiles: tuple[str | None, ...]
    rdkit: str


def bond_orders(x: Float32[Tensor, "b a 4"], rules: Rules = EDM) -> Int64[Tensor, "b a a"]:
    """Orders 0 to 3 of the bonds between atoms, symmetric, 0 on the diagonal and at padding, [B, A, A].

    Raises:
        UserError: naming a molecule with an atom that the rules do not know.
        ValueError: naming a molecule that is not finite.
    """
    d, kinds = _distances(x), _kinds(x)
    order = torch.zeros_like(d, dtype=torch.int64)
    bound = d > -1
    for lengths, margin in zip((rules.single, rules.double, rules.triple), rules.margins, strict=True):
        bound = bound & (100 * d < _limits(lengths, margin).to(d.device)[kinds[:, :, None], kinds[:, None, :]])
        order += bound
    return order.masked_fill_(torch.eye(x.shape[1], dtype=torch.bool, device=x.device), 0)


def stable_atoms(x: Float32[Tensor, "b a 4"], rules: Rules = EDM) -> Bool[Tensor, "b a"]:
    """Whether the bonds of each atom, counted by their orders, are a number that its element allows; True at padding.

    Raises:
        UserError, ValueError: as `bond_orders` does.
    """
    allowed = torch.zeros(len(SYMBOLS) + 1, 3 * x.shape[1] + 7, dtype=torch.bool)
    allowed[0] = True
    for kind, symbol in enumerate(SYMBOLS.values(), 1):
        allowed[kind, list(rules.valences[symbol])] = True
    return allowed.to(x.device)[_kinds(x), bond_orders(x, rules).sum(2)]


def atom_stability(x: Float32[Tensor, "b a 4"], rules: Rules = EDM) -> float:
    """Share of stable atoms among all atoms of all molecules, in [0, 1].

    Source: Hoogeboom et al. 2022, arXiv:2203.17003, section 5.

    Raises:
        UserError, ValueError: as `bond_orders` does; ValueError for no atoms.
    """
    real = x[..., 3] > 0
    if not real.any():
        raise ValueError("no molecule has an atom")
    return stable_atoms(x, rules)[real].double().mean().item()


def molecule_stability(x: Float32[Tensor, "b a 4"], rules: Rules = EDM) -> float:
    """Share of molecules all of whose atoms are stable, in [0, 1]; one without atoms is not.

    Source and Raises: as `atom_stability`.
    """
    real = x[..., 3] > 0
    if not real.any():
        raise ValueError("no molecule has an atom")
    return (stable_atoms(x, rules).all(1) & real.any(1)).double().mean().item()


def validity(x: Float32[Tensor, "b a 4"], rules: Rules = EDM) -> Validity:
    """Molecules of these atoms and bonds, without charges, that RDKit sanitises; then their largest fragments.

    RDKit fills open valences with hydrogen and splits nothing off, so a valid molecule may be unstable and broken:
    stability says more.

    Source: Hoogeboom et al. 2022, arXiv:2203.17003, section 5, and the code to it; uniqueness is of fragments.

    Raises:
        UserError: without RDKit, or as `bond_orders` does.
        ValueError: as `bond_orders` does, or for no molecules.
    """
    try:
        from rdkit import rdBase
    except ImportError as e:
        raise UserError("validity of molecules needs RDKit: pip install 'unnoise[molecules]'") from e
    if not len(x):
        raise ValueError("validity needs at least one molecule")
    with rdBase.BlockLogs():
        found = zip(x[..., 3].long().cpu(), bond_orders(x, rules).cpu(), strict=True)
        smiles = tuple(_smiles(atoms, orders) for atoms, orders in found)
    valid = [s for s in smiles if s is not None]
    unique = len(set(valid)) / len(valid) if valid else math.nan
    return Validity(len(valid) / len(smiles), unique, smiles, rdBase.rdkitVersion)


def bond_length_distance(
    x: Float32[Tensor, "b a 4"], y: Float32[Tensor, "c d 4"], rules: Rules = EDM
) -> dict[str, float]:
    """Wasserstein-1 distances between the bond lengths in x and in y, in angstrom, by pair of elements such as "C-H".

        W_1 = integral of |F_x(d) - F_y(d)| dd,   F the distribution functions of the lengths of all bonds of a pair

    Bonds of every order together, as orders are cut from lengths. Pairs are those bound in y; inf for one that is never
    bound in x. A pair bound in x only is not among them.

    Args:
        x: [B, A, 4], samples.
        y: [C, D, 4], reference data.
        rules: when two atoms are bound.

    Raises:
        UserError, ValueError: as `bond_orders` does.
    """
    own, reference = _bond_lengths(x, rules), _bond_lengths(y, rules)
    return {pair: _wasserstein(own[pair], b) if pair in own else math.inf for pair, b in reference.items()}


def _smiles(atoms: Tensor, orders: Tensor) -> str | None:
    """Of the largest fragment of one molecule [A], with bonds [A, A]; None where RDKit refuses it."""
    from rdkit import Chem

    types = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    real = atoms > 0
    orders = orders[real][:, real].triu()
    molecule = Chem.RWMol()
    for z in atoms[real].tolist():
        molecule.AddAtom(Chem.Atom(z))
    for a, b in orders.nonzero().tolist():
        molecule.AddBond(a, b, types[int(orders[a, b])])
    try:
        Chem.SanitizeMol(molecule)
    except ValueError:
        return None
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    return Chem.MolToSmiles(max(fragments, key=lambda m: m.GetNumAtoms())) if fragments else None


def _bond_lengths(x: Tensor, rules: Rules) -> dict[str, Tensor]:
    """The sorted lengths in angstrom of the bonds of each pair that is bound, float64."""
    kinds = _kinds(x)
    a, b = kinds[:, :, None].minimum(kinds[:, None, :]), kinds[:, :, None].maximum(kinds[:, None, :])
    bound, d = bond_orders(x, rules).triu() > 0, _distances(x)
    pairs = {pair: bound & (a == low) & (b == high) for pair, (low, high) in _pairs(rules.single).items()}
    return {pair: d[which].sort().values for pair, which in pairs.items() if which.any()}


def _wasserstein(a: Tensor, b: Tensor) -> float:
    """W_1 between the empirical distributions of sorted a [N] and b [M]."""
    both = torch.cat([a, b]).sort().values
    f, g = (torch.searchsorted(x, both[:-1], right=True) / len(x) for x in (a, b))
    return ((f.double() - g.double()).abs() * both.diff()).sum().item()


def _pairs(lengths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The two kinds of each pair of symbols, the lower one first."""
    kinds = {symbol: kind for kind, symbol in enumerate(SYMBOLS.values(), 1)}
    ends = {pair: [kinds[s] for s in pair.split("-")] for pair in lengths}
    return {pair: (min(both), max(both)) for pair, both in ends.items()}


def _limits(lengths: Mapping[str, int], margin: int) -> Tensor:
    """Below which distance in pm two kinds are bound, symmetric [7, 7]; -inf where never."""
    table = torch.full((len(SYMBOLS) + 1, len(SYMBOLS) + 1), -math.inf, dtype=torch.float64)
    for pair, (a, b) in _pairs(lengths).items():
        table[a, b] = table[b, a] = lengths[pair] + margin
    return table


def _distances(x: Tensor) -> Tensor:
    """Between the atoms, float64 [B, A, A] in angstrom."""
    bad = ~x.isfinite().flatten(1).all(1)
    if bad.any():
        raise ValueError(f"molecules must be finite, molecule {int(bad.nonzero()[0])} is not ({int(bad.sum())} in all)")
    p = x[..., :3].double()
    return torch.cdist(p, p, compute_mode="donot_use_mm_for_euclid_dist")


def _kinds(x: Tensor) -> Tensor:
    """0 for padding, else the number of the element in `SYMBOLS` from 1 on, int64 [B, A]."""
    known = torch.tensor([0, *SYMBOLS], dtype=x.dtype, device=x.device)
    same = x[..., 3, None] == known
    if not (found := same.any(-1)).all():
        row, atom = (~found).nonzero()[0].tolist()
        raise UserError(
            f"atom {atom} of molecule {row} has atomic number {x[row, atom, 3].item():g}: "
            f"the rules know {', '.join(SYMBOLS.values())} only"
        )
    return same.long().argmax(-1)
