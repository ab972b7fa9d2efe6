"""A recipe: everything that makes a run what it is, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from unnoise.core.condition import Codec, Conditioner
from unnoise.core.denoiser import Preconditioned
from unnoise.core.level import Levels
from unnoise.core.objective import Denoising, Objective
from unnoise.core.sampler import Sampler
from unnoise.data.augment import Augmentation
from unnoise.data.dataset import Source
from unnoise.errors import UserError
from unnoise.optim import AdamW, Optim
from unnoise.sample import Heun
from unnoise.sample.grids import Grid, UniformGrid
from unnoise.sample.plan import check_interval, plan
from unnoise.spec import Build, Pending
from unnoise.trial import Judge

Guidance = float | Mapping[str, float]
"""A classifier-free guidance scale, or one by attribute."""
Start = Literal["zero", "mean"]
"""Around what the noise is that sampling starts from."""


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled unless told otherwise; stored with it.

    Args:
        sampler: how to step.
        grid: which levels, given a number of steps and the trained interval.
        steps: number of steps.
        guidance: classifier-free guidance scale; 1 is off. Or scales by attribute, see `CfgEach`.
        low: lowest log-SNR at which guidance acts, of either kind.
        high: highest log-SNR at which guidance acts.
        autoguidance: scale of guidance by a weaker network, see `Autoguidance`; 1 is off. `guidance` other than 1 then
            guides the two networks together.
        weaker: the weaker network is the same one after this share of its training, in (0, 1).
        start: around what the noise is that sampling starts from: "zero", or "mean", the network's own estimate from
            such noise, which takes one evaluation more; see `Walks.start`.
    """

    sampler: Sampler[Any] = Heun()
    grid: Grid = UniformGrid()
    steps: int = 20
    guidance: Guidance = 1.0
    low: float = float("-inf")
    high: float = float("inf")
    autoguidance: float = 1.0
    weaker: float = 0.25
    start: Start = "zero"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        scales = self.guidance.values() if isinstance(self.guidance, Mapping) else [self.guidance]
        if not all(map(math.isfinite, scales)):
            raise ValueError(f"guidance must be finite, got {self.guidance}")
        if not math.isfinite(self.autoguidance):
            raise ValueError(f"autoguidance must be finite, got {self.autoguidance}")
        if not self.low < self.high:
            raise ValueError(f"guidance acts between two log-SNR, low < high, got {self.low} and {self.high}")
        if not 0 < self.weaker < 1:
            raise ValueError(f"weaker is a share of the training, between 0 and 1, got {self.weaker}")
        if self.start not in ("zero", "mean"):
            raise ValueError(f"sampling starts from noise around zero or mean, got {self.start!r}")

    @property
    def interval(self) -> tuple[float, float]:
        """The log-SNR between which guidance acts."""
        return self.low, self.high

    @property
    def passes(self) -> int:
        """Evaluations of networks that an estimate takes where guidance acts."""
        scales = self.guidance.values() if isinstance(self.guidance, Mapping) else [self.guidance]
        return (1 + sum(s != 1 for s in scales)) * (1 if self.autoguidance == 1 else 2)

    def levels(self, interval: tuple[float, float]) -> Levels:
        """The grid for a denoiser trained in `interval`."""
        return self.grid(self.steps, interval)

    def check(self, interval: tuple[float, float]) -> None:
        """Refuse levels that such a denoiser does not know, and steps that the sampler cannot take.

        Raises:
            ValueError: naming what cannot be.
        """
        levels = self.levels(interval)
        check_interval(levels, interval)
        plan(self.sampler, levels)


def changed(sampling: Sampling, **given: Any) -> Sampling:
    """The sampling with other values, an `interval` among them; Raises UserError for what cannot be."""
    interval = given.pop("interval", None)
    if interval is not None:
        if len(interval) != 2:
            raise UserError(f"guidance acts between two log-SNR, (low, high), got {interval}")
        given["low"], given["high"] = interval
    try:
        return replace(sampling, **given)
    except ValueError as e:
        raise UserError(str(e)) from e


def check_start(sampling: Sampling, codec: Any) -> None:
    """Refuse a start around the mean of states that have none; Raises UserError."""
    if sampling.start == "zero":
        return
    blank = codec.blank(1)
    if not (isinstance(blank, Tensor) and blank.is_floating_point()):
        raise UserError(
            f"sampling that starts around the mean is of states that are one tensor of numbers, which those of "
            f"{type(codec).__name__} are not: leave sampling.start at zero"
        )


@dataclass(frozen=True)
class Phase:
    """One of the losses that a step of training takes in turn.

    Args:
        objective: the loss.
        modules: names of the components that it trains; all others are constants to it.
        optim: the optimiser of those.
        every: take it in every n-th step only.
    """

    objective: Objective
    modules: Sequence[str]
    optim: Optim
    every: int = 1


@dataclass(frozen=True)
class Recipe:
    """What is learned, from what, how, and how it is sampled and judged.

    Args:
        name: what the run is called.
        data: where the data come from.
        model: the denoiser (or whatever is trained), not yet constructed.
        codec: between raw data and states: a `Codec`, or a `Pending` one.
        objective: the loss.
        conditioner: what the model may be told besides; None where nothing is.
        optim: the optimiser of the model.
        batch: samples a step, over all processes.
        micro: pieces that a batch is cut into, to save memory; changes nothing else.
        samples: samples to see in all.
        widths: relative widths of the weight averages; any other can be made from two of them afterwards.
        average: the width that is sampled from.
        sampling: how the model is sampled unless told otherwise.
        judge: what measures it in `evaluate`.
        patience: steps with non-finite gradients in a row after which training ends.
        log_every: steps between two lines of the log.
        more: further components by name, for objectives that need them.
        phases: further losses, each with components and an optimiser of its own, after that of the model.
        trains: names of the components that the model's own phase trains.
        augment: how training changes batches before the codec sees them; None: not at all.
    """

    name: str
    data: Source
    model: Pending
    codec: Codec | Pending
    objective: Objective = Denoising()
    conditioner: Conditioner | None = None
    optim: Optim = field(default_factory=AdamW)
    batch: int = 128
    micro: int = 1
    samples: int = 128_000
    widths: tuple[float, ...] = (0.05, 0.10)
    average: float = 0.10
    sampling: Sampling = Sampling()
    judge: Judge | None = None
    patience: int = 25
    log_every: int = 50
    more: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    trains: tuple[str, ...] = ("model",)
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "micro", "samples", "patience", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch % self.micro:
            raise ValueError(f"a batch of {self.batch} does not divide into {self.micro} pieces")
        if self.average not in self.widths:
            raise ValueError(f"average {self.average} is not one of the widths {self.widths}")
        if self.augment is not None:
            _check_told(self.augment, self.more.get("conditioner", self.conditioner))

    def components(self) -> dict[str, Any]:
        """Fresh components by name: modules constructed with fresh weights, values as they are.

        Raises:
            UserError: for a phase or an objective that asks for a network that is not among them, and sampling that
                starts where states have no mean.
            ValueError: for components that do not fit together.
        """
        values = {"model": self.model, "codec": self.codec, "conditioner": self.conditioner, **self.more}
        process, density = (getattr(self.objective, k, None) for k in ("process", "density"))
        if process is not None:
            values["process"] = process
        if isinstance(density, str):  # a component: made first, since it says which levels the denoiser is for
            if density not in self.more:
                raise ValueError(f"the objective's density is the component {density!r}, which `more` lacks")
            values[density] = density = _made(self.more[density])
        if density is not None and isinstance(self.model, Build) and self.model.cls is Preconditioned:
            # The trained interval follows from the density, unless the recipe states a wider one.
            values["model"] = Build(Preconditioned, **{"interval": density.interval, **self.model.args})
        built = {k: _made(v) for k, v in values.items() if v is not None}
        if density is not None:
            _check_interval(built.get("model"), density.interval)
        _check_classes(built.get("model"), built.get("conditioner"))
        check_start(self.sampling, built["codec"])
        networks = sorted(k for k, v in built.items() if isinstance(v, nn.Module))
        for phase in self.all_phases():
            for name in phase.modules:
                if name not in networks:
                    raise UserError(f"a phase trains {name!r}, but the recipe's networks are {networks}")
            denoiser = getattr(phase.objective, "model", None)
            if isinstance(denoiser, str) and denoiser not in networks:
                raise UserError(f"an objective asks for {denoiser!r}, but the recipe's networks are {networks}")
        return built

    def all_phases(self) -> tuple[Phase, ...]:
        """The model's own phase, and the others."""
        return (Phase(self.objective, self.trains, self.optim), *self.phases)


def _made(value: Any) -> Any:
    return value() if isinstance(value, Pending) else value


def _check_told(augment: Augmentation, conditioner: Any) -> None:
    """What an augmentation did must reach the network, or it would leak into samples."""
    kind = conditioner.cls if isinstance(conditioner, Build) else conditioner
    for name in augment.adds:
        if name not in getattr(kind, "told", ()):
            raise ValueError(
                f"{type(augment).__name__} says what it did in the column {name!r}, which no conditioner tells the "
                "network, so that it would leak into samples: give the network vectors={'augment': 9} and wrap the "
                "conditioner, Augmented(inner=..), or take Mirror()"
            )


def _check_interval(model: nn.Module | None, interval: tuple[float, float]) -> None:
    """A density must stay inside the interval that the denoiser states, as a sampling grid must."""
    inside = getattr(model, "interval", None)
    if inside is not None and (interval[0] < inside[0] - 1e-6 or interval[1] > inside[1] + 1e-6):
        raise ValueError(
            f"the density draws log-SNR in [{interval[0]:.4g}, {interval[1]:.4g}], the denoiser is for "
            f"[{inside[0]:.4g}, {inside[1]:.4g}]: set model.interval, or the density's ends"
        )


def _check_classes(model: Any, conditioner: Any) -> None:
    """A network must know every class that it is told."""
    told = getattr(conditioner, "classes", {})
    for net in model.modules() if isinstance(model, nn.Module) else ():
        labels = getattr(net, "labels", None)
        for name, classes in labels.items() if isinstance(labels, dict) else ():
            if classes < told.get(name, 0):
                raise ValueError(
                    f"the {type(net).__name__} knows {classes} classes of {name!r}, the conditioner tells "
                    f"{told[name]}: give both the same number"
                )
