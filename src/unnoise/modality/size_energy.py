"""How many atoms a molecule has, and its energy, as conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from unnoise.core.constant import constant
from unnoise.core.denoiser import Cond
from unnoise.core.level import exact
from unnoise.core.rng import Rng
from unnoise.errors import UserError, nearest
from unnoise.modality.labels import spread


@dataclass(frozen=True)
class SizeEnergy:
    """Conditions size (int64 [B], atoms) and energy (float [B]), with their joint distribution in a table.

    The network is given mask [B, A], which the size is, and vector [B, 3]: the energy as (E - mean) / std, those of the
    size; whether it is said (else the first is 0); size / largest size. Rows of which nothing is asked are drawn, as
    functions of their seeds, from p(size) ~ counts and p(energy | size) = N(mean, std^2) within 2 std. A size that is
    not asked for follows p(size | energy) where an energy is.

    Args:
        first: the size of the first entry of the tables.
        counts: how many molecules there are of each size.
        means: of the energies of each size.
        stds: likewise, > 0.
        most: A, atoms of the largest molecule.
    """

    first: int
    counts: tuple[int, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    most: int = 23

    names = ("size", "energy")

    def __post_init__(self) -> None:
        n = len(self.counts)
        if not (len(self.means) == len(self.stds) == n > 0 and min(self.counts) >= 0 and sum(self.counts) > 0):
            raise ValueError(f"tables need one count >= 0, mean and std for each size, got {n}")
        if not all(s > 0 for s in self.stds):
            raise ValueError(f"stds must be > 0, got {self.stds}")
        if self.first < 1 or self.first + n - 1 > self.most:
            raise ValueError(f"sizes lie in 1 to most={self.most}, got {self.first} to {self.first + n - 1}")

    @staticmethod
    def of(size: Int64[Tensor, " n"], energy: Float32[Tensor, " n"], most: int, least: float = 20.0) -> SizeEnergy:
        """The tables of a data set, in whole units of energy; stds are at least `least`, of empty sizes too."""
        sizes = range(int(size.min()), int(size.max()) + 1)
        rows = [energy[size == n].double() for n in sizes]
        total = float(energy.double().mean())
        return SizeEnergy(
            sizes[0],
            tuple(len(e) for e in rows),
            tuple(float(round(float(e.mean()) if len(e) else total)) for e in rows),
            tuple(float(round(max(least, float(e.std()) if len(e) > 1 else 0.0))) for e in rows),
            most,
        )

    def check(self, raw: Mapping[str, Shaped[Tensor, "_ ..."]]) -> None:
        """Refuse sizes that the table has not, energies that are no finite numbers; Raises UserError."""
        for k, v in raw.items():
            if k not in self.names:
                raise UserError(f"unknown condition {k!r}{nearest(k, self.names)}")
            if k == "energy" and not bool(torch.isfinite(v.double()).all()):
                raise UserError("condition 'energy' takes finite numbers")
            if k == "size":
                bad = v[(v != v.round()) | (v < self.first) | (v > self._last)]
                if len(bad):
                    raise UserError(
                        f"size={bad[0].item():g} is out of range: molecules have {self.first} to {self._last} atoms"
                    )

    def ask(self, asked: Mapping[str, Any], seeds: Int64[Tensor, " n"]) -> dict[str, Shaped[Tensor, " n"]]:
        """Sizes int64 and energies float32 of rows: what is asked for, and for the rest draws of each row's seed.

        Raises:
            UserError: for a condition, size or energy that does not exist.
        """
        given = {}
        for k, v in asked.items():
            if k not in self.names or (k == "energy" and isinstance(v, str)):
                self.check({k: torch.zeros(1)})
                raise UserError(f"condition {k!r} takes numbers, got {v!r}")
            every = isinstance(v, str) and v == "all"
            given[k] = spread(k, range(self.first, self._last + 1) if every else v, len(seeds))
        self.check(given)
        rng = Rng.of(seeds)
        energy = given["energy"].double() if "energy" in given else None
        size = given["size"].long() if "size" in given else self._draw_size(energy, rng.fold(0))
        if energy is None:
            mean, std = self._moments(size)
            z = rng.fold(1).normal(torch.zeros(len(seeds), dtype=torch.float64))
            energy = mean + std * z.clamp(-2, 2)
        return {"size": size, "energy": energy.float()}

    def encode(self, raw: Mapping[str, Shaped[Tensor, "_ ..."]], rng: Rng | None = None) -> dict[str, Tensor]:
        """mask bool [B, A] and vector float32 [B, 3]; without a column of energies nothing is said of them.

        Raises:
            UserError: without a column of sizes.
        """
        if "size" not in raw:
            raise UserError("the data have no column 'size', the numbers of atoms")
        size = raw["size"].long()
        mask: Bool[Tensor, "b a"] = torch.arange(self.most, device=size.device) < size[:, None]
        said = torch.full((len(size),), float("energy" in raw), device=size.device)
        z = torch.zeros_like(said)
        if "energy" in raw:
            mean, std = self._moments(size)
            z = ((raw["energy"].to(mean) - mean) / std).float()
        return {"mask": mask, "vector": torch.stack([z, said, size / self._last], 1)}

    def null(self, cond: Cond) -> dict[str, Shaped[Tensor, "b ..."]]:
        """The same batch with nothing said of the energies; masks and sizes stay."""
        vector = cond["vector"]
        return {**cond, "vector": torch.cat([torch.zeros_like(vector[:, :2]), vector[:, 2:]], 1)}

    @property
    def _last(self) -> int:
        return self.first + len(self.counts) - 1

    def _moments(self, size: Tensor) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Mean and std of the energies of these sizes; beyond the tables those of the nearest."""
        entry = (size - self.first).clamp(0, len(self.counts) - 1)
        mean, std = (constant(table, exact(size.device), size.device)[entry] for table in (self.means, self.stds))
        return mean, std

    def _draw_size(self, energy: Tensor | None, rng: Rng) -> Int64[Tensor, " n"]:
        weight = torch.tensor(self.counts, dtype=torch.float64).log().expand(len(rng), -1)
        if energy is not None:
            mean, std = torch.tensor([self.means, self.stds], dtype=torch.float64)
            z = (energy[:, None] - mean) / std
            weight = weight - z**2 / 2 - std.log()
        below = weight.softmax(1).cumsum(1)
        point = rng.uniform(torch.zeros(len(rng), 1, dtype=torch.float64)) * below[:, -1:]
        return self.first + (below <= point).sum(1).clamp(max=len(self.counts) - 1)
