"""Point clouds: distances by hand, bounds that hold, sets told apart, and real airplanes."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.metrics import points
from unnoise.metrics.points import (
    chamfer,
    coverage,
    emd,
    emd_approximate,
    minimum_matching_distance,
    normalise,
    one_nna,
)

torch.set_num_threads(1)
HOWS = ["sphere", "box", "std"]


def clouds(n: int, p: int, seed: int = 0) -> torch.Tensor:
    """Normal points, stretched differently in each cloud."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, 3, generator=generator) * (0.2 + torch.rand(n, 1, 3, generator=generator))


def line(*x: float) -> torch.Tensor:
    """One cloud on the first axis."""
    return torch.tensor(x)[None, :, None] * torch.tensor([1.0, 0, 0])


def airplanes(train: int, test: int, p: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ones of either split, p points of each. Drawn cloud by cloud: the points are stored along a Z-order curve,
    so clouds that share the indices look alike (1-NNA 0.62 and more instead of 0.53)."""
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA names no folder of data")
    z = np.load(Path(os.environ["UNNOISE_DATA"]) / "pointclouds" / "modelnet_airplane.npz")
    x = np.cumsum(z["delta"], 2, dtype=np.int16).transpose(1, 2, 0) / np.float32(1000)
    generator, split = np.random.Generator(np.random.PCG64(seed)), z["split"]

    def some(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([cloud[generator.permutation(2048)[:p]] for cloud in x]))

    a = some(x[split == 0][generator.permutation(626)[:train]])
    return a, some(x[split == 1][:test])


def nna(a: torch.Tensor, b: torch.Tensor, distance: Callable[..., torch.Tensor] = chamfer) -> float:
    return one_nna(distance(a, a), distance(a, b), distance(b, b))


# Distances ------------------------------------------------------------------------------------------------------------


def test_chamfer_by_hand() -> None:
    """0, 1 to 0, 3: squared 0 and 1, mean 1/2; back 0 and 4, mean 2. Clouds of one and of three points."""
    assert chamfer(line(0, 1), line(0, 3)).tolist() == [[2.5]]
    assert chamfer(line(0), line(1, 2, 3)).tolist() == [[pytest.approx(1 + 14 / 3)]]


def test_chamfer_is_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = clouds(3, 5), clouds(4, 7, seed=1)
    found = chamfer(a, b)
    for i, x in enumerate(a.double()):
        for j, y in enumerate(b.double()):
            there = [min((u - v).square().sum() for v in y) for u in x]
            back = [min((u - v).square().sum() for u in x) for v in y]
            assert found[i, j].item() == pytest.approx(float(sum(there) / 5 + sum(back) / 7))
    monkeypatch.setattr(points, "CACHE", 1)
    assert torch.equal(chamfer(a, b), found)


def test_emd_by_hand() -> None:
    """On a line the best matching keeps the order: 0, 3 to 1, 5 is (1 + 2) / 2; 2, 3 to 2, 10 is (0 + 7) / 2."""
    assert emd(line(0, 3), line(5, 1)).tolist() == [[1.5]]
    assert emd(line(2, 3), line(2, 10)).tolist() == [[3.5]]
    square = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]])
    assert emd(square, square + torch.tensor([0, 0, 2.0])).tolist() == [[2]]
    centred = square - 0.5 * torch.tensor([1.0, 1, 0])
    turned = centred @ torch.tensor([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]) * 2  # corners to above the edges
    assert emd(centred, turned).item() == pytest.approx(0.5 * 2**0.5)


def test_emd_of_lines_and_of_moved_clouds() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, generator=generator) for _ in range(2))
    ordered = (a.sort().values - b.sort().values).abs().mean().item()
    assert emd(line(*a.tolist()), line(*b.tolist())).item() == pytest.approx(ordered)
    x, step = clouds(2, 20), torch.tensor([3.0, 4, 12])
    assert emd(x, x + step).diagonal().tolist() == pytest.approx([13, 13])


@pytest.mark.parametrize("error", [0.05, 0.01])
def test_the_approximate_emd_keeps_its_bound(error: float) -> None:
    """emd <= found <= emd + error: random clouds, near copies, far clouds, clouds of coinciding points; the bound is
    not idle, as half of the pairs use a tenth of it."""
    x = clouds(5, 48)
    y = torch.cat([clouds(4, 48, seed=1), x[:1] + 1e-3, x[:1] + 50, x[:1, :1].expand(1, 48, 3)])
    exact, found = emd(x, y), emd_approximate(x, y, error)
    assert (found >= exact - 1e-9).all()
    assert (found <= exact + error).all()
    assert ((found - exact) > error / 10).double().mean() > 0.5


def test_the_approximate_emd_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clouds(3, 24), clouds(3, 24, seed=1)
    together = emd_approximate(x, y)
    monkeypatch.setattr(points, "CACHE", 1)
    torch.testing.assert_close(emd_approximate(x, y), together, rtol=0, atol=1e-9)


@pytest.mark.parametrize("distance", [chamfer, emd, emd_approximate])
def test_order_of_points_and_position_in_space_do_not_matter(distance: Callable[..., torch.Tensor]) -> None:
    x, y = clouds(3, 32), clouds(2, 32, seed=1)
    found = distance(x, y)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    for a, b in ((x[:, order], y), (x, y[:, order]), (x.double() @ turn + 5, y.double() @ turn + 5)):
        torch.testing.assert_close(distance(a, b), found, rtol=0, atol=1e-9)
    torch.testing.assert_close(distance(y, x), found.T, rtol=0, atol=1e-9 if distance is not emd_approximate else 0.02)
    if distance is not emd_approximate:
        assert distance(x, x[:, order]).diagonal().abs().max() == 0


# Sets -----------------------------------------------------------------------------------------------------------------


def test_copies_far_sets_and_ties() -> None:
    x = clouds(20, 16)
    assert nna(x, x) == 0
    assert nna(x, x + 100) == 1
    assert nna(x[:1].expand(5, -1, -1), x[:1].expand(7, -1, -1)) == 0.5  # all at 0: ties
    # by hand: 0 and 1 against 1.5 and 9; 1 is nearest to 1.5 and 1.5 to 1, 9 to 1.5 and 0 to 1
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.5], [9.0]])
    assert one_nna(torch.cdist(a, a), torch.cdist(a, b), torch.cdist(b, b)) == 0.5


def test_equal_distributions_are_at_one_half() -> None:
    """Within 3 standard errors of a binomial share; a set that is a little larger is told apart."""
    a, b = clouds(150, 24, seed=1), clouds(150, 24, seed=2)
    assert abs(nna(a, b) - 0.5) < 3 * (0.25 / 300) ** 0.5
    assert nna(a, 1.5 * b) > 0.65


def test_the_diagonal_is_not_read() -> None:
    a, b = clouds(9, 16), clouds(9, 16, seed=1)
    xx, xy, yy = chamfer(a, a), chamfer(a, b), chamfer(b, b)
    poisoned = xx.clone().fill_diagonal_(float("nan")), xy, yy.clone().fill_diagonal_(-1)
    assert one_nna(*poisoned) == one_nna(xx, xy, yy)


def test_matching_distance_and_coverage_by_hand() -> None:
    """Samples in rows. A generator that knows one reference item covers one; bad samples beside good ones cost nothing
    in matching distance."""
    xy = torch.tensor([[1.0, 5, 9], [2, 4, 8], [3, 6, 7]])
    assert minimum_matching_distance(xy) == (1 + 4 + 7) / 3
    assert coverage(xy) == 1 / 3
    worse = torch.cat([xy, torch.full((3, 3), 100.0)])
    assert minimum_matching_distance(worse) == minimum_matching_distance(xy)
    x = clouds(8, 16)
    same = chamfer(x.flip(0), x)
    assert (minimum_matching_distance(same), coverage(same)) == (0, 1)
    assert coverage(chamfer(x[:2].repeat(4, 1, 1), x)) == 2 / 8


# Normalisation --------------------------------------------------------------------------------------------------------


def test_normalisations() -> None:
    x = clouds(6, 50) + torch.arange(6.0)[:, None, None]
    sphere, box, std = (normalise(x, how) for how in ("sphere", "box", "std"))
    torch.testing.assert_close(sphere.norm(dim=2).amax(1), torch.ones(6))
    torch.testing.assert_close(torch.cat([sphere, std]).mean(1), torch.zeros(12, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(box.amax(1), -box.amin(1))
    torch.testing.assert_close(box.abs().amax((1, 2)), torch.ones(6))
    torch.testing.assert_close(std.square().mean((1, 2)), torch.ones(6))
    for how in HOWS:
        scales = torch.tensor([0.1, 1, 2, 3, 50, 7])[:, None, None]  # each cloud by itself
        torch.testing.assert_close(normalise(scales * x - 3, how), normalise(x, how), rtol=0, atol=1e-4)


def test_the_validation_metric_is_the_test_metric() -> None:
    """Pitfall 36. One function for both, exact and approximate earth mover's distances agree within the bound of the
    latter, and either normalisation removes the units in which training holds the clouds; without one, figures of
    validation (here 3 x - 1) are not those of the test."""
    a, b = airplanes(8, 8, 48)
    training = 3 * a - 1, 3 * b - 1
    for how in ("sphere", "box"):
        x, y = normalise(a, how), normalise(b, how)
        for distance in (chamfer, emd):
            found = distance(x, y)
            torch.testing.assert_close(distance(*(normalise(t, how) for t in training)), found, rtol=0, atol=1e-5)
            assert minimum_matching_distance(found) != pytest.approx(
                minimum_matching_distance(distance(*training)), rel=0.5
            )
        sets = (x, x), (x, y), (y, y)
        exact, near = ([f(u, v) for u, v in sets] for f in (emd, lambda u, v: emd_approximate(u, v, 0.005)))
        for e, n in zip(exact, near, strict=True):
            assert (n >= e - 1e-9).all() and (n <= e + 0.005).all()
        # only an item whose two nearest distances are closer than the error can change sides
        own = [d.clone().fill_diagonal_(float("inf")).amin(1) for d in (exact[0], exact[2])]
        other = [exact[1].amin(1), exact[1].amin(0)]
        close = (torch.cat(own) - torch.cat(other)).abs() <= 0.005
        assert close.double().mean() < 0.5
        assert abs(one_nna(*near) - one_nna(*exact)) <= close.double().mean()
    # the two normalisations are two metrics: which one is part of the protocol
    by_how = [minimum_matching_distance(chamfer(normalise(a, how), normalise(b, how))) for how in ("sphere", "box")]
    assert by_how[1] > 1.2 * by_how[0]


def test_airplanes_of_training_against_test() -> None:
    """The row of real data: 100 random training airplanes against all 100 test ones, 256 points each, in the unit
    sphere as stored. The standard error of such a share is 0.035."""
    a, b = airplanes(100, 100, 256)
    xy = chamfer(a, b)
    assert one_nna(chamfer(a, a), xy, chamfer(b, b)) == pytest.approx(0.530, abs=0.001)
    assert minimum_matching_distance(xy) == pytest.approx(0.01065, abs=1e-5)
    assert coverage(xy) == pytest.approx(0.48)


# Mistakes -------------------------------------------------------------------------------------------------------------


def test_mistakes_are_named(unchecked: None) -> None:
    x = clouds(3, 8)
    bad = x.clone()
    bad[2, 4, 1] = float("nan")
    for distance in (chamfer, emd, emd_approximate):
        with pytest.raises(ValueError, match="cloud 2 is not"):
            distance(x, bad)
    for matched in (emd, emd_approximate):
        with pytest.raises(ValueError, match="clouds of 8 and of 7 points"):
            matched(x, x[:, 1:])
    with pytest.raises(ValueError, match="error must be above 0"):
        emd_approximate(x, x, 0)
    with pytest.raises(ValueError, match="all points of cloud 1 are the same"):
        normalise(x * torch.tensor([1.0, 0, 1])[:, None, None], "box")
    with pytest.raises(ValueError, match="how must be"):
        normalise(x, "cube")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 items"):
        one_nna(torch.zeros(1, 1), torch.zeros(1, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="N >= 1 and P >= 1"):
        chamfer(x, x[:, :0])
