"""Captured graphs and fused kernels on a GPU; run by hand: python -m pytest tests/gpu tests/nets/test_kernels.py."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from two import Two

from unnoise import fit, recipes
from unnoise.capture import Captured
from unnoise.data import Digits
from unnoise.data.stream import batches
from unnoise.modality import Image
from unnoise.model import Model
from unnoise.nets import UNet, kernels
from unnoise.override import override
from unnoise.runtime import Runtime
from unnoise.sample import Ancestral, Heun
from unnoise.state import State
from unnoise.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")


def trained(
    captured: bool, *changes: str, compiled: bool = False, choice: Any = "eager", run: Runtime = Runtime(GPU)
) -> tuple[State, list[float]]:
    recipe = recipes.load("digits")[0]
    for change in ("model.net.width=16", "samples=1280", "model.net.dropout=0.2", *changes):
        recipe = override(recipe, change)
    state = State(recipe, 0, GPU, 1280, torch.bfloat16)
    if compiled:
        state.compile()
    stream = batches(recipe.data.load().train, recipe.batch, seed=0, device=GPU)
    with kernels.using(choice):
        losses = [float(p.loss) for p in train(recipe, state, stream, run, captured=captured)]
    return state, losses


@pytest.mark.parametrize("choice", ["eager", "fused"])
@pytest.mark.parametrize("optim", ["AdamW(lr=2e-3, rate=Cosine(warmup=320))", "Muon(lr=4e-3, rate=Cosine(warmup=320))"])
def test_captured_steps_are_the_steps(optim: str, choice: str) -> None:
    """With dropout, whose masks differ from step to step, and a learning rate that moves."""
    (a, plain), (b, replayed) = (trained(captured, f"optim={optim}", choice=choice) for captured in (False, True))
    assert plain == pytest.approx(replayed, rel=2e-3)
    assert a.seen == b.seen and a.read_window(Runtime(GPU))["loss"] == pytest.approx(
        b.read_window(Runtime(GPU))["loss"], rel=2e-3
    )
    for k, x in a.named.items():
        torch.testing.assert_close(b.named[k], x, rtol=1e-2, atol=2e-3)
    assert len(set(replayed)) == len(replayed)


def test_steps_of_several_processes_are_two_graphs_and_the_same_steps() -> None:
    (a, plain), (b, replayed) = (trained(True, choice="fused", run=run) for run in (Runtime(GPU), Two(GPU, 0, 2)))
    assert plain == pytest.approx(replayed, rel=2e-3)
    for k, x in a.named.items():
        torch.testing.assert_close(b.named[k], x, rtol=1e-2, atol=2e-3)


def test_captured_steps_of_a_compiled_network_with_kernels() -> None:
    (_, plain), (_, replayed) = (trained(c, compiled=c, choice="fused") for c in (False, True))
    assert plain == pytest.approx(replayed, rel=5e-2)  # other dropout masks
    assert replayed[-1] < 0.9 * replayed[0]


def test_a_run_is_recorded_after_its_forecast(tmp_path: Path) -> None:
    """Of an objective with networks of its own, whose graph a forecast would keep alive if it held its results."""
    recipe: Any = recipes.load("cifar10_likelihood")[0]
    net = recipe.model.args["net"].replace(channels=1, width=16, blocks=1, head_width=16, octaves=(3, 4))
    recipe = replace(recipe, data=Digits(), codec=Image(shape=(1, 8, 8), low=0, high=16), batch=64, augment=None)
    recipe = replace(recipe, model=recipe.model.replace(net=net))
    assert fit.start(recipe, tmp_path / "run", Runtime(GPU), samples=640, captured=True).seen == 640


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sampler", [Heun(), Ancestral()], ids=str)
def test_pitfall_27_a_whole_sampling_loop_is_one_cuda_graph(sampler: Any, compiled: bool) -> None:
    model = trained_model()
    label = list(itertools.islice(itertools.cycle(range(10)), 70))
    plain = model.sample(70, batch=16, sampler=sampler, steps=6, label=label)
    if compiled:
        model.compile()
    replayed = model.sample(70, batch=16, sampler=sampler, steps=6, label=label, captured=True)
    assert plain.raw.shape == replayed.raw.shape and plain.raw.dtype == replayed.raw.dtype
    assert float((plain.raw.float() - replayed.raw.float()).abs().max()) <= 1


def trained_model() -> Model:
    state, _ = trained(False)
    parts, sampling = state.components, recipes.load("digits")[0].sampling
    return Model(parts["model"].eval(), parts["codec"], parts["process"], parts["conditioner"], sampling)


def test_one_graph_serves_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded once, and anew where it must be; the samples are those without it all along."""
    model, recorded, record = trained_model(), list[int](), Captured._record

    def noted(self: Captured, inputs: Any) -> None:
        recorded.append(1)
        record(self, inputs)

    monkeypatch.setattr(Captured, "_record", noted)

    def recordings(n: int, **settings: Any) -> int:
        recorded.clear()
        given: dict[str, Any] = {"steps": 6, "batch": 16, "seed": n, "label": [3, 1, 4], **settings}
        plain, replayed = model.sample(n, **given), model.sample(n, **given, captured=True)
        assert float((plain.raw.float() - replayed.raw.float()).abs().max()) <= 1
        return len(recorded)

    assert [recordings(n) for n in (16, 16, 40, 33)] == [0, 1, 0, 0]
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.mul_(0.95)
    assert recordings(32) == 0
    assert [recordings(32, batch=8), recordings(32), recordings(32, guidance=3.0), recordings(32)] == [1, 1, 1, 1]
    with kernels.using("eager"):
        assert [recordings(32), recordings(32)] == [1, 0]
    model.denoiser.precision = None  # it was bfloat16
    assert [recordings(32), recordings(32)] == [1, 0]
    model.to("cpu").to(GPU)
    assert [recordings(32), recordings(32)] == [1, 0]


def test_garbage_with_a_graph_in_it_does_not_spoil_a_recording() -> None:
    """A graph in a cycle, as of a training that is over, is freed by the collector, which runs when it likes."""

    class Cycle:
        def __init__(self, graph: Captured) -> None:
            self.graph, self.me = graph, self

    def some(inputs: Mapping[str, Tensor]) -> Tensor:
        made = [[object()] for _ in range(10_000)]  # more than the collector lets pass
        return inputs["x"] + len(made)

    x = {"x": torch.zeros(3, device=GPU)}
    for _ in range(3):
        one = Captured(some, GPU, warm=1)
        one(x)
        assert one(x).tolist() == [10_000.0] * 3
        Cycle(one)
        del one


def test_no_more_than_one_graph_is_held() -> None:
    model = trained_model()

    def held(batch: int) -> int:
        model.sample(2 * batch, batch=batch, steps=4, captured=True)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    held(32)  # and what libraries set aside
    first = held(64)
    assert [held(32), held(64), held(32), held(64)][-1] <= 1.1 * first
    model.to(GPU)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < first


@pytest.mark.parametrize("kind", ["adaptive", "additive"])
def test_a_network_with_kernels_compiles_as_one_graph(kind: Any) -> None:
    net = UNet(
        channels=3, width=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32, norm=kind, dropout=0.1
    ).to(GPU)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, c = torch.randn(4, 3, 16, 16, device=GPU).to(memory_format=torch.channels_last), torch.rand(4, device=GPU)
    net.eval()

    def outcome(call: Any) -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            out = call(x, c)
        return [out.detach(), *torch.autograd.grad(out.float().square().sum(), list(net.parameters()))]

    with kernels.using("fused"):
        compiled = torch.compile(net, fullgraph=True)
        found, eager = outcome(compiled), outcome(net)
    with kernels.using("eager"):
        plain = outcome(net)
    for a, b, c in zip(found, eager, plain, strict=True):
        assert float((a - b).norm()) <= 0.05 * float(b.norm()) + 1e-3
        assert float((b - c).norm()) <= 0.05 * float(c.norm()) + 1e-3


def test_a_network_with_kernels_compiles_for_pictures_of_other_sizes() -> None:
    """From the second size on, sizes are symbols in the graph that is compiled; what launches a kernel is not."""
    net = UNet(channels=3, width=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32).to(GPU).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    compiled = torch.compile(net, fullgraph=True)
    for batch, side in ((4, 16), (2, 24), (3, 32)):
        x = torch.randn(batch, 3, side, side, device=GPU).to(memory_format=torch.channels_last)
        c = torch.rand(batch, device=GPU)
        with kernels.using("fused"):
            a, b = (net_(x, c).square().mean() for net_ in (compiled, net))
        for found, eager in zip(*(torch.autograd.grad(y, list(net.parameters())) for y in (a, b)), strict=True):
            assert float((found - eager).norm()) <= 0.05 * float(eager.norm()) + 1e-3
