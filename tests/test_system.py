"""Several models as one: who is told what, of which noise, and the folder that holds them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from unnoise.checkpoint import CheckpointError
from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import Edm
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.export import export
from unnoise.modality import Image, Labels, LowRes, Plain
from unnoise.model import Model
from unnoise.nets import UNet
from unnoise.recipe import Sampling
from unnoise.sample import Euler, Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.system import APART, Link, System, load

SAMPLING = Sampling(Euler(), KarrasGrid(sigma_min=0.05, sigma_max=10), steps=3)


def network(**more: Any) -> Preconditioned:
    """Of random weights, the head's included, so that the output depends on every condition."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = UNet(channels=1, width=8, multipliers=(1,), blocks=1, attention=(), middle_attention=False, **more)
        for i, p in enumerate(net.parameters()):
            p += 0.15 * Rng.of(i).normal(torch.zeros(1, p.numel())).reshape(p.shape)
    return Preconditioned(net, Edm(0.6)).eval()


def base(size: int = 4) -> Model:
    labels = Labels({"label": 10})
    return Model(network(labels={"label": 10}), Image((1, size, size)), conditioner=labels, sampling=SAMPLING)


def up(size: int = 4, labels: Labels | None = None) -> Model:
    conditioner = LowRes(Image((1, size, size)), (2 * size, 2 * size), labels)
    net = network(image=1, vector=8, labels=labels.classes if labels else None)
    return Model(net, Image((1, 2 * size, 2 * size)), conditioner=conditioner, sampling=SAMPLING)


@pytest.fixture
def cascade() -> System:
    return System({"base": base(), "up": up()})


def equal(a: Any, b: Any) -> bool:
    return torch.equal(a.raw, b.raw)


def test_one_call_is_the_models_by_hand(cascade: System) -> None:
    made = cascade.sample(5, seed=7, label=[3, 1], augment=0.2)
    first = cascade.models["base"].sample(5, seed=7, label=[3, 1])
    second = cascade.models["up"].sample(5, seed=7 + APART, low=first.raw, augment=0.2)
    assert made.raw.shape == (5, 1, 8, 8) and equal(made, second)
    assert made.seeds.tolist() == [7, 8, 9, 10, 11]
    assert made.cond.keys() == {"label", "augment"} and made.cond["label"].tolist() == [3, 1, 3, 1, 3]
    stages = cascade.sample(5, seed=7, label=[3, 1], augment=0.2, stages=True)
    assert list(stages) == ["base", "up"] and equal(stages["base"], first) and equal(stages["up"], second)
    assert torch.equal(stages["up"].cond["low"], first.raw)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_every_stage_is_compiled(cascade: System) -> None:
    plain, compiled = cascade.sample(4, batch=4, steps=2), list[Any]()

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    assert cascade.compile(backend=backend, dynamic=False) is cascade
    torch.testing.assert_close(cascade.sample(4, batch=4, steps=2).raw, plain.raw, rtol=0, atol=1)
    assert len(compiled) == len(cascade.models)


def test_what_the_last_stage_makes_depends_on_the_first(cascade: System) -> None:
    a, b = (cascade.sample(4, label=label) for label in (1, 8))
    assert not equal(a, b)


def test_a_row_depends_on_its_own_seed_alone(cascade: System) -> None:
    whole = cascade.sample(5, seed=3, deterministic=True)
    for i in range(5):
        assert torch.equal(cascade.sample(1, seed=3 + i, deterministic=True).raw[0], whole.raw[i])
    assert equal(cascade.sample(5, seed=3, batch=2, deterministic=True), whole)
    assert whole.cond["label"].tolist() == [3, 4, 5, 6, 7]  # a function of the seed, as the base's own are


def test_stages_do_not_begin_from_the_same_noise() -> None:
    """Numbers are addressed by seed and place: with one seed, a corner of the large noise would be the small noise."""
    small, large = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8)
    assert torch.equal(Rng.of(5).normal(small), Rng.of(5).normal(large)[..., :4, :4])
    a, b = Rng.of(range(2000)), Rng.of(range(APART, APART + 2000))
    x = torch.stack([r.normal(torch.zeros(2000, 1)).flatten() for r in (a, b)])
    assert abs(float(torch.corrcoef(x)[0, 1])) < 0.1


def test_a_condition_of_several_stages_is_the_same_for_all() -> None:
    system = System({"base": base(), "up": up(labels=Labels({"label": 10}))})
    stages = system.sample(4, seed=6, stages=True)
    assert stages["up"].cond["label"].tolist() == stages["base"].cond["label"].tolist() == [6, 7, 8, 9]
    assert system.sample(2, label=5, stages=True)["up"].cond["label"].tolist() == [5, 5]


def test_three_stages() -> None:
    system = System({"a": base(), "b": up(), "c": up(8)})
    assert system.links == (Link("a", "b", "low"), Link("b", "c", "low"))
    stages = system.sample(2, augment=0.1, stages=True)
    assert equal(stages["c"], system.models["c"].sample(2, seed=2 * APART, low=stages["b"].raw, augment=0.1))
    skipping = System({"a": base(), "b": up(), "c": up()}, [Link("a", "b", "low"), Link("a", "c", "low")])
    made = skipping.sample(1, stages=True)
    assert torch.equal(made["c"].cond["low"], made["a"].raw)


def test_a_condition_that_is_not_linked_is_asked_for() -> None:
    """Two stages of which only one is linked: the other's small pictures are the user's."""
    system = System({"base": base(), "b": up(), "c": up()}, [Link("base", "b", "low")])
    low = system.models["base"].sample(2, seed=50).raw
    stages = system.sample(2, low=low, stages=True)
    assert torch.equal(stages["c"].cond["low"], low) and torch.equal(stages["b"].cond["low"], stages["base"].raw)
    with pytest.raises(UserError, match="nothing to enlarge"):
        system.sample(2)


def test_settings_of_all_stages_or_of_one(cascade: System) -> None:
    assert {k: s.steps for k, s in cascade.settings(steps=5).items()} == {"base": 5, "up": 5}
    assert {k: s.steps for k, s in cascade.settings(steps={"up": 2}).items()} == {"base": 3, "up": 2}
    asked: dict[str, Any] = {"sampler": Heun(), "guidance": 2.0, "interval": (-3.0, 3.0)}
    asked |= {"grid": KarrasGrid(sigma_max=20.0, rho=4), "start": "mean"}
    made = cascade.sample(2, steps={"up": 2}, label=1, **{k: {"base": v} for k, v in asked.items()})
    first = cascade.models["base"].sample(2, label=1, **asked)
    assert not equal(first, cascade.models["base"].sample(2, sampler=Heun(), guidance=2.0, label=1))
    assert equal(made, cascade.models["up"].sample(2, seed=APART, steps=2, low=first.raw))
    with pytest.raises(UserError, match=r"unknown stage 'bse': did you mean base?"):
        cascade.sample(1, steps={"bse": 3})
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        cascade.sample(1, steps=0)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lable": 3}, "unknown condition 'lable': did you mean label?"),
        ({"low": torch.zeros(1, 1, 4, 4)}, "condition 'low' of 'up' is what 'base' makes: leave it out"),
        ({"label": 11}, "label=11 is out of range"),
        ({"augment": 2.0}, "augment=2 is out of range"),
    ],
    ids=str,
)
def test_conditions_that_do_not_exist_are_refused(cascade: System, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cascade.sample(2, **asked)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([Link("bass", "up", "low")], "unknown stage 'bass': did you mean base?"),
        ([Link("base", "up", "lo")], r"'up' does not know the condition 'lo': it knows \['low', 'augment'\]"),
        ([Link("up", "base", "label")], "'up' comes after 'base'"),
        ([Link("base", "base", "label")], "'base' comes after 'base'"),
        ([Link("base", "up", "low")] * 2, "condition 'low' of 'up' is linked twice"),
    ],
    ids=str,
)
def test_links_that_cannot_be_are_refused(links: list[Link], message: str) -> None:
    with pytest.raises(UserError, match=message):
        System({"base": base(), "up": up()}, links)


def test_models_that_do_not_fit_are_refused_before_anything_is_sampled() -> None:
    with pytest.raises(UserError, match=r"'up' cannot be told what 'base' makes: .*shape \(1, 8, 8\).*\(1, 4, 4\)"):
        System({"base": base(8), "up": up(4)})
    plain = Model(network(), Plain((1, 4, 4)), sampling=SAMPLING)
    with pytest.raises(UserError, match=r"'up' cannot be told what 'base' makes: .*float32"):
        System({"base": plain, "up": up()})
    with pytest.raises(UserError, match=r"'b' has 0 conditions that it cannot do without.*name the links"):
        System({"a": base(), "b": base()})
    with pytest.raises(UserError, match="at least one model"):
        System({})
    with pytest.raises(UserError, match=r"a stage is named by letters, digits, - and _, got '../x'"):
        System({"../x": base()})


def test_a_link_as_it_is_written() -> None:
    assert Link.parse("up.low=base") == Link("base", "up", "low")
    for text in ("up=base", "up.low", "up.low=", "a.b.c=d"):
        with pytest.raises(UserError, match=r"write TARGET.CONDITION=SOURCE"):
            Link.parse(text)


# One folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_all_that_is_needed(cascade: System, tmp_path: Path) -> None:
    cascade.save(tmp_path / "deep" / "cascade")
    (tmp_path / "deep" / "cascade").rename(tmp_path / "moved")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == []
    loaded = load(tmp_path / "moved")
    assert isinstance(loaded, System) and loaded.links == cascade.links and list(loaded.models) == ["base", "up"]
    assert equal(loaded.sample(3, label=4), cascade.sample(3, label=4))
    alone = load(tmp_path / "moved" / "base")  # each stage is a model of its own
    assert isinstance(alone, Model) and equal(alone.sample(2), cascade.models["base"].sample(2))
    with pytest.raises(UserError, match="moved exists"):
        cascade.save(tmp_path / "moved")


def test_the_order_of_stages_is_kept(tmp_path: Path) -> None:
    system = System({"z": base(), "m": up(), "a": up(8)})
    system.save(tmp_path / "s")
    assert list(System.load(tmp_path / "s").models) == ["z", "m", "a"]


def test_it_is_written_whole_or_not_at_all(cascade: System, tmp_path: Path) -> None:
    cascade.models["up"].facts["bad"] = float("nan")  # no JSON
    with pytest.raises(ValueError, match="JSON"):
        cascade.save(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    del cascade.models["up"].facts["bad"]
    with pytest.raises(CheckpointError, match="could not be written"):
        cascade.save(tmp_path / "file" / "s")
    cascade.save(tmp_path / "s")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "s"]


def _weights(folder: Path) -> Path:
    return folder / "up" / "components" / "model" / "weights.safetensors"


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def _rewrite(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "system.json").read_text()) | changes
    (folder / "system.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda f: _flip(_weights(f)), "weights.safetensors was changed after it was written"),
        (lambda f: _flip(f / "up" / "manifest.json"), "manifest.json was changed .*stage 'up' is another model"),
        (lambda f: shutil.rmtree(f / "up"), "up/manifest.json is missing: the system is not whole"),
        (lambda f: (f / "system.json").write_text("{"), "system.json is not readable"),
        (lambda f: _rewrite(f, format=2), "is of format 2, this version reads up to 1: upgrade unnoise"),
        (lambda f: _rewrite(f, format=None), "states no format"),
        (lambda f: _rewrite(f, stages=["up"]), "states no stages or no links"),
        (lambda f: _rewrite(f, links=[{"$type": "os.system"}]), "os.system"),
    ],
    ids=["weights", "manifest", "gone", "json", "newer", "no-format", "stages", "foreign-type"],
)
def test_a_changed_folder_is_refused(cascade: System, tmp_path: Path, tamper: Any, message: str) -> None:
    cascade.save(tmp_path / "s")
    tamper(tmp_path / "s")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "s")


def test_another_model_in_the_place_of_a_stage_is_refused(cascade: System, tmp_path: Path) -> None:
    cascade.save(tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "base")
    base().save(tmp_path / "s" / "base")
    with torch.no_grad():
        next(cascade.models["base"].denoiser.parameters()).add_(0.1)
    assert load(tmp_path / "s")  # the same weights: the same model
    shutil.rmtree(tmp_path / "s" / "base")
    cascade.models["base"].save(tmp_path / "s" / "base")
    with pytest.raises(CheckpointError, match="stage 'base' is another model"):
        load(tmp_path / "s")


def test_what_is_no_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a system: it has no system.json"):
        System.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such run"):
        load(tmp_path / "none")


# Onto the disk ------------------------------------------------------------------------------------------------------


def test_a_system_is_exported_as_a_model_is(cascade: System, tmp_path: Path) -> None:
    files = export(cascade, tmp_path / "out", 3, seed=2, batch=2, quiet=True, cond={"label": [4, 5]}, steps=2)
    assert [f.name for f in files] == [f"seed{2 + i:06d}-label{4 + i % 2}-augment0.1.png" for i in range(3)]
    before = {f: f.stat().st_mtime_ns for f in files}
    export(cascade, tmp_path / "out", 3, seed=2, batch=2, quiet=True, cond={"label": [4, 5]}, steps=2)
    assert {f: f.stat().st_mtime_ns for f in files} == before  # gone on with: nothing was left to do
    with pytest.raises(UserError, match="another sampling"):
        export(cascade, tmp_path / "out", 3, quiet=True, cond={"label": [4, 5]}, steps=3)
    with torch.no_grad():
        next(cascade.models["base"].denoiser.parameters()).add_(0.1)
    with pytest.raises(UserError, match="another weights"):
        export(cascade, tmp_path / "out", 3, quiet=True, cond={"label": [4, 5]}, steps=2)
