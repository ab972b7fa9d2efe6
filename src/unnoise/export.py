"""Long sampling runs onto the disk, which go on where they were stopped."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from unnoise.capture import require_cuda
from unnoise.checkpoint import replace_json
from unnoise.data.arrays import read_npz
from unnoise.errors import UserError, is_disk_full
from unnoise.lock import alone
from unnoise.log import read_json
from unnoise.samples import SETTINGS, Samples, require_pictures
from unnoise.spec import describe

LISTED = 1000
"""Conditions of more numbers are recorded as a hash."""


class Generator(Protocol):
    """What can be sampled: a `Model` or a `System`."""

    @property
    def codec(self) -> Any:
        """Of the samples."""
        ...

    @property
    def modules(self) -> list[nn.Module]:
        """The parts that have weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def precision(self) -> Any:
        """Of the networks' matrix products, as a value that can be described."""
        ...

    def conditions(self, n: int, seed: int, asked: Mapping[str, Any]) -> dict[str, Tensor]:
        """Conditions of n rows: as asked for, and by default."""
        ...

    def settings(
        self,
        sampler: Any = None,
        grid: Any = None,
        steps: Any = None,
        guidance: Any = None,
        autoguidance: Any = None,
        interval: Any = None,
        start: Any = None,
    ) -> Any:
        """The defaults with what is given in their place, as a value that can be described."""
        ...

    @property
    def sample(self) -> Callable[..., Any]:
        """As `Model.sample`: n, seed, batch, settings and conditions to `Samples`."""
        ...


def export(
    model: Generator,
    out: Path,
    n: int,
    *,
    seed: int = 0,
    batch: int = 256,
    quiet: bool = False,
    cond: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[Path]:
    """Write n samples: a grid (.png), an archive (.npz), or a folder with a file a sample.

    What is there already is not made again: a folder is gone on with file by file; for a grid or an archive, finished
    chunks wait in `<out>.parts`, which is removed at the end. Beside them lies what they were made with.

    Args:
        model: what to sample from: a model, a system.
        out: where to; its suffix says what.
        n: how many.
        seed: of the first.
        batch: samples at a time; the result does not depend on it.
        quiet: no progress bar.
        cond: conditions, see `Model.sample`.
        settings: sampler, grid, steps, guidance, autoguidance, interval, start, deterministic, captured.

    Returns:
        The files, in order of seeds.

    Raises:
        UserError: where `out` holds samples made with other settings, or another process writes the same grid or
            archive, and `captured` elsewhere than on CUDA.
    """
    if settings.get("captured"):
        require_cuda(model.device)
    cond = dict(cond or {})
    single = out.suffix in (".png", ".npz")
    if out.suffix and not single:
        raise UserError(
            f"cannot write samples as {out.suffix!r}: .png is a grid, .npz an archive, anything else a folder"
        )
    if out.suffix == ".png":
        require_pictures(model.codec)
    home = out.with_name(out.name + ".parts") if single else out
    conditions = model.conditions(n, seed, cond)
    chosen = model.settings(*(settings.get(k) for k in SETTINGS))
    made = {
        "sampling": describe(chosen),
        "cond": {k: v if isinstance(v, str) else _listed(torch.as_tensor(v)) for k, v in cond.items()},
        "deterministic": bool(settings.get("deterministic")),
        "precision": model.precision,
        "weights": _fingerprint(model),
    } | ({"n": n, "seed": seed} if single else {})
    if single and out.exists():
        raise UserError(f"{out} exists: choose another --out or remove it")
    with _claimed(home, made, out):
        files = []
        with tqdm(total=n, unit=" samples", disable=quiet) as bar:
            for start in range(0, n, batch):
                rows = torch.arange(start, min(start + batch, n))
                part: dict[str, Any] = {k: v[rows] for k, v in conditions.items()}
                names = Samples(rows, seed + rows, part, model.codec)
                targets = [home / names.name(i) for i in range(len(rows))]
                if single:
                    targets = [home / f"{start:09d}-{len(rows)}.npz"]
                if not all(t.is_file() for t in targets):
                    done = model.sample(len(rows), seed=seed + start, batch=batch, **settings, **part)
                    done.save(targets[0] if single else home)
                files += targets
                bar.update(len(rows))
        if not single:
            return files
        columns = [read_npz(f) for f in files]
        whole = {k: torch.cat([c[k] for c in columns]) for k in columns[0]} if columns else {}
        if not whole:
            raise UserError("no samples were asked for: -n must be at least 1")
        x, seeds = whole.pop("x"), whole.pop("seed")
        Samples(x, seeds, whole, model.codec).save(out)
        shutil.rmtree(home)
        return [out]


def _listed(value: Tensor) -> Any:
    """Numbers as they are; pictures, and what else would fill the record, as a hash."""
    if value.numel() <= LISTED:
        return value.tolist()
    return f"sha256 {_sha256({'': value})}"


def _fingerprint(model: Generator) -> str:
    """A hash of the weights: two runs of one recipe are not the same model."""
    return _sha256({f"{i}.{k}": x for i, m in enumerate(model.modules) for k, x in m.state_dict().items()})


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _claimed(home: Path, made: Mapping[str, Any], out: Path) -> Iterator[None]:
    """Within, a folder is there and marked with what its samples are made with.

    One process at a time makes the chunks of a grid or an archive; files of their own may be made by several.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{home} cannot be made: {e}") from e
    with alone(home, f"{out} is being made") if home != out else contextlib.nullcontext():
        try:
            _claim(home, made)
            yield
        except UserError as e:
            if not is_disk_full(e.__cause__):
                raise
            raise UserError(f"{e}; the same command goes on where it stopped") from e


def _claim(home: Path, made: Mapping[str, Any]) -> None:
    """Mark a folder with what its samples are made with; refuse one that holds others."""
    record = home / "samples.json"
    if record.is_file():
        there = read_json(record)
        if there == made:
            return
        if any(f != record for f in home.iterdir()):
            differing = ", ".join(k for k in made if there.get(k) != made[k])
            raise UserError(
                f"{home} holds samples made otherwise (another {differing}): choose another --out or remove it"
            )
        record.unlink()  # it was stopped before the first sample
    if any(home.iterdir()):
        raise UserError(f"{home} exists and holds other things: choose another --out")
    replace_json(made, record)
