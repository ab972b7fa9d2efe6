"""Checkpoints: whole or not at all, and read only where every byte is as it was written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unnoise import checkpoint, fit
from unnoise.checkpoint import CheckpointError, Contents, adopt_weights, commit, contents_of, load_weights, locate, read
from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import Edm, V
from unnoise.errors import UserError
from unnoise.modality import Plain
from unnoise.model import Model
from unnoise.nets import MLP
from unnoise.runtime import Runtime

if TYPE_CHECKING:
    from programs import Python

GOLDEN = Path(__file__).parent / "golden"
SOURCE = Path(checkpoint.__file__).parent


def contents(value: float = 0.0) -> Contents:
    net = nn.Linear(2, 3)
    nn.init.constant_(net.weight, value)
    model = Preconditioned(MLP(channels=2, width=8, blocks=1), V())
    groups = {"ema-0.1": {"x": torch.full((4,), value)}, "empty": {}}
    return contents_of({"model": model, "codec": Plain((2,))}, groups, {"seen": 3, "share": 0.1})


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# Writing and reading -------------------------------------------------------------------------------------------------


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    given = contents(0.5)
    given.groups["kinds"] = {
        "half": torch.tensor([1.0, -2.5], dtype=torch.bfloat16),
        "count": torch.tensor(7, dtype=torch.int32),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "none": torch.zeros(0, 3),
    }
    checkpoint.write(tmp_path / "c", given)
    found = read(tmp_path / "c")
    assert found.facts == given.facts and found.specs == given.specs
    assert found.weights.keys() == {"model"} and found.groups.keys() == given.groups.keys()
    for ours, theirs in ((given.weights, found.weights), (given.groups, found.groups)):
        for k in ours:
            assert ours[k].keys() == theirs[k].keys()
            for name, x in ours[k].items():
                assert theirs[k][name].dtype == x.dtype and torch.equal(theirs[k][name], x)
    built = checkpoint.components(found)
    assert built["codec"] == Plain((2,)) and torch.equal(
        built["model"].net.stem.weight, given.weights["model"]["net.stem.weight"]
    )


def test_every_file_is_accounted_for_and_none_is_left_over(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "c", contents())
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    files = {f.relative_to(tmp_path / "c").as_posix() for f in (tmp_path / "c").rglob("*") if f.is_file()}
    assert manifest["format"] == checkpoint.FORMAT and manifest["files"].keys() == files - {"manifest.json"}
    assert [f.name for f in tmp_path.iterdir()] == ["c"]


def test_weights_that_are_shared_are_written(tmp_path: Path) -> None:
    """A state dict whose tensors share memory, as tied embeddings do."""
    tied = nn.Linear(3, 3)
    groups = {"g": {"a": tied.weight, "b": tied.weight}}
    checkpoint.write(tmp_path / "c", contents_of({}, groups, {}))
    found = read(tmp_path / "c").groups["g"]
    assert torch.equal(found["a"], tied.weight) and torch.equal(found["b"], tied.weight)


def test_latest_always_names_a_whole_checkpoint(python: Python, tmp_path: Path) -> None:
    for seen in (0, 10, 20, 30):
        folder = commit(tmp_path, seen, contents(float(seen)))
        assert locate(tmp_path) == folder and float(read(folder).groups["ema-0.1"]["x"][0]) == seen
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["20", "30"]
    assert commit(tmp_path, 30, contents(99.0)) == folder  # there already: nothing to do
    assert float(read(folder).groups["ema-0.1"]["x"][0]) == 30


def test_what_a_kill_leaves_is_cleared_away(tmp_path: Path) -> None:
    """Between the rename and the pointer, and in the midst of writing; the latest is never among what is removed."""
    commit(tmp_path, 10, contents(10.0))
    home = tmp_path / "checkpoints"
    (home / ".15.123.part" / "components").mkdir(parents=True)
    for ahead in ("20", "30"):  # whole, but never pointed to
        checkpoint.write(home / ahead, contents(99.0))
    assert locate(tmp_path).name == "10"
    commit(tmp_path, 12, contents(12.0))
    assert sorted(f.name for f in home.iterdir()) == ["10", "12"] and locate(tmp_path).name == "12"
    read(locate(tmp_path))
    checkpoint.write(home / "20", contents(99.0))
    folder = commit(tmp_path, 20, contents(20.0))  # what lies there is written anew
    assert float(read(folder).groups["ema-0.1"]["x"][0]) == 20 and locate(tmp_path) == folder


CRASH = """
import os, sys, traceback
from pathlib import Path
import torch
from unnoise import checkpoint
from unnoise.checkpoint import contents_of, commit, locate, read

home = Path(sys.argv[1])
def contents(value):
    return contents_of({}, {"g": {"x": torch.full((8,), float(value))}, "h": {"y": torch.zeros(2)}}, {"seen": value})
TOUCH = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}
def after(calls):
    count = 0
    def look(event, arguments):
        nonlocal count
        if event in TOUCH and arguments and str(home) in str(arguments[0]):
            count += 1
            if count > calls:
                os._exit(9)
    return look
commit(home, 1, contents(1))
commit(home, 2, contents(2))
seen, crashes, calls = 2, 0, 0
while True:
    pid = os.fork()
    if pid == 0:
        sys.addaudithook(after(calls))
        try:
            commit(home, seen + 1, contents(seen + 1))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), code
    found = read(locate(home))
    assert found.facts["seen"] in (seen, seen + 1) and found.groups["g"]["x"].tolist() == [found.facts["seen"]] * 8
    assert locate(home).name == str(found.facts["seen"])
    if code == 0:
        break
    seen, crashes, calls = found.facts["seen"], crashes + 1, calls + 1
assert found.facts["seen"] == seen + 1
print(crashes, sorted(f.name for f in (home / "checkpoints").iterdir()), seen + 1)
"""


def test_a_death_at_any_call_of_the_system_leaves_a_whole_checkpoint(python: Python, tmp_path: Path) -> None:
    """One process after the other dies at its 1st, 2nd, 3rd, .. touch of the disk; the next finds the old checkpoint
    or the new one, whole, and clears up."""
    done = python.run("-c", CRASH, tmp_path)
    assert done.returncode == 0, done.stderr
    crashes, _, rest = done.stdout.partition(" ")
    names, _, last = rest.strip().rpartition(" ")
    assert int(crashes) > 20
    assert names == str([str(int(last) - 1), last])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            checkpoint.write(tmp_path / "c", contents())
    finally:
        tmp_path.chmod(0o700)


def test_a_path_through_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"file/c could not be written"):
        checkpoint.write(tmp_path / "file" / "c", contents())


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from unnoise import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
home = Path(sys.argv[1])
small = checkpoint.contents_of({}, {"g": {"x": torch.zeros(8)}}, {})
large = checkpoint.contents_of({}, {"g": {"x": torch.zeros(100_000)}}, {})
wordy = checkpoint.contents_of({}, {}, {"words": "w" * 100_000})
checkpoint.commit(home, 1, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for contents in (large, wordy):
    try:
        checkpoint.commit(home, 2, contents)
    except checkpoint.CheckpointError as e:
        print(e)
try:
    checkpoint.save_tensors({"x": torch.zeros(100_000)}, home / "one.safetensors")
except checkpoint.CheckpointError as e:
    print(e)
"""


def test_a_refusal_of_the_disk_is_an_error_and_what_was_there_is_whole(python: Python, tmp_path: Path) -> None:
    """A real refusal by the system: a limit on the size of files. Nothing half-written stays."""
    done = python.run("-c", FULL, tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 3, done.stderr
    assert all("File too large" in line and "make room" not in line for line in lines)
    assert "checkpoints/2" in lines[0] and "one.safetensors" in lines[2]
    assert locate(tmp_path).name == "1" and read(locate(tmp_path)).groups["g"]["x"].shape == (8,)
    names = [f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*")]
    assert not [n for n in names if "part" in n or n.startswith("checkpoints/2") or n == "one.safetensors"]


@pytest.mark.parametrize(
    ("error", "room"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)), False),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), False),
    ],
    ids=str,
)
def test_room_is_asked_for_where_it_is_short(error: Exception, room: bool) -> None:
    said = str(checkpoint._disk_error(Path("a"), error))
    assert ("there is no room left" in said) == said.endswith(": make room") == room
    assert room or str(error) in said


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def golden_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "format1-run", tmp_path / "run"))


def flip(path: Path, at: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


C = "checkpoints/320"
W = f"{C}/components/model/weights.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one bit of the weights": (lambda p: flip(p / W), r"weights\.safetensors was changed"),
    "one bit of an average": (lambda p: flip(p / C / "groups/ema-0.1.safetensors"), r"ema-0\.1\.safetensors was chan"),
    "one bit of the optimiser": (lambda p: flip(p / C / "groups/optim-0.safetensors"), r"optim-0\.safetensors was ch"),
    "weights cut short": (lambda p: os.truncate(p / W, 1000), r"weights\.safetensors was changed"),
    "weights emptied": (lambda p: os.truncate(p / W, 0), r"weights\.safetensors was changed"),
    "weights gone": (lambda p: (p / W).unlink(), r"weights\.safetensors is missing"),
    "a group gone": (lambda p: (p / C / "groups/train.safetensors").unlink(), r"train\.safetensors is missing"),
    "a component gone": (lambda p: shutil.rmtree(p / C / "components/codec"), r"codec/manifest\.json is missing"),
    "the facts changed": (
        lambda p: rewrite(p / C / "manifest.json", lambda m: m["facts"].update(seen=640)),
        r"320/manifest\.json was changed",
    ),
    "a description changed": (
        lambda p: rewrite(p / C / "components/model/manifest.json", lambda m: m["spec"].update(interval=[-1, 1])),
        r"model/manifest\.json was changed",
    ),
    "the manifest gone": (lambda p: (p / C / "manifest.json").unlink(), r"320/manifest\.json is missing"),
    "the manifest cut short": (lambda p: os.truncate(p / C / "manifest.json", 50), r"manifest\.json was changed"),
    "the checkpoint gone": (lambda p: shutil.rmtree(p / C), r"320/manifest\.json is missing"),
    "the pointer cut short": (lambda p: os.truncate(p / "latest", 20), r"latest is not readable"),
    "the pointer emptied": (lambda p: (p / "latest").write_text(""), r"latest is not readable"),
    "the pointer no mapping": (lambda p: (p / "latest").write_text("[1]"), r"latest is not what unnoise writes"),
    "the pointer of bytes": (lambda p: (p / "latest").write_bytes(b"\xff\xfe"), r"latest is not readable"),
    "the pointer gone": (lambda p: (p / "latest").unlink(), r"run is not a run of unnoise: .*'latest'"),
    "nothing there": (shutil.rmtree, r"no such run: .*run"),
    "an empty folder": (lambda p: (shutil.rmtree(p), p.mkdir()), r"run is empty"),
    "a foreign folder": (
        lambda p: (shutil.rmtree(p), p.mkdir(), (p / "model.bin").write_text("x")),
        r"run is not a run of unnoise",
    ),
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("x")), r"no such run: .*run"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_the_name_of_the_file(golden_run: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    Model.load(golden_run)
    damage(golden_run)
    for use in (Model.load, fit.resume):
        with pytest.raises(CheckpointError, match=message):
            use(golden_run)


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json", "train.safetensors"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copy(GOLDEN / "points.npz", golden_run.parent)
    monkeypatch.chdir(golden_run.parent)
    fit.resume(golden_run, Runtime(), samples=480)
    whole = {k: x.clone() for k, x in read(locate(golden_run)).weights["model"].items()}  # no map of the file
    flip(next((golden_run / "checkpoints/480").rglob(name)))
    capsys.readouterr()
    fit.resume(golden_run, Runtime(), samples=480)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "was changed" in line]
    assert "checkpoints/480" in said and said.endswith(f"going on from {golden_run / C}, the one before")
    again = read(locate(golden_run)).weights["model"]  # the damaged one was written anew
    assert all(torch.equal(x, again[k]) for k, x in whole.items())


def test_a_damaged_checkpoint_is_never_gone_on_from(golden_run: Path) -> None:
    """Where the one before is damaged too, if only in its manifest, which no manifest tells the sha256 of."""
    commit(golden_run, 480, read(golden_run / C))
    for damaged in (golden_run / C / "manifest.json", golden_run / "checkpoints/480/manifest.json"):
        rewrite(damaged, lambda m: m["facts"].update(seed=1))
    before = (golden_run / "latest").read_bytes()
    with pytest.raises(CheckpointError, match=r"480/manifest\.json was changed"):
        fit.resume(golden_run)
    assert (golden_run / "latest").read_bytes() == before


SIGNED_NOT = {
    "a newer format": (lambda m: m.update(format=checkpoint.FORMAT + 1), r"is of format 3, .*up to 2: upgrade unnoise"),
    "no format": (lambda m: m.pop("format"), r"is not a checkpoint of unnoise: its manifest states no format"),
    "a format of words": (lambda m: m.update(format="one"), r"states no format"),
    "a format before the first": (lambda m: m.update(format=0), r"states no format"),
}


@pytest.mark.parametrize("name", ["groups/extra.safetensors", "components/model/extra.json"])
def test_a_file_that_the_manifest_does_not_list_is_refused(golden_run: Path, name: str) -> None:
    folder = checkpoint.locate(golden_run)
    (folder / name).write_bytes(b"put here later")
    with pytest.raises(CheckpointError, match=r"extra\..* is not in the manifest"):
        checkpoint.read(folder)


@pytest.mark.parametrize("name", SIGNED_NOT)
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    change, message = SIGNED_NOT[name]
    folder = Path(shutil.copytree(GOLDEN / "format1", tmp_path / "model"))
    rewrite(folder / "manifest.json", change)
    with pytest.raises(CheckpointError, match=message):
        Model.load(folder)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "{}", '{"weight": 1}'])
def test_a_manifest_of_somebody_elses_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        Model.load(tmp_path)


def test_a_checkpoint_without_a_model_says_what_it_has(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "c", contents_of({"codec": Plain((2,))}, {}, {}))
    with pytest.raises(CheckpointError, match=r"no component 'model', only \['codec'\]"):
        Model.load(tmp_path / "c")


def test_a_saved_model_is_no_run(tmp_path: Path) -> None:
    Model(Preconditioned(MLP(channels=2, width=8), Edm()), Plain((2,))).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="is a checkpoint or a saved model, not a run"):
        fit.resume(tmp_path / "m")


# Nothing is unpickled ------------------------------------------------------------------------------------------------


class Trap:
    """What runs where somebody unpickles it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
@pytest.mark.parametrize("file", [W, f"{C}/groups/train.safetensors", "ema/208.safetensors"])
def test_a_pickle_in_the_place_of_tensors_is_refused(
    golden_run: Path, how: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where every digest was made to fit."""
    monkeypatch.chdir(golden_run)
    place = golden_run / file
    place.unlink()
    if how == "pickle":
        place.write_bytes(pickle.dumps({"net.stem.weight": Trap()}))
    else:
        torch.save({"net.stem.weight": Trap()}, place)
    digest = checkpoint.sha256(place)
    folder = golden_run / C
    if file == W:
        rewrite(folder / "components/model/manifest.json", lambda m: m.update(sha256=digest))
    for f in ("components/model/manifest.json", *([file[len(C) + 1 :]] if file.startswith(C) else [])):
        name = checkpoint.sha256(folder / f)
        rewrite(folder / "manifest.json", lambda m, f=f, name=name: m["files"].update({f: name}))
    rewrite(golden_run / "latest", lambda m: m.update(sha256=checkpoint.sha256(folder / "manifest.json")))
    with pytest.raises(UserError, match=re.escape(place.name)):
        Model.load(golden_run, weights=0.2 if file.startswith("ema") else "raw")
    assert not (golden_run / "unpickled").exists()


def test_the_source_knows_no_pickle() -> None:
    words = re.compile(
        r"torch\.load|torch\.save\b|\bpickle\b(?!d)|allow_pickle=True|\bmarshal\b|\bshelve\b|\beval\(|\bexec\("
    )
    found = [
        f"{f.relative_to(SOURCE)}:{i}: {line.strip()}"
        for f in sorted(SOURCE.rglob("*.py"))
        for i, line in enumerate(f.read_text(encoding="utf8").splitlines(), 1)
        if words.search(line.replace(".eval()", ""))
    ]
    # The one file of weights that is published as a pickle, of which tensors are built and nothing else (decision 16).
    only = [line for line in found if "torch.load(path" in line and "weights_only=True" in line]
    assert found == only and len(only) == 1 and only[0].startswith("judges/inception.py")


# Weights -------------------------------------------------------------------------------------------------------------


def test_weights_of_another_network_are_refused_by_tensor(tmp_path: Path) -> None:
    small, wide = MLP(channels=2, width=8, blocks=1), MLP(channels=2, width=16, blocks=1)
    deep = MLP(channels=2, width=8, blocks=2)
    with pytest.raises(CheckpointError, match=r"'model'.*another network: '.*' is \(.*\) in the checkpoint and \("):
        load_weights(wide, small.state_dict(), "model")
    with pytest.raises(CheckpointError, match=r"the checkpoint lacks 'layers\.1\."):
        load_weights(deep, small.state_dict(), "model")
    with pytest.raises(CheckpointError, match=r"the network does not have 'layers\.1\."):
        load_weights(small, deep.state_dict(), "model")
    with pytest.raises(CheckpointError, match="the checkpoint lacks"):
        load_weights(small, {}, "model")
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_weights(wide, small.state_dict(), "model")
    assert all(torch.equal(before[k], v) for k, v in wide.state_dict().items())  # nothing was loaded in part
    other = MLP(channels=2, width=8, blocks=1)
    load_weights(other, small.state_dict(), "model")
    assert all(torch.equal(small.state_dict()[k], v) for k, v in other.state_dict().items())


def test_a_description_that_does_not_fit_its_weights_is_refused(tmp_path: Path) -> None:
    given = contents()
    given.specs["model"]["net"]["width"] = 16
    checkpoint.write(tmp_path / "c", given)
    with pytest.raises(CheckpointError, match=r"weights of 'model' are those of another network: 'net\."):
        Model.load(tmp_path / "c")


def test_adoption_takes_what_fits_and_names_the_rest() -> None:
    old = MLP(channels=2, width=8, blocks=1, labels={"label": 10})
    new = MLP(channels=2, width=8, blocks=2, labels={"label": 4})
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    kept = adopt_weights(new, old.state_dict())
    assert kept == sorted(kept) and any("label" in k for k in kept) and any(k.startswith("layers.1.") for k in kept)
    for k, v in new.state_dict().items():
        assert torch.equal(v, fresh[k] if k in kept else old.state_dict()[k])
    assert len(kept) < len(fresh)


# Old formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind", [("format1", {"label": [3, 8]}), ("format1-run", {}), ("format2", {})])
def test_an_old_format_gives_the_samples_it_gave(name: str, kind: dict[str, Any]) -> None:
    """Golden: to 1e-3 of the range."""
    expected = torch.tensor(json.loads((GOLDEN / f"{name.partition('-')[0]}.json").read_text())[name])
    *_, last = Model.load(GOLDEN / name).stream(2, seed=7, **kind)
    found = last.x.flatten()
    scale = 2.0 if name == "format1" else float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) < 1e-3 * scale
    assert float(expected.std()) > 0.1


def test_format_1_is_sampled_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pitfall 17: a path is all that is needed."""
    from unnoise.cli import main

    assert (
        main(["sample", str(GOLDEN / "format1"), "-n", "4", "--out", str(tmp_path / "x.png"), "--device", "cpu"]) == 0
    )
    assert (tmp_path / "x.png").stat().st_size > 200 and "4 samples" in capsys.readouterr().out
    model = Model.load(GOLDEN / "format1")
    assert model.conditioner.classes == {"label": 10} and model.sampling.guidance == 1.2
    assert tuple(model.codec.shape) == (1, 8, 8) and model.sampling.steps == 10


def test_a_format_1_run_goes_on(golden_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimiser, averages, snapshots and all: not only the weights of an old format are read."""
    shutil.copy(GOLDEN / "points.npz", golden_run.parent)
    monkeypatch.chdir(golden_run.parent)
    moments = read(golden_run / C).groups["optim-0"]
    assert float(moments["model.net.stem.weight:step"]) == 20
    state = fit.resume(golden_run, Runtime(), samples=480)
    assert state.seen == 480 and locate(golden_run).name == "480"
    assert float(read(locate(golden_run)).groups["optim-0"]["model.net.stem.weight:step"]) == 30
    for weights in (None, "raw", 0.05, 0.08):
        assert torch.isfinite(Model.load(golden_run, weights=weights).sample(4).raw).all()


def test_migrations_carry_an_old_format_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two registered here, one after the other."""
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    calls: list[int] = []

    def first(old: Contents) -> Contents:
        calls.append(1)
        old.weights["model"] = {k: v * 2 for k, v in old.weights["model"].items()}
        old.facts["migrated"] = True
        return old

    def second(old: Contents) -> Contents:
        calls.append(2)
        assert old.facts["migrated"]
        return Contents({**old.facts, "twice": True}, old.specs, old.weights, old.groups)

    monkeypatch.setitem(checkpoint.MIGRATIONS, 1, first)
    monkeypatch.setitem(checkpoint.MIGRATIONS, 2, second)
    model = Model.load(GOLDEN / "format1")
    raw = load_file(GOLDEN / "format1/components/model/weights.safetensors")
    assert calls == [1, 2] and model.facts["twice"]
    assert all(torch.equal(v, 2 * raw[k]) for k, v in model.denoiser.state_dict().items())
    model.save(tmp_path / "m")  # written in the new format, which needs no migration
    again = Model.load(tmp_path / "m")
    assert calls == [1, 2] and json.loads((tmp_path / "m" / "manifest.json").read_text())["format"] == 3
    assert all(torch.equal(v, 2 * raw[k]) for k, v in again.denoiser.state_dict().items())
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="format 3"):
        Model.load(tmp_path / "m")


def test_every_format_has_its_migration_and_its_golden() -> None:
    assert set(checkpoint.MIGRATIONS) == set(range(1, checkpoint.FORMAT))
    for version in range(1, checkpoint.FORMAT + 1):
        manifest = json.loads((GOLDEN / f"format{version}" / "manifest.json").read_text())
        assert manifest["format"] == version


def test_weights_go_to_the_cpu_first(tmp_path: Path) -> None:
    """Pitfall 25: what was saved on one device is read on the CPU, and moved by whoever asked."""
    found = read(GOLDEN / "format1-run" / C)
    tensors: list[Tensor] = [
        x for part in (found.weights, found.groups) for named in part.values() for x in named.values()
    ]
    assert tensors and all(x.device.type == "cpu" for x in tensors)
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert "device" not in (GOLDEN / "format1-run" / C / "manifest.json").read_text()
