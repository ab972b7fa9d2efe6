"""The fp16 loss scale: halving, doubling, bounds, state."""

import pytest
import torch

from unnoise.optim import LossScale

GOOD, BAD = torch.tensor(True), torch.tensor(False)


def test_halves_on_overflow_and_doubles_after_an_interval_of_good_steps():
    scale = LossScale(initial=64.0, interval=3)
    seen = []
    for finite in (GOOD, GOOD, GOOD, GOOD, GOOD, BAD, GOOD, GOOD, GOOD, GOOD):
        scale.update(finite)
        seen.append(scale.value.item())
    assert seen == [64, 64, 128, 128, 128, 64, 64, 64, 128, 128]
    assert scale.good.item() == 1


def test_pitfall_3_scale_is_bounded():
    scale = LossScale(interval=1)
    for _ in range(200):
        scale.update(BAD)
    assert scale.value.item() == 1
    for _ in range(200):
        scale.update(GOOD)
    assert scale.value.item() == 2**16


def test_changes_happen_in_place():
    scale = LossScale(interval=1)
    value, good = scale.value, scale.good
    scale.update(BAD)
    assert scale.value is value
    assert scale.good is good
    assert (value.dtype, good.dtype) == (torch.float32, torch.int32)


def test_state_round_trip_continues_alike():
    a, b = LossScale(initial=8.0, interval=3), LossScale(initial=1.0, interval=3)
    a.update(GOOD)
    a.update(GOOD)
    b.load({name: x.clone() for name, x in a.state().items()})
    for finite in (GOOD, BAD, GOOD):
        a.update(finite)
        b.update(finite)
        assert torch.equal(a.value, b.value)
        assert torch.equal(a.good, b.good)


@pytest.mark.parametrize("wrong", [{"initial": 0.5}, {"initial": 2.0**17}, {"interval": 0}])
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        LossScale(**wrong)
