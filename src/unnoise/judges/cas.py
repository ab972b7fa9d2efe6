"""What a classifier learns from samples alone, measured on real data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from unnoise.data.dataset import Columns, Dataset, loaded
from unnoise.errors import UserError
from unnoise.judges.classifier import Classifier, require_told, share
from unnoise.judges.several import spread
from unnoise.metrics.figure import Figure, figure
from unnoise.model import Model
from unnoise.trial import Trial


@dataclass(frozen=True)
class ClassificationAccuracy:
    """The classification accuracy score (CAS): a classifier is trained on samples and the labels asked for, and reads
    held-out real data.

    Beside it the same classifier trained on as many real training items, or on all where there are fewer; either sees
    `classifier.samples` items in training, however many different ones there are. What is missing or wrong in the
    samples, the classifier does not learn: collapse that agreement with labels cannot see lowers it.

    Source: Ravuri & Vinyals 2019, arXiv:1905.10887.

    Args:
        classifier: who learns, and how; its seed is that of the first repeat, which each further one counts on.
        count: of samples to learn from, unless told otherwise.
    """

    classifier: Classifier
    count: int = 50_000

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"cas": "real data: as many training items, spread evenly"}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The share of held-out items read right, and the least of any class.

        Raises:
            UserError: for a model that is not conditioned on the label, and without held-out data.
        """
        label = self.classifier.label
        require_told(model, [label])
        if not len(data.held_out["x"]):
            raise UserError("the classification accuracy score is read on held-out data, and there are none")
        own = []
        for i in range(trial.repeats):
            samples = trial.samples(model, i)
            trial.say(f"training a classifier on {trial.n} samples")
            own.append(self._read({"x": samples.raw, label: samples.cond[label]}, data, model.device, i))
        columns = spread(data.train, trial.n)
        trial.say(f"training a classifier on {len(columns['x'])} real items")
        real = self._read(columns, data, model.device, 0)
        name = "classification accuracy score"
        return [
            figure(name, [x.all for x in own], real.all, [x.error for x in own], real.error),
            figure(f"{name}, worst class", [x.worst for x in own], real.worst),
        ]

    def _read(self, columns: Columns, data: Dataset, device: torch.device, repeat: int) -> _Read:
        learner = replace(self.classifier, seed=self.classifier.seed + repeat)
        asked = loaded(data.held_out[learner.label])
        right = learner.train(columns, device).read(loaded(data.held_out["x"])) == asked
        return _Read(*share(right), min(share(right[asked == c])[0] for c in sorted(set(asked.tolist()))))


class _Read(NamedTuple):
    all: float
    error: float
    worst: float
