"""The loop: phases, accumulation, processes, the order of samples, numbers that are not finite.

This file is its own worker: `test_train.py FOLDER` trains what `DISTRIBUTED` names, here in two processes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unnoise import train as loop
from unnoise.core.adversarial import Discrimination, Reconstruction
from unnoise.core.denoiser import Preconditioned, TwoTime
from unnoise.core.density import LogNormalSigma, UniformTime
from unnoise.core.flowmap import FlowMap
from unnoise.core.objective import Batch, Components, Denoising, Loss, Objective
from unnoise.core.parameterization import Edm
from unnoise.core.rng import Rng
from unnoise.core.schedule import Karras
from unnoise.data import Digits
from unnoise.data.stream import batches, items
from unnoise.errors import UserError
from unnoise.forecast import advice
from unnoise.judges.classifier import Classification
from unnoise.modality import Image, Labels, Plain
from unnoise.nets import MLP, Autoencoder, ConvClassifier, PatchDiscriminator, UNet
from unnoise.optim import AdamW, Cosine, Muon, Trapezoid
from unnoise.parts import whole
from unnoise.recipe import Phase, Recipe
from unnoise.runtime import Runtime, default_precision, launch
from unnoise.spec import Build
from unnoise.state import State
from unnoise.train import NonFinite, Progress, check_capturable, train

if TYPE_CHECKING:
    from programs import Python

CPU = torch.device("cpu")
CODEC = Image(shape=(1, 8, 8), low=0, high=16)
TINY = {"channels": 1, "width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "middle_attention": False}
NOISE = Denoising(LogNormalSigma(-0.6, 1.1))
EPS = 1e-4
"""Of Adam, where sums in another order are compared: it would blow the rounding of gradients near zero up to steps."""


# What is trained -----------------------------------------------------------------------------------------------------


class Critic(nn.Module):
    """Real or made? A network of two layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.inner, self.outer = nn.Linear(64, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.silu(self.inner(x.flatten(1))))[:, 0]


class Maker(nn.Module):
    """Digits from noise, in one step."""

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.inner, self.outer = nn.Linear(8, width), nn.Linear(width, 64)

    def forward(self, z: Tensor) -> Tensor:
        h = F.dropout(F.silu(self.inner(z)), self.dropout, self.training)
        return self.outer(h).tanh().unflatten(1, (1, 8, 8))


@dataclass(frozen=True)
class Fool:
    """The maker's side of an adversarial pair."""

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        z = rng.normal(torch.zeros(len(batch["x"]), 8))
        value = F.softplus(-components["critic"](components["model"](z)))
        return Loss(value, torch.ones_like(value))


@dataclass(frozen=True)
class Tell:
    """The critic's side."""

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        z = rng.normal(torch.zeros(len(batch["x"]), 8))
        real = components["codec"].encode(batch["x"], rng)
        value = F.softplus(-components["critic"](real)) + F.softplus(components["critic"](components["model"](z)))
        return Loss(value, torch.full_like(value, 0.5))


class Embedder(nn.Module):
    """A conditioner that owns weights: a vector a class, the last for "nothing said"."""

    def __init__(self, classes: int = 10, width: int = 4) -> None:
        super().__init__()
        self.classes, self.width = classes, width
        self.table = nn.Embedding(classes + 1, width)

    def encode(self, raw: Mapping[str, Any], rng: Rng) -> dict[str, Tensor]:
        return {"vector": self.table(raw["label"])}

    def null(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"vector": self.table.weight[-1:].expand(len(cond["vector"]), -1)}


def denoiser(**changes: Any) -> Build[Any]:
    net = Build(UNet, **TINY | changes)
    return Build(Preconditioned, net=net, parameterization=Edm(0.75))


def plain(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "name": "plain",
        "data": Digits(),
        "codec": CODEC,
        "conditioner": Labels({"label": 10}),
        "model": denoiser(labels={"label": 10}),
        "objective": NOISE,
        "optim": AdamW(lr=2e-3, eps=EPS, rate=Trapezoid(warmup=64, decay=0.5)),
        "batch": 16,
        "samples": 160,
    }
    return Recipe(**base | changes)


def conditioned(**changes: Any) -> Recipe:
    """A denoiser, and a phase of it together with a conditioner that owns weights."""
    return plain(
        name="conditioned",
        conditioner=None,
        **{"model": denoiser(vector=4)} | changes,
        objective=replace(NOISE, drop=0.3),
        more={"conditioner": Build(Embedder)},
        phases=(Phase(replace(NOISE, drop=0.3), ("model", "conditioner"), AdamW(lr=1e-2, eps=EPS)),),
    )


def orthogonal(**changes: Any) -> Recipe:
    """One phase under each optimiser, with components in common, matrices of both layouts, and clipping that acts."""
    muon = Muon(lr=2e-3, eps=EPS, weight_decay=0.01, clip=0.5, rate=Trapezoid(warmup=64, decay=0.5))
    return conditioned(**{"optim": muon, "model": denoiser(vector=4, attention=(1,), head_width=8)} | changes)


def adversarial(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "name": "adversarial",
        "conditioner": None,
        "model": Build(Maker),
        "objective": Fool(),
        "optim": AdamW(lr=2e-3, eps=EPS),
        "more": {"critic": Build(Critic)},
        "phases": (Phase(Tell(), ("critic",), AdamW(lr=4e-3, eps=EPS)),),
    }
    return plain(**base | changes)


STEPS = 6
"""Of each of these: the rate rises in four, and falls; a phase of every third step is taken twice."""
DISTRIBUTED = {
    "plain": plain(),
    "conditioned": conditioned(),
    "orthogonal": orthogonal(),
    "adversarial": adversarial(micro=2),
    "every": adversarial(phases=(Phase(Tell(), ("critic",), AdamW(lr=4e-3, eps=EPS), every=3),)),
    "classifier": plain(
        name="classifier",
        conditioner=None,
        model=Build(ConvClassifier, channels=1, classes=10, width=8),
        objective=Classification(shift=1),
    ),
    # Calls other than forward, a gradient within the loss, a network that is called without one before it is trained:
    "autoencoder": plain(
        name="autoencoder",
        conditioner=None,
        model=Build(Autoencoder, channels=1, latent=2, width=8, multipliers=(1, 2)),
        objective=Reconstruction(factor=0.1),
        more={"discriminator": Build(PatchDiscriminator, channels=1, width=8, layers=1)},
        phases=(Phase(Discrimination(), ("discriminator",), AdamW(lr=2e-3, eps=EPS)),),
        micro=2,
    ),
    "distilled": plain(
        name="distilled",
        model=Build(TwoTime, inner=denoiser(labels={"label": 10}, vector=8)),
        more={"teacher": denoiser(labels={"label": 10})},
        objective=FlowMap(density=UniformTime(Karras(sigma_max=40.0)), steps=8),
    ),
}
DISTRIBUTED = {name: replace(recipe, samples=STEPS * recipe.batch) for name, recipe in DISTRIBUTED.items()}


def run(
    recipe: Recipe, runtime: Runtime = Runtime(), *, seed: int = 0, precision: torch.dtype | None = None, **given: bool
) -> tuple[State, list[Progress]]:
    """All steps of a recipe, and what they yielded."""
    state = State(recipe, seed, CPU, recipe.samples, precision, shard=runtime.distribute if runtime.sharded else None)
    return state, list(train(recipe, state, stream(recipe, runtime, seed=seed), runtime, **given))


def stream(
    recipe: Recipe, runtime: Runtime = Runtime(), *, seed: int = 0, seen: int = 0
) -> Iterator[dict[str, Tensor]]:
    rows = runtime.shard(recipe.batch)
    return batches(recipe.data.load().train, recipe.batch, seed=seed, seen=seen, rows=rows)


def weights(state: State) -> dict[str, Tensor]:
    return {k: whole(v).clone() for k, v in state.named.items()}


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The largest difference of any number."""
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def moved(state: State, recipe: Recipe) -> float:
    return difference(weights(state), weights(State(recipe, state.seed, CPU, None)))


def main(folder: Path) -> None:
    """Of each of two processes."""
    torch.set_num_threads(1)
    with launch("cpu") as runtime, pytest.MonkeyPatch.context() as patch:
        # "two graphs": how a recorded step exchanges gradients; what it is made of runs, where CUDA would record it.
        patch.setattr(loop, "Captured", lambda call, device: call)
        patch.setattr(loop, "check_capturable", lambda recipe, run: None)
        ways = [("ddp", runtime, False), ("fsdp", runtime.sharding(), False), ("two graphs", runtime, True)]
        for name, recipe in DISTRIBUTED.items():
            for kind, among, captured in ways:
                state, steps = run(recipe, among, captured=captured)
                window = {k: torch.tensor(v) for k, v in state.read_window(runtime).items() if k == "loss"}
                lr = torch.tensor([s.lr for s in steps], dtype=torch.float64)
                norm = torch.stack([s.norm for s in steps])
                ema = {f"ema.{k}": whole(v) for k, v in state.ema.state(0.1).items()}
                out = {**weights(state), **ema, "lr": lr, "norm": norm, **window}
                file = folder / f"{kind}-{name}-{runtime.rank}.safetensors"
                save_file({k: v.contiguous() for k, v in out.items()}, file)
        # A forward pass that is NaN on one rank only, in fp16: the scales must stay one
        recipe = plain(objective=Spoilt(NOISE, rank=runtime.rank), samples=32)
        for kind, among, captured in ways:
            state, _ = run(recipe, among, precision=torch.float16, captured=captured)
            assert state.scale is not None
            out = {"scale": state.scale.value, "bad": state.bad, **weights(state)}
            file = folder / f"{kind}-spoilt-{runtime.rank}.safetensors"
            save_file({k: v.contiguous() for k, v in out.items()}, file)
            try:
                run(replace(recipe, patience=2), among, captured=captured)
            except NonFinite as e:
                (folder / f"{kind}-{runtime.rank}.txt").write_text(str(e))


@dataclass(frozen=True)
class Spoilt:
    """Another objective, with NaN for rank 1 and a gradient that overflows on rank 0."""

    inner: Objective
    rank: int

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        loss = self.inner(components, batch, rng, seen)
        return loss._replace(value=loss.value * (math.nan if self.rank == 1 else 1.0))


# Processes -----------------------------------------------------------------------------------------------------------


KINDS = ("ddp", "fsdp", "two graphs")


@pytest.fixture(scope="module")
def two_processes(python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real processes made of each recipe."""
    folder = tmp_path_factory.mktemp("two")
    python.group(2, __file__, folder)
    return folder


def test_steps_of_several_processes_can_be_recorded_but_of_sharded_networks_not() -> None:
    first, recipe = Runtime(torch.device("cuda"), 0, 2), DISTRIBUTED["plain"]
    check_capturable(recipe, first)
    with pytest.raises(UserError, match="--capture is for networks that each process holds whole"):
        check_capturable(recipe, first.sharding())


def test_who_trains_on_a_gpu_is_told_what_would_be_faster() -> None:
    recipe, gpu = plain(objective=Denoising(density=LogNormalSigma())), Runtime(torch.device("cuda"))
    assert (
        advice(recipe, gpu, False, False) == "faster on a GPU: --compile --capture, once that has compiled for a minute"
    )
    assert advice(recipe, gpu, True, False) == "faster on a GPU: --capture"
    assert advice(recipe, gpu, True, True) is advice(recipe, Runtime(), False, False) is None
    clocked = plain(objective=Spoilt(NOISE, rank=0))
    assert advice(clocked, gpu, False, False) is advice(recipe, Runtime(gpu.device, 0, 2, True), False, False) is None


@pytest.mark.parametrize(("kind", "name"), list(product(KINDS, DISTRIBUTED)))
def test_two_processes_are_one(two_processes: Path, kind: str, name: str, record_property: Any) -> None:
    """Weights, averages, losses, norms and learning rates of 2 ranks are those of 1, also where the gradient comes
    through `encode`, with two phases, and with accumulation. Pitfall 24; pitfall 22: the learning rate to the bit."""
    ranks = [load_file(two_processes / f"{kind}-{name}-{r}.safetensors") for r in (0, 1)]
    alone, lr, norm, loss = of_one_process(name)
    assert all(difference({k: v}, {k: ranks[0][k]}) < 1e-5 for k, v in alone.items())
    figure = difference(alone, {k: ranks[0][k] for k in alone})
    record_property("difference", figure)
    print(f"{kind} {name}: {figure:.2g}")
    assert {k: v.tolist() for k, v in ranks[0].items()} == {k: v.tolist() for k, v in ranks[1].items()}
    assert ranks[0]["lr"].tolist() == lr and len(lr) == STEPS
    assert torch.allclose(ranks[0]["norm"], norm, rtol=1e-4)
    assert float(ranks[0]["loss"]) == pytest.approx(loss, rel=1e-4)


@cache
def of_one_process(name: str) -> tuple[dict[str, Tensor], list[float], Tensor, float]:
    """Weights and averages, learning rates, norms and loss."""
    recipe = DISTRIBUTED[name]
    state, steps = run(recipe)
    assert moved(state, recipe) > 1e-3
    found = {**weights(state), **{f"ema.{k}": v for k, v in state.ema.state(0.1).items()}}
    norm = torch.stack([s.norm for s in steps])
    return found, [s.lr for s in steps], norm, state.read_window(Runtime())["loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_gradient_of_one_process_skips_the_step_on_all(two_processes: Path, kind: str) -> None:
    """And the loss scale stays one."""
    a, b = (load_file(two_processes / f"{kind}-spoilt-{r}.safetensors") for r in (0, 1))
    start = weights(State(plain(), 0, CPU, None))
    assert difference(start, {k: a[k] for k in start}) == difference(start, {k: b[k] for k in start}) == 0
    assert float(a["scale"]) == float(b["scale"]) == 65536
    assert torch.equal(a["bad"], b["bad"]) and int(a["bad"][0, 2]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_end_where_the_numbers_of_one_are_bad(two_processes: Path, kind: str) -> None:
    """Looking for the first bad layer they call the network alike: none waits for another that has found it."""
    said = {(two_processes / f"{kind}-{r}.txt").read_text() for r in (0, 1)}
    assert len(said) == 1 and "the loss is not: look at the objective's weight" in said.pop()


def test_rows_that_do_not_divide_into_pieces_are_refused() -> None:
    recipe = plain(micro=4)
    state = State(recipe, 0, CPU, 16)
    with pytest.raises(UserError, match="3 rows of a process do not divide into 4"):
        next(train(recipe, state, iter([{"x": torch.zeros(3, 1, 8, 8), "position": torch.arange(3)}]), Runtime()))


# Accumulation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, micro", [(plain, 2), (plain, 4), (plain, 16), (conditioned, 4), (adversarial, 4)])
def test_accumulating_pieces_is_the_whole_batch(make: Any, micro: int) -> None:
    """Also with adversarial phases, and with a clipped norm (of the whole, not of a piece)."""
    recipe = make(samples=80)
    whole, steps = run(recipe)
    pieces, small = run(replace(recipe, micro=micro))
    assert moved(whole, recipe) > 1e-3
    assert difference(weights(whole), weights(pieces)) < 2e-6
    assert [float(s.norm) for s in small] == pytest.approx([float(s.norm) for s in steps], rel=1e-4)
    assert [float(s.loss) for s in small] == pytest.approx([float(s.loss) for s in steps], rel=1e-5)
    (a, b) = (state.read_window(Runtime())["loss_by_logsnr"] for state in (whole, pieces))
    assert [v or 0 for v in b] == pytest.approx([v or 0 for v in a], rel=1e-4)


# Phases --------------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Another objective, and what its networks looked like when it was called."""

    inner: Objective
    watched: str
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        networks = {k: m for k, m in components.items() if isinstance(m, nn.Module)}
        self.calls.append(
            {
                "seen": seen,
                "requires": {k: {p.requires_grad for p in m.parameters()} for k, m in networks.items()},
                "grads": {k: [p.grad is None for p in m.parameters()] for k, m in networks.items()},
                "weights": {k: v.clone() for k, v in networks[self.watched].state_dict().items()},
                "position": batch["position"].tolist(),
                "training": {m.training for m in networks.values()},
            }
        )
        return self.inner(components, batch, rng, seen)


def test_a_phase_trains_only_its_modules() -> None:
    """In each phase only its own modules require gradients; the others' stay None, their weights the same bits."""
    fool, tell = Watch(Fool(), "critic"), Watch(Tell(), "model")
    recipe = adversarial(objective=fool, phases=(Phase(tell, ("critic",), AdamW(lr=4e-3)),), samples=48)
    state = State(recipe, 0, CPU, 48)
    start = weights(state)
    assert not state.named.keys() ^ start.keys()
    for step in train(recipe, state, stream(recipe), Runtime()):
        assert step.seen == state.seen
        own = state.components["critic"].parameters()  # the last phase's
        assert all(p.grad is not None for p in own)
    assert len(fool.calls) == len(tell.calls) == 3
    for call in fool.calls:
        assert call["requires"] == {"model": {True}, "critic": {False}}
        assert all(call["grads"]["model"])  # cleared on entry
    for call in tell.calls:
        assert call["requires"] == {"model": {False}, "critic": {True}}
        assert all(call["grads"]["critic"])
    assert all(call["training"] == {True} for call in fool.calls)
    # first step of the model's phase: the critic has never had a gradient
    assert all(fool.calls[0]["grads"]["critic"])
    # the critic's phase sees the model as its own phase left it, and leaves it so
    for tells, next_fool in zip(tell.calls, fool.calls[1:], strict=False):
        assert tells["seen"] + 16 == next_fool["seen"]
    for k in start:
        assert not torch.equal(start[k], state.named[k])
    # everything that required gradients before does so afterwards
    assert all(p.requires_grad for m in state.networks.values() for p in m.parameters())


def test_a_network_that_no_phase_trains_stays_as_it_is() -> None:
    """One phase, and a conditioner with weights that it reaches: a constant, without gradients."""
    watch = Watch(NOISE, "conditioner")
    recipe = plain(model=denoiser(vector=4), conditioner=None, objective=watch, more={"conditioner": Build(Embedder)})
    state = State(recipe, 0, CPU, 160)
    table, before = state.components["conditioner"].table.weight, weights(state)
    start = table.detach().clone()
    for _ in train(recipe, state, stream(recipe), Runtime()):
        assert all(p.grad is None for p in state.components["conditioner"].parameters())
    assert all(call["requires"]["conditioner"] == {False} for call in watch.calls)
    assert torch.equal(start, table) and not state.components["conditioner"].training
    assert not any(name.startswith("conditioner.") for name in state.named), "nothing to average"
    assert difference(before, weights(state)) > 1e-3


def test_what_its_owner_froze_stays_frozen() -> None:
    """Fine-tuning a head: parameters that do not require gradients are not woken by a phase."""
    for recipe in (plain(samples=32), adversarial(samples=32)):
        state = State(recipe, 0, CPU, 32)
        frozen, *_ = (p for p in state.components["model"].parameters() if p.ndim > 1)
        frozen.requires_grad_(False)
        before = frozen.clone()
        list(train(recipe, state, stream(recipe), Runtime()))
        assert torch.equal(frozen, before) and frozen.grad is None and not frozen.requires_grad
        assert moved(state, recipe) > 1e-4


def test_a_phase_is_taken_every_nth_step() -> None:
    fool, tell = Watch(Fool(), "critic"), Watch(Tell(), "critic")
    recipe = adversarial(objective=fool, phases=(Phase(tell, ("critic",), AdamW(), every=3),), samples=16 * 8)
    run(recipe)
    assert [c["seen"] // 16 for c in fool.calls] == list(range(8))
    assert [c["seen"] // 16 for c in tell.calls] == [0, 3, 6]
    for a, b in zip(fool.calls, fool.calls[1:], strict=False):  # between, the critic's weights are the same bits
        same = all(torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"])
        assert same == (a["seen"] // 16 % 3 != 0)


def test_phases_draw_noise_of_their_own() -> None:
    """Two phases with one objective see one batch, but other noise."""
    a, b = Watch(NOISE, "model"), Watch(NOISE, "model")
    recipe = plain(objective=a, phases=(Phase(b, ("model",), AdamW(lr=1e-9)),), samples=16, optim=AdamW(lr=1e-9))
    state = State(recipe, 0, CPU, 16)
    losses = []
    for watch in (a, b):
        inner = watch.inner
        watch.inner = lambda *args, inner=inner: losses.append(inner(*args).value.detach()) or inner(*args)
    list(train(recipe, state, stream(recipe), Runtime()))
    assert a.calls[0]["position"] == b.calls[0]["position"]
    assert not torch.allclose(losses[0], losses[1], rtol=1e-2)


def test_a_phase_of_a_network_that_is_not_there_is_refused() -> None:
    recipe = adversarial(phases=(Phase(Tell(), ("critics",), AdamW()),))
    with pytest.raises(UserError, match=r"'critics'.*\['critic', 'model'\]"):
        State(recipe, 0, CPU, None)
    with pytest.raises(UserError, match="'codec'"):
        State(adversarial(phases=(Phase(Tell(), ("codec",), AdamW()),)), 0, CPU, None)


# Clock, order, learning rate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, micro", [(16, 1), (16, 4), (24, 2), (10, 5)])
def test_the_learning_rate_is_a_function_of_samples_seen(batch: int, micro: int) -> None:
    """Pitfall 22: not of steps, nor processes (test_two_processes_are_one), nor accumulation."""
    rate = Cosine(warmup=50)
    recipe = adversarial(batch=batch, micro=micro, samples=240, optim=AdamW(lr=0.01, rate=rate))
    state = State(recipe, 0, CPU, 240)
    for step in train(recipe, state, stream(recipe), Runtime()):
        assert step.lr == 0.01 * rate(step.seen, 240)
        assert float(state.optimizers[0].param_groups[0]["lr"]) == pytest.approx(step.lr, rel=1e-6)
        assert float(state.optimizers[1].param_groups[0]["lr"]) == pytest.approx(4e-3)
    assert step.lr < 1e-4


def test_the_order_of_samples_is_one_stream_however_it_is_cut() -> None:
    """Pitfall 21: whatever batch size or number of processes goes on, mid-epoch, with the next sample."""
    columns = {k: v[:50] for k, v in Digits().load().train.items()}
    columns["number"] = torch.arange(50)
    n, total = 50, 240
    order = items(n, 3, torch.arange(total))
    for epoch in range(total // n):
        assert sorted(order[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    assert order[:n].tolist() != order[n : 2 * n].tolist() != list(range(n))
    assert items(n, 4, torch.arange(n)).tolist() != order[:n].tolist()
    for cuts in ([(16, 1, 240)], [(16, 1, 64), (24, 2, 160), (10, 1, 240)], [(40, 4, 80), (16, 2, 240)]):
        found: dict[int, int] = {}
        seen = 0
        for batch, world, until in cuts:
            ranks = [
                batches(columns, batch, seed=3, seen=seen, rows=Runtime(rank=r, world=world).shard(batch))
                for r in range(world)
            ]
            while seen < until:
                for rank in ranks:
                    piece = next(rank)
                    assert len(piece["x"]) == batch // world
                    for position, number, x in zip(piece["position"], piece["number"], piece["x"], strict=True):
                        assert int(position) not in found and torch.equal(x, columns["x"][number])
                        found[int(position)] = int(number)
                seen += batch
        assert [found[p] for p in range(len(found))] == order[: len(found)].tolist() and len(found) >= total


def test_training_sees_that_order_and_the_clock_counts_samples() -> None:
    watch = Watch(NOISE, "model")
    recipe = plain(objective=watch, samples=64)
    state, steps = run(recipe)
    assert [p for c in watch.calls for p in c["position"]] == list(range(64))
    assert [c["seen"] for c in watch.calls] == [0, 16, 32, 48] and [s.seen for s in steps] == [16, 32, 48, 64]
    # going on with another batch size: the next sample is the next one
    state.total = 88
    longer = replace(recipe, batch=8)
    list(train(longer, state, stream(longer, seen=state.seen), Runtime()))
    assert [p for c in watch.calls for p in c["position"]] == list(range(88)) and state.seen == 88


def test_noise_and_dropout_are_functions_of_the_seed_and_the_clock() -> None:
    recipe = plain(model=denoiser(labels={"label": 10}, dropout=0.3), samples=48)
    torch.manual_seed(1)
    a, _ = run(recipe)
    torch.manual_seed(2)  # the caller's generator is neither read nor moved
    before = torch.get_rng_state()
    b, _ = run(recipe)
    assert torch.equal(before, torch.get_rng_state())
    assert difference(weights(a), weights(b)) == 0
    c, _ = run(recipe, seed=1)
    assert difference(weights(a), weights(c)) > 1e-3
    d, _ = run(replace(recipe, model=denoiser(labels={"label": 10})))
    assert difference(weights(a), weights(d)) > 1e-5


class Coin(nn.Module):
    """Dropout of ones, and what it left."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.left: list[list[float]] = []

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        kept = F.dropout(torch.ones(4, 16), 0.5, self.training)
        self.left.append(kept.flatten().tolist())
        return self.inner(x)


def test_dropout_is_fresh_in_each_step_and_the_same_when_it_is_taken_again() -> None:
    recipe = vectors(model=Build(Preconditioned, net=Build(Coin), parameterization=Edm()))
    found = []
    for seen in (0, 0, 24):
        state = State(recipe, 0, CPU, 80)
        state.seen = seen
        list(train(recipe, state, points(recipe), Runtime()))
        found.append(state.components["model"].net.left)
    whole, again, rest = found
    assert whole == again and whole[3:] == rest
    assert all(a != b for i, a in enumerate(whole) for b in whole[:i])
    other = State(recipe, 1, CPU, 80)
    list(train(recipe, other, points(recipe), Runtime()))
    assert other.components["model"].net.left[0] != whole[0]


def test_the_length_may_be_set_while_it_runs() -> None:
    recipe = plain(samples=64)
    state = State(recipe, 0, CPU, None)
    totals = []
    for step in train(recipe, state, stream(recipe), Runtime()):
        totals.append(step.total)
        if step.seen == 48:
            state.total = 80
    assert totals == [None, None, None, 80, 80] and state.seen == 80


# Averages ------------------------------------------------------------------------------------------------------------


def test_averages_follow_and_the_raw_weights_stay() -> None:
    """Pitfall 20: on by default; within `averaged` the networks have them, and afterwards, to the bit, their own."""
    recipe = plain(samples=96, optim=AdamW(lr=1e-2))
    state, _ = run(recipe)
    raw, average = weights(state), state.ema.state(0.1)
    assert set(state.ema.widths) == {0.05, 0.1}
    assert difference(raw, average) > 1e-4 and difference(average, state.ema.state(0.05)) > 1e-5
    state.components["model"].train()
    with state.averaged(0.1):
        assert difference(state.named, average) == 0 and not state.components["model"].training
    assert difference(state.named, raw) == 0 and state.components["model"].training
    with pytest.raises(RuntimeError, match="stop"), state.averaged(0.1):
        raise RuntimeError("stop")
    assert difference(state.named, raw) == 0


# Numbers that are not finite -----------------------------------------------------------------------------------------

VECTORS = Plain(shape=(2,))


class Burst(nn.Module):
    """exp, far beyond what a float holds."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 200).exp()


class Explosive(nn.Module):
    """A network with one bad layer."""

    def __init__(self, bursting: bool = True) -> None:
        super().__init__()
        self.bursting = bursting
        self.stem, self.burst, self.head = nn.Linear(2, 8), Burst(), nn.Linear(8, 2)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(self.burst(h) if self.bursting else h)


def vectors(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "codec": VECTORS,
        "conditioner": None,
        "model": Build(Preconditioned, net=Build(MLP, channels=2, width=16, blocks=1), parameterization=Edm()),
        "optim": AdamW(lr=1e-2),
        "batch": 8,
        "samples": 80,
    }
    return plain(**base | changes)


def points(recipe: Recipe, bad: tuple[int, ...] = (), value: float = 1e30) -> Iterator[dict[str, Tensor]]:
    """Ordinary rows, with one of enormous values in the given steps."""
    x = Digits().load().train["x"].double().flatten(1).div(8).sub(0.5)[:, 20:22].float()
    for i, batch in enumerate(batches({"x": x}, recipe.batch, seed=0)):
        if i in bad:
            batch["x"] = batch["x"].clone()
            batch["x"][3] = value
        yield batch


@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
@pytest.mark.parametrize("micro", [1, 4])
def test_a_bad_step_changes_nothing_and_is_counted(value: float, micro: int) -> None:
    """Pitfall 2: weights, moments and step counts are the same bits; the average takes the same weights in again."""
    recipe = vectors(micro=micro)
    state = State(recipe, 0, CPU, 80)
    kept: dict[str, Any] = {}
    for i, step in enumerate(train(recipe, state, points(recipe, (4, 7), value), Runtime())):
        groups = {k: v.clone() for k, v in state.groups()["optim-0"].items()}
        now = {"weights": weights(state), "optim": groups, "window": state.window.clone(), "step": step}
        if i in (4, 7):
            assert difference(now["weights"], kept["weights"]) == 0
            assert difference(now["optim"], kept["optim"]) == 0
            assert torch.equal(now["window"], kept["window"])  # the log of losses is not poisoned
            assert not bool(step.norm.isfinite())
        elif i:
            assert difference(now["weights"], kept["weights"]) > 0 and bool(step.norm.isfinite())
        kept = now
    assert state.bad.tolist() == [[0, 1, 2]] and state.seen == 80
    found = state.read_window(Runtime())
    assert found["skipped"] == 2 and math.isfinite(found["loss"])
    assert all(bool(v.isfinite().all()) for k in (0.05, 0.1) for v in state.ema.state(k).values())
    assert all(bool(v.isfinite().all()) for v in state.named.values())


def test_the_average_over_a_bad_step_is_that_of_weights_that_stood_still() -> None:
    from unnoise.optim import Ema

    recipe = vectors()
    state = State(recipe, 0, CPU, 80)
    mirror = Ema(state.named, recipe.widths)
    for step in train(recipe, state, points(recipe, (4,)), Runtime()):
        mirror.update(state.named, step.seen, recipe.batch)
    assert difference(mirror.state(0.1), state.ema.state(0.1)) == 0


def test_too_many_bad_steps_name_the_first_bad_layer() -> None:
    """Pitfalls 1 and 2: ended after `patience` steps in a row; the weights are those of the start."""
    recipe = vectors(model=Build(Preconditioned, net=Build(Explosive), parameterization=Edm()), patience=3, samples=800)
    state = State(recipe, 0, CPU, 800)
    start, seen = weights(state), 0
    with pytest.raises(NonFinite, match=r"3 steps in a row.*first layer.*'model\.net\.burst'.*optim\.lr"):
        for step in train(recipe, state, points(recipe), Runtime()):
            seen = step.seen
    assert seen == 2 * 8 and difference(start, weights(state)) == 0


def test_bad_data_are_named() -> None:
    recipe = vectors(patience=2)
    state = State(recipe, 0, CPU, 800)
    with pytest.raises(NonFinite, match="The data themselves are not finite: column 'x'"):
        list(train(recipe, state, points(recipe, tuple(range(100)), math.nan), Runtime()))


@dataclass(frozen=True)
class Scaled:
    """Another objective with each value multiplied."""

    inner: Objective
    factor: float

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        loss = self.inner(components, batch, rng, seen)
        return loss._replace(value=loss.value * self.factor)


def test_a_bad_objective_is_named() -> None:
    for factor in (math.inf, math.nan):
        recipe = vectors(objective=Scaled(NOISE, factor), patience=2)
        with pytest.raises(NonFinite, match="Every layer is finite but the loss is not"):
            list(train(recipe, State(recipe, 0, CPU, 800), points(recipe), Runtime()))


class Root(nn.Module):
    """sqrt |x|, whose slope at 0 is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return (0 * self.stem(x)).abs().sqrt()


def test_a_bad_gradient_is_named() -> None:
    recipe = vectors(model=Build(Preconditioned, net=Build(Root), parameterization=Edm()), patience=2)
    with pytest.raises(NonFinite, match=r"the gradient of 'model\.net\.stem\.weight' is not"):
        list(train(recipe, State(recipe, 0, CPU, 800), points(recipe), Runtime()))


@dataclass
class Once:
    """Another objective, with an infinite gradient in its first calls and none after; it notes how many rows it saw."""

    inner: Objective
    calls: int
    rows: int = 0

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        self.calls, self.rows = self.calls - 1, max(self.rows, len(batch["x"]))
        loss = self.inner(components, batch, rng, seen)
        return loss if self.calls < 0 else loss._replace(value=loss.value * math.inf)


def test_what_is_finite_when_run_once_more_is_no_layers_fault() -> None:
    """In pieces, as in training: a batch that needs them would be out of memory, which says nothing."""
    objective = Once(NOISE, calls=2 * 4)
    recipe = vectors(objective=objective, patience=2, micro=4)
    with pytest.raises(NonFinite, match=r"after 8 samples.*run once more, was finite: leave --compile and --capture"):
        list(train(recipe, State(recipe, 0, CPU, 800), points(recipe), Runtime()))
    assert objective.rows == recipe.batch // 4


def test_a_bad_step_now_and_then_is_survived() -> None:
    recipe = vectors(patience=3, samples=160)
    state = State(recipe, 0, CPU, 160)
    list(train(recipe, state, points(recipe, (1, 2, 5, 6, 9, 10, 14, 15)), Runtime()))
    assert state.bad.tolist() == [[0, 2, 8]]


def test_each_phase_has_a_patience_of_its_own() -> None:
    """A phase that never succeeds ends the training, whatever the others do."""
    phases = (Phase(Scaled(Tell(), math.nan), ("critic",), AdamW(), every=2),)
    recipe = adversarial(phases=phases, patience=4, samples=1600)
    state = State(recipe, 0, CPU, 1600)
    with pytest.raises(NonFinite, match="4 steps in a row"):
        list(train(recipe, state, stream(recipe), Runtime()))
    assert state.bad.tolist() == [[0, 0, 0], [4, 4, 4]]


# Precision -----------------------------------------------------------------------------------------------------------


def test_fp16_is_never_chosen_for_the_user() -> None:
    """Pitfalls 1 and 2: float32 on the CPU, bf16 on GPUs that have it."""
    assert default_precision(CPU) == "fp32"
    if torch.cuda.is_available():
        assert default_precision(torch.device("cuda")) == ("bf16" if torch.cuda.is_bf16_supported() else "fp32")
    state = State(plain(), 0, CPU, None)
    assert state.scale is None and state.components["model"].precision is None


@pytest.mark.parametrize("optim", [AdamW(lr=4e-3), Muon(lr=4e-3)], ids=["AdamW", "Muon"])
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_trains_and_keeps_float32_weights(precision: torch.dtype, optim: Any) -> None:
    recipe = plain(samples=16 * 30, optim=optim)
    state, steps = run(recipe, precision=precision)
    assert all(v.dtype == torch.float32 for v in state.named.values())
    assert state.components["model"].precision == precision
    assert (state.scale is not None) == (precision == torch.float16)
    if state.scale is not None:
        assert 1 <= float(state.scale.value) <= 65536
    assert int(state.bad[0, 2]) < 17 and all(bool(v.isfinite().all()) for v in state.named.values())
    losses = [float(s.loss) for s in steps]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    full, whole = run(recipe)
    assert losses[:3] == pytest.approx([float(s.loss) for s in whole][:3], rel=0.02)
    assert difference(weights(full), weights(state)) > 0


class Loud(nn.Module):
    """A layer whose output is beyond fp16, but not beyond float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.loud, self.head = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        nn.init.constant_(self.loud.weight, 6e4)
        nn.init.constant_(self.stem.weight, 5.0)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.head(self.loud(self.stem(x)))


def test_a_forward_pass_that_is_nan_in_fp16_is_an_error_not_a_rescale() -> None:
    """Pitfall 3: the scale does not fall for ever; it is not to blame."""
    recipe = vectors(model=Build(Preconditioned, net=Build(Loud), parameterization=Edm()), patience=20, samples=8000)
    state = State(recipe, 0, CPU, 8000, torch.float16)
    scales = []
    with pytest.raises(NonFinite, match=r"20 steps in a row.*'model\.net\.loud'.*bfloat16"):
        for _ in train(recipe, state, points(recipe), Runtime()):
            assert state.scale is not None
            scales.append(float(state.scale.value))
    assert set(scales) == {65536.0}


def test_an_overflow_of_the_scale_is_a_rescale() -> None:
    """A gradient that overflows at 2^16 only is found again at a smaller scale, which stays within [1, 2^16]."""
    recipe = vectors(objective=Scaled(NOISE, 3e2), samples=8 * 40, patience=25, optim=AdamW(lr=1e-4))
    state = State(recipe, 0, CPU, 8 * 40, torch.float16)
    scales = []
    for _ in train(recipe, state, points(recipe), Runtime()):
        assert state.scale is not None
        scales.append(float(state.scale.value))
    assert 1 <= min(scales) < 65536 and min(scales) == scales[-1]
    assert 0 < int(state.bad[0, 2]) < 17 and int(state.bad[0, 0]) == 0


# Resuming by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, precision",
    [
        *((make, None) for make in (plain, adversarial, conditioned, orthogonal)),
        *((make, torch.float16) for make in (plain, orthogonal)),
    ],
)
def test_a_state_that_is_written_and_read_goes_on_to_the_bit(make: Any, precision: torch.dtype | None) -> None:
    """All that matters is in the weights, `groups` and `seen`: also the loss scale, and the window of the log."""
    dropout = {"model": denoiser(labels={"label": 10}, dropout=0.2)} if make is plain else {}
    recipe = make(samples=96, **dropout) if make is plain else make(samples=96)
    straight, _ = run(recipe, precision=precision)
    first = State(recipe, 0, CPU, 96, precision)
    for step in train(recipe, first, stream(recipe), Runtime()):
        if step.seen == 48:
            break
    # As a file gives them: in one order of elements, whatever that of a convolution on channels last is.
    solid = torch.contiguous_format
    groups = {k: {n: x.clone(memory_format=solid) for n, x in v.items()} for k, v in first.groups().items()}
    second = State(recipe, 0, CPU, 96, precision)
    for name, module in second.networks.items():
        module.load_state_dict(first.components[name].state_dict())
    second.load(groups)
    second.seen = 48
    list(train(recipe, second, stream(recipe, seen=48), Runtime()))
    assert difference(weights(straight), weights(second)) == 0
    expected, found = straight.groups(), second.groups()
    assert expected.keys() == found.keys()
    for name in expected:
        assert difference(expected[name], found[name]) == 0, name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
