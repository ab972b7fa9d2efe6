"""What a user holds: a trained denoiser with everything that is needed to use it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unnoise import checkpoint
from unnoise.checkpoint import CheckpointError
from unnoise.core.denoiser import Cond
from unnoise.core.estimate import Estimate
from unnoise.core.level import CLEAN, Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.sampler import Sampler, Step
from unnoise.errors import UserError, nearest
from unnoise.guide import Cfg, Interval
from unnoise.optim import reconstruct
from unnoise.recipe import Sampling
from unnoise.sample.driver import sample
from unnoise.samples import Samples
from unnoise.spec import build, describe

PRIOR, STEPS = 0, 1
"""What the randomness of a row is for."""

Weights = Literal["raw"] | float | None
"""Which weights: as trained, averaged at a relative width, or (None) averaged as the recipe says."""


class Model:
    """A denoiser, its process, its codec and its conditions.

    Args:
        denoiser: the network as a denoiser.
        codec: between raw data and states; it knows their shape.
        process: the kernels.
        conditioner: what the denoiser may be told; None where nothing is.
        sampling: how it is sampled unless told otherwise.
        facts: what else is known of it: recipe, samples seen, ..
    """

    def __init__(
        self,
        denoiser: nn.Module,
        codec: Any,
        process: Any = Gaussian(),
        conditioner: Any = None,
        sampling: Sampling = Sampling(),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.denoiser, self.codec, self.process, self.conditioner = denoiser, codec, process, conditioner
        self.sampling, self.facts = sampling, dict(facts or {})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.denoiser.parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> Model:
        """Move the weights; returns the model itself."""
        self.denoiser.to(device)
        return self

    # Loading and saving ---------------------------------------------------------------------------------------------

    @staticmethod
    def load(
        path: str | Path, *, weights: Weights = None, device: torch.device | str = "cpu", types: Iterable[type] = ()
    ) -> Model:
        """The model in a run folder, a checkpoint folder, or what `save` wrote; nothing else is needed.

        Args:
            path: the folder.
            weights: None for the average that the recipe names, a relative width for another (reconstructed from the
                run's snapshots where it was not tracked), "raw" for the weights as trained.
            device: where to.
            types: classes of yours that it is made of.

        Raises:
            CheckpointError: for a folder that is missing, empty, damaged, changed or foreign.
        """
        path = Path(path)
        folder = checkpoint.locate(path)
        contents = checkpoint.read(folder)
        if "model" not in contents.specs:
            raise CheckpointError(f"{folder} has no component 'model', only {sorted(contents.specs)}")
        facts = contents.facts
        if weights is None:
            weights = facts.get("average", "raw")
        if weights != "raw":
            contents.weights["model"] = _average(path, contents, float(weights))
        parts = checkpoint.components(contents, types)
        sampling = build(facts["sampling"], types) if "sampling" in facts else Sampling()
        model = Model(
            parts["model"], parts["codec"], parts.get("process", Gaussian()), parts.get("conditioner"), sampling, facts
        )
        model.denoiser.eval()
        return model.to(device)

    def save(self, path: str | Path) -> None:
        """Write the model to a folder, which must not exist, so that `load` needs nothing else."""
        path = Path(path)
        if path.exists():
            raise UserError(f"{path} exists: choose another folder or remove it")
        parts = {"model": self.denoiser, "codec": self.codec, "process": self.process, "conditioner": self.conditioner}
        kept = {k: v for k, v in self.facts.items() if k not in ("average", "widths")}
        facts = {**kept, "sampling": describe(self.sampling)}
        checkpoint.write(path, checkpoint.contents_of({k: v for k, v in parts.items() if v is not None}, {}, facts))

    # Sampling -------------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: Sampler[Tensor] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        batch: int = 256,
        deterministic: bool = False,
        **cond: Any,
    ) -> Samples:
        """n samples, in the data's own range and dtype.

        Row i depends on seed + i, its condition and the settings alone: it is `sample(1, seed=seed + i)`, whatever n
        and batch are: within float32 rounding, since networks sum in another order in batches of other sizes, and to
        the bit with deterministic=True.

        Args:
            n: how many.
            seed: of the first row.
            sampler: how to step; each argument left out is the model's own default.
            steps: number of steps.
            guidance: classifier-free guidance scale, 1 is off.
            batch: rows at a time.
            deterministic: evaluate the network row by row, which makes results independent of the batch to the bit.
            cond: conditions: a number for all rows, a sequence that is run through again and again, or "all"; without
                any, classes are uniform over seeds.

        Raises:
            UserError: for a setting or a label that does not exist.
            FloatingPointError: where a sample is not finite.
        """
        if n < 0 or batch < 1:
            raise UserError(f"needs n >= 0 and batch >= 1, got n={n} and batch={batch}")
        settings = self.settings(sampler, steps, guidance)
        batch = 1 if deterministic else batch
        seeds, conditions = _seeds(n, seed), self.conditions(n, seed, cond)
        raws = []
        for start in range(0, n, batch):
            rows = slice(start, start + batch)
            *_, last = self._walk(seeds[rows], {k: v[rows] for k, v in conditions.items()}, settings)
            raws.append(self.codec.decode(last.x).cpu())
        raw = torch.cat(raws) if raws else self.codec.decode(torch.zeros(0, *self.codec.shape))
        return Samples(raw, seeds, conditions, self.codec)

    def stream(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: Sampler[Tensor] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        **cond: Any,
    ) -> Iterator[Step[Tensor]]:
        """The driver's steps for n rows at once: states and estimates, which `codec.decode` makes visible."""
        seeds = _seeds(n, seed)
        yield from self._walk(seeds, self.conditions(n, seed, cond), self.settings(sampler, steps, guidance))

    def interpolate(self, first: int, last: int, n: int, *, steps: int | None = None, **cond: Any) -> Samples:
        """n samples on the way from one seed to another, along the great circle between their noises."""
        settings = self.settings(None, steps, None)
        if settings.sampler.stochastic:
            raise UserError(
                f"{settings.sampler} draws noise in every step, so that neighbours differ: use an ODE solver"
            )
        rows, conditions = torch.tensor([first, last]), self.conditions(1, first, cond)
        ends = self._noise(rows, settings).double()
        share = torch.linspace(0, 1, n, dtype=torch.float64, device=ends.device).reshape(-1, *(1,) * (ends.ndim - 1))
        cosine = nn.functional.cosine_similarity(ends[0].flatten(), ends[1].flatten(), dim=0).clamp(-1, 1)
        angle = cosine.arccos().clamp(min=1e-6)
        x = (((1 - share) * angle).sin() * ends[:1] + (share * angle).sin() * ends[1:]) / angle.sin()
        same = {k: v.expand(n) for k, v in conditions.items()}
        *_, step = self._walk(torch.full((n,), first), same, settings, x.float())
        return Samples(self.codec.decode(step.x).cpu(), torch.full((n,), first), same, self.codec)

    def settings(
        self, sampler: Sampler[Tensor] | None = None, steps: int | None = None, guidance: float | None = None
    ) -> Sampling:
        """The model's defaults with what is given in their place; Raises UserError for what cannot be."""
        given: dict[str, Any] = {"sampler": sampler, "steps": steps, "guidance": guidance}
        try:
            return replace(self.sampling, **{k: v for k, v in given.items() if v is not None})
        except ValueError as e:
            raise UserError(str(e)) from e

    def conditions(self, n: int, seed: int, asked: Mapping[str, Any]) -> dict[str, Tensor]:
        """Conditions of n rows, int64 [n] each; see `sample`."""
        if self.conditioner is None:
            if asked:
                raise UserError(f"the model takes no conditions, got {sorted(asked)}")
            return {}
        if not asked:
            return dict(self.conditioner.uniform(_seeds(n, seed)))
        known, given = self.conditioner.classes, {}
        for k, v in asked.items():
            if k not in known:
                raise UserError(f"unknown condition {k!r}{nearest(k, known)}")
            try:
                values = torch.arange(known[k]) if isinstance(v, str) and v == "all" else torch.as_tensor(v).cpu()
            except (TypeError, ValueError, RuntimeError):
                values = torch.empty(0)
            if not values.numel():
                raise UserError(f'condition {k!r} is a number, a sequence of numbers, or "all"; got {v!r}')
            given[k] = values.reshape(-1)[torch.arange(n) % values.numel()]
        self.conditioner.check(given)
        return given

    def _walk(
        self, seeds: Tensor, conditions: Mapping[str, Tensor], settings: Sampling, x: Tensor | None = None
    ) -> Iterator[Step[Tensor]]:
        rng = Rng.of(seeds, self.device)
        x = self._noise(seeds, settings) if x is None else x
        levels = settings.levels(self._interval)
        yield from sample(
            settings.sampler, self.process, self._guided(settings), x, levels, rng.fold(STEPS), self._cond(conditions)
        )

    def _noise(self, seeds: Tensor, settings: Sampling) -> Tensor:
        """The states from which sampling starts: noise at the grid's first level."""
        zeros = torch.zeros(len(seeds), *self.codec.shape, device=self.device)
        top = settings.levels(self._interval).at(0).to(dtype=zeros.dtype, device=self.device)
        return self.process.forward(zeros, CLEAN, top, Rng.of(seeds, self.device).fold(PRIOR))

    def _cond(self, conditions: Mapping[str, Tensor]) -> Cond:
        if self.conditioner is None:
            return {}
        return {k: v.to(self.device) for k, v in self.conditioner.encode(conditions).items()}

    def _guided(self, settings: Sampling) -> Any:
        if settings.guidance == 1 or self.conditioner is None:
            return self.denoiser
        guided = Cfg(self.denoiser, self.process, self.conditioner.null, settings.guidance)
        if settings.low == -math.inf and settings.high == math.inf:
            return guided
        return Interval(guided, self.denoiser, settings.low, settings.high)

    @property
    def _interval(self) -> tuple[float, float]:
        return getattr(self.denoiser, "interval", (-math.inf, math.inf))

    # Single steps ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def denoise(self, x: Tensor, level: Level, *, guidance: float | None = None, **cond: Any) -> Estimate:
        """The estimate of clean data from states x [B, ...] at `level`, guided as the model's defaults say."""
        settings = self.settings(None, None, guidance)
        known = self._cond(self.conditions(len(x), 0, cond)) if cond else self._nothing(len(x))
        return self._guided(settings)(x.to(self.device), level.to(device=self.device), known)

    @torch.no_grad()
    def encode(
        self, raw: Tensor, *, steps: int | None = None, sampler: Sampler[Tensor] | None = None, **cond: Any
    ) -> Tensor:
        """The noise from which raw data come: the ODE solved from data to noise, unguided.

        Starting `_walk` from it gives the data back, up to the solver's error; see `decode`.
        """
        settings = self.settings(sampler, steps, None)
        levels = settings.levels(self._interval)
        up = Level(levels.alpha[:-1].flip(0), levels.sigma[:-1].flip(0))  # all but the clean end, upside down
        x = self.codec.encode(raw.to(self.device), Rng.of(range(len(raw)), self.device))
        known = self._cond(self.conditions(len(raw), 0, cond)) if cond else self._nothing(len(raw))
        start = up.at(0).to(dtype=x.dtype, device=x.device)
        rng = Rng.of(range(len(raw)), self.device)
        *_, last = sample(
            settings.sampler, self.process, self.denoiser, start.alpha * x, up, rng, known, open_end=True, invert=True
        )
        return last.x

    def decode(
        self, x: Tensor, *, steps: int | None = None, sampler: Sampler[Tensor] | None = None, **cond: Any
    ) -> Samples:
        """Samples from given noise x [B, ...] (as `encode` gives), unguided; without conditions nothing is said."""
        settings = replace(self.settings(sampler, steps, None), guidance=1.0)
        n = len(x)
        known = self._cond(self.conditions(n, 0, cond)) if cond else self._nothing(n)
        levels = settings.levels(self._interval)
        rng = Rng.of(range(n), self.device)
        *_, last = sample(settings.sampler, self.process, self.denoiser, x.to(self.device), levels, rng, known)
        return Samples(
            self.codec.decode(last.x).cpu(), torch.arange(n), self.conditions(n, 0, cond) if cond else {}, self.codec
        )

    def _nothing(self, n: int) -> Cond:
        """The conditions of n rows of which nothing is said."""
        if self.conditioner is None:
            return {}
        return dict(self.conditioner.null(self._cond(self.conditioner.uniform(torch.arange(n)))))


def _seeds(n: int, first: int) -> Tensor:
    """int64 [n]: first, first + 1, .."""
    if not -(2**63) <= first <= 2**63 - 1 - n:
        raise UserError(f"seeds are 64-bit integers, got {first} for the first of {n}")
    return torch.arange(first, first + n)


def _average(path: Path, contents: checkpoint.Contents, width: float) -> dict[str, Tensor]:
    """The model's averaged weights: as tracked, or made of the run's snapshots."""
    prefix = "model."
    tracked = contents.groups.get(f"ema-{width:g}")
    if tracked is None:
        seen = int(contents.facts.get("seen", 0))
        own = {float(k.removeprefix("ema-")): v for k, v in contents.groups.items() if k.startswith("ema-")}
        files = sorted((path / "ema").glob("*.safetensors"), key=lambda f: int(f.stem))
        before = [f for f in files if int(f.stem) <= seen]
        if not before:
            raise CheckpointError(
                f"{path} tracks averages of width {sorted(own)} and has no snapshots to make {width:g} from"
            )
        # A checkpoint mostly lies between two snapshots; its own averages are one more.
        snapshots = [(seen, w, named) for w, named in own.items()]
        snapshots += [s for f in before if int(f.stem) < seen for s in _snapshots(f)]
        try:
            tracked = reconstruct(snapshots, width, seen)
        except ValueError as e:
            raise UserError(str(e)) from e
    return {k.removeprefix(prefix): v for k, v in tracked.items() if k.startswith(prefix)}


def _snapshots(file: Path) -> Sequence[tuple[int, float, dict[str, Tensor]]]:
    by_width: dict[float, dict[str, Tensor]] = {}
    for key, tensor in checkpoint.load_tensors(file).items():
        width, _, name = key.partition("/")
        by_width.setdefault(float(width), {})[name] = tensor
    return [(int(file.stem), width, named) for width, named in by_width.items()]
