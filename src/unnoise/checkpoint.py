"""Checkpoints: a folder of components, written whole or not at all, read only where every byte is as it was written.

    checkpoints/128000/
        manifest.json                   format, facts, sha256 of every other file
        components/model/manifest.json  format, spec, sha256 of its weights: a component can be read alone
        components/model/weights.safetensors
        components/codec/manifest.json  a value has no weights
        groups/ema-0.1.safetensors      any other named tensors
        shards/..                       of a sharded run: what of all these lies in parts, see `shards`
    latest                              which of them and of the one before, and the sha256 of their manifests

Nothing is pickled. `MIGRATIONS` keep every format that was ever written readable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unnoise import shards
from unnoise.errors import UserError, is_disk_full
from unnoise.parts import divided, is_sharded
from unnoise.runtime import Runtime
from unnoise.spec import build, describe

FORMAT = 2
KEEP = 2
"""How many checkpoints of a run stay: the latest, and the one before for whoever is just reading it."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, foreign, or of another network."""


class _DamagedError(CheckpointError):
    """A file of a checkpoint is not what was written."""


@dataclass
class Contents:
    """What a checkpoint holds, before anything is built of it.

    Args:
        facts: JSON: samples seen, seed, sampling defaults, ..
        specs: the description of each component.
        weights: the tensors of each component that has some.
        groups: other named tensors.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    specs: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)


MIGRATIONS: dict[int, Callable[[Contents], Contents]] = {1: lambda old: old}  # format 2 added shards
"""From format n to n + 1. A new format adds one entry and a golden checkpoint of the old one."""


def contents_of(
    components: Mapping[str, Any], groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
) -> Contents:
    """Components (modules and values), groups of tensors and facts, as they are written."""
    weights = {k: dict(v.state_dict()) for k, v in components.items() if isinstance(v, nn.Module)}
    return Contents(
        dict(facts), {k: describe(v) for k, v in components.items()}, weights, {k: dict(v) for k, v in groups.items()}
    )


def write(folder: Path, contents: Contents, among: Runtime = Runtime()) -> str:
    """Write a checkpoint folder, which must not exist; returns the sha256 of its manifest.

    Everything is written under a temporary name beside it, flushed to the disk, and renamed. Sharded contents are
    written by all processes `among` whom they lie, on one file system: each writes its parts, the main one all else.

    Raises:
        CheckpointError: where the disk is full or not writable; nothing half-written is left behind.
    """
    part = folder.with_name(f".{folder.name}.{among.broadcast(os.getpid()):.0f}.part")
    try:
        if among.is_main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        if among.sharded:
            contents, parts = _apart(contents)
            among.barrier()
            shards.write(parts, part / "shards")
            if among.is_main and len(list((part / "shards").iterdir())) < among.world:
                raise OSError("other processes wrote their parts elsewhere; all must see one file system")
        if not among.is_main:
            return ""
        digest = _write_whole(part, contents)
        part.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(part, ignore_errors=True)
        raise _disk_error(folder, e) from e
    return digest


def _apart(contents: Contents) -> tuple[Contents, dict[str, Tensor]]:
    """What each process has whole, and what it holds parts of, as "components/<name>/<tensor>" or "groups/..."."""
    both = {"components": contents.weights, "groups": contents.groups}
    parts = {
        f"{area}/{name}/{k}": x
        for area, named in both.items()
        for name, tensors in named.items()
        for k, x in tensors.items()
        if is_sharded(x)
    }
    weights, groups = (
        {name: {k: x for k, x in tensors.items() if not is_sharded(x)} for name, tensors in named.items()}
        for named in both.values()
    )
    return Contents(contents.facts, contents.specs, weights, groups), parts


def _write_whole(part: Path, contents: Contents) -> str:
    """Everything but shards, and last the manifest of all; flushed to the disk."""
    for name, spec in contents.specs.items():
        home = part / "components" / name
        home.mkdir(parents=True)
        manifest: dict[str, Any] = {"format": FORMAT, "spec": spec}
        if name in contents.weights:
            _save_tensors(contents.weights[name], home / "weights.safetensors")
            manifest["sha256"] = sha256(home / "weights.safetensors")
        _save_json(manifest, home / "manifest.json")
    for name, tensors in contents.groups.items():
        _save_tensors(tensors, part / "groups" / f"{name}.safetensors")
    files = {f.relative_to(part).as_posix(): sha256(f) for f in sorted(part.rglob("*")) if f.is_file()}
    _save_json({"format": FORMAT, "facts": contents.facts, "files": files}, part / "manifest.json")
    digest = sha256(part / "manifest.json")
    for directory in (part, *(d for d in part.rglob("*") if d.is_dir())):
        _sync(directory)
    return digest


def _disk_error(path: Path, e: Exception) -> CheckpointError:
    full = is_disk_full(e)
    why = "there is no room left on the disk" if full else str(e)
    return CheckpointError(
        f"{path} could not be written: {why}. What was there before is whole, nothing is half-written"
        + ": make room" * full
    )


def read(folder: Path) -> Contents:
    """Read a checkpoint folder (or what `write` made of one), verified and migrated to this format; tensors on the CPU.

    Raises:
        CheckpointError: naming the file that is missing, was changed, or is of a newer format.
    """
    manifest = _load_json(folder / "manifest.json")
    version = _version(manifest, folder)
    files = manifest.get("files", {})
    for name, digest in files.items():
        _verify(folder / name, digest)
    for area in ("components", "groups", "shards"):
        for file in sorted(f for f in (folder / area).rglob("*") if f.is_file()):
            if file.relative_to(folder).as_posix() not in files:
                raise CheckpointError(
                    f"{file} is not in the manifest of its checkpoint: it was put there later; remove it"
                )
    contents = Contents(facts=dict(manifest.get("facts", {})))
    for home in sorted(p for p in (folder / "components").glob("*") if p.is_dir()):
        part = _load_json(home / "manifest.json")
        _version(part, home)
        contents.specs[home.name] = part["spec"]
        if "sha256" in part:
            _verify(home / "weights.safetensors", part["sha256"])
            contents.weights[home.name] = load_tensors(home / "weights.safetensors")
    for file in sorted((folder / "groups").glob("*.safetensors")):
        contents.groups[file.stem] = load_tensors(file)
    for key, tensor in _load_shards(folder / "shards").items():
        area, name, k = key.split("/", 2)
        {"components": contents.weights, "groups": contents.groups}[area][name][k] = tensor
    for step in range(version, FORMAT):
        contents = MIGRATIONS[step](contents)
    return contents


def _version(manifest: Mapping[str, Any], folder: Path) -> int:
    version = manifest.get("format")
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{folder} is not a checkpoint of unnoise: its manifest states no format")
    if version > FORMAT:
        raise CheckpointError(f"{folder} is of format {version}, this version reads up to {FORMAT}: upgrade unnoise")
    return version


def components(contents: Contents, types: Iterable[type] = (), device: torch.device | str = "cpu") -> dict[str, Any]:
    """The components, built and with their weights; see `spec.build` for what may be built."""
    out = {}
    for name, spec in contents.specs.items():
        value = build(spec, types)
        if isinstance(value, nn.Module):
            load_weights(value, contents.weights.get(name, {}), name)
            value = value.to(device)
        out[name] = value
    return out


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: naming the first tensor that is missing, foreign or of another shape.
    """
    own = module.state_dict()
    for key in own.keys() | weights.keys():
        if key not in weights or key not in own:
            where = "the checkpoint lacks" if key not in weights else "the network does not have"
            raise CheckpointError(f"the weights of {name!r} are those of another network: {where} {key!r}")
        if own[key].shape != weights[key].shape:
            raise CheckpointError(
                f"the weights of {name!r} are those of another network: {key!r} is {tuple(weights[key].shape)} in the "
                f"checkpoint and {tuple(own[key].shape)} in the network"
            )
    module.load_state_dict(dict(weights))


def adopt_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str | Path = "these weights") -> list[str]:
    """Load what fits, for fine-tuning; returns the names of the module's tensors that keep their fresh values.

    Raises:
        UserError: naming `source`, where nothing fits.
    """
    own = module.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UserError(f"no weight of {source} fits this recipe's network, a {type(module).__name__}")
    module.load_state_dict({**own, **{k: divided(v, own[k]) for k, v in fitting.items()}})
    return sorted(own.keys() - fitting.keys())


# A run: several checkpoints and a pointer to the latest -----------------------------------------------------------


def commit(run: Path, seen: int, contents: Contents, among: Runtime = Runtime()) -> Path:
    """Write `run/checkpoints/<seen>`, point `run/latest` to it in one replacement, remove those that are too old.

    At every moment `latest` names a checkpoint that is whole. For sharded contents all processes call it, see `write`.
    """
    home = run / "checkpoints"
    folder = home / str(seen)
    if among.is_main:
        home.mkdir(parents=True, exist_ok=True)
        for stale in home.glob(".*.part"):
            shutil.rmtree(stale, ignore_errors=True)
    if among.any(among.is_main and folder.exists() and _pointer(run).get("path") == f"checkpoints/{seen}"):
        return folder
    if among.is_main and folder.exists():
        shutil.rmtree(folder)  # written, but the process ended before it was pointed to
    digest = write(folder, contents, among)
    if not among.is_main:
        return folder
    before = _pointer(run)
    before.pop("before", None)
    replace_json({"path": f"checkpoints/{seen}", "sha256": digest, "before": before}, run / "latest")
    others = sorted((f for f in home.iterdir() if f.name.isdigit() and f != folder), key=lambda f: int(f.name))
    older = [f for f in others if int(f.name) < seen]
    for other in others:
        if other not in older[1 - KEEP :]:  # those ahead are of a process that ended before it pointed to them
            shutil.rmtree(other, ignore_errors=True)
    return folder


def locate(path: Path) -> Path:
    """The checkpoint folder that a run folder's `latest` points to, verified; a checkpoint folder is its own.

    Raises:
        CheckpointError: for a folder that is missing, empty or not a run.
    """
    if (path / "manifest.json").is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no such run: {path}")
    if not (path / "latest").is_file():
        what = "empty" if not any(path.iterdir()) else "not a run of unnoise"
        raise CheckpointError(f"{path} is {what}: it has neither a manifest.json nor a file 'latest'")
    pointer = _pointer(path)
    folder = path / pointer.get("path", "")
    _verify(folder / "manifest.json", pointer.get("sha256", ""))
    return folder


def go_on(run: Path, among: Runtime) -> tuple[Contents, str]:
    """What a run goes on from: its latest checkpoint, or where that is damaged the one before, and then what to say.

    `latest` is turned back to the one before, whose sha256 it tells too. All processes call it.

    Raises:
        CheckpointError: as `locate` and `read` do; for a damaged checkpoint where none before it is whole.
    """
    before = _pointer(run).get("before") or {}  # now: the main process may turn it back before another is here
    try:
        return read(locate(run)), ""
    except _DamagedError as e:
        folder = run / before.get("path", "")
        try:
            _verify(folder / "manifest.json", before.get("sha256", ""))
            contents = read(folder)
        except CheckpointError:
            raise e from None
        if among.is_main:
            replace_json(before, run / "latest")
        return contents, f"{e}; going on from {folder}, the one before"


def _pointer(run: Path) -> dict[str, Any]:
    return _load_json(run / "latest") if (run / "latest").is_file() else {}


def replace_json(value: Any, path: Path) -> None:
    """Write JSON in one replacement: a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _save_json(value, part)
        part.replace(path)
        _sync(path.parent)
    except OSError as e:
        with contextlib.suppress(OSError):  # nothing may be there, nor the folder
            part.unlink()
        raise _disk_error(path, e) from e


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file in one replacement; `metadata` goes into its head."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _save_tensors(tensors, part, metadata)
        part.replace(path)
    except (OSError, SafetensorError) as e:
        with contextlib.suppress(OSError):  # nothing may be there, nor the folder
            part.unlink()
        raise _disk_error(path, e) from e


def _save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    own, storages = {}, set()
    for k, v in tensors.items():
        x = v.detach().cpu().contiguous()
        storage = x.untyped_storage().data_ptr()
        own[k] = x.clone() if storage in storages else x  # tied weights: the format knows no sharing
        storages.add(storage)
    save_file(own, path, metadata)
    path.chmod(0o644)  # the library's own mode would keep a shared run from its other readers
    _sync(path)


def _load_shards(folder: Path) -> dict[str, Tensor]:
    if not folder.is_dir():
        return {}
    try:
        return shards.read(folder)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{folder} does not hold readable shards: {e}") from e


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file; Raises CheckpointError naming a file that is damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path} is not a readable safetensors file: {e}") from e


def _save_json(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf8")
    _sync(path)


def _load_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise CheckpointError(f"no such file: {path}: is this a checkpoint of unnoise?") from None
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path} is not readable: {e}") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not what unnoise writes")
    return value


def _verify(path: Path, digest: str) -> None:
    if not path.is_file():
        raise _DamagedError(f"{path} is missing: the checkpoint is not whole")
    found = sha256(path)
    if found != digest:
        raise _DamagedError(f"{path} was changed after it was written: sha256 {found[:12]}, not {digest[:12]}")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
