"""Fused kernels against their eager twins: values, gradients, second derivatives, masks.

On a GPU where there is one, else by Triton's interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from unnoise.nets import UNet, kernels
from unnoise.nets.kernels import norm

pytest.importorskip("triton", reason="Triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def taken() -> Iterator[None]:
    """Kernels are taken, on a CPU too."""
    with kernels.using("fused"):
        yield


def inputs(channels: int, size: tuple[int, int], rows: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(channels + size[0])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    given = {
        "x": (normal(2, channels, *size) * 2 + 5).to(dtype).to(memory_format=torch.channels_last),
        "weight": 1 + 0.3 * normal(channels),
        "bias": 0.3 * normal(channels),
    }
    if "add" in rows:
        given["add"] = normal(2, channels, 1, 1).to(dtype)
    if "modulation" in rows:  # as the network cuts them out of one tensor: rows are further apart than their length
        scale, shift = normal(2, 2 * channels, 1, 1).to(dtype).chunk(2, dim=1)
        given |= {"scale": scale, "shift": shift}
    return {k: v.requires_grad_() for k, v in given.items()}


def outcome(call, given: dict[str, Tensor], groups: int, **settings) -> list[Tensor]:
    y = call(given["x"], given["weight"], given["bias"], groups, 1e-5, **_rows(given), **settings)
    towards = torch.linspace(-1, 2, y.numel(), device=DEVICE).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * towards).sum(), list(given.values()))]


def _rows(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in given.items() if k not in ("x", "weight", "bias")}


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("rows", ["", "add", "modulation", "add and modulation"])
@pytest.mark.parametrize(
    ("channels", "groups", "size"),
    [(32, 8, (4, 4)), (96, 8, (3, 5)), (40, 10, (9, 7)), (128, 2, (5, 1)), (128, 16, (12, 12))],
)
def test_values_and_gradients_are_those_of_the_eager_twin(
    taken: None, reading: None, channels: int, groups: int, size: tuple[int, int], rows: str, silu: bool
) -> None:
    given = inputs(channels, size, rows)
    exact = outcome(norm.eager, {k: v.detach().double().requires_grad_() for k, v in given.items()}, groups, silu=silu)
    for a, b, v in zip(
        outcome(norm.fused, given, groups, silu=silu), exact, [given["x"], *given.values()], strict=True
    ):
        assert a.dtype == v.dtype and a.shape == v.shape
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-5


@pytest.fixture(params=["held", "in tiles"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is small is read once; nothing is, if no element may be held."""
    from unnoise.nets.kernels import norm_triton

    if request.param == "in tiles":
        monkeypatch.setattr(norm_triton, "_HELD", 1)
        monkeypatch.setattr(norm_triton, "_TILE", 256)


def test_a_mean_far_from_zero_costs_no_digits(taken: None, reading: None) -> None:
    given = inputs(32, (8, 8), "add")
    far = {k: v.detach() + (1000 if k == "x" else 0) for k, v in given.items()}
    exact = norm.eager(
        far["x"].double(), *(far[k].double() for k in ("weight", "bias")), 8, 1e-5, add=far["add"].double()
    )
    found = norm.fused(far["x"], far["weight"], far["bias"], 8, 1e-5, add=far["add"])
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)  # x itself is rounded by 6e-5


def test_in_bfloat16_only_the_result_is_rounded(taken: None) -> None:
    given = inputs(64, (8, 8), "add and modulation", torch.bfloat16)
    full = {k: v.detach().float().requires_grad_() for k, v in given.items()}
    exact, found = outcome(norm.eager, full, 16, silu=True), outcome(norm.fused, given, 16, silu=True)
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found, exact, strict=True):
        assert float((a.float() - b).norm() / b.norm()) < 4e-3


def test_dropout_masks_are_the_same_forward_backward_and_in_torch(taken: None, reading: None) -> None:
    given, p = inputs(64, (8, 16), "add"), 0.25
    torch.manual_seed(3)
    dropped = outcome(norm.fused, given, 16, silu=True, dropout=p)
    torch.manual_seed(3)
    seed = torch.randint(2**62, (1,), device=DEVICE)

    def twin(x: Tensor, *rest, **settings) -> Tensor:
        return norm.eager(x, *rest, **settings) * norm.kept(x, seed, p)

    for a, b in zip(dropped, outcome(twin, given, 16, silu=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-4)
    again = outcome(norm.fused, given, 16, silu=True, dropout=p)[0]
    assert not torch.equal(again, dropped[0])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_are_fair_and_independent_of_place_and_seed(p: float) -> None:
    x = torch.zeros(8, 64, 32, 32, device=DEVICE)
    torch.manual_seed(0)
    masks = torch.stack([norm.kept(x, torch.randint(2**62, (1,), device=DEVICE), p) for _ in range(4)])
    assert set(masks.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    dropped = (masks == 0).double()
    n = dropped[0].numel()
    sigma = (p * (1 - p) / n) ** 0.5
    assert all(abs(float(d.mean()) - p) < 5 * sigma for d in dropped)
    centred = (dropped - p) / (p * (1 - p)) ** 0.5
    for axis in range(1, 5):  # rows, channels, lines, columns
        for step in (1, 2, 4):
            both = centred.narrow(axis, step, centred.shape[axis] - step) * centred.narrow(
                axis, 0, centred.shape[axis] - step
            )
            assert abs(float(both.mean())) < 5 / both.numel() ** 0.5
    pairs = torch.stack([(centred[i] * centred[j]).mean() for i in range(4) for j in range(i)])
    assert float(pairs.abs().max()) < 5 / n**0.5


def test_a_second_derivative_is_that_of_the_eager_twin(taken: None) -> None:
    given = inputs(32, (4, 4), "add and modulation")

    def second(call) -> list[Tensor]:
        y = call(given["x"], given["weight"], given["bias"], 8, 1e-5, **_rows(given), silu=True)
        first = torch.autograd.grad(y.square().sum(), list(given.values()), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), list(given.values())))

    for a, b in zip(second(norm.fused), second(norm.eager), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", ["adaptive", "additive"])
def test_a_network_is_the_same_with_either(taken: None, kind: str, perturb) -> None:
    net = UNet(channels=3, width=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32, norm=kind)
    perturb(net).to(DEVICE)
    x = torch.randn(2, 3, 8, 8, device=DEVICE).to(memory_format=torch.channels_last)
    c = torch.rand(2, device=DEVICE)
    calls = []

    def outcome_of(net: nn.Module) -> list[Tensor]:
        out = net(x, c)
        return [out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))]

    with kernels.using("eager"):
        expected = outcome_of(net)
    with pytest.MonkeyPatch.context() as patch:
        fused = norm.fused
        patch.setattr(norm, "fused", lambda *a, **k: calls.append(1) or fused(*a, **k))
        found = outcome_of(net)
    assert len(calls) == sum(isinstance(m, nn.GroupNorm) for m in net.modules())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_forward_mode_derivative_is_taken_eagerly(taken: None, perturb) -> None:
    net = perturb(UNet(channels=1, width=8, multipliers=(1, 1), blocks=1, attention=(), head_width=4)).to(DEVICE)
    x = torch.randn(2, 1, 4, 4, device=DEVICE).to(memory_format=torch.channels_last)
    c, v, step = torch.rand(2, device=DEVICE), torch.randn(2, 1, 4, 4, device=DEVICE), 1e-3
    _, tangent = torch.func.jvp(lambda z: net(z, c), (x,), (v,))
    with torch.no_grad():
        numeric = (net(x + step * v, c) - net(x - step * v, c)) / (2 * step)
    torch.testing.assert_close(tangent, numeric, rtol=1e-2, atol=1e-3)


def test_what_the_kernel_does_not_take_goes_the_eager_way(taken: None) -> None:
    like = torch.zeros(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert norm.fits(like, torch.zeros(2, 8, 1, 1))
    assert not norm.fits(like, torch.zeros(2, 8, 4, 4))  # a level for each position
    assert (
        not norm.fits(torch.zeros(2, 8, 4, 4)) and not norm.fits(torch.zeros(2, 8, 4)) and not norm.fits(like.double())
    )
    assert not norm.fits(like[:0])


def test_the_choice_is_the_users() -> None:
    x = torch.zeros(1)
    assert [kernels.wanted(z) for z in (x, x.to(DEVICE))] == [False, DEVICE.type == "cuda"]
    with kernels.using("eager"):
        assert not kernels.wanted(x.to(DEVICE))
    with kernels.using("fused"):
        assert kernels.wanted(x)
    with pytest.raises(ValueError, match="one of auto, eager, fused, got 'fast'"), kernels.using("fast"):  # type: ignore[arg-type]
        pass
    bad = subprocess.run(
        [sys.executable, "-c", "import unnoise.nets"],
        env={**os.environ, "UNNOISE_KERNELS": "fast"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode != 0 and "(UNNOISE_KERNELS) are one of auto, eager, fused, got 'fast'" in bad.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_on_a_cpu_is_unbiased_in_any_layout(p: float, dtype: torch.dtype) -> None:
    x = torch.ones(16, 64, 15, 17, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(1)
    y = norm.dropped(x, p)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    sigma = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float((y == 0).double().mean()) - p) < 5 * sigma + 2**-17
    assert abs(float(y.detach().double().mean()) - 1) < 5 * sigma / (1 - p) + (
        4e-3 if dtype == torch.bfloat16 else 1e-6
    )
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    torch.manual_seed(1)
    assert torch.equal(norm.dropped(x, p), y)


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_torchs_norm_is_given_one_type(own: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it refuses x in half precision beside parameters in full; "meta" stands in for one."""
    seen: list[torch.dtype] = []

    def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        seen.extend((x.dtype, weight.dtype, bias.dtype))
        return x

    monkeypatch.setattr(torch.nn.functional, "group_norm", group_norm)
    x, row = torch.empty(2, 8, 4, 4, dtype=torch.bfloat16, device="meta"), torch.empty(8, dtype=own, device="meta")
    assert norm.eager(x, row, row, 2, 1e-5, silu=True).dtype == torch.bfloat16 and seen == [own] * 3


def test_in_bfloat16_on_a_cpu_the_eager_norm_and_attention_are_those_of_float32() -> None:
    from unnoise.nets.attention import attend

    given = {k: v.detach().cpu() for k, v in inputs(64, (8, 8), "add and modulation").items()}
    half = {k: v.bfloat16() for k, v in given.items()}
    exact = norm.eager(
        *(half[k].double() for k in ("x", "weight", "bias")), 16, 1e-5, **_double(_rows(half)), silu=True
    )
    found = norm.eager(half["x"], half["weight"], half["bias"], 16, 1e-5, **_rows(half), silu=True)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - exact).norm() / exact.norm()) < 4e-3
    q, k, v = torch.randn(3, 2, 33, 32).bfloat16().unbind(0)
    mask = torch.rand(2, 33) < 0.7
    for m in (None, mask):
        exact, found = attend(q.double(), k.double(), v.double(), 4, m), attend(q, k, v, 4, m)
        assert found.dtype == torch.bfloat16 and float((found.double() - exact).norm() / exact.norm()) < 1e-2


def _double(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() for k, v in rows.items()}
