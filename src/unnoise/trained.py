"""Components of runs: averaged weights, and networks that one run takes over from another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unnoise import checkpoint, shipped
from unnoise.checkpoint import CheckpointError
from unnoise.errors import UserError
from unnoise.optim import reconstruct
from unnoise.recipe import Sampling, changed
from unnoise.spec import Build, Pending


@dataclass(frozen=True)
class Trained(Pending):
    """A component of a run that is trained already: a codec, a teacher; it is taken as it stands and stays so.

    Checkpoints of the run that takes it hold it themselves: once started, that needs the other run no more.

    Args:
        run: folder of the other run, or of a saved model; or the name of one that comes with the package.
        recipe: by which it is trained, for the message where it is missing.
        component: which.
    """

    run: str
    recipe: str
    component: str = "model"

    def __call__(self) -> Any:
        """The component with its averaged weights; Raises UserError where there is no such run or component."""
        if not Path(self.run).exists() and self.run not in shipped.names():
            raise UserError(
                f"no such run: {self.run}, which this recipe builds on: unnoise train {self.recipe} --out {self.run}"
            )
        contents = load(Path(self.run), None)
        if self.component not in contents.specs:
            raise UserError(f"{self.run} has no component {self.component!r}, only {sorted(contents.specs)}")
        return checkpoint.components(contents)[self.component]


@dataclass(frozen=True)
class Begun(Pending):
    """A network that begins with the weights of a trained one where names and shapes agree, and is trained further.

    Args:
        net: the network; what it has beyond the trained one keeps its fresh values.
        start: the trained one.
    """

    net: Build[Any]
    start: Trained

    def __call__(self) -> Any:
        """The network; Raises UserError where there is no such run, and where nothing fits."""
        net = self.net()
        checkpoint.adopt_weights(net, self.start().state_dict(), self.start.run)
        return net


def load(path: Path, weights: str | float | None, at: int | None = None) -> checkpoint.Contents:
    """The contents of a run or a saved model, with averaged weights in the place of those as trained.

    Args:
        path: a run folder, a checkpoint folder, what `Model.save` wrote, or a name: see `shipped.find`.
        weights: a relative width, "raw", or None for the width that the recipe names.
        at: averaged as they were after so many samples: one of `snapshots`; None: as the checkpoint stands.

    Raises:
        CheckpointError: for a folder that is missing, empty, damaged, changed or foreign.
        UserError: for a width that cannot be made.
    """
    path = shipped.find(path)
    contents = checkpoint.read(checkpoint.locate(path))
    facts = contents.facts
    width = facts.get("average", "raw") if weights is None else weights
    if isinstance(width, str) and width != "raw":
        raise UserError(f"weights is an EMA width such as 0.1, or 'raw'; got {width!r}")
    if width == "raw" and at is not None:
        raise UserError(f"the weights of {path} after {at} samples are kept averaged only")
    if at is not None:
        if at not in snapshots(path):
            raise UserError(f"{path} has no averages after {at} samples, only after {snapshots(path)}")
        contents.groups, facts["seen"] = _kept(path, at), at
    if width != "raw":
        average = _average(path, contents, float(width))
        for name in facts.get("trains", ["model"]):
            contents.weights[name] = _of(name, average)
    return contents


def _add_weaker(contents: checkpoint.Contents, path: Path, weights: str | float | None, share: float) -> bool:
    """Add to what `load` gave the component "weaker": the model as it was after this share of the samples seen.

    It is averaged as `weights` says; where that is "raw", as the recipe says. The fact "weaker" is after how many
    samples.

    Returns:
        False, and nothing is added, where `path` keeps no averages of so early on.
    """
    path, facts = shipped.find(path), contents.facts
    at = earlier(path, facts.get("seen", 0), share)
    if at is None:
        return False
    width = facts["average"] if weights in (None, "raw") else weights
    average = _average(path, checkpoint.Contents({"seen": at}, groups=_kept(path, at)), float(width))
    contents.specs["weaker"], contents.weights["weaker"] = contents.specs["model"], _of("model", average)
    facts["weaker"] = at
    return True


def with_weaker(
    contents: checkpoint.Contents,
    path: Path,
    weights: str | float | None,
    sampling: Sampling,
    share: float | Literal[True] | None,
) -> Sampling:
    """Add the weaker network that autoguidance takes; the sampling with the share that it is of. See `Model.load`."""
    asked = sampling if share is None or share is True else changed(sampling, weaker=share)
    if "weaker" in contents.specs:
        if asked != sampling:
            raise UserError(f"{path} holds a weaker network of share {sampling.weaker:g}, and none of {asked.weaker:g}")
    elif not _add_weaker(contents, path, weights, asked.weaker) and share is not None:
        raise no_weaker(path, contents.facts.get("seen", 0), asked.weaker)
    return asked


def no_weaker(path: Path, seen: int, share: float) -> UserError:
    """That no averages of so early on are kept, and what to do: a share that there is, where there is one."""
    kept = snapshots(shipped.find(path))
    least = math.ceil(1000 * kept[0] / seen) / 1000 if kept else 0.0
    if not kept:
        more = "take the folder of its run"
    elif least < 1:
        more = f"take --weaker {least:g} or more"
    else:
        more = "train it longer"
    return UserError(
        f"{path} has no weaker network for autoguidance, since it keeps no averages of the first {share:g} of its "
        f"{seen} samples: {more}, or leave autoguidance at 1 (--autoguidance 1)"
    )


def earlier(run: Path, seen: int, share: float) -> int | None:
    """The last of the `snapshots` at or before share * seen samples; None where there is none."""
    return max((n for n in snapshots(run) if n <= share * seen), default=None)


def snapshots(run: Path) -> list[int]:
    """After how many samples the averages of a run are kept, in order."""
    return sorted(int(f.stem) for f in (run / "ema").glob("*.safetensors"))


def _of(component: str, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one component, by their own names."""
    return {k.removeprefix(f"{component}."): x for k, x in average.items() if k.startswith(f"{component}.")}


def _kept(run: Path, at: int) -> dict[str, dict[str, Tensor]]:
    """The averages of a snapshot as groups, in float32."""
    return {
        f"ema-{width:g}": {k: x.float() if x.is_floating_point() else x for k, x in named.items()}
        for _, width, named in _snapshots(run / "ema" / f"{at}.safetensors")
    }


def _average(path: Path, contents: checkpoint.Contents, width: float) -> dict[str, Tensor]:
    """The averaged weights, as "component.name": as tracked, or made of the run's snapshots."""
    tracked = contents.groups.get(f"ema-{width:g}")
    if tracked is not None:
        return tracked
    seen = int(contents.facts.get("seen", 0))
    own = {float(k.removeprefix("ema-")): v for k, v in contents.groups.items() if k.startswith("ema-")}
    before = [path / "ema" / f"{n}.safetensors" for n in snapshots(path) if n <= seen]
    if not before:
        raise CheckpointError(
            f"{path} tracks averages of width {sorted(own)} and has no snapshots to make {width:g} from"
        )
    # A checkpoint mostly lies between two snapshots; its own averages are one more.
    parts = [(seen, w, named) for w, named in own.items()]
    parts += [s for f in before if int(f.stem) < seen for s in _snapshots(f)]
    try:
        return reconstruct(parts, width, seen)
    except ValueError as e:
        raise UserError(str(e)) from e


def _snapshots(file: Path) -> Sequence[tuple[int, float, dict[str, Tensor]]]:
    by_width: dict[float, dict[str, Tensor]] = {}
    for key, tensor in checkpoint.load_tensors(file).items():
        width, _, name = key.partition("/")
        by_width.setdefault(float(width), {})[name] = tensor
    return [(int(file.stem), width, named) for width, named in by_width.items()]
