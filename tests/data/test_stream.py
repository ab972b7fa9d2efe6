"""The order in which samples are seen: a function of seed and position."""

from itertools import islice
from typing import Any

import pytest
import torch

from unnoise.data.stream import batches, items


def order(n: int, seed: int, count: int) -> list[int]:
    return items(n, seed, torch.arange(count)).tolist()


def test_orders_are_fixed() -> None:
    """Literals: another order would make every run that goes on another run."""
    assert order(10, 0, 20) == [8, 1, 3, 5, 4, 9, 7, 0, 2, 6, 8, 3, 6, 2, 9, 5, 0, 7, 4, 1]
    assert order(7, 5, 14) == [2, 3, 0, 6, 1, 4, 5, 1, 5, 2, 4, 3, 6, 0]


@pytest.mark.parametrize("n", [1, 2, 97])
def test_each_epoch_is_a_fresh_permutation(n: int) -> None:
    epochs = torch.tensor(order(n, 3, 5 * n)).reshape(5, n)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(n))
    if n > 2:
        assert len({tuple(e) for e in epochs.tolist()}) == 5
        assert order(n, 3, n) != order(n, 4, n)


def test_a_position_alone_is_what_iterating_gives_there() -> None:
    everything = order(13, 1, 200)
    for p in (0, 12, 13, 77, 199):
        assert items(13, 1, torch.tensor([p])).tolist() == [everything[p]]
    backwards = torch.arange(199, -1, -1)
    assert items(13, 1, backwards).tolist() == everything[::-1]


def test_seeking_far_costs_nothing() -> None:
    """Pitfall 21: going on does not iterate through what was skipped."""
    far = 10**15
    found = items(1000, 0, torch.arange(far, far + 2000))
    assert sorted(found[:1000].tolist()) == list(range(1000))  # a multiple of 1000: whole epochs
    assert sorted(found[1000:].tolist()) == list(range(1000))


def take(count: int, batch: int, **kwargs: Any) -> dict[str, torch.Tensor]:
    columns = {"x": torch.arange(11) * 10, "label": torch.arange(11)}
    found = list(islice(batches(columns, batch, seed=2, **kwargs), count))
    return {k: torch.cat([b[k] for b in found]) for k in found[0]}


def test_batches_of_any_size_are_one_stream() -> None:
    one, three, eight = take(24, 1), take(8, 3), take(3, 8)
    for k in ("x", "label", "position"):
        assert torch.equal(one[k], three[k]) and torch.equal(one[k], eight[k])
    assert one["position"].tolist() == list(range(24))
    assert torch.equal(one["x"], 10 * one["label"])
    assert one["label"].tolist() == order(11, 2, 24)


def test_going_on_is_not_having_stopped() -> None:
    whole, rest = take(4, 6), take(2, 6, seen=12)
    for k in whole:
        assert torch.equal(whole[k][12:], rest[k])
    other = take(3, 4, seen=12)  # with another batch size
    assert torch.equal(other["x"], rest["x"])


def test_processes_share_the_stream() -> None:
    whole = take(3, 8)
    parts = [take(3, 8, rows=slice(4 * r, 4 * r + 4)) for r in range(2)]
    for k in whole:
        joined = torch.cat([p[k].reshape(3, 4) for p in parts], 1).flatten()
        assert torch.equal(joined, whole[k])
