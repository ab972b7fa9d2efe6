"""Randomness: known answers, addresses, distributions, committed golden values."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.rng import Rng, philox

D = torch.float64
MASK = 0xFFFFFFFF
FOLD, AXIS, UNIFORM, NORMAL, UNIFORM_LOW = range(5)


def reference(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 in Python's integers, from Salmon et al. 2011."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def ks(values: Tensor, cdf: Any) -> float:
    """Kolmogorov's sqrt(n) sup |F_n - F|: above 1.95 once in a thousand."""
    sample = values.flatten().double().sort().values
    n = len(sample)
    want, steps = cdf(sample), torch.arange(n + 1, dtype=D) / n
    return float(torch.maximum((want - steps[:-1]).abs(), (steps[1:] - want).abs()).max()) * math.sqrt(n)


def normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-z / math.sqrt(2))


@pytest.mark.parametrize(
    "counter, key, want",
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([MASK] * 4, [MASK] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers_of_random123(counter: list[int], key: list[int], want: list[int]) -> None:
    assert reference(counter, key) == want
    assert [int(w) for w in philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])] == want


def test_philox_agrees_with_integer_arithmetic_on_many_counters() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 2**32, (6, 50), generator=generator)
    got = torch.stack(philox(list(words[:4]), list(words[4:])), -1)
    for i in range(50):
        column = words[:, i].tolist()
        assert got[i].tolist() == reference(column[:4], column[4:])


def test_uniform_words_lie_where_the_documentation_says() -> None:
    """Element (i, j, k) is word k mod 4 of counter (i, j, k // 4, kind): all four words are used."""
    seed = 0x0123456789ABCDEF
    key = [0x89ABCDEF, 0x01234567]
    got = Rng.of([seed]).uniform(torch.zeros(1, 2, 3, 6))
    wide = Rng.of([seed]).uniform(torch.zeros(1, 2, 3, 6, dtype=D))
    for i in range(2):
        for j in range(3):
            for k in range(6):
                high = reference([i, j, k // 4, UNIFORM], key)[k % 4]
                low = reference([i, j, k // 4, UNIFORM_LOW], key)[k % 4]
                assert float(got[0, i, j, k]) == (high >> 8) / 2**24
                assert float(wide[0, i, j, k]) == ((high << 21) | (low >> 11)) / 2**53


def test_normals_are_box_muller_of_the_documented_words() -> None:
    got = Rng.of([5]).fold(7).normal(torch.zeros(1, 5, dtype=D))[0]
    key = reference([7, 0, 0, FOLD], [5, 0])[:2]
    for k in range(5):
        counter = [k // 4, 0, 0, NORMAL]
        u, v = (reference(counter, key)[(k % 4) // 2 * 2 + i] / 2**32 for i in (0, 1))
        radius, angle = math.sqrt(-2 * math.log(u + 2.0**-33)), 2 * math.pi * v
        want = radius * (math.sin(angle) if k % 2 else math.cos(angle))
        assert float(got[k]) == pytest.approx(want, rel=1e-12, abs=1e-14)


def test_axes_beyond_the_counter_are_hashed_into_the_key() -> None:
    got = Rng.of([3]).uniform(torch.zeros(1, 2, 2, 2, 2, 2))
    for a in range(2):
        for b in range(2):
            key = [3, 0]
            for index in (a, b):
                key = reference([index, 0, 0, AXIS], key)[:2]
            assert float(got[0, a, b, 1, 0, 1]) == (reference([1, 0, 0, UNIFORM], key)[1] >> 8) / 2**24


GOLDEN_UNIFORM = [5488890, 3143100, 7549787, 6316562, 13995241, 9609385]
GOLDEN_UNIFORM_64 = [0.3271633652820569, 0.18734337945330015, 0.45000237284128397]
GOLDEN_NORMAL = [-0.931484997, -0.102696374, 1.40961063, -0.604320943, 1.15247333]
GOLDEN_FOLDED = [-1.121677237847044, -0.6069010214698312]


def test_golden_uniforms() -> None:
    """Committed: a change of these changes every sample of every seed."""
    got = Rng.of([42]).uniform(torch.zeros(1, 2, 3))
    assert (got.double() * 2**24).flatten().tolist() == GOLDEN_UNIFORM
    assert Rng.of([42]).uniform(torch.zeros(1, 3, dtype=D))[0].tolist() == GOLDEN_UNIFORM_64


def test_golden_normals_to_2_ulp() -> None:
    got = Rng.of([42]).normal(torch.zeros(1, 5))[0]
    want = torch.tensor(GOLDEN_NORMAL)
    assert bool(((got.double() - want.double()).abs() <= 2 * torch.finfo(torch.float32).eps * want.abs()).all())
    folded = Rng.of([-1]).fold(3, 2**40).normal(torch.zeros(1, 1, 1, 1, 2, dtype=D)).flatten()
    torch.testing.assert_close(folded, torch.tensor(GOLDEN_FOLDED, dtype=D), rtol=1e-13, atol=0)


SHAPES = [(), (7,), (3, 5), (3, 4, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_row_is_what_it_would_be_alone(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Pitfall 14: bit-identical whatever the batch, at every rank up to 6-D."""
    rng = Rng.of([9, -4, 2**63, 0, 77])
    whole = getattr(rng, kind)(torch.zeros(5, *shape, dtype=dtype))
    assert whole.shape == (5, *shape) and whole.dtype == dtype
    for i, seed in enumerate([9, -4, 2**63, 0, 77]):
        alone = getattr(Rng.of(seed), kind)(torch.zeros(1, *shape, dtype=dtype))
        assert torch.equal(whole[i], alone[0])
    assert torch.equal(getattr(rng[1:3], kind)(torch.zeros(2, *shape, dtype=dtype)), whole[1:3])
    assert torch.equal(
        getattr(rng[torch.tensor([4, 0])], kind)(torch.zeros(2, *shape, dtype=dtype)), whole[torch.tensor([4, 0])]
    )


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s], ids=str)
def test_padding_any_axis_changes_nothing(kind: str, shape: tuple[int, ...]) -> None:
    rng = Rng.of([1, 2])
    small = getattr(rng, kind)(torch.zeros(2, *shape))
    for axis in range(len(shape)):
        for more in (1, 2, 6):
            padded = [n + more * (i == axis) for i, n in enumerate(shape)]
            large = getattr(rng, kind)(torch.zeros(2, *padded))
            assert torch.equal(large[(slice(None), *(slice(n) for n in shape))], small)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(30,), (6, 30), (4, 5, 9), (3, 4, 3, 9), (2, 3, 2, 3, 9)], ids=str)
def test_every_axis_counts(kind: str, shape: tuple[int, ...]) -> None:
    """No number appears twice in float64: no axis is dropped, no word is used twice."""
    values = getattr(Rng.of(range(4)), kind)(torch.zeros(4, *shape, dtype=D)).flatten()
    assert len(values.unique()) == len(values)


def test_uniforms_of_the_extreme_words_stay_below_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, low, high in ((MASK, 1 - 2.0**-24, 1 - 2.0**-53), (0, 0.0, 0.0)):
        monkeypatch.setattr(
            "unnoise.core.rng._words", lambda key, shape, tag, w=word: torch.full((len(key), *shape), w)
        )
        assert float(Rng.of([0]).uniform(torch.zeros(1, 1))) == low
        assert float(Rng.of([0]).uniform(torch.zeros(1, 1, dtype=D))) == high
        z = Rng.of([0]).normal(torch.zeros(1, 2))
        assert bool(torch.isfinite(z).all()) and float(z.abs().max()) < 6.77


def test_uniforms_are_uniform_and_float64_has_53_bits() -> None:
    like = torch.zeros(40, 1000, dtype=D)
    u = Rng.of(range(40)).uniform(like)
    assert float(u.min()) >= 0 and float(u.max()) < 1
    assert ks(u, lambda v: v) < 1.95
    assert float(u.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 40000))
    bits = (u * 2.0**53).long()
    for bit in range(53):
        share = float(((bits >> bit) & 1).double().mean())
        assert abs(share - 0.5) < 0.0125, f"bit {bit}"
    assert ks(Rng.of(range(40)).uniform(like.float()), lambda v: v) < 1.95


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_normals_are_normal(dtype: torch.dtype) -> None:
    z = Rng.of(range(50)).normal(torch.zeros(50, 20, 50, dtype=dtype)).double()
    n = z.numel()
    assert ks(z, normal_cdf) < 1.95
    for power, want, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert float((z**power).mean()) == pytest.approx(want, abs=4 * math.sqrt(spread / n))


def test_tails_of_normals() -> None:
    z = Rng.of(range(100)).normal(torch.zeros(100, 4000, dtype=D)).flatten()
    for reach in (2.0, 3.0, 4.0):
        p = math.erfc(reach / math.sqrt(2))
        assert abs(int((z.abs() > reach).sum()) - len(z) * p) < 4 * math.sqrt(len(z) * p) + 1


def test_no_correlation_between_neighbours_pairs_rows_kinds_or_paths() -> None:
    rng = Rng.of(range(64))
    like = torch.zeros(64, 32, 32, dtype=D)
    z, u = rng.normal(like), rng.uniform(like) - 0.5
    pairs = {
        "cos and sin of one pair": (z[..., ::2], z[..., 1::2]),
        "their squares": (z[..., ::2] ** 2 - 1, z[..., 1::2] ** 2 - 1),
        "pairs": (z[..., :-2], z[..., 2:]),
        "rows of a picture": (z[:, :-1], z[:, 1:]),
        "samples": (z[:-1], z[1:]),
        "kinds": (z, u),
        "radius and kinds": (z[..., ::2] ** 2 + z[..., 1::2] ** 2 - 2, u[..., ::2]),
        "neighbouring uniforms": (u[..., :-1], u[..., 1:]),
        "paths": (z, rng.fold(0).normal(like)),
        "neighbouring paths": (rng.fold(0).normal(like), rng.fold(1).normal(like)),
    }
    for name, (a, b) in pairs.items():
        correlation = float((a * b).mean() / (a.std() * b.std()))
        assert abs(correlation) < 4.5 / math.sqrt(a.numel()), name


def test_order_and_length_of_a_path_count() -> None:
    rng = Rng.of(5)
    paths = [(), (0,), (0, 0), (1,), (2,), (3,), (1, 2), (2, 1), (1, 2, 0), (-1,), (2**32,), (MASK,), (2**63 - 1,)]
    keys = {tuple(rng.fold(*path).key[0].tolist()) for path in paths}
    assert len(keys) == len(paths)
    assert torch.equal(rng.fold(1).fold(2).key, rng.fold(1, 2).key)


def test_tensor_folds_equal_integer_folds() -> None:
    rng = Rng.of([5, 6, 7])
    for step in (0, 3, -1, 2**40, -(2**63)):
        assert torch.equal(rng.fold(torch.tensor(step)).key, rng.fold(step).key)
    steps = [4, -1, 2**40]
    by_row = rng.fold(torch.tensor(steps))
    for i, step in enumerate(steps):
        assert torch.equal(by_row.key[i], rng.fold(step).key[i])
    spread = Rng.of(5).fold(torch.tensor(steps))
    assert len(spread) == 3 and torch.equal(spread.key[2], Rng.of(5).fold(2**40).key[0])


def test_seeds_of_64_bits_and_negative_ones_are_told_apart() -> None:
    seeds = [0, 1, 2**32, 2**32 + 1, -1, MASK, 2**63 - 1, -(2**63)]
    assert len({tuple(Rng.of(s).key[0].tolist()) for s in seeds}) == len(seeds)
    assert torch.equal(Rng.of(2**64 - 1).key, Rng.of(-1).key)
    assert torch.equal(Rng.of(0).fold(2**64 - 1).key, Rng.of(0).fold(-1).key)
    assert torch.equal(Rng.of(torch.tensor([3, -1])).key, Rng.of([3, -1]).key)
    assert Rng.of(torch.tensor(3)).key.shape == (1, 2)
    assert len(Rng.of(range(6))) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.uint8])
def test_narrow_and_integer_states_get_float32(dtype: torch.dtype) -> None:
    """In bfloat16 a uniform would round up to 1."""
    rng, like = Rng.of([1, 2]), torch.zeros(2, 3, dtype=dtype)
    for kind in ("normal", "uniform"):
        got = getattr(rng, kind)(like)
        assert got.dtype == torch.float32 and torch.equal(got, getattr(rng, kind)(like.float()))


def test_float32_normals_are_the_float64_ones_rounded_once() -> None:
    rng, like = Rng.of(range(8)), torch.zeros(8, 33, dtype=D)
    assert torch.equal(rng.normal(like).float(), rng.normal(like.float()))


def test_drawing_consumes_nothing() -> None:
    rng, like = Rng.of([1]), torch.zeros(1, 4)
    first = rng.normal(like)
    rng.uniform(like)
    assert torch.equal(rng.normal(like), first)


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match=r"2 rows .* \(3, 4\)"):
        Rng.of([1, 2]).normal(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="2 rows"):
        Rng.of([1, 2]).uniform(torch.zeros(()))


def test_empty_axes() -> None:
    assert Rng.of([1]).normal(torch.zeros(1, 0)).shape == (1, 0)
    assert Rng.of([1]).normal(torch.zeros(1, 0, 4)).shape == (1, 0, 4)
    assert Rng.of([1]).uniform(torch.zeros(1, 3, 0)).shape == (1, 3, 0)
