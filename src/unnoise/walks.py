"""From seeds and conditions to states, and back: a network's walks of a grid, step by step or as one CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.capture import Captured
from unnoise.core.denoiser import Cond
from unnoise.core.level import CLEAN, Level, Levels, over
from unnoise.core.rng import Rng
from unnoise.core.sampler import Step
from unnoise.errors import UserError, nearest
from unnoise.guide import Autoguidance, Cfg, CfgEach, Interval, Known
from unnoise.nets import kernels
from unnoise.recipe import Sampling, check_start
from unnoise.sample.driver import plan_for, require_finite, sample, walk
from unnoise.sample.plan import check_interval

PRIOR, STEPS, COND, CODEC = range(4)
"""What the randomness of a row is for."""

SEED = ".seed"
"""Beside conditions, which have no dot in their names."""


@dataclass(frozen=True)
class Walks:
    """A network that is sampled as settings say.

    Args:
        denoiser: the network as a denoiser.
        codec: it knows the shape of states.
        process: the kernels; None where the network is not a denoiser.
        conditioner: it knows what is left of conditions where guidance leaves some out; None where there are none.
        weaker: another network, for autoguidance.
        device: where all of them are.
        settings: how.
    """

    denoiser: nn.Module
    codec: Any
    process: Any
    conditioner: Any
    weaker: nn.Module | None
    device: torch.device
    settings: Sampling

    @property
    def levels(self) -> Levels:
        """The grid, within the interval that the denoiser is trained in."""
        return self.settings.levels(self.interval)

    @property
    def interval(self) -> tuple[float, float]:
        """The lowest and the highest log-SNR that the denoiser is trained for."""
        return getattr(self.denoiser, "interval", (-math.inf, math.inf))

    def check(self) -> None:
        """Refuse what cannot be sampled so.

        Guidance by a network that is not there, or of what training has not shown to be left out by itself; a start
        around the mean of what has none.

        Raises:
            UserError: naming what is missing.
        """
        scales = self.settings.guidance
        if isinstance(scales, Mapping):
            alone = getattr(self.conditioner, "alone", ())
            if not alone:
                raise UserError(
                    f"guidance of {sorted(scales)} by themselves needs a model whose attributes were dropped apart in "
                    "training, as by Labels(apart=0.5): this one takes one scale for all"
                )
            for k in scales:
                if k not in alone:
                    raise UserError(f"guidance of an unknown attribute {k!r}{nearest(k, alone)}")
        if self.settings.autoguidance != 1 and self.weaker is None:
            raise UserError(
                f"autoguidance {self.settings.autoguidance:g} needs a weaker network, which this model lacks: load it "
                "from the folder of its run, Model.load(run, weaker=True), or, where that is too young to keep one, "
                "leave autoguidance at 1 (--autoguidance 1)"
            )
        check_start(self.settings, self.codec)

    def bound(self, cond: Cond) -> Any:
        """The process, bound to the mask among the conditions where there is one."""
        if self.process is None:
            raise UserError(f"{type(self.denoiser).__name__} is not a denoiser: there is nothing to sample")
        return self.process.bind(cond["mask"]) if "mask" in cond else self.process

    def guided(self, process: Any) -> Any:
        """The denoiser with the guidance that the settings ask for; `process` mixes the estimates."""
        guided: Any = self.denoiser
        settings = self.settings
        if settings.autoguidance != 1:
            assert self.weaker is not None
            guided = Autoguidance(guided, self.weaker, process, settings.autoguidance)
        if settings.guidance != 1 and self.conditioner is not None:
            if isinstance(settings.guidance, Mapping):
                guided = CfgEach(guided, process, self.conditioner.without, settings.guidance)
            else:
                guided = Cfg(guided, process, self.conditioner.null, settings.guidance)
        if guided is self.denoiser or (settings.low == -math.inf and settings.high == math.inf):
            return guided
        return Interval(guided, self.denoiser, settings.low, settings.high)

    def blank(self, n: int) -> Any:
        """n states of zeros."""
        blank = self.codec.blank(n)
        if isinstance(blank, Mapping):
            return {k: v.to(self.device) for k, v in blank.items()}
        return blank.to(self.device)

    def require(self, x: Any) -> None:
        """Refuse states of another shape than the codec's; Raises UserError naming both."""
        blank = self.codec.blank(1)
        if isinstance(x, Tensor) and isinstance(blank, Tensor) and x.shape[1:] != blank.shape[1:]:
            found, expected = tuple(x.shape[1:]), tuple(blank.shape[1:])
            raise UserError(f"states of shape {found} do not fit this model, whose own are of {expected}")

    @cached_property
    def top(self) -> Any:
        """The grid's first level, where the weights are."""
        return over(lambda g: g.at(0).to(dtype=torch.float32, device=self.device), self.levels)

    def noise(self, seeds: Tensor, cond: Cond) -> Any:
        """Noise at the grid's first level, around zero."""
        rng = Rng.of(seeds, self.device).fold(PRIOR)
        return self.bound(cond).forward(self.blank(len(seeds)), CLEAN, self.top, rng)

    @torch.no_grad()
    def between(self, first: int, last: int, n: int) -> Tensor:
        """n noises at the grid's first level, on the great circle from that of one seed to that of another.

        Raises:
            UserError: where steps draw noise of their own, and for states that are no Gaussian tensor.
        """
        if self.settings.sampler.stochastic:
            raise UserError(
                f"{self.settings.sampler} draws noise in every step, so that neighbours differ: use an ODE solver"
            )
        ends = self.noise(torch.tensor([first, last]), {})
        if not isinstance(ends, Tensor) or not ends.is_floating_point():
            raise UserError("only states of one Gaussian tensor can be interpolated")
        ends = ends.double()
        share = torch.linspace(0, 1, n, dtype=torch.float64, device=ends.device).reshape(-1, *(1,) * (ends.ndim - 1))
        cosine = nn.functional.cosine_similarity(ends[0].flatten(), ends[1].flatten(), dim=0).clamp(-1, 1)
        angle = cosine.arccos().clamp(min=1e-6)
        return ((((1 - share) * angle).sin() * ends[:1] + (share * angle).sin() * ends[1:]) / angle.sin()).float()

    def start(self, noise: Any, top: Any, process: Any, cond: Cond) -> Any:
        """The states from which sampling starts, given noise at the level `top`: around what the settings say.

        Data whose mean is not zero show it at any level, alpha mean + sigma eps, and noise around zero is not what the
        network has seen there: it makes pictures grayer than data are, and the more so the larger they are, since the
        noise of a whole picture's brightness is sigma / side only. Lin et al. 2023 (arXiv:2305.08891, section 2) found
        it of schedules whose last level is not pure noise. For normal data N(mean, v) samples are off by
        -mean sqrt(v / (v + sigma^2)) where alpha = 1. With start="mean" the noise is moved by the network's unguided
        estimate from it, and v / (v + sigma^2) of the mean is missing instead of all.
        """
        if self.settings.start == "zero":
            return noise
        return noise + top.like(noise).alpha * process.project(self.denoiser(noise, top, cond)).x0

    def steps(
        self, seeds: Tensor, cond: Cond, noise: Any = None, known: tuple[Any, Any] | None = None
    ) -> Iterator[Step[Any]]:
        """The driver's steps of a batch.

        Args:
            seeds: int64 [B].
            cond: encoded conditions of these rows.
            noise: to start from; None: that of the seeds.
            known: states and a mask of them: what is known of the data, see `Known`.
        """
        rng, process = Rng.of(seeds, self.device), self.bound(cond)
        denoise = self.guided(process)
        if known is not None:
            denoise = Known(denoise, process, *known)
        noise = self.noise(seeds, cond) if noise is None else noise
        x = self.start(noise, self.top, process, cond)
        yield from sample(self.settings.sampler, process, denoise, x, self.levels, rng.fold(STEPS), cond)

    def back(self, x: Tensor, cond: Cond) -> Tensor:
        """The noise from which states come: the ODE from data to noise, unguided.

        Raises:
            UserError: for states of parts.
        """
        levels = self.levels
        if not isinstance(levels, Level):
            raise UserError("only states of one Gaussian tensor have a noise that they come from")
        up = Level(levels.alpha[:-1].flip(0), levels.sigma[:-1].flip(0))  # all but the clean end, upside down
        x = up.at(0).to(dtype=x.dtype, device=x.device).alpha * x
        rng, solver = Rng.of(range(len(x)), self.device), self.settings.sampler
        *_, last = sample(solver, self.process, self.denoiser, x, up, rng, cond, open_end=True, invert=True)
        return last.x

    def recorded(self, n: int) -> Captured:
        """`steps` of batches of n, from {SEED: seeds, **conditions} to the last states, as one CUDA graph."""
        blank, levels = self.blank(n), self.levels
        check_interval(levels, self.interval)
        rows = plan_for(self.settings.sampler, levels, blank)

        def draw(inputs: Mapping[str, Tensor]) -> Any:
            cond = {k: v for k, v in inputs.items() if k != SEED}
            rng, process = Rng.of(inputs[SEED]), self.bound(cond)
            noise, top = process.forward(blank, CLEAN, rows[0].src, rng.fold(PRIOR)), rows[0].src
            x = self.start(noise, top, process, cond)
            for step in walk(self.settings.sampler, process, self.guided(process), x, rows, rng.fold(STEPS), cond):
                x = step.x
            return x

        return Captured(draw, self.device, warm=1)

    def key(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """All that a graph depends on: equal ones may share it. Numbers in tensors are read at every replay."""
        roots = [m for m in (self.denoiser, self.conditioner, self.weaker) if isinstance(m, nn.Module)]
        return (
            self,
            {k: (x.shape, x.dtype) for k, x in inputs.items()},
            kernels.wanted(inputs[SEED]),
            [(m, m.training, getattr(m, "precision", None)) for root in roots for m in root.modules()],
            [x.data_ptr() for root in roots for x in (*root.parameters(), *root.buffers())],
        )


class Replay:
    """The last states of whole batches, by one CUDA graph that is kept from call to call.

    The first batch runs as it is, the second is recorded, later ones are replayed, until one differs in anything that
    the graph depends on: that one is the first of another graph. No other is kept, since each holds memory of its own.
    Threads take turns.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._key: tuple[Any, ...] | None = None
        self._graph: Captured | None = None

    def __call__(self, walks: Walks, seeds: Tensor, cond: Cond) -> Any:
        """The states of a batch; seeds and conditions as for `Walks.steps`.

        Raises:
            FloatingPointError: where one is not finite.
            UserError: where something cannot be recorded.
        """
        inputs = {SEED: seeds.to(walks.device), **cond}
        key = walks.key(inputs)
        with self._lock:
            if self._graph is None or self._key != key:
                self._graph = None  # its memory first
                self._key, self._graph = key, walks.recorded(len(seeds))
            x = self._graph(inputs)
            x = {k: v.clone() for k, v in x.items()} if isinstance(x, Mapping) else x.clone()
        require_finite(x)
        return x

    def drop(self) -> None:
        """Let go of the graph and its memory."""
        with self._lock:
            self._key = self._graph = None

    def __reduce__(self) -> tuple[type[Replay], tuple[()]]:
        """A copy of a model begins without a graph, which cannot be copied."""
        return Replay, ()
