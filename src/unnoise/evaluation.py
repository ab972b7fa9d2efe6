"""Measurements of a run: made by its recipe's judge, kept with what they were made with, compared with others.

Two numbers compare only if they were read from the same ruler. What makes the ruler (the judge, the data to the byte,
the number of samples, the versions of rules) is the protocol, and its hash stands beside the numbers; what was laid on
it (the weights, the sampler, the seeds) is stated apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unnoise import shipped
from unnoise.cache import differences, digest, digest_of
from unnoise.checkpoint import replace_json
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.metrics.figure import Comparison, Figure, as_json, compare
from unnoise.model import Model, Weights
from unnoise.samples import SETTINGS
from unnoise.spec import describe
from unnoise.trained import earlier, snapshots
from unnoise.trial import Judge, Trial
from unnoise.version import __version__

FILE = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """What a judge found.

    Args:
        figures: each beside that of real data.
        protocol: JSON: what makes the ruler.
        measured: JSON: what was laid on it, and with what it was done.
        history: {"seen": samples, "figures": figures} of averaged weights as training went on.
    """

    figures: Sequence[Figure]
    protocol: Mapping[str, Any]
    measured: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def hash(self) -> str:
        """Of the protocol: 16 hexadecimal digits."""
        return digest(self.protocol)[:16]

    def save(self, run: Path) -> Path:
        """Write RUN/evaluation.json in one replacement; the folder exists."""
        content = {
            "figures": as_json(self.figures),
            "protocol_hash": self.hash,
            "protocol": self.protocol,
            "measured": self.measured,
            "history": [{**h, "figures": as_json(h["figures"])} for h in self.history],
        }
        replace_json(content, run / FILE)
        return run / FILE

    @staticmethod
    def read(path: Path) -> Evaluation:
        """Of a run folder, a file, or a model that comes with the package, by its name.

        Raises:
            UserError: where there is none, or one that was changed by hand or written before rulers had a hash.
        """
        path = shipped.find(path)
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"no such file: {file}: unnoise evaluate {path} writes it")
        try:
            content = json.loads(file.read_text(encoding="utf8"))
            figures = [Figure(**f) for f in content["figures"]]
            history = [{**h, "figures": [Figure(**f) for f in h["figures"]]} for h in content.get("history", ())]
            found = Evaluation(figures, content["protocol"], content["measured"], history)
            stated = content["protocol_hash"]
        except (OSError, ValueError, TypeError, KeyError) as e:
            raise UserError(f"{file} is not an evaluation of this version: unnoise evaluate makes it anew") from e
        if stated != found.hash:
            raise UserError(f"{file} was changed: its protocol has the hash {found.hash}, it states {stated}")
        return found


def measure(model: Model, judge: Judge, data: Dataset, trial: Trial) -> Evaluation:
    """What a judge says of a model; Raises UserError where it cannot be measured so."""
    figures = judge(model, data, trial)
    protocol = {
        "judge": describe(judge),
        "data": {"train": digest_of(data.train), "held_out": digest_of(data.held_out)},
        "samples": trial.n,
        "rests on": trial.ruler,
        **judge.protocol,
    }
    measured = {
        "name": model.facts.get("name"),
        "seen": model.facts.get("seen"),
        "weights": model.facts.get("weights") or model.facts.get("average"),
        "sampling": describe(model.settings(*(trial.settings.get(k) for k in SETTINGS))),
        "seed": trial.seed,
        "repeats": trial.repeats,
        "data": data.about,
        "device": str(model.device),
        "precision": model.precision,
        "torch": torch.__version__,
        "unnoise": __version__,
    }
    return Evaluation(figures, json.loads(json.dumps(protocol)), measured)


def history(
    run: Path,
    count: int,
    judge: Judge,
    data: Dataset,
    trial: Trial,
    weights: Weights = None,
    types: Sequence[type] = (),
    weaker: float | None = None,
    precision: str | None = None,
    compiled: bool = False,
) -> list[dict[str, Any]]:
    """What the judge says of `count` of the averages that a run kept as training went on, the last among them.

    With `weaker`, each is loaded with the network after this share of its samples (`Model.load`), and those before
    which none was kept do not count. With `compiled`, each is compiled as `Model.compile` does, of which all but the
    first find that it is done.

    Raises:
        UserError: where the run kept none.
    """
    there = [at for at in snapshots(run) if weaker is None or earlier(run, at, weaker)]
    if not there:
        raise UserError(f"{run} kept no averages as training went on")
    chosen = sorted({there[round(i * (len(there) - 1) / max(1, count - 1))] for i in range(count)} | {there[-1]})
    found = []
    for at in chosen[-count:]:
        trial.say(f"after {at} samples")
        given: dict[str, Any] = {"device": trial.run.device, "precision": precision, "types": types}
        model = Model.load(run, weights=weights, at=at, weaker=weaker, **given)
        if compiled:
            model.compile()
        found.append({"seen": at, "figures": judge(model, data, replace(trial, repeats=1))})
    return found


def compared(a: Evaluation, b: Evaluation) -> list[Comparison]:
    """Figure by figure, of those that both have.

    Raises:
        UserError: naming what differs, where the two were not read from the same ruler.
    """
    if a.hash != b.hash:
        differing = differences(a.protocol, b.protocol)
        raise UserError(f"protocols {a.hash} and {b.hash} differ, so that the numbers do not compare: {differing[0]}")
    others = {f.name: f for f in b.figures}
    return [compare(f, others[f.name]) for f in a.figures if f.name in others]
