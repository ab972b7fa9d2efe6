"""The training loop: a generator over objectives and phases that knows nothing of diffusion.

Logging, saving and stopping are the caller's loop body (`fit` is one). The only clock is `State.seen`, samples seen:
data order, noise, dropout, learning rate and averages are functions of it and of the seed, so that a run that was
stopped and goes on is the run that was not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unnoise.capture import Captured, require_cuda
from unnoise.core.objective import Batch, Loss, by_logsnr
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.optim import guarded_step
from unnoise.parts import whole
from unnoise.recipe import Phase, Recipe
from unnoise.runtime import Runtime, uncompiled
from unnoise.state import State, names_of, own_generators, parameters_of

AUGMENT = -1
"""The place of augmentation in the randomness of a row, where phases have their numbers."""


class NonFinite(UserError):
    """Training met non-finite numbers for too long; the message names the first layer that made one."""


class Progress(NamedTuple):
    """What a step of training yields; the tensors are on the device, and reading them waits for it.

    Args:
        seen: samples seen, this step's included.
        total: samples to see, or None while that is not yet fixed.
        loss: the mean of weight * value of the first phase.
        norm: norm of its gradients before clipping.
        lr: its learning rate.
    """

    seen: int
    total: int | None
    loss: Tensor
    norm: Tensor
    lr: float


def train(
    recipe: Recipe, state: State, batches: Iterable[Batch], run: Runtime, *, captured: bool = False
) -> Iterator[Progress]:
    """Take steps until `state.total` samples are seen, yielding after each.

    A step takes each phase in turn: only its modules require gradients, which are cleared on entry; the batch is cut
    into `recipe.micro` pieces whose gradients add up to that of the whole; the update is clipped, and skipped on the
    device where a gradient is not finite.

    Args:
        recipe: the values.
        state: changed in place; `state.total` may be set by the caller at any time.
        batches: this process's rows of global batches of `recipe.batch`, with "position", from `state.seen` on.
        run: rank and world.
        captured: record each phase's step as a CUDA graph after its first steps, and replay it: the same numbers with
            one launch; over several processes as two graphs, with the exchange of gradients between them.

    Raises:
        UserError: where a step cannot be captured: on other devices, of sharded networks, with an objective that looks
            at the clock.
        NonFinite: after `recipe.patience` steps in a row with gradients that are not finite.
    """
    if captured:
        check_capturable(recipe, run)
    phases = [_Phase(phase, j, state, run, recipe, captured) for j, phase in enumerate(state.phases)]
    check_every = min(recipe.log_every, recipe.patience)
    for name, module in state.networks.items():
        module.train(name in state.trained)
    source, root = iter(batches), Rng.of(state.seed, run.device).fold(AUGMENT)
    while state.total is None or state.seen < state.total:
        batch = next(source)
        if recipe.augment is not None:
            batch = recipe.augment(batch, root.fold(batch["position"]))
        step = state.seen // recipe.batch
        first: tuple[Tensor, Tensor, float] | None = None
        with own_generators(run.device, state.seed, state.seen, run.rank):
            for phase in phases:
                if step % phase.every == 0:
                    taken = phase.step(batch)
                    first = first or taken
        assert first is not None
        if (step + 1) % check_every == 0 and int(state.bad[:, 1].max()) >= recipe.patience:
            raise NonFinite(_blame(phases, batch, state))
        state.seen += recipe.batch
        state.ema.update(state.named, state.seen, recipe.batch)
        yield Progress(state.seen, state.total, *first)


class _Phase:
    """A phase at work: the module that is wrapped for several processes is the objective's call itself."""

    def __init__(self, phase: Phase, number: int, state: State, run: Runtime, recipe: Recipe, captured: bool) -> None:
        self.phase, self.number, self.state, self.run = phase, number, state, run
        self.batch, self.micro = recipe.batch, recipe.micro
        self.every = phase.every
        self.optimizer = state.optimizers[number]
        self.own = parameters_of(state.components, phase)
        self.root = Rng.of(state.seed, run.device).fold(number)
        self.lr = torch.zeros((), dtype=torch.float32, device=run.device)
        self.take: Callable[[Batch], tuple[Tensor, Tensor]] = self._take
        self.module: nn.Module = _Call(phase, state.components)
        if not captured:
            with self._only_own():
                self.module = run.wrap(self.module)
        elif run.world == 1:
            self.take = Captured(self._take, run.device)
        else:
            self.take = _InTwo(self)

    @contextlib.contextmanager
    def _only_own(self) -> Iterator[None]:
        """Within, no other network takes gradients; what is frozen stays frozen."""
        own = {id(p) for p in self.own}
        networks = self.state.networks.values()
        others = [p for m in networks for p in m.parameters() if p.requires_grad and id(p) not in own]
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def rng(self, batch: Batch) -> Rng:
        """Randomness for the rows: a function of seed, phase and each row's number in the stream."""
        return self.root.fold(batch["position"])

    def step(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """One update of the phase's modules; the loss, the gradient's norm, the learning rate."""
        lr = self.phase.optim.lr_at(self.state.seen + self.batch, self.state.total)
        self.lr.fill_(lr)
        loss, norm = self.take(batch)
        return loss.clone(), norm.clone(), lr

    def _take(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All of the step that is the device's: nothing here waits for it or depends on the host but for the clock."""
        loss = self.backward(batch)
        return self.update(loss, None if self.state.scale is None else self.run.mean(_finite(loss)))

    def backward(self, batch: Batch) -> Loss:
        """The gradients of these rows, and their loss."""
        state, scale = self.state, self.state.scale
        losses = []
        with self._only_own():
            for p in self.own:
                p.grad = None
            rows, key = len(batch["position"]), self.rng(batch)
            if rows % self.micro:
                raise UserError(f"{rows} rows of a process do not divide into {self.micro} micro-batches")
            size = rows // self.micro
            for i in range(self.micro):
                piece = slice(i * size, (i + 1) * size)
                with self.run.accumulating(self.module, more=i < self.micro - 1):
                    loss = self.module({k: v[piece] for k, v in batch.items()}, key[piece], state.seen)
                    objective = loss.mean / self.micro
                    (objective if scale is None else objective * scale.value).backward()
                losses.append(Loss(loss.value.detach(), loss.weight.detach(), loss.level, loss.scalars))
        return _join(losses)

    def update(self, loss: Loss, finite: Tensor | None) -> tuple[Tensor, Tensor]:
        """The step by these gradients; the loss and the gradients' norm.

        Args:
            loss: of these rows.
            finite: the share of the processes whose losses are; None: nothing is scaled, and nothing asks.
        """
        scale = self.state.scale
        taken = guarded_step(
            self.optimizer,
            self.own,
            clip=self.phase.optim.clip,
            lr=self.lr,
            scale=None if scale is None else scale.value,
        )
        if scale is not None and finite is not None:
            # A forward pass that is not finite is not an overflow of the scale: halving that would not mend it.
            # All processes look at all rows: their scales must stay one.
            scale.update(taken.finite | (finite < 1))
        self._note(loss, taken.finite)
        return loss.mean.detach(), taken.norm

    def _note(self, loss: Loss, finite: Tensor) -> None:
        """Keep account on the device: nothing here waits for it."""
        state = self.state
        bad = state.bad[self.number]
        streak = torch.where(finite, 0, bad[0] + 1)
        bad.copy_(torch.stack([streak, torch.maximum(bad[1], streak), bad[2] + ~finite]))
        for k, v in loss.scalars.items():
            now = torch.stack([v.detach().float(), torch.ones_like(v, dtype=torch.float32)])
            if k in state.scalars:
                state.scalars[k] += now
            else:
                state.scalars[k] = now
        state.window[self.number] += torch.where(finite, by_logsnr(loss), 0.0)


class _InTwo:
    """A phase's step as two graphs, between which processes exchange gradients: one that holds NCCL's work may hang.

    All gradients are one vector, in the order in which each lies in memory, which the second graph finds in the place
    where the first one leaves it.
    """

    def __init__(self, phase: _Phase) -> None:
        self._phase = phase
        self._backward = Captured(self._first, phase.run.device)
        self._update = Captured(self._second, phase.run.device)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self._loss, self._flat = self._backward(batch)
        self._phase.run.mean_(self._flat)
        taken: tuple[Tensor, Tensor] = self._update({})
        return taken

    def _first(self, batch: Batch) -> tuple[Loss, Tensor]:
        """The loss; and as one vector all gradients, and whether the loss is finite."""
        loss = self._phase.backward(batch)
        self._gradients = [_as_it_lies(p.grad, p) for p in self._phase.own if p.grad is not None]
        return loss, torch.cat([*(g.reshape(-1) for g in self._gradients), _finite(loss).reshape(1)])

    def _second(self, _: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        *means, finite = torch.split(self._flat, [*(g.numel() for g in self._gradients), 1])
        torch._foreach_copy_(self._gradients, [m.view_as(g) for m, g in zip(means, self._gradients, strict=True)])
        return self._phase.update(self._loss, finite[0])


def _as_it_lies(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient, its axes in the order of the parameter's memory, which is autograd's and that of all processes."""
    return gradient.permute(sorted(range(parameter.ndim), key=parameter.stride, reverse=True))


def _finite(loss: Loss) -> Tensor:
    """1 where the losses of all rows are finite, else 0."""
    return loss.value.isfinite().all().float()


def check_capturable(recipe: Recipe, run: Runtime) -> None:
    """Refuse what a graph would freeze or cannot hold; Raises UserError."""
    require_cuda(run.device)
    if run.sharded:
        raise UserError("--capture is for networks that each process holds whole: leave it out, or --shard")
    for phase in recipe.all_phases():
        if getattr(phase.objective, "clocked", True):
            raise UserError(
                f"{type(phase.objective).__name__} may look at the samples seen, which a captured step would freeze: "
                "leave --capture out, or set clocked = False on the objective if it does not"
            )


class _Call(nn.Module):
    """The objective's call as a module that owns what the phase trains."""

    def __init__(self, phase: Phase, components: Mapping[str, Any]) -> None:
        super().__init__()
        self.trained = nn.ModuleList(components[name] for name in phase.modules)
        self._objective, self._components = phase.objective, {"all": components}

    def forward(self, batch: Batch, rng: Rng, seen: int) -> Loss:
        return self._objective(self._components["all"], batch, rng, seen)


def _join(losses: Sequence[Loss]) -> Loss:
    if len(losses) == 1:
        return losses[0]
    value, weight = torch.cat([x.value for x in losses]), torch.cat([x.weight for x in losses])
    levels = [x.level for x in losses if x.level is not None]
    first = levels[0] if levels else None
    if first is not None:
        first = first._replace(
            alpha=torch.cat([x.alpha for x in levels]), sigma=torch.cat([x.sigma for x in levels]), host=None
        )
    scalars = {k: torch.stack([x.scalars[k] for x in losses]).mean() for k in losses[0].scalars}
    return Loss(value, weight, first, scalars)


def _agreed(found: Sequence[str], run: Runtime) -> str | None:
    """The first that was found, in quotes; None where no process found any: all must go on, or none."""
    return (repr(found[0]) if found else "one of another process") if run.any(bool(found)) else None


def _blame(phases: Sequence[_Phase], batch: Batch, state: State) -> str:
    """Run the last step once more, eagerly, with a look at every layer: which is the first that is not finite?"""
    streak = int(state.bad[:, 1].max())
    start = (
        f"training ended: {streak} steps in a row had gradients that are not finite, after {state.seen} samples. "
        "The weights and the last checkpoint are whole. "
    )
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, args: Any, out: Any) -> None:
            tensors = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor)]
            if any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in tensors):
                found.append(name)

        return look

    run = phases[0].run
    columns = [k for k, x in batch.items() if x.is_floating_point() and not bool(torch.isfinite(x).all())]
    if bad := _agreed(columns, run):
        return f"{start}The data themselves are not finite: column {bad}"
    for phase in phases:
        handles = [
            m.register_forward_hook(hook(f"{k}.{name}".rstrip(".")))
            for k, root in state.networks.items()
            for name, m in root.named_modules()
            if not list(m.children())
        ]
        try:
            with uncompiled(), own_generators(run.device, state.seed, state.seen, run.rank):
                loss = phase.backward(batch)
        finally:
            for handle in handles:
                handle.remove()
        if bad := _agreed(found, run):
            return f"{start}The first layer whose output is not finite is {bad}: lower optim.lr, or take bfloat16"
        if run.any(not bool(loss.value.isfinite().all())):
            return f"{start}Every layer is finite but the loss is not: look at the objective's weight"
        for name, p in zip(names_of(state.components, phase.phase), phase.own, strict=True):
            if p.grad is not None and run.any(not bool(whole(p.grad).isfinite().all())):
                return (
                    f"{start}Every output is finite, the gradient of {name!r} is not: lower optim.lr, or take bfloat16"
                )
    return (
        f"{start}The last step, run once more, was finite: leave --compile and --capture out, or take --precision fp32"
    )
