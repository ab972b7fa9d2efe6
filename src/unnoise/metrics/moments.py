"""Mean and covariance of features, batch by batch and process by process, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Real
from torch import Tensor

from unnoise.metrics.features import checked


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of a set of features; a value, so `update` and `merge` return another one.

        scatter = sum_i (x_i - mean) (x_i - mean)^T

    Sets are joined by the difference of their means, never by subtracting squares, so features far from zero lose no
    digits, and the result depends on neither batching nor order beyond rounding (1e-12).

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".

    Args:
        count: number of rows.
        mean: float64 [D].
        scatter: float64 [D, D].
    """

    count: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]

    @staticmethod
    def empty(dim: int, device: torch.device | str = "cpu") -> Moments:
        """The moments of no rows of `dim` features."""
        mean = torch.zeros(dim, dtype=torch.float64, device=device)
        return Moments(0, mean, torch.zeros(dim, dim, dtype=torch.float64, device=device))

    @staticmethod
    def of(features: Real[Tensor, " ..."], *, first: int = 0) -> Moments:
        """The moments of features [N, D] of any real dtype, N >= 1; `first` is the number of row 0 in messages.

        Raises:
            ValueError: if the shape is another, or if a feature is not finite, naming its row.
        """
        x = checked(features, first=first)
        mean = x.mean(0)
        centred = x - mean
        return Moments(len(x), mean, centred.T @ centred)

    def update(self, features: Real[Tensor, "n d"]) -> Moments:
        """With features [N, D] added."""
        return self.merge(Moments.of(features, first=self.count))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together; where several processes see shares of the data, merge theirs.

        scatter = scatter_a + scatter_b + (n_a n_b / n) d d^T, mean = mean_a + (n_b / n) d, d = mean_b - mean_a

        Raises:
            ValueError: where the numbers of features differ.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of {len(self.mean)} and of {len(other.mean)} features cannot be merged")
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        d = other.mean - self.mean
        cross = torch.outer(d, d) * (self.count * other.count / count)
        return Moments(count, self.mean + d * (other.count / count), self.scatter + other.scatter + cross)

    @property
    def covariance(self) -> Float64[Tensor, "d d"]:
        """Unbiased covariance scatter / (count - 1), float64 [D, D]; Raises ValueError below two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {self.count}")
        return self.scatter / (self.count - 1)
