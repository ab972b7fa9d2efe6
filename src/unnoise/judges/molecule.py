"""Stability, validity and bond lengths of molecules, each beside that of held-out molecules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unnoise.data.dataset import Dataset, loaded
from unnoise.errors import UserError
from unnoise.metrics.figure import Figure, figure
from unnoise.metrics.molecule import (
    SYMBOLS,
    VERSION,
    atom_stability,
    bond_length_distance,
    bond_orders,
    molecule_stability,
    validity,
)
from unnoise.model import Model
from unnoise.trial import Trial


@dataclass(frozen=True)
class Stability:
    """Molecules judged by tables of bonds and by RDKit.

    Figures: the shares of stable atoms and of stable molecules; the shares that RDKit accepts, that are different among
    those, and that are no training molecule among those (0 where none is valid); and for each of `pairs` the distance
    in angstrom between the bond lengths and those of training molecules; where none is bound, the mean length of these,
    as if all lengths were 0. Real: the same of held-out molecules.

    Args:
        pairs: of elements whose bond lengths are compared, as in `bond_length_distance`.
        count: of molecules a repeat, unless told otherwise.
    """

    pairs: tuple[str, ...] = ("C-H", "C-C", "C-N", "C-O")
    count: int = 500

    @property
    def protocol(self) -> dict[str, Any]:
        """Versions of the rules of bonds and of RDKit, which other figures depend on; Raises UserError without it."""
        return {"rules": VERSION, "rdkit": _rdkit()}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """Samples, of sizes and energies that follow from their seeds.

        Raises:
            UserError: for a model of other than packed molecules, or without RDKit.
        """
        _rdkit()  # before minutes of sampling
        if len(data.train["x"].shape) != 3 or data.train["x"].shape[-1] != 4:
            raise UserError(f"molecules are [N, atoms, 4], the data are {tuple(data.train['x'].shape)}")
        sets = [trial.samples(model, i).raw for i in range(trial.repeats)]
        return measured(sets, data, self.pairs)


def measured(sets: Sequence[Tensor], data: Dataset, pairs: Sequence[str]) -> list[Figure]:
    """The figures of repeats of samples float32 [N, A, 4] beside those of held-out molecules; see `Stability`.

    Raises:
        UserError: for a pair that is never bound in training molecules.
    """
    train = loaded(data.train["x"])
    reference = _Reference(train, {s for s in validity(train).smiles if s is not None}, _mean_lengths(train, pairs))
    rows, real = [_row(x, reference) for x in sets], _row(loaded(data.held_out["x"]), reference)
    return [figure(k, [row[k] for row in rows], real[k]) for k in real]


class _Reference(NamedTuple):
    """Training molecules, their SMILES, and the mean length of each pair's bonds."""

    x: Tensor
    smiles: set[str]
    lengths: dict[str, float]


def _row(x: Tensor, train: _Reference) -> dict[str, float]:
    found, distances = validity(x), bond_length_distance(x, train.x)
    valid = [s for s in found.smiles if s is not None]
    return {
        "stable atoms": atom_stability(x),
        "stable molecules": molecule_stability(x),
        "valid": found.valid,
        "unique among valid": found.unique if valid else 0.0,
        "new among valid": sum(s not in train.smiles for s in valid) / max(1, len(valid)),
        **{
            f"bond lengths {pair}, distance": distances[pair] if math.isfinite(distances[pair]) else mean
            for pair, mean in train.lengths.items()
        },
    }


def _mean_lengths(x: Tensor, pairs: Sequence[str]) -> dict[str, float]:
    """In angstrom, of the bonds of each pair."""
    numbers = {symbol: z for z, symbol in SYMBOLS.items()}
    bound, d, means = bond_orders(x) > 0, torch.cdist(x[..., :3], x[..., :3]), {}
    for pair in pairs:
        a, b = (x[..., 3] == numbers.get(symbol, -1) for symbol in (pair.split("-") * 2)[:2])
        lengths = d[bound & a[:, :, None] & b[:, None, :]]
        if not len(lengths):
            raise UserError(f"no molecule of the data has a bond {pair}: set judge.pairs to some like C-H")
        means[pair] = float(lengths.mean())
    return means


def _rdkit() -> str:
    try:
        from rdkit import rdBase
    except ImportError as e:
        raise UserError("molecules are judged with RDKit: pip install 'unnoise[molecules]'") from e
    return str(rdBase.rdkitVersion)
