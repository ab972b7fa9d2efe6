"""The E(n)-equivariant network: its symmetries to rounding, its padding, and that it learns geometry."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise import spec
from unnoise.nets import EGNN

TIGHT = {"rtol": 0.0, "atol": 1e-10}
MASK = torch.arange(6) < torch.tensor([[6], [4], [1]])


@pytest.fixture(params=["tokens", "features"])
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Constructor arguments for either kind of types."""
    return {"vocabulary": 5} if request.param == "tokens" else {"types": 4}


def points(kind: dict[str, Any]) -> dict[str, Tensor]:
    types = torch.randint(5, (3, 6)) if "vocabulary" in kind else torch.randn(3, 6, 4).double()
    return {"positions": 2 * torch.randn(3, 6, 3).double(), "types": types}


def orthogonal() -> Tensor:
    """A rotation and its mirror image: [2, 3, 3]."""
    q = torch.linalg.qr(torch.randn(3, 3).double())[0]
    return torch.stack([q, -q])


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    for part in ("positions", "types"):
        torch.testing.assert_close(a[part], b[part], **(tolerance or TIGHT))


def test_zero_at_first_then_told_everything(perturb: Callable, kind: dict) -> None:
    net = EGNN(outputs=4, width=8, depth=2, labels={"ring": 2}, vector=2, **kind).double()
    x, c = points(kind), {"positions": torch.rand(3).double(), "types": torch.rand(3).double()}
    cond = {"mask": MASK, "ring": torch.tensor([0, 1, 2]), "vector": torch.randn(3, 2).double()}
    assert all((value == 0).all() for value in net(x, c, **cond).values())
    out, one = perturb(net)(x, c, **cond), torch.tensor([1.0, 0, 0]).double()
    others = [
        (c | {"positions": c["positions"] + 0.2 * one}, cond),
        (c | {"types": c["types"] + 0.2 * one}, cond),
        (c, cond | {"ring": torch.tensor([1, 1, 2])}),
        (c, cond | {"vector": cond["vector"] + one[:, None]}),
    ]
    for level, other in others:
        again = net(x, level, **other)
        for part, value in out.items():
            change = (again[part] - value).abs().amax(dim=(1, 2))
            assert change[0] > 1e-4
            assert change[1:].max() < 1e-10
    (out["positions"].square().sum() + out["types"].square().sum()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("attention", [True, False])
def test_turned_mirrored_translated_and_permuted(perturb: Callable, kind: dict, attention: bool) -> None:
    net = perturb(EGNN(outputs=4, width=8, depth=2, attention=attention, **kind)).double()
    x, c = points(kind), torch.rand(3).double()
    out = net(x, c, mask=MASK)
    assert out["positions"][:2].abs().max() > 1e-2
    for q in orthogonal():
        turned = net(x | {"positions": x["positions"] @ q + torch.tensor([50.0, -20, 7])}, c, mask=MASK)
        assert_close(turned, {"positions": out["positions"] @ q, "types": out["types"]})
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = net({k: v[:, order] for k, v in x.items()}, c, mask=MASK[:, order])
    assert_close(permuted, {k: v[:, order] for k, v in out.items()})


def test_symmetries_in_float32(perturb: Callable) -> None:
    net = perturb(EGNN(outputs=4, vocabulary=5))
    positions = (64 * torch.randn(2, 29, 3)).round() / 64  # so that float32 holds them at 1024 from the origin too
    x = {"positions": positions, "types": torch.randint(5, (2, 29))}
    c, mask = torch.rand(2), torch.ones(2, 29, dtype=torch.bool)
    out = net(x, c, mask=mask)
    for q, shift in [*((q, 0) for q in orthogonal().float()), (torch.eye(3), 1024)]:
        moved = net(x | {"positions": positions @ q + shift}, c, mask=mask)
        for part, expected in {"positions": out["positions"] @ q, "types": out["types"]}.items():
            assert (moved[part] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_padding_leaks_nothing(perturb: Callable, kind: dict) -> None:
    net = perturb(EGNN(outputs=4, width=8, depth=2, **kind)).double()
    x, c = points(kind), torch.rand(3).double()
    junk = {k: v.clone() for k, v in x.items()}
    junk["positions"][~MASK] = math.nan
    junk["types"][~MASK] = math.nan if "types" in kind else 10**6
    out = net(junk, c, mask=MASK)
    assert all((value[~MASK] == 0).all() for value in out.values())
    for i, n in enumerate([6, 4, 1]):
        alone = net({k: v[i : i + 1, :n] for k, v in x.items()}, c[i : i + 1], mask=MASK[i : i + 1, :n])
        assert_close(alone, {k: v[i : i + 1, :n] for k, v in out.items()})


def test_gradients_of_coincident_points_are_finite(perturb: Callable) -> None:
    net = perturb(EGNN(outputs=4, vocabulary=5, width=8, depth=2)).double()
    positions = torch.zeros(3, 6, 3).double().requires_grad_()
    out = net({"positions": positions, "types": torch.randint(5, (3, 6))}, torch.rand(3), mask=MASK)
    (out["positions"] - 1).square().sum().backward(retain_graph=True)
    out["types"].square().sum().backward()
    for gradient in (positions.grad, *(p.grad for p in net.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()
    assert positions.grad is not None
    assert positions.grad.abs().max() > 1e-4


def test_displacement_is_bounded(perturb: Callable) -> None:
    net = perturb(EGNN(outputs=1, vocabulary=5, width=8))
    for layer in net.layers:
        torch.nn.init.constant_(layer.move[-1].weight, 1e4)
    x = {"positions": 100 * torch.randn(3, 6, 3), "types": torch.randint(5, (3, 6))}
    length = net(x, torch.rand(3), mask=MASK)["positions"].norm(dim=-1)
    assert 5 < length.max() <= 15


def test_one_level_is_the_same_for_both_parts(perturb: Callable, kind: dict) -> None:
    net = perturb(EGNN(outputs=4, width=8, depth=2, **kind)).double()
    x, c = points(kind), torch.rand(3).double()
    assert_close(net(x, {"positions": c, "types": c}, mask=MASK), net(x, c, mask=MASK))


@pytest.fixture(scope="module")
def molecules() -> tuple[Tensor, Tensor, Tensor]:
    """QM7: positions [7101, 23, 3] in angstrom, centred; types [7101, 23] in 0 .. 4; mask [7101, 23]."""
    if not os.environ.get("UNNOISE_DATA"):
        pytest.skip("UNNOISE_DATA is not set: the folder with molecules/qm7_3d.npz")
    with np.load(Path(os.environ["UNNOISE_DATA"]) / "molecules" / "qm7_3d.npz", allow_pickle=False) as file:
        offset, numbers, places = file["offset"].astype(int), file["Z"].astype(int), file["R"]
    mask = torch.arange(23) < torch.from_numpy(offset[1:] - offset[:-1])[:, None]
    positions, types = torch.zeros(len(mask), 23, 3), torch.zeros(mask.shape, dtype=torch.int64)
    positions[mask] = torch.from_numpy(places)
    types[mask] = torch.from_numpy(np.searchsorted([1, 6, 7, 8, 16], numbers))
    positions -= positions.sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None]
    return positions, types, mask


def descend(net: EGNN, loss: Callable[[Tensor], Tensor], steps: int) -> float:
    """The mean loss of the last steps, of 32 molecules each."""
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    values = []
    for _ in range(steps):
        value = loss(torch.randint(7101, (32,)))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        values.append(value.item())
    return sum(values[-20:]) / 20


def test_finds_the_noise_of_molecules_better_than_a_gaussian_would(molecules: tuple) -> None:
    """Noise of 0.3 angstrom: one who knew the variance s^2 of a coordinate and no bond would at best have a mean square
    error of s^2 / (s^2 + 0.09)."""
    positions, types, mask = molecules
    net = EGNN(outputs=5, vocabulary=6, width=32, depth=2)

    def loss(rows: Tensor) -> Tensor:
        noise = torch.randn(32, 23, 3)
        x = {"positions": positions[rows] + 0.3 * noise, "types": types[rows]}
        return (net(x, torch.zeros(32), mask=mask[rows])["positions"] - noise)[mask[rows]].square().mean()

    variance = positions[mask].square().mean().item()
    assert descend(net, loss, 100) < 0.8 * variance / (variance + 0.09)


def test_tells_elements_by_their_distances(molecules: tuple) -> None:
    """All types masked: one who knew their frequencies alone would pay the entropy."""
    positions, types, mask = molecules
    net = EGNN(outputs=5, vocabulary=6, width=32, depth=2)

    def loss(rows: Tensor) -> Tensor:
        x = {"positions": positions[rows], "types": torch.full((32, 23), 5)}
        logits = net(x, torch.zeros(32), mask=mask[rows])["types"]
        return F.cross_entropy(logits[mask[rows]], types[rows][mask[rows]])

    frequency = types[mask].bincount() / mask.sum()
    assert descend(net, loss, 60) < 0.6 * -(frequency * frequency.log()).sum().item()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_pitfall_27_no_graph_breaks(perturb: Callable) -> None:
    net = perturb(EGNN(outputs=4, vocabulary=5, width=8, depth=1, labels={"label": 3}))
    x = {"positions": torch.randn(3, 6, 3), "types": torch.randint(5, (3, 6))}
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=False)
    results = []
    for call in (net, compiled):
        out = call(x, torch.tensor([0.1, 0.5, 0.9]), mask=MASK, label=torch.tensor([0, 3, 1]))
        loss = sum(value.square().sum() for value in out.values())
        results.append([*out.values(), *torch.autograd.grad(loss, list(net.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_rebuilt_from_its_description(perturb: Callable, kind: dict) -> None:
    net = perturb(EGNN(outputs=4, width=8, depth=2, attention=False, labels={"a": 2}, vector=1, **kind)).double()
    again = spec.build(json.loads(json.dumps(spec.describe(net)))).double()
    again.load_state_dict(net.state_dict())
    x, c = points(kind), torch.rand(3).double()
    cond = {"mask": MASK, "a": torch.tensor([1, 0, 2]), "vector": torch.randn(3, 1).double()}
    assert_close(again(x, c, **cond), net(x, c, **cond), rtol=0, atol=0)


def test_inputs_that_do_not_fit() -> None:
    net, c = EGNN(outputs=4, types=4, width=8, depth=1), torch.rand(3)
    x = {"positions": torch.randn(3, 6, 3), "types": torch.randn(3, 6, 4)}
    with pytest.raises(ValueError, match="misses the condition 'mask'"):
        net(x, c)
    with pytest.raises(ValueError, match="does not know the condition 'ring'"):
        net(x, c, mask=MASK, ring=MASK)
    with pytest.raises(ValueError, match="c_noise"):
        net(x, c[:2], mask=MASK)
    with pytest.raises(ValueError, match=r"types \[B, N, 4\]"):
        net(x | {"types": torch.zeros(3, 6, dtype=torch.int64)}, c, mask=MASK)
    with pytest.raises(ValueError, match="mask"):
        net(x, c, mask=MASK.float())
    for arguments in ({}, {"vocabulary": 2, "types": 2}):
        with pytest.raises(ValueError, match="one of them"):
            EGNN(outputs=4, **arguments)
    with pytest.raises(ValueError, match="mask"):
        EGNN(outputs=4, types=4, labels={"mask": 2})
