"""How a model is measured: what judges obey, and what they are handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.data.dataset import Columns, Dataset, permutation
from unnoise.errors import UserError
from unnoise.metrics.figure import Figure
from unnoise.runtime import Runtime
from unnoise.samples import SETTINGS, Samples

T = TypeVar("T")

CHUNK = 1024
"""Samples drawn between two movements of the bar, or a few more, since all batches are whole but the last."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One measurement of a model, by one judge or by several, who share what is drawn and learned in it.

    Args:
        n: samples a repeat.
        repeats: for a standard error, each from seeds of its own.
        seed: of the first sample.
        settings: of sampling, in the place of the model's own.
        say: where to tell what is being done.
        run: the processes that share the work; figures do not depend on their number.
    """

    n: int
    repeats: int = 1
    seed: int = 1_000_000
    settings: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda line: None
    run: Runtime = Runtime()
    ruler: dict[str, list[str]] = field(default_factory=dict, init=False)
    """What figures rest on beyond judges' fields, as judges find it: see `rests_on`."""
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def samples(self, model: Any, repeat: int = 0, like: Columns | None = None, **settings: Any) -> Samples:
        """The n samples of a repeat, from seed + repeat * n on; drawn once, each process its share, and held by all.

        Args:
            model: a `Model`.
            repeat: which.
            like: samples are asked for as these real items are, in a random order: every class as often, and what
                depends on each other together. Uniform classes alone would be a distance to real data. None: as
                `Model.conditions` says.
            settings: in the place of the trial's: steps, guidance, ..; a condition is one for all, or a tensor of n.

        Raises:
            UserError: for a condition of another number of rows.
        """
        seed, chosen = self.seed + repeat * self.n, {**self.settings, **settings}
        if like is not None:
            order = permutation(len(like["x"]), 4)
            rows = order[torch.arange(repeat * self.n, (repeat + 1) * self.n) % len(order)]
            chosen |= {k: like[k][rows] for k in getattr(model.conditioner, "classes", {}) if k in like}

        listed = [k for k, v in chosen.items() if isinstance(v, list | tuple) and k not in SETTINGS]
        chosen |= {k: torch.as_tensor(chosen[k]) for k in listed}
        for k, v in chosen.items():
            if isinstance(v, Tensor) and v.ndim and len(v) != self.n:
                raise UserError(f"condition {k!r} has {len(v)} rows for {self.n} samples")

        batch = chosen.get("batch", 1)  # what models take where none is given divides CHUNK

        def draw() -> Samples:
            self.say(f"sampling {self.n:,} from seed {seed}")
            share = self.run.share(self.n)
            count, chunk = share.stop - share.start, -(-CHUNK // batch) * batch
            rows = share if count else slice(0, 1)  # whoever has none draws one, for its shape
            quiet = None if self.run.is_main else True
            with tqdm(total=count, desc="sampling", unit="", leave=False, disable=quiet) as bar:
                parts = []
                for start in range(rows.start, rows.stop, chunk):
                    some = slice(start, min(start + chunk, rows.stop))
                    own = {k: v[some] if isinstance(v, Tensor) and v.ndim else v for k, v in chosen.items()}
                    parts.append(model.sample(some.stop - some.start, seed=seed + start, **own))
                    bar.update(some.stop - some.start)
            raw = self.run.gather(torch.cat([p.raw for p in parts])[:count], self.n)
            cond = {k: self.run.gather(torch.cat([p.cond[k] for p in parts])[:count], self.n) for k in parts[0].cond}
            return Samples(raw, torch.arange(seed, seed + self.n), cond, parts[0].codec)

        # A tensor's text leaves numbers out.
        told = {k: v.cpu().numpy().tobytes() if isinstance(v, Tensor) else repr(v) for k, v in chosen.items()}
        return self.once((model, repeat, *sorted(told.items(), key=lambda pair: pair[0])), draw)

    def map(self, function: Callable[[Tensor], Tensor], x: Any) -> Tensor:
        """function(x), row by row a function of x alone, each process for its share of the rows."""
        rows = self.run.share(len(x))
        return self.run.gather(function(x[rows]), len(x))

    def rests_on(self, what: str, digest: str) -> None:
        """Note what figures depend on and only the trial knows: the digest of weights that a judge learned or read."""
        if digest not in self.ruler.setdefault(what, []):
            self.ruler[what].append(digest)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returns, made at the first call with this key in the trial: a judge that several need."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@runtime_checkable
class Judge(Protocol):
    """Measures a trained model, each figure beside the same figure of real data.

    count: samples a repeat, unless the user says otherwise.
    """

    @property
    def count(self) -> int:
        """See above."""
        ...

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What the figures depend on besides the judge's own fields: versions of rules, fixed numbers."""
        ...

    def __call__(self, model: Any, data: Dataset, trial: Trial, /) -> Sequence[Figure]:
        """The figures of a `Model`; Raises UserError where it cannot be measured so."""
        ...
