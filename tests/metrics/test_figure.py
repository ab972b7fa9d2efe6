"""A number beside that of real data."""

import math

import pytest

from unnoise.metrics.figure import Figure, as_json, figure, table


def test_mean_and_standard_error_over_repeats() -> None:
    """By hand: the mean of 1, 2, 6 is 3, the unbiased variance 7."""
    found = figure("steps", [1.0, 2.0, 6.0], 4.0)
    assert (found.name, found.samples, found.real) == ("steps", 3.0, 4.0)
    assert found.error == pytest.approx(math.sqrt(7 / 3))
    assert figure("once", [0.25], None) == Figure("once", 0.25, None, None)
    assert figure("same", [0.5, 0.5], None).error == 0
    with pytest.raises(ValueError, match="'none' needs at least one value"):
        figure("none", [], None)


def test_the_table_shows_samples_real_data_and_their_ratio() -> None:
    figures = [Figure("read", 0.9, 0.96, 0.0123), Figure("made up", 3.0)]
    lines = table(figures).splitlines()
    assert lines[0].split() == ["samples", "real", "data", "ratio"]
    assert lines[1].split() == ["read", "0.9000", "+-", "0.0123", "0.9600", "0.94"]
    assert lines[2].split() == ["made", "up", "3.0000"]
    assert as_json(figures)[0] == {"name": "read", "samples": 0.9, "real": 0.96, "error": 0.0123}


def test_a_real_value_of_zero_has_no_ratio() -> None:
    assert table([Figure("copies", 0.5, 0.0)]).splitlines()[1].split() == ["copies", "0.5000", "0.0000"]
