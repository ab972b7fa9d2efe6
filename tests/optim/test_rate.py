"""Learning-rate profiles: closed forms, and the promises that make samples seen the only clock."""

import math

import pytest

from unnoise.optim import AdamW, Constant, Cosine, InverseSqrt, Linear, Rate, Trapezoid

PROFILES: list[Rate] = [
    Constant(),
    Constant(700),
    Cosine(),
    Cosine(300, floor=0.1),
    Cosine(5_000),
    Linear(300),
    Linear(0, floor=0.5),
    InverseSqrt(200, reference=1_000),
    Trapezoid(),
    Trapezoid(400, decay=0.95),
    Trapezoid(9_999_999),
]


@pytest.mark.parametrize("rate", PROFILES, ids=repr)
def test_a_run_of_unknown_length_has_the_rate_of_any_length_in_its_first_twentieth(rate):
    for total in (100, 999, 10_000, 123_457, 10**8):
        last = math.floor(0.05 * total)
        for seen in {1, last // 3, last - 1, last} - {0, -1}:
            assert rate(seen, None) == rate(seen, total)


@pytest.mark.parametrize("rate", PROFILES, ids=repr)
def test_factors_lie_in_the_unit_interval_also_beyond_the_end(rate):
    for total in (None, 1, 1_000, 10_000):
        assert all(0 <= rate(seen, total) <= 1 for seen in range(1, 12_000, 37))


@pytest.mark.parametrize("rate", PROFILES, ids=repr)
def test_pitfall_22_rate_does_not_depend_on_world_size_or_number_of_steps(rate):
    optim = AdamW(lr=3e-4, rate=rate)

    def rates(world: int, batch: int, accumulate: int) -> dict[int, float]:
        per_step = world * batch * accumulate
        return {seen: optim.lr_at(seen, 64_000) for seen in range(per_step, 64_001, per_step)}

    alone = rates(1, 8, 1)
    for other in (rates(8, 8, 1), rates(2, 16, 2), rates(4, 125, 4)):
        assert other.items() <= alone.items()
    assert rates(8, 8, 1)[64_000] == alone[64_000] == pytest.approx(3e-4 * rate(64_000, 64_000))


def test_warmup_is_a_straight_line_that_does_not_waste_the_first_step():
    assert [Constant(4)(seen, None) for seen in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1, 1]
    assert Constant()(1, None) == 1


@pytest.mark.parametrize(
    ("rate", "halfway", "end"),
    [
        (Cosine(0, floor=0.2), 0.6, 0.2),
        (Linear(0, floor=0.2), 0.6, 0.2),
        (Linear(), 0.5, 0.0),
        (Trapezoid(decay=0.95), 1 - math.sqrt(0.5), 0.0),
    ],
    ids=repr,
)
def test_decays_run_from_a_twentieth_to_the_end(rate, halfway, end):
    assert rate(500, 10_000) == 1
    assert rate(501, 10_000) < 1
    assert rate(5_250, 10_000) == pytest.approx(halfway)
    assert rate(10_000, 10_000) == rate(20_000, 10_000) == pytest.approx(end)


def test_decay_waits_for_a_long_warmup():
    assert Linear(4_000)(4_000, 10_000) == 1
    assert Linear(4_000)(7_000, 10_000) == 0.5


def test_trapezoid_is_flat_up_to_its_last_share():
    rate = Trapezoid(100, decay=0.2)
    assert rate(100, 10_000) == rate(8_000, 10_000) == 1
    assert rate(8_500, 10_000) == pytest.approx(1 - math.sqrt(0.25))
    assert Trapezoid(decay=0.0)(10_000, 10_000) == 1


def test_inverse_square_root():
    rate = InverseSqrt(0, reference=1_000)
    assert [rate(seen, None) for seen in (1_000, 4_000, 100_000)] == [1, 0.5, 0.1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1), "warmup must be"),
        (lambda: Cosine(0, floor=1.5), "floor is a share"),
        (lambda: Linear(0, floor=-0.1), "floor is a share"),
        (lambda: Trapezoid(decay=0.99), "decay must be a share"),
        (lambda: InverseSqrt(0, reference=0), "reference must be"),
    ],
)
def test_impossible_profiles_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
