"""Molecules in three dimensions, padded to one number of atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from unnoise.data.dataset import Columns, Dataset, split
from unnoise.data.home import find, read_arrays
from unnoise.data.xyz import read_xyz
from unnoise.errors import UserError


@dataclass(frozen=True)
class Qm7:
    """7,101 small molecules of H, C, N, O and S with their DFT geometries.

    x float32 [N, 23, 4]: x, y, z in angstrom, centred on the mean of the atoms, and the atomic number; rows of zeros
    follow the last atom. size int64 [N] in 4..23: number of atoms. energy float32 [N]: of atomization, kcal/mol.

    Rupp et al. 2012, Fast and accurate modeling of molecular atomization energies with machine learning, PRL 108,
    058301; Blum & Reymond 2009, JACS 131, 8732. Files of github.com/qmlcode/qml (MIT).

    Args:
        held_out: share of the molecules that is never trained on.
        seed: which molecules those are.
        path: the npz file; None: "molecules/qm7_3d.npz" in UNNOISE_DATA.
    """

    held_out: float = 0.1
    seed: int = 0
    path: str | None = None

    def load(self) -> Dataset:
        """The data; Raises UserError for a file that is missing or damaged."""
        path = find("molecules", "qm7_3d.npz") if self.path is None else Path(self.path)
        file = read_arrays(path, "Z", "R", "offset", "atomization_energy")
        offset, atoms = file["offset"], len(file["Z"])
        whole = file["R"].shape == (atoms, 3) and len(offset) == len(file["atomization_energy"]) + 1
        if not whole or offset[0] != 0 or offset[-1] != atoms or not (np.diff(offset) > 0).all():
            raise UserError(f"{path} contradicts itself: its offsets do not fit its {atoms} atoms")
        rows = torch.from_numpy(np.concatenate([file["R"], file["Z"][:, None]], 1).astype(np.float32))
        x, size = pack(torch.split(rows, np.diff(offset).tolist()))
        energy = torch.from_numpy(file["atomization_energy"].astype(np.float32))
        columns = {"x": x, "size": size, "energy": energy}
        return Dataset(*split(columns, self.held_out, self.seed), about="QM7, Rupp et al. 2012, files of qml, MIT")


@dataclass(frozen=True)
class Molecules:
    """One's own molecules: x float32 [N, A, 4] and size int64 [N] as in `Qm7`, A being the size of the largest.

    energy float32 [N] is there where the comment of every molecule is one finite number, in the unit of the file.

    Args:
        path: an xyz file of one or more molecules, or a folder of such files, which are read in the order of names.
        held_out: share of the molecules that is never trained on.
        seed: which molecules those are.
    """

    path: str
    held_out: float = 0.1
    seed: int = 0

    def load(self) -> Dataset:
        """The data; Raises UserError naming file and line of what cannot be read."""
        path, molecules, energies = Path(self.path), list[Tensor](), list[float]()
        for file in sorted(path.glob("*.xyz")) if path.is_dir() else [path]:
            rows, comments = read_xyz(file)
            molecules += rows
            energies += map(_number, comments)
        if not molecules:
            raise UserError(f"no .xyz files in {path}")
        x, size = pack(molecules)
        columns: Columns = {"x": x, "size": size}
        if all(map(math.isfinite, energies)):
            columns = {**columns, "energy": torch.tensor(energies, dtype=torch.float32)}
        return Dataset(*split(columns, self.held_out, self.seed), about=f"molecules of {path.name}")


def pack(molecules: Sequence[Float32[Tensor, "_ 4"]]) -> tuple[Float32[Tensor, "n a 4"], Int64[Tensor, " n"]]:
    """Molecules [atoms, 4] as one tensor [N, A, 4], centred on the mean of their atoms, and their sizes.

    A is the size of the largest; rows of zeros follow the last atom. Molecules have at least one atom.
    """
    size = torch.tensor([len(m) for m in molecules])
    x = torch.nn.utils.rnn.pad_sequence(list(molecules), batch_first=True)
    centre = x[..., :3].double().sum(1, keepdim=True) / size[:, None, None]
    centred = (x[..., :3] - centre) * (x[..., 3:] > 0)
    return torch.cat([centred.float(), x[..., 3:]], -1), size


def _number(comment: str) -> float:
    """The number that a comment is; NaN for another comment."""
    try:
        return float(comment)
    except ValueError:
        return math.nan
