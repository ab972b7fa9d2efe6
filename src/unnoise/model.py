"""What a user holds: a trained denoiser with everything that is needed to use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unnoise import checkpoint, trained
from unnoise.arguments import check, check_items, seeds_of
from unnoise.capture import require_cuda
from unnoise.checkpoint import CheckpointError
from unnoise.core.denoiser import Cond
from unnoise.core.estimate import Estimate
from unnoise.core.level import Level
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.core.sampler import Sampler, Step
from unnoise.errors import UserError
from unnoise.recipe import Guidance, Sampling, Start, changed
from unnoise.runtime import PRECISIONS, pick_device, precision_of, set_precision, trained_precision, uncompiled
from unnoise.sample.driver import sample
from unnoise.sample.grids import Grid
from unnoise.samples import Samples
from unnoise.spec import build, describe
from unnoise.walks import CODEC, COND, Replay, Walks

Weights = Literal["raw"] | float | None
"""Which weights: as trained, averaged at a relative width, or (None) averaged as the recipe says."""


class Model:
    """A denoiser, its process, its codec and its conditions.

    Args:
        denoiser: the network as a denoiser.
        codec: between raw data and states; it knows their shape.
        process: the kernels; None where the network is not a denoiser and nothing can be sampled: a codec, a judge.
        conditioner: what the denoiser may be told; None where nothing is.
        sampling: how it is sampled unless told otherwise.
        facts: what else is known of it: recipe, samples seen, ..
        weaker: the same denoiser earlier in its training, or another of the same task, for autoguidance.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        codec: Any,
        process: Any = Gaussian(),
        conditioner: Any = None,
        sampling: Sampling = Sampling(),
        facts: Mapping[str, Any] | None = None,
        weaker: nn.Module | None = None,
    ) -> None:
        self.denoiser, self.codec, self.process, self.conditioner = denoiser, codec, process, conditioner
        self.weaker = weaker
        self.sampling, self.facts = sampling, dict(facts or {})
        self.more: dict[str, Any] = {}
        """Further components of the run that it was loaded from, by name: a teacher."""
        self._replay, self._compiled = Replay(), False
        self._asked: str | None = None
        """The precision that was asked for; None: none was."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.denoiser.parameters()), torch.device("cpu"))

    @property
    def modules(self) -> list[nn.Module]:
        """The parts that have weights."""
        return [m for m in (self.denoiser, self.codec, self.conditioner, self.weaker) if isinstance(m, nn.Module)]

    @property
    def networks(self) -> list[nn.Module]:
        """Those that an estimate of x0 evaluates."""
        return [m for m in (self.denoiser, self.weaker) if m is not None]

    @property
    def precision(self) -> str:
        """Of the networks' matrix products: "fp32", "bf16" or "fp16"."""
        dtype = getattr(self.denoiser, "precision", None)
        return next((name for name, known in PRECISIONS.items() if known == dtype), str(dtype))

    def to(self, device: torch.device | str, precision: str | None = None) -> Model:
        """Move the weights; returns the model itself.

        Args:
            device: where to: "cpu", "cuda", "cuda:1", "mps", or any device of torch.
            precision: of the networks' matrix products: "fp32", "bf16" or "fp16". None: as was asked for before, or
                else that in which they were trained on a GPU that has it, and float32 elsewhere; networks of which the
                facts do not say it stay as they are.

        Raises:
            UserError: for another precision, and a device that is not there.
        """
        device = pick_device(device) if isinstance(device, str) else device
        asked, trained = precision or self._asked, self.facts.get("precision")
        named = asked or (trained and trained_precision(trained, device))
        dtype = precision_of(named) if named else None
        self._replay.drop()
        for module in self.modules:
            module.to(device)
        for network in self.networks if named else ():
            set_precision(network, dtype)
        self._asked = asked
        return self

    def compile(self, **options: Any) -> Model:
        """torch.compile the networks, from their next call on: the same numbers within rounding.

        `sample` then runs whole batches compiled and what is left as it was, since each other size would compile anew.

        Args:
            options: of torch.compile.

        Returns:
            The model itself.
        """
        self._replay.drop()
        self._compiled = True
        for network in self.networks:
            network.compile(**options)
        return self

    # Loading and saving ---------------------------------------------------------------------------------------------

    @staticmethod
    def load(
        path: str | Path,
        *,
        weights: Weights = None,
        device: torch.device | str = "cpu",
        precision: str | None = None,
        types: Iterable[type] = (),
        at: int | None = None,
        weaker: float | Literal[True] | None = None,
    ) -> Model:
        """The model in a run folder, a checkpoint folder, or what `save` wrote; nothing else is needed.

        Args:
            path: the folder; or, where nothing is there, the name of a model that comes with the package: "mnist".
            weights: None for the average that the recipe names, a relative width for another (reconstructed from the
                run's snapshots where it was not tracked), "raw" for the weights as trained.
            device: where to.
            precision: of the networks' matrix products: "fp32", "bf16" or "fp16"; None: see `to`.
            types: classes of yours that it is made of.
            at: averaged weights as they were after so many samples, where the run keeps them (`trained.snapshots`).
            weaker: for autoguidance, with the network as it was after this share of the samples seen: the last averages
                that the run keeps from before. True: after the share that its `Sampling` states; None: so too, but only
                where that asks for autoguidance, and where they are kept. What `save` wrote with one has it anyhow.

        Raises:
            CheckpointError: for a folder that is missing, empty, damaged, changed or foreign, and an unknown name.
            UserError: where the averages that are asked for are not kept; for another precision or device.
        """
        contents = trained.load(Path(path), weights, at)
        if "model" not in contents.specs:
            raise CheckpointError(f"{path} has no component 'model', only {sorted(contents.specs)}")
        facts = contents.facts
        sampling = build(facts["sampling"], types) if "sampling" in facts else Sampling()
        if weaker is not None or sampling.autoguidance != 1:
            sampling = trained.with_weaker(contents, Path(path), weights, sampling, weaker)
        parts = checkpoint.components(contents, types)
        model = Model(
            parts.pop("model"),
            parts.pop("codec"),
            parts.pop("process", None),
            parts.pop("conditioner", None),
            sampling,
            facts,
            parts.pop("weaker", None),
        )
        model.more = parts
        for module in (*model.modules, *model.more.values()):
            if isinstance(module, nn.Module):
                module.eval()
        return model.to(device, precision)

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, which must not exist, so that `load` needs nothing else.

        Args:
            path: the folder.
            dtype: of the parameters in the file: torch.bfloat16 makes it half as large, and rounds them to 8 bits; once
                loaded they are float32 again. None: as they are.
        """
        path = Path(path)
        if path.exists():
            raise UserError(f"{path} exists: choose another folder or remove it")
        parts = {
            "model": self.denoiser,
            "codec": self.codec,
            "process": self.process,
            "conditioner": self.conditioner,
            "weaker": self.weaker,
        }
        kept = {k: v for k, v in self.facts.items() if k not in ("average", "widths")}
        facts = {**kept, "sampling": describe(self.sampling)}
        contents = checkpoint.contents_of({k: v for k, v in parts.items() if v is not None}, {}, facts)
        for name, weights in contents.weights.items() if dtype is not None else ():
            named = parts[name].named_parameters(remove_duplicate=False)
            weights |= {k: p.detach().to(dtype) for k, p in named}
        checkpoint.write(path, contents)

    # Sampling -------------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: Sampler[Tensor] | None = None,
        grid: Grid | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
        autoguidance: float | None = None,
        interval: tuple[float, float] | None = None,
        start: Start | None = None,
        batch: int = 256,
        deterministic: bool = False,
        captured: bool = False,
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
            grid: which levels.
            steps: number of steps.
            guidance: classifier-free guidance scale, 1 is off; or a mapping from attributes to scales.
            autoguidance: scale of guidance by the model's weaker network, 1 is off; `guidance` other than 1 then guides
                the two networks together.
            interval: the log-SNR, low and high, between which guidance acts, of either kind.
            start: around what the noise is that sampling starts from, "zero" or "mean".
            batch: rows at a time.
            deterministic: evaluate the network row by row, which makes results independent of the batch to the bit.
            captured: on CUDA, replay the walk of a whole batch as one graph: the same numbers. The first batch runs as
                it is, the second is recorded, all later ones are replayed, those of later calls too. The model keeps
                the last graph, with its memory, until it is moved or another is asked of it.
            cond: conditions: a number for all rows, a sequence that is run through again and again, or "all"; without
                any, classes are uniform over seeds.

        Raises:
            UserError: for a setting or a label that does not exist, and autoguidance without a weaker network.
            FloatingPointError: where a sample is not finite.
        """
        check(batch=batch)
        seeds = seeds_of(n, seed)
        if captured:
            require_cuda(self.device)
        given = {"sampler": sampler, "grid": grid, "steps": steps, "guidance": guidance}
        walks = self._walks(**given, autoguidance=autoguidance, interval=interval, start=start)
        batch = 1 if deterministic else batch
        conditions = self.conditions(n, seed, cond)
        raws = []
        for first in range(0, n, batch):
            rows = slice(first, first + batch)
            said = self._cond({k: v[rows] for k, v in conditions.items()}, seeds[rows])
            if captured and first + batch <= n:
                x = self._replay(walks, seeds[rows], said)
            else:
                with uncompiled(self._compiled and first + batch > n):
                    *_, last = walks.steps(seeds[rows], said)
                x = last.x
            raws.append(self._decode(x, said))
        raw = torch.cat(raws) if raws else self._decode(walks.blank(0), self._cond(conditions, seeds))
        return Samples(raw, seeds, conditions, self.codec)

    def inpaint(
        self,
        raw: Tensor,
        mask: Tensor,
        *,
        seed: int = 0,
        sampler: Sampler[Any] | None = None,
        grid: Grid | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
        autoguidance: float | None = None,
        interval: tuple[float, float] | None = None,
        **cond: Any,
    ) -> Samples:
        """Raw data [N, ...] with what is not known drawn anew; what is known comes back to the bit.

        Args:
            raw: the data; where they are not known, anything.
            mask: bool, broadcasts against raw; True = known.
            seed: of the first row; the rest as for `sample`.
            sampler: how to step.
            grid: which levels; a `ResampledGrid` lets what is drawn follow what is known.
            steps: number of steps.
            guidance: classifier-free guidance scale, 1 is off; or a mapping from attributes to scales.
            autoguidance: scale of guidance by the model's weaker network, 1 is off.
            interval: the log-SNR between which guidance acts.
            cond: conditions.

        Raises:
            UserError: for data and a mask that do not fit, and a codec that cannot say what is known of its states.
        """
        given = {"sampler": sampler, "grid": grid, "steps": steps, "guidance": guidance}
        walks = self._walks(**given, autoguidance=autoguidance, interval=interval)
        check(raw=raw, mask=mask)
        if mask.dtype != torch.bool:
            raise UserError(f"a mask is of bool, True where raw is known; got {mask.dtype}")
        try:
            mask = mask.expand(raw.shape)
        except RuntimeError:
            raise UserError(f"a mask of shape {tuple(mask.shape)} does not fit data of {tuple(raw.shape)}") from None
        if not hasattr(self.codec, "known"):
            raise UserError(f"{type(self.codec).__name__} cannot say what is known of a state where raw data are")
        seeds, conditions = seeds_of(len(raw), seed), self.conditions(len(raw), seed, cond)
        clean = torch.where(mask, raw, torch.zeros_like(raw)).to(self.device)
        y = self.codec.encode(clean, Rng.of(seeds, self.device).fold(CODEC))
        walks.require(y)
        said = self._cond(conditions, seeds)
        known = (y, self.codec.known(mask.to(self.device)))
        *_, last = walks.steps(seeds, said, known=known)
        drawn = self._decode(last.x, said)
        return Samples(torch.where(mask.cpu(), raw.cpu(), drawn), seeds, conditions, self.codec)

    def stream(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: Sampler[Tensor] | None = None,
        grid: Grid | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
        autoguidance: float | None = None,
        interval: tuple[float, float] | None = None,
        start: Start | None = None,
        **cond: Any,
    ) -> Iterator[Step[Tensor]]:
        """The driver's steps for n rows at once: states and estimates, which `codec.decode` makes visible."""
        seeds = seeds_of(n, seed)
        said = self._cond(self.conditions(n, seed, cond), seeds)
        given = {"sampler": sampler, "grid": grid, "steps": steps, "guidance": guidance}
        yield from self._walks(**given, autoguidance=autoguidance, interval=interval, start=start).steps(seeds, said)

    def interpolate(self, first: int, last: int, n: int, *, steps: int | None = None, **cond: Any) -> Samples:
        """n samples, at least one, on the way from one seed to another, along the great circle between their noises."""
        walks = self._walks(steps=steps)
        check(first=first, last=last, n=n)
        if not n:
            raise UserError("n is at least 1 on the way from one seed to another; got 0")
        noise = walks.between(first, last, n)
        same = {k: v.expand(n) for k, v in self.conditions(1, first, cond).items()}
        seeds = torch.full((n,), first)
        said = self._cond(same, seeds)
        *_, step = walks.steps(seeds, said, noise)
        return Samples(self._decode(step.x, said), seeds, same, self.codec)

    def settings(
        self,
        sampler: Sampler[Tensor] | None = None,
        grid: Grid | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
        autoguidance: float | None = None,
        interval: tuple[float, float] | None = None,
        start: Start | None = None,
    ) -> Sampling:
        """The model's defaults with what is given in their place, found to be possible without a step.

        Raises:
            UserError: for what cannot be.
            ValueError: for a grid that the denoiser or the sampler cannot be asked to walk.
        """
        given = {"sampler": sampler, "grid": grid, "steps": steps, "guidance": guidance}
        walks = self._walks(**given, autoguidance=autoguidance, interval=interval, start=start)
        walks.settings.check(walks.interval)
        return walks.settings

    def conditions(self, n: int, seed: int, asked: Mapping[str, Any]) -> dict[str, Tensor]:
        """Conditions of n rows, int64 [n] each; see `sample`."""
        for k, v in asked.items():
            if isinstance(v, list | tuple) and len(v) > max(n, 1) and isinstance(v[0], int | float):
                raise UserError(f"{k} has {len(v)} values for {n} samples: ask for {len(v)}, or leave some out")
        if self.conditioner is None:
            if asked:
                raise UserError(f"the model takes no conditions, got {sorted(asked)}")
            return {}
        return dict(self.conditioner.ask(asked, seeds_of(n, seed)))

    def _walks(self, **given: Any) -> Walks:
        """By the defaults with what is given, but for None, in their place; Raises UserError for what cannot be."""
        given = {k: v for k, v in given.items() if v is not None}
        check(**given)
        settings = changed(self.sampling, **given)
        walks = Walks(self.denoiser, self.codec, self.process, self.conditioner, self.weaker, self.device, settings)
        walks.check()
        return walks

    @torch.no_grad()
    def _decode(self, x: Any, cond: Cond) -> Tensor:
        """States as raw data on the CPU."""
        return self.codec.decode(x, cond.get("mask")).cpu()

    def _cond(self, conditions: Mapping[str, Tensor], seeds: Tensor) -> Cond:
        if self.conditioner is None:
            return {}
        raw = {k: v.to(self.device) for k, v in conditions.items()}
        return self.conditioner.encode(raw, Rng.of(seeds, self.device).fold(COND))

    # Single steps ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def denoise(
        self,
        x: Tensor,
        level: Level,
        *,
        guidance: Guidance | None = None,
        autoguidance: float | None = None,
        interval: tuple[float, float] | None = None,
        **cond: Any,
    ) -> Estimate:
        """The estimate of clean data from states x [B, ...] at `level`, guided as the model's defaults say."""
        walks = self._walks(guidance=guidance, autoguidance=autoguidance, interval=interval)
        check(x=x)
        denoise = walks.guided(walks.bound({}))
        return denoise(x.to(self.device), level.to(device=self.device), self._told(len(x), cond))

    @torch.no_grad()
    def encode(
        self, raw: Tensor, *, steps: int | None = None, sampler: Sampler[Tensor] | None = None, **cond: Any
    ) -> Tensor:
        """The noise from which raw data come: the ODE solved from data to noise, unguided.

        Walking from it gives the data back, up to the solver's error; see `decode`.
        """
        walks = self._walks(sampler=sampler, steps=steps, guidance=1.0, autoguidance=1.0)
        check_items(raw, self.codec)
        x = self.codec.encode(raw.to(self.device), Rng.of(range(len(raw)), self.device))
        return walks.back(x, self._told(len(raw), cond))

    def decode(
        self, x: Tensor, *, steps: int | None = None, sampler: Sampler[Tensor] | None = None, **cond: Any
    ) -> Samples:
        """Samples from given noise x [B, ...] (as `encode` gives), unguided; without conditions nothing is said."""
        walks = self._walks(sampler=sampler, steps=steps, guidance=1.0, autoguidance=1.0)
        check(x=x)
        walks.require(x)
        n, solver = len(x), walks.settings.sampler
        known = self._told(n, cond)
        rng = Rng.of(range(n), self.device)
        *_, last = sample(solver, self.process, self.denoiser, x.to(self.device), walks.levels, rng, known)
        conditions = self.conditions(n, 0, cond) if cond else {}
        return Samples(self._decode(last.x, known), torch.arange(n), conditions, self.codec)

    def _told(self, n: int, asked: Mapping[str, Any]) -> Cond:
        """The conditions of n rows: what is asked for, or nothing said at all."""
        if self.conditioner is None:
            return {}
        cond = self._cond(self.conditioner.ask(asked, seeds_of(n, 0)), seeds_of(n, 0))
        return cond if asked else self.conditioner.null(cond)
