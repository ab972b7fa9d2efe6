"""One graph for many batches: when it is recorded, replayed and let go of. A tape stands in for it: tests/gpu."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.cli import main
from unnoise.data import Digits
from unnoise.evaluation import Evaluation
from unnoise.export import export
from unnoise.modality import Image
from unnoise.model import Model
from unnoise.nets import kernels
from unnoise.sample import Ancestral, Euler
from unnoise.system import System
from unnoise.trial import CHUNK, Trial

RUN, RECORD, REPLAY = "run", "record", "replay"


class Tape:
    """What `Captured` does on a GPU: a replay reads the memory that was recorded, and writes to the same again."""

    def __init__(self, call: Callable[[Mapping[str, Tensor]], Tensor], log: list[str]) -> None:
        self.call, self.log, self.calls = call, log, 0
        self.inputs: dict[str, Tensor] = {}
        self.out: Tensor = torch.empty(0)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.calls += 1
        self.log.append(RUN if self.calls == 1 else RECORD if self.calls == 2 else REPLAY)
        if self.calls == 1:
            return self.call(inputs)
        if self.calls == 2:
            self.inputs = {k: x.clone() for k, x in inputs.items()}
            self.out = self.call(self.inputs)
            return self.out
        assert inputs.keys() == self.inputs.keys()
        for k, x in self.inputs.items():
            x.copy_(inputs[k])
        return self.out.copy_(self.call(self.inputs))


@dataclass
class Tapes:
    """All that were made in a test."""

    log: list[str] = field(default_factory=list)
    made: list[weakref.ref[Tape]] = field(default_factory=list)

    def make(self, call: Any, device: torch.device, warm: int) -> Tape:
        assert warm == 1
        tape = Tape(call, self.log)
        self.made.append(weakref.ref(tape))
        return tape

    @property
    def alive(self) -> int:
        return sum(ref() is not None for ref in self.made)

    def since(self) -> list[str]:
        """What was done since this was asked last."""
        log, self.log[:] = [*self.log], []
        return log


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tapes]:
    """With tapes in the place of graphs, and a CPU in that of a GPU. What is let go of goes without the collector."""
    tapes = Tapes()
    monkeypatch.setattr("unnoise.walks.Captured", tapes.make)
    for module in ("model", "export", "capture"):
        monkeypatch.setattr(f"unnoise.{module}.require_cuda", lambda device: None)
    gc.disable()
    yield tapes
    gc.enable()


@pytest.fixture
def model(tiny: Path) -> Model:
    model = Model.load(tiny)
    model.sampling = replace(model.sampling, sampler=Euler(), steps=2)
    model.codec = Image((1, 8, 8), 0, 16, dtype="float32")
    return model


def same(a: Any, b: Any) -> bool:
    return bool(np.abs(np.asarray(a) - np.asarray(b)).max() <= 16e-3)


def test_the_second_batch_is_recorded_and_all_later_ones_are_replayed(model: Model, tapes: Tapes) -> None:
    for n, seed, did in (
        (3, 0, [RUN]),  # and a row that is no whole batch
        (1, 9, []),
        (5, 20, [RECORD, REPLAY]),
        (6, -2, [REPLAY] * 3),
    ):
        label = torch.arange(n) % 10
        found = model.sample(n, seed=seed, batch=2, captured=True, label=label)
        assert tapes.since() == did
        assert same(found, model.sample(n, seed=seed, batch=2, label=label))


def test_noise_is_moved_to_the_mean_in_the_graph_too(model: Model, tapes: Tapes) -> None:
    model.sampling = replace(model.sampling, start="mean")
    found = model.sample(6, batch=2, captured=True)
    assert tapes.since() == [RUN, RECORD, REPLAY]
    assert same(found, model.sample(6, batch=2))


def test_weights_that_change_in_place_are_read_anew(model: Model, tapes: Tapes) -> None:
    before = model.sample(6, batch=2, captured=True)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.mul_(0.9)
    after = model.sample(6, batch=2, captured=True)
    assert tapes.since() == [RUN, RECORD] + [REPLAY] * 4
    assert not same(before, after) and same(after, model.sample(6, batch=2))


def other_precision(model: Model) -> None:
    assert hasattr(model.denoiser, "precision")
    model.denoiser.precision = torch.bfloat16


def moved(model: Model) -> None:
    """As `to` and `half` move them, if not by the model's own."""
    for p in model.denoiser.parameters():
        p.data = p.data.clone()


@pytest.mark.parametrize(
    "change",
    [
        other_precision,
        moved,
        lambda model: setattr(model.denoiser, "training", True),  # its layers' dropout stays off
        lambda model: setattr(model, "denoiser", copy.deepcopy(model.denoiser)),
        lambda model: setattr(model, "sampling", replace(model.sampling, steps=3)),
    ],
)
def test_another_model_is_another_graph(model: Model, tapes: Tapes, change: Callable[[Model], Any]) -> None:
    model.sample(6, batch=2, captured=True)
    assert tapes.since() == [RUN, RECORD, REPLAY]
    change(model)
    found = model.sample(6, batch=2, captured=True)
    assert tapes.since() == [RUN, RECORD, REPLAY] and tapes.alive == 1
    assert same(found, model.sample(6, batch=2))


@pytest.mark.parametrize(
    "asked",
    [{"steps": 3}, {"sampler": Ancestral()}, {"guidance": 2.0}, {"batch": 3}, {"deterministic": True}],
    ids=str,
)
def test_other_settings_are_another_graph_and_one_is_kept(model: Model, tapes: Tapes, asked: dict[str, Any]) -> None:
    for given in ({}, asked, {}):
        settings: dict[str, Any] = {"batch": 2, **given}
        found = model.sample(6, captured=True, **settings)
        assert tapes.since()[:2] == [RUN, RECORD] and tapes.alive == 1
        assert same(found, model.sample(6, **settings))
    assert len(tapes.made) == 3


def test_other_kernels_are_another_graph(model: Model, tapes: Tapes) -> None:
    for choice in ("eager", "fused", "fused"):
        with kernels.using(choice):
            model.sample(4, batch=2, steps=1, captured=True)
    assert tapes.since() == [RUN, RECORD, RUN, RECORD, REPLAY, REPLAY]


def test_equal_settings_share_a_graph(model: Model, tapes: Tapes) -> None:
    model.sample(4, batch=2, captured=True)
    model.sample(4, batch=2, captured=True, steps=2, sampler=Euler(), guidance=model.sampling.guidance, label=3)
    assert tapes.since() == [RUN, RECORD, REPLAY, REPLAY]


def test_a_model_that_is_moved_or_goes_lets_go_of_its_graph(tiny: Path, tapes: Tapes) -> None:
    model = Model.load(tiny)
    for _ in range(2):
        model.sample(4, batch=2, steps=1, captured=True)
        assert tapes.since() == [RUN, RECORD] and tapes.alive == 1
        model.to("cpu")
        assert tapes.alive == 0
    model.sample(2, batch=2, steps=1, captured=True)
    assert tapes.alive == 1
    del model
    assert tapes.alive == 0


def test_a_copy_begins_without_a_graph(model: Model, tapes: Tapes) -> None:
    model.sample(4, batch=2, captured=True)
    twin = copy.deepcopy(model)
    assert same(twin.sample(4, batch=2, captured=True), model.sample(4, batch=2, captured=True))
    assert tapes.since() == [RUN, RECORD, RUN, RECORD, REPLAY, REPLAY]


def test_threads_take_turns_with_the_graph(model: Model, tapes: Tapes) -> None:
    tasks: list[Callable[[], Any]] = [
        lambda k=k: model.sample(4, seed=10 * k, batch=2, steps=1 + k % 2, captured=True) for k in range(8)
    ]
    alone = [task() for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        together = [f.result() for f in [pool.submit(task) for task in tasks]]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_what_is_not_finite_is_refused_in_a_replay_too(model: Model, tapes: Tapes) -> None:
    model.sample(4, batch=2, captured=True)
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="sample 0 of the batch is not finite"):
        model.sample(2, batch=2, captured=True)
    assert tapes.since() == [RUN, RECORD, REPLAY]


# Whoever samples piece by piece ---------------------------------------------------------------------------------------


def test_files_are_written_with_one_recording(model: Model, tapes: Tapes, tmp_path: Path) -> None:
    (file,) = export(model, tmp_path / "x.npz", 9, batch=2, quiet=True, captured=True)
    assert tapes.since() == [RUN, RECORD, REPLAY, REPLAY]
    with np.load(file) as archive:
        assert same(archive["x"], model.sample(9))


@pytest.mark.parametrize(("batch", "chunk"), [(256, CHUNK), (1000, 2000), (3000, 3000), (7, 147 * 7)])
def test_a_trial_draws_whole_batches(batch: int, chunk: int) -> None:
    counts: list[int] = []

    class Counted:
        """Which notes how many it is asked for."""

        conditioner = None

        def sample(self, n: int, seed: int, **settings: Any) -> Any:
            counts.append(n)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Trial(10_000, settings={"batch": batch}).samples(Counted())
    assert counts == [chunk] and chunk % batch == 0


def test_a_trial_records_once(model: Model, tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unnoise.trial.CHUNK", 4)
    train = Digits().load().train
    drawn = [
        Trial(13, repeats=2, settings={"batch": 3, "captured": c}).samples(model, i, like=train)
        for c in (False, True)
        for i in range(2)
    ]
    assert tapes.since() == [RUN, RECORD] + [REPLAY] * 6
    assert same(drawn[0], drawn[2]) and same(drawn[1], drawn[3])


def test_each_stage_of_a_system_keeps_its_own(tiny: Path, tapes: Tapes) -> None:
    system = System({"a": Model.load(tiny), "b": Model.load(tiny)}, links=[])
    for _ in range(2):
        system.sample(2, batch=2, steps=1, captured=True)
    assert tapes.since() == [RUN, RUN, RECORD, RECORD] and tapes.alive == 2


def test_the_command_line_asks_for_it(
    tiny: Path, tapes: Tapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {}
    for capture in ((), ("--capture",)):
        out, on = tmp_path / f"{len(capture)}", ["--device", "cpu", *capture]
        few = ["-n", "512", "--steps", "1", "-s", "judge.halves=false", "-s", "judge.compared=100"]
        assert main(["sample", str(tiny), "-n", "7", "--batch", "2", "--steps", "1", "--out", f"{out}.npz", *on]) == 0
        assert main(["evaluate", str(tiny), "--out", str(out), *few, *on]) == 0
        made[capture] = Evaluation.read(out)
        assert ("--capture" in (out / "report.html").read_text()) == bool(capture)
    assert tapes.since() == [RUN, RECORD, REPLAY, RUN, RECORD]
    plain, captured = made.values()
    assert captured.measured == plain.measured and captured.hash == plain.hash
    for a, b in zip(captured.figures, plain.figures, strict=True):
        assert a.samples == pytest.approx(b.samples, abs=0.02 * abs(b.samples) + 1e-3)


def test_it_is_refused_elsewhere_before_anything_is_written(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("sample", "evaluate"):
        arguments = [command, str(tiny), "--out", str(tmp_path / "out"), "--device", "cpu", "--capture"]
        assert main(arguments) == 2
        assert capsys.readouterr() == (
            "",
            "unnoise: --capture records CUDA graphs, and the device is cpu: leave it out\n",
        )
    assert not list(tmp_path.iterdir())
