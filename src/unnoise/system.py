"""Several models as one: each stage's samples are a condition of a later one.

cascade/
    system.json     format, links, and of each stage in order the sha256 of its manifest
    base/, up/      a model each, as `Model.save` writes it: it can be loaded alone
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from unnoise.checkpoint import CheckpointError, replace_json, sha256
from unnoise.core.sampler import Sampler
from unnoise.errors import UserError, nearest
from unnoise.log import read_json
from unnoise.model import Model, Weights
from unnoise.recipe import Sampling, Start
from unnoise.sample.grids import Grid
from unnoise.samples import Samples
from unnoise.spec import build, describe

FORMAT = 1
RECORD = "system.json"
APART = 2**40
"""Between the seeds of stages: noise is addressed by seed and place, so with one seed all would begin from the same."""

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """What one stage makes is a condition of a later one.

    Args:
        source: the stage whose raw samples are handed on.
        target: the stage that is told them.
        condition: as which of its conditions.
    """

    source: str
    target: str
    condition: str

    @staticmethod
    def parse(text: str) -> Link:
        """From "target.condition=source"; Raises UserError for anything else."""
        match = re.fullmatch(r"([\w-]+)\.([\w-]+)=([\w-]+)", text)
        if match is None:
            raise UserError(f"link {text!r} is not understood: write TARGET.CONDITION=SOURCE, as in up.low=base")
        return Link(match[3], match[1], match[2])


class System:
    """Models in the order in which they are sampled, and the links between them.

    Args:
        models: by name of the stage; the samples of the last are those of the system.
        links: None: each stage is told, as the one condition that it cannot do without, what the stage before it makes.

    Raises:
        UserError: for a link whose stage or condition does not exist, that leads backwards, or whose target does not
            take what its source makes.
    """

    def __init__(self, models: Mapping[str, Model], links: Sequence[Link] | None = None) -> None:
        self.models = dict(models)
        if not self.models:
            raise UserError("a system needs at least one model")
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z0-9_][\w-]*", name):
                raise UserError(f"a stage is named by letters, digits, - and _, got {name!r}")
        self.links = tuple(_chain(self.models) if links is None else links)
        for link in self.links:
            self._check(link)
        ends = [(link.target, link.condition) for link in self.links]
        for target, condition in ends:
            if ends.count((target, condition)) > 1:
                raise UserError(f"condition {condition!r} of {target!r} is linked twice")
        self.facts: dict[str, Any] = {}

    def _check(self, link: Link) -> None:
        order = list(self.models)
        for name in (link.source, link.target):
            if name not in order:
                raise UserError(f"unknown stage {name!r}{nearest(name, order)}")
        if order.index(link.source) >= order.index(link.target):
            raise UserError(f"{link.source!r} comes after {link.target!r}, which is to be told what it makes")
        names = _names(self.models[link.target])
        if link.condition not in names:
            raise UserError(f"{link.target!r} does not know the condition {link.condition!r}: it knows {list(names)}")
        try:
            self.models[link.target].conditioner.check({link.condition: _blank(self.models[link.source])})
        except UserError as e:
            raise UserError(f"{link.target!r} cannot be told what {link.source!r} makes: {e}") from e

    # What it has in common with a model ---------------------------------------------------------------------------

    @property
    def last(self) -> Model:
        """The model whose samples are those of the system."""
        return list(self.models.values())[-1]

    @property
    def codec(self) -> Any:
        """That of the last stage."""
        return self.last.codec

    @property
    def sampling(self) -> Sampling:
        """The last stage's defaults."""
        return self.last.sampling

    @property
    def device(self) -> torch.device:
        """Where the weights of the last stage are."""
        return self.last.device

    @property
    def precision(self) -> dict[str, str]:
        """Of the matrix products of each stage."""
        return {name: model.precision for name, model in self.models.items()}

    @property
    def modules(self) -> list[nn.Module]:
        """The parts that have weights."""
        return [m for model in self.models.values() for m in model.modules]

    def to(self, device: torch.device | str, precision: str | None = None) -> System:
        """Move the weights of every stage, see `Model.to`; returns the system itself."""
        for model in self.models.values():
            model.to(device, precision)
        return self

    def compile(self, **options: Any) -> System:
        """torch.compile the networks of every stage, see `Model.compile`; returns the system itself."""
        for model in self.models.values():
            model.compile(**options)
        return self

    def settings(
        self,
        sampler: Sampler[Any] | Mapping[str, Sampler[Any]] | None = None,
        grid: Grid | Mapping[str, Grid] | None = None,
        steps: int | Mapping[str, int] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        autoguidance: float | Mapping[str, float] | None = None,
        interval: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
        start: Start | Mapping[str, Start] | None = None,
    ) -> dict[str, Sampling]:
        """Each stage's defaults with what is given in their place: one value for all, or a mapping by stage."""
        given: Any = {"sampler": sampler, "grid": grid, "steps": steps, "guidance": guidance}
        given |= {"autoguidance": autoguidance, "interval": interval, "start": start}
        return {
            name: model.settings(**{k: self._of(v, name) for k, v in given.items()})
            for name, model in self.models.items()
        }

    def _of(self, value: T | Mapping[str, T] | None, name: str) -> T | None:
        if not isinstance(value, Mapping):
            return value
        for k in value:
            if k not in self.models:
                raise UserError(f"unknown stage {k!r}{nearest(k, self.models)}")
        return value.get(name)

    def conditions(self, n: int, seed: int, asked: Mapping[str, Any]) -> dict[str, Tensor]:
        """Conditions of n rows, those aside that stages tell each other.

        What several stages know is the same for all: as asked for, or as the first of them has it.

        Raises:
            UserError: for a condition that no stage knows, or that another stage's samples are.
        """
        open_ = {name: [c for c in _names(m) if c not in self._linked(name)] for name, m in self.models.items()}
        known = {c for names in open_.values() for c in names}
        for c in asked:
            made = [link for link in self.links if link.condition == c]
            if c not in known and made:
                raise UserError(f"condition {c!r} of {made[0].target!r} is what {made[0].source!r} makes: leave it out")
            if c not in known:
                raise UserError(f"unknown condition {c!r}" + (nearest(c, known) if known else ": there are none"))
        said: dict[str, Tensor] = {}
        for name, model in self.models.items():
            own = {c: {**asked, **said}[c] for c in open_[name] if c in asked or c in said}
            linked = {c: _blank(self.models[source]) for c, source in self._linked(name).items()}
            found = model.conditions(n, seed, {**own, **linked})
            said |= {c: v for c, v in found.items() if c not in linked}
        return said

    def _linked(self, name: str) -> dict[str, str]:
        """The stages that a stage is told of, by condition."""
        return {link.condition: link.source for link in self.links if link.target == name}

    # Sampling -------------------------------------------------------------------------------------------------------

    @overload
    def sample(self, n: int = 1, *, stages: Literal[False] = False, **settings: Any) -> Samples: ...

    @overload
    def sample(self, n: int = 1, *, stages: Literal[True], **settings: Any) -> dict[str, Samples]: ...

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: Sampler[Any] | Mapping[str, Sampler[Any]] | None = None,
        grid: Grid | Mapping[str, Grid] | None = None,
        steps: int | Mapping[str, int] | None = None,
        guidance: float | Mapping[str, float] | None = None,
        autoguidance: float | Mapping[str, float] | None = None,
        interval: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
        start: Start | Mapping[str, Start] | None = None,
        batch: int = 256,
        deterministic: bool = False,
        captured: bool = False,
        stages: bool = False,
        **cond: Any,
    ) -> Samples | dict[str, Samples]:
        """n samples of the last stage, in its data's own range and dtype.

        Row i depends on seed + i, its conditions and the settings alone. Stage k is its model's own
        ``sample(n, seed=seed + k * APART, ..)``, to the bit, with these conditions and those that links carry.

        Args:
            n: how many.
            seed: of the first row.
            sampler: how to step, of all stages or by stage; each argument left out is each model's own default.
            grid: which levels, as the sampler.
            steps: number of steps, as the sampler.
            guidance: classifier-free guidance scale, as the sampler.
            autoguidance: scale of guidance by each model's weaker network, as the sampler.
            interval: the log-SNR between which guidance acts, as the sampler.
            start: around what the noise is that sampling starts from, as the sampler.
            batch: rows at a time.
            deterministic: see `Model.sample`.
            captured: see `Model.sample`; each stage keeps a graph of its own.
            stages: give the samples of every stage, by name.
            cond: conditions, each told to every stage that knows it; see `conditions`.

        Raises:
            UserError: for a setting or a condition that does not exist.
            FloatingPointError: where a sample is not finite.
        """
        self.settings(sampler, grid, steps, guidance, autoguidance, interval, start)
        said, made = self.conditions(n, seed, cond), dict[str, Samples]()
        for k, (name, model) in enumerate(self.models.items()):
            linked = self._linked(name)
            own: dict[str, Any] = {c: v for c, v in said.items() if c in _names(model) and c not in linked}
            own |= {c: made[source].raw for c, source in linked.items()}
            made[name] = model.sample(
                n,
                seed=seed + k * APART,
                sampler=self._of(sampler, name),
                grid=self._of(grid, name),
                steps=self._of(steps, name),
                guidance=self._of(guidance, name),
                autoguidance=self._of(autoguidance, name),
                interval=self._of(interval, name),
                start=self._of(start, name),
                batch=batch,
                deterministic=deterministic,
                captured=captured,
                **own,
            )
        if stages:
            return made
        return Samples(made[name].raw, torch.arange(n) + seed, said, self.codec)

    # Loading and saving ---------------------------------------------------------------------------------------------

    @staticmethod
    def load(
        path: str | Path,
        *,
        weights: Weights = None,
        device: torch.device | str = "cpu",
        precision: str | None = None,
        types: Iterable[type] = (),
        weaker: float | Literal[True] | None = None,
    ) -> System:
        """The system in the folder that `save` wrote; nothing else is needed. Arguments as for `Model.load`.

        Raises:
            CheckpointError: for a folder that is missing, damaged, changed or foreign.
        """
        path = Path(path)
        stages, links = read(path)
        given: dict[str, Any] = {"weights": weights, "device": device, "precision": precision}
        given |= {"types": tuple(types), "weaker": weaker}
        models = {name: Model.load(path / name, **given) for name in stages}
        return System(models, links)

    def save(self, path: str | Path) -> None:
        """Write the system to one folder, which must not exist: whole, or not at all."""
        path = Path(path)
        if path.exists():
            raise UserError(f"{path} exists: choose another folder or remove it")
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        try:
            for name, model in self.models.items():
                model.save(part / name)
            stages = {name: sha256(part / name / "manifest.json") for name in self.models}
            replace_json({"format": FORMAT, "stages": stages, "links": describe(self.links)}, part / RECORD)
            part.rename(path)
        except OSError as e:
            raise CheckpointError(f"{path} could not be written: {e}") from e
        finally:
            shutil.rmtree(part, ignore_errors=True)  # nothing is there any more where all went well

    def __repr__(self) -> str:
        links = ", ".join(f"{link.target}.{link.condition}={link.source}" for link in self.links)
        return f"System({' -> '.join(self.models)}; {links})"


def is_system(path: Path) -> bool:
    """Whether a folder is what `System.save` wrote."""
    return (path / RECORD).is_file()


def load(
    path: str | Path,
    *,
    weights: Weights = None,
    device: torch.device | str = "cpu",
    precision: str | None = None,
    types: Iterable[type] = (),
    weaker: float | Literal[True] | None = None,
) -> Model | System:
    """Whatever can be sampled in a folder: a system, or the model of a run; arguments as for `Model.load`."""
    kind: type[Model] | type[System] = System if is_system(Path(path)) else Model
    return kind.load(path, weights=weights, device=device, precision=precision, types=types, weaker=weaker)


def read(path: Path) -> tuple[tuple[str, ...], tuple[Link, ...]]:
    """The stages, in order, and the links of a saved system, whose files are verified.

    Raises:
        CheckpointError: naming the file that is missing, was changed, or is of a newer format.
    """
    if not is_system(path):
        raise CheckpointError(f"{path} is not a system: it has no {RECORD}")
    record = read_json(path / RECORD)
    version = record.get("format") if isinstance(record, dict) else None
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path / RECORD} is not what unnoise writes: it states no format")
    if version > FORMAT:
        raise CheckpointError(f"{path} is of format {version}, this version reads up to {FORMAT}: upgrade unnoise")
    stages = record.get("stages")
    if not isinstance(stages, dict) or "links" not in record:
        raise CheckpointError(f"{path / RECORD} is not what unnoise writes: it states no stages or no links")
    for name, digest in stages.items():
        manifest = path / name / "manifest.json"
        if not manifest.is_file():
            raise CheckpointError(f"{manifest} is missing: the system is not whole")
        if sha256(manifest) != digest:
            raise CheckpointError(f"{manifest} was changed after it was written: stage {name!r} is another model")
    return tuple(stages), build(record["links"])


def _chain(models: Mapping[str, Model]) -> list[Link]:
    links, order = list[Link](), list(models)
    for source, target in itertools.pairwise(order):
        needs: Sequence[str] = getattr(models[target].conditioner, "needs", ())
        if len(needs) != 1:
            raise UserError(
                f"{target!r} has {len(needs)} conditions that it cannot do without, so that it is not clear which of "
                f"them {source!r} makes: name the links, as in --link {target}.low={source}"
            )
        links.append(Link(source, target, needs[0]))
    return links


def _names(model: Model) -> tuple[str, ...]:
    return tuple(getattr(model.conditioner, "names", ()))


@torch.no_grad()
def _blank(model: Model) -> Tensor:
    """One row of raw data of the kind that a model makes."""
    blank: Any = model.codec.blank(1)
    if isinstance(blank, Mapping):
        return model.codec.decode({k: v.to(model.device) for k, v in blank.items()}).cpu()
    return model.codec.decode(blank.to(model.device)).cpu()
