"""What a classifier learns from samples alone, measured on real data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from unnoise.data.dataset import Dataset, loaded
from unnoise.errors import UserError
from unnoise.evaluate import RULES, measured
from unnoise.judges.classifier import Classifier, TrainedClassifier, require_told
from unnoise.judges.several import spread
from unnoise.metrics import Estimate, share, worst_share
from unnoise.metrics.figure import Figure
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
        least: of fewer samples, as they are enough for other judges, nothing is learned and nothing is said.
    """

    classifier: Classifier
    count: int = 50_000
    least: int = 20_000

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"asked": RULES["asked"], "cas": "real data: as many training items, spread evenly"}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The share of held-out items read right, and the least of any class.

        Raises:
            UserError: for a model that is not conditioned on the label, and without held-out data.
        """
        label = self.classifier.label
        require_told(model, [label])
        if trial.n < self.least:
            trial.say(f"{trial.n:,} samples: the classification accuracy score is of {self.least:,} at least (-n)")
            return []
        if not len(data.held_out["x"]):
            raise UserError("the classification accuracy score is read on held-out data, and there are none")
        asked = loaded(data.held_out[label])
        rows: list[dict[str, Estimate]] = []
        for i in range(trial.repeats):
            samples = trial.samples(model, i, like=data.train)
            trial.say(f"training a classifier on {trial.n:,} samples")
            learner = replace(self.classifier, seed=self.classifier.seed + i)
            reader = learner.train({"x": samples.raw, label: samples.cond[label]}, trial.run.device)
            rows.append(self._shares(reader, data, asked, trial))
        columns = spread(data.train, trial.n)
        trial.say(f"the same classifier of {len(columns['x']):,} real items: its weights are read, or trained")
        real = self._shares(self.classifier.train_once(columns, trial.run), data, asked, trial)
        return [measured(name, [row[name] for row in rows], real[name]) for name in real]

    def _shares(self, reader: TrainedClassifier, data: Dataset, asked: Tensor, trial: Trial) -> dict[str, Estimate]:
        right = trial.map(reader.read, loaded(data.held_out["x"])) == asked
        name = "classification accuracy score"
        return {name: share(right), f"{name}, worst class": worst_share(right, asked)[1]}
