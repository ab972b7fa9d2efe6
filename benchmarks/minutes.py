"""Quality against time: what a recipe reaches after so many minutes of training, from one trunk with a branch each.

    python benchmarks/minutes.py cifar10 [--minutes 1 2 5 7] [--compile --capture] [--many 7] [--out FILE.json]
        [-s KEY=VALUE] [--judge 'Distances(features=Means())'] [--kernels fused] [--images runs/minutes]
        [--way 'unguided: autoguidance=1' --way 'as it is:' [--choose 5000]] [--save FOLDER]

The recipe's rate is to be a Trapezoid, or one without an end. The trunk trains at its constant learning rate; where a
point's share of decay begins, the state is kept, the branch decays to zero and is measured, and the trunk goes on from
what was kept; without a decay the trunk is measured. A point's minutes are those of trunk and branch: every second in
which steps are taken, from the first step on, its compilation left out and stated. Figures are the judge's, of averaged
weights, from seeds that no choice was made on; for the minutes in --many over three repeats and, beside them, of 50,000
samples in the last way. "fit" is the training's loss of averaged weights on training and on held-out data, at the same
levels and noise: how far apart they are is what was learned by heart. "shares" are plain statistics of the samples as
shares of those of the training data: a distance does not say in which direction samples are off. Each point is measured
in each --way: a name and assignments to what the recipe's `Sampling` says, separated by semicolons (autoguidance=1.8;
weaker=0.2; steps=24). With --choose N only the first way and the best of the others are: the best by the first
distance of N samples from seeds that are not reported. What --save keeps, a model a point, as it is sampled in the last
of these ways, `unnoise sample` and `evaluate` read.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import record
import torch
from throughput import wait

from unnoise import recipes
from unnoise.core.objective import Objective
from unnoise.data.dataset import Dataset, loaded
from unnoise.data.stream import batches
from unnoise.evaluate import loss_by_level
from unnoise.judges import Distances
from unnoise.judges.several import each
from unnoise.metrics.figure import as_json
from unnoise.model import Model
from unnoise.nets import kernels
from unnoise.optim import Constant, InverseSqrt, Trapezoid, snapshot_due
from unnoise.override import override
from unnoise.recipe import Recipe, Sampling
from unnoise.runtime import Runtime, default_precision, pick_device, precision_of, uncompiled
from unnoise.spec import describe
from unnoise.state import State
from unnoise.train import train
from unnoise.trial import Judge, Trial

WINDOW = 100
"""Steps whose mean loss is kept."""
FITTED = 2048
"""Items, of the training data and of the held-out ones, that the loss of averaged weights is taken of."""
SEED, CHOOSING = 50_000_000, 7_000_000
"""Of the first sample, of those that are reported and of those that choices are made on."""


@dataclass
class Clock:
    """Seconds in which steps were taken, and the device's rate."""

    seconds: float = 0.0
    samples: int = 0
    first: float = 0.0
    """Seconds of the very first step, which are not counted: compilation, mostly."""


class Trunk:
    """A state in training, that can be kept and gone back to."""

    def __init__(
        self, recipe: Recipe, data: Dataset, device: torch.device, o: argparse.Namespace, judge: Judge | None = None
    ) -> None:
        self.recipe, self.data, self.device, self.captured = recipe, data, device, o.capture
        self.judge = judge or recipe.judge
        self.precision = o.precision or default_precision(device)
        self.state = State(recipe, o.seed, device, None, precision_of(self.precision))
        self.clock, self.average, self.ways = Clock(), o.average or recipe.average, ways(recipe, o.way)
        self.guided = any(way.autoguidance != 1 for way in self.ways.values())
        self.kept: list[tuple[int, dict[str, torch.Tensor]]] = []
        """Where autoguidance asks for it, averages as training went on: after how many samples, and the weights."""
        self.weaker: Any = None
        self.losses: list[tuple[int, float]] = []
        """After how many samples, and the loss of the `WINDOW` steps before."""
        if o.compile:
            self.state.compile()

    @cached_property
    def whole(self) -> dict[str, float]:
        """Plain statistics of the training data."""
        return plain_statistics(loaded(self.data.train["x"]))

    def advance(self, until: float | None) -> None:
        """Train until the clock shows so many seconds, or to the end of the branch."""
        state, clock = self.state, self.clock
        stream = batches(self.data.train, self.recipe.batch, seed=state.seed, seen=state.seen, device=self.device)
        with contextlib.closing(stream):
            began = time.perf_counter()
            for n, _ in enumerate(train(self.recipe, state, stream, Runtime(self.device), captured=self.captured), 1):
                if not clock.samples or n % 10 == 0:
                    wait(self.device)
                now = time.perf_counter()
                if not clock.samples:
                    clock.first = now - began
                else:
                    clock.seconds += now - began
                began, clock.samples = now, clock.samples + self.recipe.batch
                if n % WINDOW == 0:
                    self.losses.append((state.seen, state.read_window(Runtime(self.device))["loss"]))
                if self.guided and snapshot_due(state.seen, self.recipe.batch):
                    named = state.ema.state(self.average).items()
                    own = {k.removeprefix("model."): x.clone() for k, x in named if k.startswith("model.")}
                    self.kept.append((state.seen, own))
                if until is not None and clock.seconds >= until:
                    break
            wait(self.device)
            clock.seconds += time.perf_counter() - began

    def end(self, samples: float) -> None:
        """The run is to end after so many samples, made whole batches; its rate decays accordingly."""
        batch = self.recipe.batch
        self.state.total = -(-round(samples) // batch) * batch

    @contextlib.contextmanager
    def branch(self, share: float) -> Iterator[None]:
        """Within, a run that ends where the decay's share does; afterwards all is as it was."""
        state, clock = self.state, replace(self.clock)
        networks = {k: {n: x.clone() for n, x in m.state_dict().items()} for k, m in state.networks.items()}
        groups = {k: {n: x.clone() for n, x in g.items()} for k, g in state.groups().items()}
        seen, kept, losses = state.seen, len(self.kept), len(self.losses)
        self.end(seen / (1 - share))
        try:
            yield
        finally:
            with torch.no_grad():
                for k, m in state.networks.items():
                    for n, x in m.state_dict().items():
                        x.copy_(networks[k][n])
            state.load(groups)
            state.seen, state.total, self.clock = seen, None, clock
            del self.kept[kept:], self.losses[losses:]

    def model(self, sampling: Sampling) -> Model:
        """The model as it stands, with the weaker network that this sampling needs."""
        parts, weaker = self.state.components, None
        if sampling.autoguidance != 1:
            earlier = [own for seen, own in self.kept if seen <= sampling.weaker * self.state.seen]
            if not earlier:
                raise SystemExit(f"no average was kept of the first {sampling.weaker:g} of {self.state.seen:,} samples")
            self.weaker = weaker = self.weaker or copy.deepcopy(parts["model"]).eval()
            weaker.load_state_dict(earlier[-1])
        facts = {"name": self.recipe.name, "recipe": describe(self.recipe), "seen": self.state.seen}
        facts |= {"precision": self.precision}
        return Model(
            parts["model"], parts["codec"], parts["process"], parts.get("conditioner"), sampling, facts, weaker
        )


def ruler(recipe: Recipe) -> Distances:
    """The recipe's first judge, which must be one of distances: by its first figure ways to sample are compared."""
    judge = None if recipe.judge is None else each(recipe.judge)[0]
    if not isinstance(judge, Distances):
        raise SystemExit(
            f"the judge of {recipe.name} measures no distances first, which ways to sample are compared by"
        )
    return judge


def keep(trunk: Trunk, folder: Path) -> None:
    """The averaged weights, with the weaker network where the last way takes one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with trunk.state.averaged(trunk.average):
        trunk.model(last(trunk.ways)).save(folder)


def ways(recipe: Recipe, described: Sequence[str] | None) -> dict[str, Sampling]:
    """How to sample, by name: each of "name: KEY=VALUE; KEY=VALUE", or the recipe's own."""
    found = {}
    for way in described or ["as it is:"]:
        name, colon, assignments = way.partition(":")
        if not colon or name in found:
            raise SystemExit(
                f"--way {way!r}: a name of its own and a colon, and after it what differs: 'long: steps=72'"
            )
        changed = recipe
        for assignment in filter(None, map(str.strip, assignments.split(";"))):
            changed = override(changed, f"sampling.{assignment}")
        found[name] = changed.sampling
    return found


def decay_of(recipe: Recipe) -> float:
    """The share of a run in which its learning rate falls to zero; 0 where it does not look at the run's end."""
    match getattr(recipe.optim, "rate", None):
        case Trapezoid(decay=share):
            return share
        case Constant() | InverseSqrt():
            return 0.0
        case rate:
            raise SystemExit(f"the rate of {recipe.name} is {rate}, which looks at the end of a run from its begin on")


def last(ways: Mapping[str, Sampling]) -> Sampling:
    """The last of these ways."""
    return ways[list(ways)[-1]]


def fit(trunk: Trunk, objective: Objective, o: argparse.Namespace) -> dict[str, Any]:
    """The loss of averaged weights on data that was trained on and that was not, and by bin of log-SNR."""
    state, found = trunk.state, {}
    with state.averaged(trunk.average), uncompiled(o.compile):
        for name, columns in (("trained", trunk.data.train), ("held_out", trunk.data.held_out)):
            looked = loss_by_level(objective, state.components, columns, trunk.device, FITTED)
            found[name], found[f"{name}_by_logsnr"] = looked["held_out"], looked["held_out_by_logsnr"]
    return found


def measured(trunk: Trunk, name: str, n: int, repeats: int, o: argparse.Namespace, seed: int = SEED) -> dict[str, Any]:
    """The judge's figures of averaged weights, and the seconds that sampling and judging took for all repeats."""
    sampling = trunk.ways[name]
    state = trunk.state
    assert trunk.judge is not None
    settings: dict[str, Any] = {"batch": o.batch, "captured": o.capture}
    trial = Trial(n, repeats, seed, settings, run=Runtime(trunk.device))
    with state.averaged(trunk.average), uncompiled(o.compile):
        model, began = trunk.model(sampling), time.perf_counter()
        for i in range(repeats):
            trial.samples(model, i, like=trunk.data.train)  # as judges ask for them, who are given these
        sampling_seconds = time.perf_counter() - began
        figures = trunk.judge(model, trunk.data, trial)
        judging_seconds = time.perf_counter() - began - sampling_seconds
        own = shares(trial.samples(model, 0, like=trunk.data.train).raw, trunk.whole)
    way = {} if sampling.autoguidance == 1 else {"autoguidance": sampling.autoguidance, "weaker": sampling.weaker}
    found = {"sampling_seconds": sampling_seconds, "judging_seconds": judging_seconds, "shares": own}
    return {"way": name, "samples": n, "repeats": repeats, **way, **found, "figures": as_json(figures)}


def plain_statistics(x: torch.Tensor) -> dict[str, float]:
    """Mean, standard deviation, and that of the difference between neighbours along the last axis."""
    x = x.float()
    return {"mean": float(x.mean()), "deviation": float(x.std()), "detail": float(x.diff(dim=-1).std())}


def shares(x: torch.Tensor, whole: Mapping[str, float]) -> dict[str, float]:
    """Plain statistics as shares of those of all training data."""
    return {k: v / whole[k] for k, v in plain_statistics(x).items()}


def told(name: str, found: Mapping[str, Any]) -> None:
    """Print what was measured."""
    shown = {f["name"]: f["samples"] for f in found["figures"]} | found["shares"]
    took = f"{found['sampling_seconds']:.1f} s, judged in {found['judging_seconds']:.1f} s"
    print(f"  {name}: {took}  " + "  ".join(f"{k} {v:.4g}" for k, v in shown.items()), flush=True)


def way_of(found: Mapping[str, Any]) -> str:
    """Of how many samples something was measured, and how they were drawn."""
    return f"{found['repeats']} x {found['samples']:,}, {found['way']}"


def choose(trunk: Trunk, o: argparse.Namespace) -> list[dict[str, Any]]:
    """Leave the trunk its first way and the best of the others; what was found of these."""
    first, *others = trunk.ways
    found = []
    for name in others:
        found.append(measured(trunk, name, o.choose, 1, o, CHOOSING))
        told(f"choosing, {way_of(found[-1])}", found[-1])
    best = min(found, key=lambda f: f["figures"][0]["samples"])["way"]
    trunk.ways = {name: trunk.ways[name] for name in (first, best)}
    return found


def picture(trunk: Trunk, sampling: Sampling, path: Path) -> None:
    """A grid of samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with trunk.state.averaged(trunk.average):
        trunk.model(sampling).sample(100, seed=SEED).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 5, 7])
    parser.add_argument("--many", type=float, nargs="*", default=[], help="minutes with repeats and 50,000 samples")
    parser.add_argument("-n", type=int, default=10_000, help="samples that are measured")
    parser.add_argument("--more", type=int, default=50_000, help="samples beside them for --many; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--precision")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--kernels", choices=["auto", "eager", "fused"], default="auto")
    parser.add_argument("--average", type=float, help="relative width of the average, in the place of the recipe's")
    parser.add_argument("--way", action="append", help="how to sample; the recipe's way by default")
    parser.add_argument("--choose", type=int, default=0, metavar="N", help="samples a way, to choose by; 0: take all")
    parser.add_argument("--batch", type=int, default=1000, help="samples at a time")
    parser.add_argument("--judge", help="measures here, not the recipe's, which --save keeps")
    parser.add_argument("-s", "--set", action="append", default=[], help="as of `unnoise train`")
    parser.add_argument("--device")
    parser.add_argument("--images", type=Path, help="a folder for a grid of each point")
    parser.add_argument("--save", type=Path, help="a folder for a model of each point")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    device = pick_device(o.device)
    torch.backends.cudnn.benchmark = True
    recipe = recipes.load(o.recipe)[0]
    for assignment in o.set:
        recipe = override(recipe, assignment)
    judged = override(recipe, f"judge={o.judge}") if o.judge else recipe
    decay = decay_of(recipe)
    if o.choose:
        ruler(judged)
    points: list[dict[str, Any]] = []
    result: dict[str, Any] = {"points": points}
    with kernels.using(o.kernels):
        data = recipe.data.load()
        trunk = Trunk(recipe, data, device, o, judged.judge)
        result["parameters"] = sum(p.numel() for p in trunk.state.components["model"].parameters())
        every = trunk.ways
        for minutes in sorted(o.minutes):
            trunk.ways = every
            trunk.advance(60 * minutes * (1 - decay))
            with trunk.branch(decay):
                trunk.advance(None)
                clock, point = trunk.clock, {"minutes": minutes, "seen": trunk.state.seen}
                point |= {"seconds": clock.seconds, "samples_per_second": clock.samples / clock.seconds}
                point |= {"loss": list(trunk.losses), "chosen_by": [], "measured": []}
                point |= {"fit": fit(trunk, trunk.recipe.objective, o)}
                points.append(point)
                result["first_step_seconds"] = clock.first
                rates = f"{point['seen']:,} samples  {point['samples_per_second']:,.0f}/s"
                trained, held_out = (point["fit"][k] for k in ("trained", "held_out"))
                print(f"{minutes:g} min  {rates}  loss {trained:.4f}, held out {held_out:.4f}", flush=True)
                if o.choose and len(every) > 2:
                    point["chosen_by"] = choose(trunk, o)
                if o.save:
                    keep(trunk, o.save / f"{recipe.name}-{minutes:g}")
                if o.images:
                    picture(trunk, last(trunk.ways), o.images / f"{recipe.name}-{minutes:g}.png")
                many = minutes in o.many
                last_first = [(name, o.n, 3 if many else 1) for name in reversed(trunk.ways)]  # what was chosen
                for name, n, repeats in last_first + ([(last_first[0][0], o.more, 1)] if many and o.more else []):
                    point["measured"].append(found := measured(trunk, name, n, repeats, o))
                    told(way_of(found), found)
                    record.write(o.out, device, result)  # a run that is stopped keeps what it has


if __name__ == "__main__":
    main()
