"""The kernel distance: its definition, closed forms of Normals, unbiasedness, honest errors, invariances."""

import math

import pytest
import torch

from unnoise.metrics import kernel
from unnoise.metrics.kernel import kernel_distance, kernel_distance_subsets

torch.set_num_threads(1)


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_agreement_with_the_definition_pair_by_pair(monkeypatch) -> None:
    a, b = draw(6, 3, 1), draw(5, 3, 2, 0.5)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    def within(s):
        return sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / (len(s) ** 2 - len(s))

    expected = within(a) + within(b) - 2 * sum(k(x, y) for x in a for y in b) / 30
    whole = kernel_distance(a, b)
    assert whole.value == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(kernel, "BUDGET", 11)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
def test_unbiased_and_the_stated_error_is_the_spread_over_repeats(shift) -> None:
    """One feature, N(0, 1) and N(s, 1): E k(x, y) = E (xy + 1)^3 in closed form, near and far from equal sets."""
    found = [kernel_distance(draw(300, 1, i), draw(400, 1, 5_000 + i, shift)) for i in range(300)]
    values = torch.tensor([f.value for f in found])
    # E (xy + 1)^3 = m3 m3' + 3 m2 m2' + 3 m1 m1' + 1, so the distance is a sum of squared differences of moments
    expected = 3 * shift**2 + 3 * (shift**2) ** 2 + (shift**3 + 3 * shift) ** 2
    spread = values.std().item()
    assert abs(values.mean().item() - expected) < 4 * spread / math.sqrt(len(found))
    stated = math.sqrt(sum(f.error**2 for f in found) / len(found))
    assert stated == pytest.approx(spread, rel=0.3)


def test_blind_to_order_rotation_and_which_set_is_first() -> None:
    a, b = draw(40, 5, 1), draw(50, 5, 2, 0.3)
    found = kernel_distance(a, b)
    rotation = torch.linalg.qr(draw(5, 5, 3)).Q
    assert kernel_distance(a.flip(0), b.roll(7, 0)) == pytest.approx(found, rel=1e-9)
    assert kernel_distance(a @ rotation, b @ rotation) == pytest.approx(found, rel=1e-9)
    assert kernel_distance(b, a) == pytest.approx(found, rel=1e-9)


def test_subsets_of_the_whole_are_the_whole() -> None:
    a, b = draw(60, 4, 1), draw(60, 4, 2, 0.3)
    assert kernel_distance_subsets(a, b, 3, 60) == pytest.approx((kernel_distance(a, b).value, 0), abs=1e-12)
    small = kernel_distance_subsets(a, b, 400, 20, seed=1)
    assert abs(small.value - kernel_distance(a, b).value) < 4 * small.error
    assert small == kernel_distance_subsets(a, b, 400, 20, seed=1)


def test_mistakes_are_named() -> None:
    a = draw(10, 3, 1)
    with pytest.raises(ValueError, match="no kernel distance"):
        kernel_distance(a, a[:, 1:])
    with pytest.raises(ValueError, match="need 3 rows"):
        kernel_distance(a, a[:2])
    with pytest.raises(ValueError, match=r"size must lie in \[3, 10\]"):
        kernel_distance_subsets(a, a)
    with pytest.raises(ValueError, match="at least 2 subsets"):
        kernel_distance_subsets(a, a, 1, 5)
    with pytest.raises(ValueError, match="row 4 is not"):
        kernel_distance(a, a.index_fill(0, torch.tensor([4]), math.nan))
