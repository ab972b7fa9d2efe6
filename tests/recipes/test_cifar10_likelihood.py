"""The recipe of likelihood: as it stands, and shrunk to digits, trained, stopped, gone on with and measured."""

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise import checkpoint, fit
from unnoise.core.learned import LearnedSchedule
from unnoise.core.objective import Loss
from unnoise.core.variational import VariationalBound
from unnoise.data import Digits
from unnoise.data.stream import batches
from unnoise.evaluation import measure
from unnoise.forecast import forecast
from unnoise.modality import Image
from unnoise.model import Model
from unnoise.recipe import Recipe
from unnoise.recipes import cifar10_likelihood
from unnoise.runtime import Runtime
from unnoise.spec import Build, build, describe
from unnoise.state import State
from unnoise.train import train
from unnoise.trial import Trial


def digits(samples: int = 12_800) -> Recipe:
    """The recipe of 17 gray values at 8 pixels; the cleanest level is where their bits are plain to see."""
    recipe: Any = cifar10_likelihood.recipe()
    net = recipe.model.args["net"].replace(channels=1, width=16, blocks=1, head_width=16, octaves=(3, 4))
    return replace(
        recipe,
        data=Digits(),
        codec=Image(shape=(1, 8, 8), low=0, high=16),
        model=recipe.model.replace(net=net),
        optim=replace(recipe.optim, lr=3e-3, rate=replace(recipe.optim.rate, warmup=2_000)),
        more={"schedule": Build(LearnedSchedule, low=(-9.0, -1.0), high=(3.0, 13.0), units=16)},
        sampling=replace(recipe.sampling, grid=replace(recipe.sampling.grid, sigma_min=0.05), steps=4),
        batch=64,
        samples=samples,
        augment=None,
    )


def test_the_recipe_is_whole() -> None:
    recipe: Any = cifar10_likelihood.recipe()
    assert build(describe(recipe), lazy=True).objective == recipe.objective == recipe.judge.objective
    parts = recipe.components()
    assert parts["model"].interval == parts["schedule"].interval == (-9, 16)
    assert [float(e.detach()) for e in parts["schedule"].ends()] == pytest.approx([-5.0, 13.3])
    with pytest.raises(ValueError, match="density is the component 'schedule', which `more` lacks"):
        replace(recipe, more={}).components()
    narrow = recipe.model.replace(interval=(-5.0, 13.0))
    with pytest.raises(ValueError, match="the density draws log-SNR in"):
        replace(recipe, model=narrow).components()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 steps on digits, some of them after a stop."""
    path = tmp_path_factory.mktemp("likelihood") / "run"
    fit.start(digits(), path, Runtime(), samples=9_600)
    fit.resume(path, Runtime(), samples=12_800)
    return path


def test_a_forecast_leaves_no_graph_behind() -> None:
    """One that lives on would keep a parameter's gradient at home on its stream, and no step could be recorded."""

    def accumulator(p: Tensor) -> Any:
        return p.view_as(p).grad_fn.next_functions[0][0]  # type: ignore[union-attr]

    recipe = digits()
    state = State(recipe, 0, torch.device("cpu"), None)
    parameters = {k: x for m in state.networks.values() for k, x in m.named_parameters()}

    class Marking(VariationalBound):
        def __call__(self, *arguments: Any) -> Loss:
            loss = super().__call__(*arguments)
            for p in parameters.values():
                accumulator(p).metadata["forecast"] = True
            return loss

    recipe = replace(recipe, objective=Marking(density="schedule"))
    assert forecast(recipe, state, Digits().load(), Runtime(), {"precision": "float32", "minutes": 1})
    gc.collect()
    assert not [k for k, p in parameters.items() if "forecast" in accumulator(p).metadata]


def test_training_lowers_the_bound_and_moves_the_schedule(run: Path) -> None:
    recipe, data = digits(), Digits().load()
    assert recipe.judge is not None
    fresh = State(recipe, 0, torch.device("cpu"), None)
    before = Model(fresh.components["model"].eval(), recipe.codec)
    before.more["schedule"] = fresh.components["schedule"]
    after = Model.load(run)
    first, last = (recipe.judge(m, data, Trial(128)) for m in (before, after))
    assert last[0].samples < first[0].samples - 0.5 and last[0].samples < last[-1].samples + 0.6
    assert last[0].error is not None and 0 < last[0].error < 0.1
    new, old = after.more["schedule"].state_dict(), before.more["schedule"].state_dict()
    assert not any(torch.equal(new[k], old[k]) for k in new)
    u = torch.linspace(0, 1, 100, dtype=torch.float64)
    assert bool((after.more["schedule"](u)[0].logsnr.diff() < 0).all())


def test_what_a_run_logs_and_keeps(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert {"diffusion", "prior", "reconstruction", "logsnr_low", "logsnr_high", "held_out"} <= last.keys()
    assert last["loss"] == pytest.approx(last["diffusion"] + last["prior"] + last["reconstruction"], abs=1e-4)
    contents = checkpoint.read(checkpoint.locate(run))
    assert {"model", "schedule", "codec", "process"} <= contents.specs.keys()
    assert contents.facts["trains"] == ["model", "schedule"]
    assert any(k.startswith("schedule.") for k in contents.groups["ema-0.1"])
    data = Digits().load()
    found = measure(Model.load(run), digits().judge, data, Trial(16))  # type: ignore[arg-type]
    assert found.protocol["time"] == "continuous" and found.protocol["judge"]["draws"] == 16
    assert Model.load(run).sample(2, seed=0).raw.shape == (2, 1, 8, 8)


def test_micro_batches_and_resuming_change_nothing() -> None:
    def trained(recipe: Recipe, stop: int | None = None) -> dict[str, torch.Tensor]:
        columns, state = {"x": Digits().load().train["x"][:64]}, State(recipe, 0, torch.device("cpu"), recipe.samples)
        for total in (stop, recipe.samples) if stop else (recipe.samples,):
            state.total = total
            for _ in train(recipe, state, batches(columns, recipe.batch, seed=0, seen=state.seen), Runtime()):
                pass
            kept = {k: {n: x.clone() for n, x in group.items()} for k, group in state.groups().items()}
            seen, parts = state.seen, state.components
            state = State(recipe, 1, torch.device("cpu"), recipe.samples, components=parts)
            state.load(kept)
            state.seen, state.seed = seen, 0
        return {k: x.detach() for k, x in state.named.items()}

    recipe = replace(digits(4 * 16), batch=16)
    whole = trained(recipe)
    for other in (trained(replace(recipe, micro=4)), trained(recipe, stop=32)):
        for k, x in whole.items():
            torch.testing.assert_close(other[k], x, rtol=1e-3, atol=2e-5)
