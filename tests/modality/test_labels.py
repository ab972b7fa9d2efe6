"""Class labels: what is said, what is not said, and what cannot be said."""

import itertools
from typing import Any

import pytest
import torch

from unnoise.core.condition import drop, unsaid
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.modality import Labels

LABELS = Labels({"label": 10, "style": 3})


def test_nothing_said_is_one_class_more() -> None:
    cond = LABELS.encode({"label": torch.tensor([3, 9]), "style": torch.tensor([0, 2])})
    assert {k: v.tolist() for k, v in cond.items()} == {"label": [3, 9], "style": [0, 2]}
    assert {k: v.tolist() for k, v in LABELS.null(cond).items()} == {"label": [10, 10], "style": [3, 3]}
    assert cond["label"].tolist() == [3, 9]  # the argument stays


def test_an_attribute_that_is_not_said_is_nothing() -> None:
    cond = LABELS.encode({"style": torch.tensor([1, 2, 0]), "x": torch.zeros(3)})
    assert {k: v.tolist() for k, v in cond.items()} == {"label": [10, 10, 10], "style": [1, 2, 0]}
    with pytest.raises(UserError, match=r"no column for any of the conditions \['label', 'style'\]"):
        LABELS.encode({"x": torch.zeros(3)})


def test_uint8_labels_become_int64() -> None:
    assert LABELS.encode({"label": torch.tensor([3], dtype=torch.uint8)})["label"].dtype == torch.int64


def test_dropping_takes_rows_whole_at_the_stated_rate() -> None:
    n, p = 20_000, 0.1
    cond = {"label": torch.arange(n) % 10, "style": torch.arange(n) % 3}
    dropped = drop(cond, LABELS.null(cond), Rng.of(range(n)), p)
    gone = dropped["label"] == 10
    assert torch.equal(gone, dropped["style"] == 3)  # all attributes of a row together
    assert abs(float(gone.double().mean()) - p) < 5 * (p * (1 - p) / n) ** 0.5
    for k in cond:
        assert torch.equal(dropped[k][~gone], cond[k][~gone])


def test_dropping_is_a_function_of_the_row() -> None:
    cond = {"label": torch.arange(100) % 10}
    null = Labels().null(cond)
    whole = drop(cond, null, Rng.of(range(100)), 0.5)["label"]
    some = [{"label": c["label"][40:60]} for c in (cond, null)]
    assert torch.equal(whole[40:60], drop(*some, Rng.of(range(40, 60)), 0.5)["label"])
    assert torch.equal(drop(cond, null, Rng.of(range(100)), 0.0)["label"], cond["label"])


def test_dropping_broadcasts_over_conditions_of_any_shape() -> None:
    cond = {"vector": torch.ones(50, 3), "mask": torch.arange(4) < torch.arange(50)[:, None] % 4 + 1}
    null = {"vector": torch.zeros(50, 3), "mask": cond["mask"]}
    dropped = drop(cond, null, Rng.of(range(50)), 0.5)
    assert torch.equal(dropped["mask"], cond["mask"])  # what exists is not a thing that is said
    assert {tuple(row) for row in dropped["vector"].tolist()} == {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)}


def test_uniform_is_balanced_in_any_stretch_and_a_function_of_the_seed() -> None:
    both = LABELS.uniform(torch.arange(17, 47))
    assert both["label"].bincount().tolist() == [3] * 10
    assert len(set(zip(both["label"].tolist(), both["style"].tolist(), strict=True))) == 30  # every combination
    assert LABELS.uniform(torch.tensor([23]))["label"].tolist() == [3]
    assert LABELS.uniform(torch.tensor([-1, -11]))["label"].tolist() == [9, 9]


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"label": torch.tensor([0, 10])}, "label=10 is out of range: there are classes 0 to 9"),
        ({"label": torch.tensor([-1])}, "label=-1 is out of range"),
        ({"style": torch.tensor(3)}, "style=3 is out of range: there are classes 0 to 2"),
        ({"lable": torch.tensor([1])}, "unknown condition 'lable': did you mean label?"),
        ({"colour": torch.tensor([1])}, "unknown condition 'colour'.*label, style"),
        ({"label": torch.tensor([1.5])}, r"takes integers from 0 to 9, got \[1.5\]"),
    ],
    ids=str,
)
def test_labels_that_do_not_exist_are_refused(cond: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LABELS.check({k: v.reshape(-1) for k, v in cond.items()})


def test_labels_that_exist_are_taken() -> None:
    LABELS.check({"label": torch.arange(10), "style": torch.tensor([2])})


# Attributes apart -----------------------------------------------------------------------------------------------------

THREE = Labels({"a": 10, "b": 3, "c": 4}, apart=0.6)


def test_thinning_leaves_any_number_of_attributes_as_often_as_any_other() -> None:
    n = 40_000
    cond = THREE.uniform(torch.arange(n))
    thinned = THREE.thin(cond, Rng.of(range(n)))
    gone = torch.stack([thinned[k] == THREE.classes[k] for k in cond], 1)
    for k in cond:
        assert torch.equal(torch.where(thinned[k] == THREE.classes[k], cond[k], thinned[k]), cond[k])
    share = gone.sum(1).bincount(minlength=4).double() / n
    want = torch.tensor([0.4 + 0.15, 0.15, 0.15, 0.15], dtype=torch.float64)
    assert bool(((share - want).abs() < 5 * (want * (1 - want) / n).sqrt()).all())
    one = gone[gone.sum(1) == 1].double().mean(0)  # no attribute goes more often than another
    assert bool(((one - 1 / 3).abs() < 5 * (2 / 9 / (0.15 * n)) ** 0.5).all())


def test_thinning_is_a_function_of_the_row_and_off_by_default() -> None:
    cond = THREE.uniform(torch.arange(100))
    whole = THREE.thin(cond, Rng.of(range(100)))
    part = THREE.thin({k: v[40:60] for k, v in cond.items()}, Rng.of(range(40, 60)))
    assert all(torch.equal(part[k], whole[k][40:60]) for k in cond)
    same = Labels({"a": 10, "b": 3, "c": 4}).thin(cond, Rng.of(range(100)))
    assert all(torch.equal(same[k], cond[k]) for k in cond)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\], got 1.5"):
        Labels(apart=1.5)


def test_training_thins_what_it_tells_and_drops_rows_besides() -> None:
    n, p = 40_000, 0.2
    cond = THREE.uniform(torch.arange(n))
    said = unsaid(THREE, cond, Rng.of(range(n)), p)
    gone = torch.stack([said[k] == THREE.classes[k] for k in cond], 1)
    assert float(gone.all(1).double().mean()) == pytest.approx(p + (1 - p) * 0.15, abs=0.01)
    assert float((~gone).all(1).double().mean()) == pytest.approx((1 - p) * 0.55, abs=0.01)
    together = Labels(THREE.classes)  # as it was before there was such a thing, to the bit
    rng = Rng.of(range(n))
    want = drop(cond, together.null(cond), rng, p)
    assert all(torch.equal(v, want[k]) for k, v in unsaid(together, cond, rng, p).items())


def test_nothing_said_of_one_attribute() -> None:
    cond = {"label": torch.tensor([3, 9]), "style": torch.tensor([0, 2]), "other": torch.zeros(2)}
    left = LABELS.without(cond, "style")
    assert {k: v.tolist() for k, v in left.items()} == {"label": [3, 9], "style": [3, 3], "other": [0, 0]}
    assert LABELS.alone == () and THREE.alone == ("a", "b", "c") and Labels().alone == ("label",)


def test_no_attribute_stands_still_however_many_there_are() -> None:
    """The last of eight has all its ten classes among few seeds, and all combinations come once in a period."""
    classes = {"a": 3, "b": 3, "c": 7, "d": 5, "e": 3, "f": 7, "g": 7, "h": 10}
    some = Labels(classes).uniform(torch.arange(1_000_000, 1_001_000))
    for k, n in classes.items():
        counts = some[k].bincount(minlength=n).double()
        assert bool(((counts - 1000 / n).abs() < 5 * (1000 / n) ** 0.5).all())
    for j, k in itertools.combinations(classes, 2):  # and independent of each other: Pearson's chi^2
        table = (some[j] * classes[k] + some[k]).bincount(minlength=classes[j] * classes[k]).double()
        mean = 1000 / len(table)
        freedom = len(table) - 1
        assert float(((table - mean) ** 2 / mean).sum()) < freedom + 6 * (2 * freedom) ** 0.5
    few = Labels({"a": 3, "b": 4, "c": 5}).uniform(torch.arange(-17, 43))
    assert len(set(zip(*(v.tolist() for v in few.values()), strict=True))) == 60
