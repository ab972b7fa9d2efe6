"""Molecules: between packed atoms and a state of two parts, positions and types; onto disk as xyz files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from unnoise.core.constant import constant
from unnoise.core.rng import Rng
from unnoise.data.xyz import SYMBOLS, write_xyz
from unnoise.errors import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Molecules:
    """The codec of molecules x [B, A, 4] (x, y, z in angstrom, atomic number; rows of zeros after the last atom).

    States are {"positions": float32 [B, A, 3], positions / scale; "types": which of `elements`, as tokens int64 [B, A],
    or as features float32 [B, A, K], onehot_scale at the element and 0 elsewhere (Hoogeboom et al. 2022,
    arXiv:2203.17003, section 3.3)}. At padding a state is of the first element; its mask says what is real.

    Args:
        elements: atomic numbers that there are.
        most: A, atoms of the largest molecule.
        scale: angstrom that make a unit of the state; the standard deviation of a coordinate.
        tokens: whether types are tokens; else they are features.
        onehot_scale: of the features.
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 16)
    most: int = 23
    scale: float = 1.3
    tokens: bool = True
    onehot_scale: float = 0.25

    suffix = ".xyz"

    def __post_init__(self) -> None:
        known = range(1, len(SYMBOLS) + 1)
        if len({*self.elements}) != len(self.elements) or not self.elements or not {*self.elements} <= {*known}:
            raise ValueError(f"elements are different atomic numbers, 1 to {len(SYMBOLS)}, got {self.elements}")
        if self.most < 1 or not self.scale > 0 or not self.onehot_scale > 0:
            raise ValueError(
                f"needs most >= 1, scale > 0 and onehot_scale > 0, got {self.most}, {self.scale}, {self.onehot_scale}"
            )

    def check(self, raw: Shaped[Tensor, "b ..."]) -> None:
        """Refuse data of another shape, other elements, molecules that are empty or have gaps; Raises UserError."""
        if tuple(raw.shape[1:]) != (self.most, 4) or not raw.is_floating_point():
            raise UserError(
                f"the data are {raw.dtype} of shape {tuple(raw.shape[1:])}, the codec expects floats "
                f"({self.most}, 4): x, y, z, atomic number; set codec.most to the atoms of the largest molecule"
            )
        z = raw[..., 3]
        known = (z[..., None] == self._table(raw)).any(-1)
        if not bool(known.all()):
            row, atom = (~known).nonzero()[0].tolist()
            names = ", ".join(SYMBOLS[e - 1] for e in self.elements)
            raise UserError(
                f"atom {atom} of molecule {row} is {_name(float(z[row, atom]))}, the codec knows {names}: "
                "set codec.elements"
            )
        real = z > 0
        gap = (real[:, 1:] & ~real[:, :-1]).any(1) | ~real[:, 0]
        if bool(gap.any()):
            raise UserError(f"molecule {int(gap.nonzero()[0])} is empty or has padding before its last atom")
        spread = float(raw[..., :3][real].std()) / self.scale
        if len(raw) >= 16 and not 0.2 < spread < 5:
            raise UserError(
                f"coordinates have a standard deviation of {spread:.3g} after the codec: set codec.scale to that of "
                "the data, in their unit"
            )

    def blank(self, n: int) -> State:
        """Zeros: positions [n, A, 3], types [n, A] or [n, A, K]."""
        types = torch.zeros(n, self.most, dtype=torch.int64)
        return {
            "positions": torch.zeros(n, self.most, 3),
            "types": types if self.tokens else torch.zeros(n, self.most, len(self.elements)),
        }

    def encode(self, raw: Float[Tensor, "b a 4"], rng: Rng | None = None) -> State:
        """Molecules [B, A, 4] as states of two parts."""
        ids = (raw[..., 3, None] == self._table(raw)[:-1]).long().argmax(-1)
        types: Tensor = ids
        if not self.tokens:
            types = torch.nn.functional.one_hot(ids, len(self.elements)).to(torch.float32) * self.onehot_scale
        return {"positions": raw[..., :3].to(torch.float32) / self.scale, "types": types}

    def decode(
        self, x: dict[str, Shaped[Tensor, "b a ..."]], mask: Bool[Tensor, "b a"] | None = None
    ) -> Float32[Tensor, "b a 4"]:
        """States as molecules, 0 at padding and where a type is still masked (which no finished sample is).

        Args:
            x: "positions" and "types".
            mask: True = real; None: all atoms are.

        Raises:
            FloatingPointError: for states that are not finite.
        """
        positions, types = x["positions"].to(torch.float32), x["types"]
        if not all(bool(torch.isfinite(part).all()) for part in (positions, types)):
            raise FloatingPointError("states that are not finite cannot become molecules")
        ids: Int64[Tensor, "b a"] = types if self.tokens else types.argmax(-1)
        z = self._table(positions)[ids.clamp(max=len(self.elements))]
        if mask is not None:
            z = z * mask
        return torch.cat([positions * self.scale * (z > 0)[..., None], z[..., None]], -1)

    def write(self, raw: Shaped[Tensor, "a 4"], path: Path) -> None:
        """One molecule [A, 4] as an xyz file, written whole or not at all."""
        part = path.with_suffix(".part")
        write_xyz([raw.cpu()], part)
        part.replace(path)

    def _table(self, like: Tensor) -> Tensor:
        """[K + 1] atomic numbers by token, 0 for padding and for the mask token."""
        return constant((*self.elements, 0), like.dtype, like.device)


def _name(z: float) -> str:
    return SYMBOLS[int(z) - 1] if z == int(z) and 0 < z <= len(SYMBOLS) else f"of atomic number {z:g}"
