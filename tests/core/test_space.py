"""Spaces: projections are projections, and noise lives where states do."""

import pytest
import torch
from torch import Tensor

from unnoise.core.estimate import Estimate
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.space import Euclidean, Padded, Space, ZeroCoM

D = torch.float64
MASK = torch.tensor([[True] * 5, [True, True, True, False, False], [True, False, False, False, False]])
SPACES: list[Space] = [Euclidean(), Padded(), Padded().bind(MASK), ZeroCoM(), ZeroCoM().bind(MASK)]


def states(path: int) -> Tensor:
    return Rng.of(range(3)).fold(path).normal(torch.zeros(3, 5, 3, dtype=D))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_project_is_an_orthogonal_projection(space: Space) -> None:
    """Idempotent, linear, self-adjoint: nothing else is the nearest point."""
    a, b = states(0), states(1)
    close = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(space.project(space.project(a)), space.project(a), **close)
    torch.testing.assert_close(space.project(2 * a - 3 * b), 2 * space.project(a) - 3 * space.project(b), **close)
    torch.testing.assert_close((space.project(a) * b).sum((1, 2)), (a * space.project(b)).sum((1, 2)), **close)


def test_euclidean_changes_nothing_and_has_no_padding() -> None:
    x = states(0)
    assert Euclidean().project(x) is x
    with pytest.raises(ValueError, match="Padded or ZeroCoM"):
        Euclidean().bind(MASK)
    with pytest.raises(ValueError, match="Padded or ZeroCoM"):
        Gaussian().bind(MASK)


def test_padded_is_zero_beyond_the_end_and_itself_before() -> None:
    x, mask = states(0), MASK
    got = Padded().bind(mask).project(x)
    assert torch.equal(got[mask], x[mask]) and not bool(got[~mask].any())
    assert torch.equal(Padded().project(x), x)
    sound = Rng.of(range(3)).normal(torch.zeros(3, 5, dtype=D))
    assert torch.equal(Padded(mask).project(sound), sound * mask)


def test_zero_com_noise_sums_to_zero_over_real_atoms_only() -> None:
    process = Gaussian(ZeroCoM()).bind(MASK)
    noise = process.noise(torch.zeros(3, 5, 3, dtype=D), Rng.of(range(3)))
    assert float(noise.sum(1).abs().max()) < 1e-14
    assert not bool(noise[~MASK].any())
    assert not bool(noise[2].any()), "one atom alone has no freedom left"
    free = Gaussian(ZeroCoM()).noise(torch.zeros(3, 5, 3, dtype=D), Rng.of(range(3)))
    assert float(free.sum(1).abs().max()) < 1e-14 and bool(free[1].all())


def test_zero_com_noise_has_the_variance_of_the_subspace() -> None:
    """Var of an element of n centred normals: 1 - 1/n."""
    mask = torch.tensor([[True, True, True, False]]).expand(20000, 4)
    noise = Gaussian(ZeroCoM()).bind(mask).noise(torch.zeros(20000, 4, 1, dtype=D), Rng.of(range(20000)))
    assert float(noise[:, :3].var()) == pytest.approx(2 / 3, rel=0.03)


def test_padding_does_not_change_the_noise_of_real_elements() -> None:
    short = torch.ones(2, 3, dtype=torch.bool)
    long = torch.tensor([[True] * 3 + [False] * 4] * 2)
    for space in (Padded(), ZeroCoM()):
        a = Gaussian(space).bind(short).noise(torch.zeros(2, 3, 3, dtype=D), Rng.of([1, 2]))
        b = Gaussian(space).bind(long).noise(torch.zeros(2, 7, 3, dtype=D), Rng.of([1, 2]))
        torch.testing.assert_close(b[:, :3], a, rtol=1e-13, atol=1e-15)


def test_a_row_without_real_elements_is_zero_and_not_nan() -> None:
    mask = torch.tensor([[False, False]])
    assert not bool(ZeroCoM(mask).project(torch.ones(1, 2, 3)).any())


def test_a_mask_that_does_not_fit_is_refused() -> None:
    for space in (Padded(MASK), ZeroCoM(MASK)):
        with pytest.raises(ValueError, match=r"\(3, 5\).*\(3, 4, 3\)"):
            space.project(torch.zeros(3, 4, 3))


def test_estimates_are_projected_and_keep_their_variance() -> None:
    x, var = states(0), states(1).square()
    est = Gaussian(ZeroCoM(MASK)).project(Estimate(x, var))
    assert torch.equal(est.x0, ZeroCoM(MASK).project(x)) and est.var is var
