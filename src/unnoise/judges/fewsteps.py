"""A network of few steps beside the teacher that it was distilled from, read by the same judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.evaluate import require_enough
from unnoise.judges.classifier import Classifier, require_told
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.recipe import Sampling
from unnoise.samples import SETTINGS
from unnoise.trial import Trial


@dataclass(frozen=True)
class FewSteps:
    """The figures of `judge` for samples of each number of steps, and for the teacher's own.

    Args:
        judge: what reads the samples.
        teacher: how the teacher is sampled.
        steps: numbers of steps of the model; a number that the user asks for takes their place.
        component: name of the teacher among the components of the run.
    """

    judge: Classifier
    teacher: Sampling
    steps: tuple[int, ...] = (1, 2)
    component: str = "teacher"

    @property
    def count(self) -> int:
        """Samples a repeat."""
        return self.judge.count

    @property
    def protocol(self) -> Mapping[str, Any]:
        """That of the judge."""
        return self.judge.protocol

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The figures of `evaluate.judged`, the network's evaluations a sample before their names.

        Raises:
            UserError: for a model without a teacher, and what the judge refuses.
        """
        if self.component not in model.more:
            raise UserError(f"the run has no component {self.component!r} to compare with, only {sorted(model.more)}")
        require_told(model, [self.judge.label])
        require_enough(trial.n, data, self.judge.halves)
        reader, figures = self.judge.reader(data, trial), list[Figure]()
        given: dict[str, Any] = {k: trial.settings.get(k) for k in SETTINGS}
        counts = self.steps if given["steps"] is None else (given["steps"],)
        ways = [(model, "", model.settings(**{**given, "steps": k})) for k in counts]
        more: Any = model.more[self.component]
        teacher = Model(more.to(model.device), model.codec, model.process, model.conditioner, self.teacher)
        for one, whose, sampling in [*ways, (teacher, "teacher, ", self.teacher)]:
            cost = evaluations(sampling)
            title = f"{whose}{cost} evaluation{'' if cost == 1 else 's'}"
            sets = []
            for i in range(trial.repeats):
                chosen = {k: getattr(sampling, k) for k in SETTINGS}
                samples = trial.samples(one, i, like=data.train, **chosen)
                sets.append((samples.raw, samples.cond[self.judge.label]))
            figures += [replace(f, name=f"{title}: {f.name}") for f in self.judge.judged(sets, data, reader, trial)]
        return figures


def evaluations(sampling: Sampling) -> int:
    """Evaluations of the network that a sample takes; guidance takes more than one for one."""
    each = sampling.sampler.evaluations
    steps = sampling.steps if each == 1 else each * (sampling.steps - 1) + 1  # the last step takes one
    return steps * sampling.passes + (sampling.start == "mean")
