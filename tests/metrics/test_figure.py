"""A number beside that of real data, and two numbers compared."""

import json
import math

import pytest

from unnoise.metrics.figure import Figure, as_json, compare, comparison, figure, table


def test_mean_and_standard_error_over_repeats() -> None:
    """By hand: the mean of 1, 2, 6 is 3, the unbiased variance 7."""
    found = figure("steps", [1.0, 2.0, 6.0], 4.0)
    assert (found.name, found.samples, found.real) == ("steps", 3.0, 4.0)
    assert found.error == pytest.approx(math.sqrt(7 / 3))
    assert figure("once", [0.25], None) == Figure("once", 0.25, None, None)
    assert figure("same", [0.5, 0.5], None).error == 0
    with pytest.raises(ValueError, match="'none' needs at least one value"):
        figure("none", [], None)


def test_the_spread_of_repeats_goes_before_the_error_of_the_metric() -> None:
    several = figure("steps", [1.0, 2.0, 6.0], 4.0, errors=[0.1, 0.1, 0.1], real_error=0.2)
    assert (several.error, several.real_error) == (pytest.approx(math.sqrt(7 / 3)), 0.2)
    assert figure("once", [1.0], 4.0, errors=[0.1]).error == 0.1
    assert figure("unknown", [1.0], 4.0, errors=[math.nan], real_error=math.nan) == Figure("unknown", 1.0, 4.0)
    assert figure("infinite", [math.inf], None, errors=[0.1]).error is None
    with pytest.raises(ValueError, match="2 values and 1 errors"):
        figure("odd", [1.0, 2.0], None, errors=[0.1])


def test_the_table_shows_samples_real_data_and_their_ratio() -> None:
    figures = [Figure("read", 0.9, 0.96, 0.0123, 0.002), Figure("made up", 3.0), Figure("small", 4e-5, None, 1e-6)]
    lines = table(figures).splitlines()
    assert lines[0].split() == ["samples", "real", "data", "ratio"]
    assert lines[1].split() == ["read", "0.9000", "+-", "0.0123", "0.9600", "+-", "0.0020", "0.94"]
    assert lines[2].split() == ["made", "up", "3.0000"]
    assert lines[3].split() == ["small", "4.00e-05", "+-", "1.0e-06"]
    assert as_json(figures)[0] == {"name": "read", "samples": 0.9, "real": 0.96, "error": 0.0123, "real_error": 0.002}


def test_files_with_and_without_an_error_of_real_data_are_read() -> None:
    figures = [Figure("read", 0.9, 0.96, 0.0123, 0.002)]
    assert [Figure(**row) for row in json.loads(json.dumps(as_json(figures)))] == figures
    assert Figure(name="read", samples=0.9, real=0.96, error=0.0123).real_error is None


def test_a_real_value_of_zero_has_no_ratio() -> None:
    assert table([Figure("copies", 0.5, 0.0)]).splitlines()[1].split() == ["copies", "0.5000", "0.0000"]


def test_significance_by_a_normal() -> None:
    """Errors 3 and 4 make 5; 1.96 standard errors happen by chance in 5% of cases."""
    found = compare(Figure("x", 1.0, None, 3.0), Figure("x", 1.0 + 1.959964 * 5, None, 4.0))
    assert (found.difference, found.error) == (pytest.approx(9.79982), 5.0)
    assert found.p == pytest.approx(0.05, abs=1e-6)
    back = compare(found.b, found.a)
    assert (back.difference, back.p) == (-found.difference, found.p)
    assert compare(Figure("x", 1.0, None, 3.0), Figure("x", 1.0, None, 4.0)).p == 1


def test_without_an_error_there_is_no_significance() -> None:
    found = compare(Figure("x", 1.0, None, 3.0), Figure("x", 2.0))
    assert (found.difference, found.error, found.p) == (1.0, None, None)
    exact = Figure("x", 1.0, None, 0.0)
    assert (compare(exact, exact).p, compare(exact, Figure("x", 2.0, None, 0.0)).p) == (1.0, 0.0)
    with pytest.raises(ValueError, match="'x' and 'y' are different figures"):
        compare(exact, Figure("y", 1.0))


def test_comparisons_side_by_side() -> None:
    a, b = Figure("read", 0.9, None, 0.003), Figure("read", 0.95, None, 0.004)
    lines = comparison([compare(a, b), compare(Figure("n", 1.0), Figure("n", 3.0))], "runs/a", "runs/b").splitlines()
    assert lines[0].split() == ["runs/a", "runs/b", "difference", "p"]
    assert lines[1].split()[:7] == ["read", "0.9000", "+-", "0.0030", "0.9500", "+-", "0.0040"]
    assert lines[1].split()[7:] == ["0.0500", "+-", "0.0050", "<", "0.0001"]
    assert lines[2].split() == ["n", "1.0000", "3.0000", "2.0000"]
