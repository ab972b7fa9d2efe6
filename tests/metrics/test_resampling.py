"""Standard errors of single measurements, against closed forms."""

import math

import pytest
import torch

from unnoise.metrics.resampling import jackknife, share, worst_share

torch.set_num_threads(1)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = torch.tensor([1.0, 2.0, 6.0, 7.0], dtype=torch.float64)
    assert jackknife((x.sum() - x) / 3) == pytest.approx(x.var().item() / 4)
    with pytest.raises(ValueError, match="at least 2 groups"):
        jackknife(x[:1])


def test_the_error_of_a_share_is_that_of_a_binomial() -> None:
    right = torch.arange(1_000) < 900
    assert share(right).value == 0.9
    assert share(right).error == pytest.approx(math.sqrt(0.9 * 0.1 / 1_000), rel=0.01)
    certain = share(torch.ones(100, dtype=torch.bool))
    assert certain.value == 1 and 0 < certain.error < 0.02
    with pytest.raises(ValueError, match="at least one row"):
        share(right[:0])


def test_the_worst_class_is_named() -> None:
    classes = torch.tensor([4, 4, 7, 7, 7, 2])
    right = torch.tensor([True, True, False, True, False, True])
    name, found = worst_share(right, classes)
    assert (name, found) == (7, share(torch.tensor([True, False, False])))
    with pytest.raises(ValueError, match="at least one row"):
        worst_share(right[:0], classes[:0])
