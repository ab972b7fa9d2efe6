"""Everything that training changes: weights, moments, averages, clocks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.objective import EDGES
from unnoise.core.rng import Rng
from unnoise.optim import Ema, LossScale, hidden_matrices
from unnoise.parts import divided
from unnoise.recipe import Phase, Recipe
from unnoise.runtime import Runtime, set_precision


class State:
    """Everything that training changes.

    Args:
        recipe: what to train.
        seed: of the weights, the data order and all noise.
        device: where.
        total: samples to see; None where it is not yet fixed.
        precision: dtype of the networks' matrix products; None: float32. float16 brings a loss scale.
        components: those of a checkpoint, to go on with; None: fresh ones.
        shard: how each trained network is sharded, `Runtime.distribute`; averages and moments then are sharded too.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        total: int | None,
        precision: torch.dtype | None = None,
        components: Mapping[str, Any] | None = None,
        shard: Callable[[nn.Module], None] | None = None,
    ) -> None:
        if components is None:
            with own_generators(device, seed):
                components = recipe.components()
        self.components = dict(components)
        self.phases = recipe.all_phases()
        if shard is not None:
            for module in self.trained.values():
                shard(module)
        for module in self.networks.values():
            module.to(device)
            set_precision(module, precision)
        self.optimizers = [
            phase.optim.build(
                parameters_of(self.components, phase), hidden_matrices(self.components[k] for k in phase.modules)
            )
            for phase in self.phases
        ]
        self.ema = Ema(self.named, recipe.widths)
        self.seen, self.total, self.seed = 0, total, seed
        self.scale = LossScale(device) if precision == torch.float16 else None
        self.window = torch.zeros(len(self.phases), 3, len(EDGES) + 1, dtype=torch.float32, device=device)
        """Of each phase since the last line of the log, by bin of log-SNR: sum of losses, of weighted ones, count."""
        self.scalars: dict[str, Tensor] = {}
        """What objectives log besides, by name: its sum since the last line of the log, and the number of steps."""
        self.bad = torch.zeros(len(self.phases), 3, dtype=torch.int32, device=device)
        """Of each phase, the steps skipped: in a row until now, most in a row, in all."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The components that are modules."""
        return {k: v for k, v in self.components.items() if isinstance(v, nn.Module)}

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The networks that some phase trains; all others stay as they are."""
        return {name: self.components[name] for phase in self.phases for name in phase.modules}

    @property
    def named(self) -> dict[str, Tensor]:
        """Parameters and buffers of the trained networks, as "component.name"; the live tensors."""
        return {f"{k}.{name}": x for k, m in self.trained.items() for name, x in m.state_dict().items()}

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """All state besides the weights, as named tensors for a checkpoint."""
        groups = {f"ema-{width:g}": self.ema.state(width) for width in self.ema.widths}
        for j, (phase, optimizer) in enumerate(zip(self.phases, self.optimizers, strict=True)):
            names = names_of(self.components, phase)
            entries = optimizer.state_dict()["state"]
            groups[f"optim-{j}"] = {f"{names[i]}:{k}": v for i, entry in entries.items() for k, v in entry.items()}
        groups["train"] = {"window": self.window, "bad": self.bad} | (self.scale.state() if self.scale else {})
        return groups

    def load(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take on what `groups` gave; the weights are loaded with the components."""
        named = self.named
        for width in self.ema.widths:
            average = groups[f"ema-{width:g}"]
            self.ema.load(width, {k: divided(x, named[k]) if k in named else x for k, x in average.items()})
        for j, (phase, optimizer) in enumerate(zip(self.phases, self.optimizers, strict=True)):
            names = {name: i for i, name in enumerate(names_of(self.components, phase))}
            parameters = parameters_of(self.components, phase)
            entries: dict[int, dict[str, Tensor]] = {}
            for key, value in groups[f"optim-{j}"].items():
                name, _, slot = key.rpartition(":")
                # Copied into the layout of the parameter (channels last, where it is a convolution's), since the fused
                # kernels walk through the memory of both side by side.
                like = parameters[names[name]] if value.shape == parameters[names[name]].shape else value
                copy = torch.empty_like(like, dtype=value.dtype).copy_(divided(value, like))
                entries.setdefault(names[name], {})[slot] = copy
            # With the given groups the optimiser would lose its learning rate on the device.
            own = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": entries, "param_groups": own})
        self.window.copy_(groups["train"]["window"])
        self.bad.copy_(groups["train"]["bad"])
        if self.scale and "value" in groups["train"]:
            self.scale.load(groups["train"])

    def compile(self) -> None:
        """torch.compile every network, from its next call on; of a denoiser, the network that it wraps.

        One graph a network, on any number of processes: otherwise torch would cut it where the gradients that are
        exchanged together end, and compile it anew.
        """
        torch._dynamo.config.optimize_ddp = False
        for module in self.networks.values():
            module.compile()

    @contextlib.contextmanager
    def averaged(self, width: float) -> Iterator[None]:
        """Within, the networks have the averaged weights, in evaluation mode; afterwards, to the bit, their own."""
        named, average = self.named, self.ema.state(width)
        own = {k: x.clone() for k, x in named.items()}
        modes = {m: m.training for m in self.networks.values()}
        with torch.no_grad():
            for k, x in named.items():
                x.copy_(average[k])
        for m in modes:
            m.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for k, x in named.items():
                    x.copy_(own[k])
            for m, mode in modes.items():
                m.train(mode)

    def read_window(self, run: Runtime) -> dict[str, Any]:
        """The losses since the last call, over all processes; the window starts anew. Waits for the device."""
        window = run.mean(self.window).cpu().double()
        self.window.zero_()
        sums = window.sum(2).tolist()
        means = [weighted / count if count else math.nan for _, weighted, count in sums]
        more = {f"loss_{'+'.join(p.modules)}": m for p, m in zip(self.phases[1:], means[1:], strict=True)}
        sums_of = {k: run.mean(kept).tolist() for k, kept in self.scalars.items()}
        more |= {k: total / steps for k, (total, steps) in sums_of.items() if steps}
        for kept in self.scalars.values():
            kept.zero_()
        value, _, count = window[0]
        by_level = [float(v / c) if c > 0 else None for v, c in zip(value, count, strict=True)]
        return {"loss": means[0], "loss_by_logsnr": by_level, **more, "skipped": int(self.bad[:, 2].sum())}


def parameters_of(components: Mapping[str, Any], phase: Phase) -> list[nn.Parameter]:
    """What a phase trains, in the order of its optimiser."""
    return [p for name in phase.modules for p in components[name].parameters()]


def names_of(components: Mapping[str, Any], phase: Phase) -> list[str]:
    """The names of `parameters_of`, as "component.name"."""
    return [f"{name}.{k}" for name in phase.modules for k, _ in components[name].named_parameters()]


@contextlib.contextmanager
def own_generators(device: torch.device, *path: int) -> Iterator[None]:
    """Within, torch's generators (initialisation, dropout) are a function of the path; afterwards what they were."""
    words = Rng.of(path[0]).fold(*path[1:]).key[0].tolist()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(words[0] << 31 ^ words[1])
        yield
