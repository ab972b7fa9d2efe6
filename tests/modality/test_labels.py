"""Class labels: what is said, what is not said, and what cannot be said."""

from typing import Any

import pytest
import torch

from unnoise.core.condition import drop
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
