"""Molecules in xyz files: for each its number of atoms, a comment, and a line `symbol x y z` per atom (angstrom)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from unnoise.data.home import read_text
from unnoise.errors import UserError

_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar
K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe
Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn
Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(_TABLE.split())
"""Elements by atomic number: SYMBOLS[Z - 1]."""

_NUMBER = {s: z for z, s in enumerate(SYMBOLS, 1)} | {str(z): z for z in range(1, len(SYMBOLS) + 1)}


def read_xyz(path: str | Path) -> tuple[list[Float32[Tensor, "_ 4"]], list[str]]:
    """The molecules of an xyz file (plain, gzip or xz), and their comments.

    Each is float32 [n, 4]: x, y, z in angstrom and the atomic number. An element is a symbol in any case or an atomic
    number; columns after the coordinates are ignored, and so are blank lines between molecules.

    Raises:
        UserError: naming file and line, for an element that does not exist, a coordinate that is no finite number, or
            another number of atoms than stated; for a file without molecules.
    """
    lines = list(StringIO(read_text(path), newline=None))  # splitlines() would also split at rarer characters
    molecules, comments, at = [], [], 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        count = _count(lines[at], f"{path}, line {at + 1}")
        rows = lines[at + 2 : at + 2 + count]
        if len(rows) < count:
            raise UserError(f"{path}, line {at + 1}: {count} atoms stated, but the file ends after {len(rows)}")
        atoms = [_atom(row, f"{path}, line {at + 3 + i}", at + 1) for i, row in enumerate(rows)]
        molecules.append(torch.tensor(atoms, dtype=torch.float64).float())
        comments.append(lines[at + 1].strip())
        at += 2 + count
    if not molecules:
        raise UserError(f"{path} holds no molecule: it is empty")
    return molecules, comments


def write_xyz(
    molecules: Iterable[Float[Tensor, "_ 4"]], path: str | Path, comments: Sequence[str] | None = None
) -> None:
    """Write molecules [n, 4] (x, y, z in angstrom, atomic number) one after the other; float32 reads back the same.

    Args:
        molecules: rows of atomic number 0 are padding and left out; others are rounded to the nearest element.
        path: the file.
        comments: one line each; None: empty ones.

    Raises:
        ValueError: for a molecule without atoms, an atomic number out of 0..118, NaN or infinity, and for comments of
            another count or of several lines.
    """
    molecules = list(molecules)
    comments = [""] * len(molecules) if comments is None else list(comments)
    if len(comments) != len(molecules) or any(len(c.splitlines()) > 1 for c in comments):
        raise ValueError(f"{len(molecules)} molecules need as many comments of one line each, got {len(comments)}")
    blocks = []
    for i, (molecule, comment) in enumerate(zip(molecules, comments, strict=True)):
        if not bool(torch.isfinite(molecule).all()):
            raise ValueError(f"molecule {i} holds NaN or infinity")
        rows = [(*xyz, round(z)) for *xyz, z in molecule.tolist() if round(z) != 0]
        if not rows or not all(0 < z <= len(SYMBOLS) for *_, z in rows):
            raise ValueError(f"molecule {i} has atomic numbers {[z for *_, z in rows]}, not some of 1..{len(SYMBOLS)}")
        atoms = [f"{SYMBOLS[z - 1]:2} {a:.9g} {b:.9g} {c:.9g}\n" for a, b, c, z in rows]
        blocks.append(f"{len(rows)}\n{comment.strip()}\n{''.join(atoms)}")
    Path(path).write_text("".join(blocks), encoding="utf-8", newline="\n")


def _count(line: str, where: str) -> int:
    word = line.strip()
    if not (word.isdecimal() and len(word) < 10 and int(word) > 0):
        raise UserError(f"{where}: a number of atoms is due, found {word!r}: is the count before it right?")
    return int(word)


def _atom(line: str, where: str, head: int) -> tuple[float, float, float, int]:
    words = line.split()
    if len(words) < 4:
        raise UserError(
            f"{where}: an atom is `symbol x y z`, found {line.strip()!r}: is the count of line {head} right?"
        )
    number = _NUMBER.get(words[0].capitalize())
    if number is None:
        raise UserError(f"{where}: there is no element {words[0]!r}")
    try:
        x, y, z = (float(w) for w in words[1:4])
    except ValueError:
        raise UserError(f"{where}: coordinates are three numbers, found {' '.join(words[1:4])!r}") from None
    if not all(math.isfinite(v) for v in (x, y, z)):
        raise UserError(f"{where}: coordinates must be finite, found {' '.join(words[1:4])!r}")
    return x, y, z, number
