"""A judge of several attributes at once: are samples, attribute by attribute, what was asked for?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.objective import Batch, Components, Loss
from unnoise.core.rng import Rng
from unnoise.data.dataset import Columns, Dataset, loaded
from unnoise.errors import UserError
from unnoise.evaluate import RULES, measured
from unnoise.judges.classifier import TrainedClassifier, require_told, shifted
from unnoise.judges.taught import judge_recipe, taught, taught_once
from unnoise.metrics import Estimate, share
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.nets import ConvClassifier
from unnoise.recipe import Recipe
from unnoise.spec import Build
from unnoise.trial import Trial

ALL = "all read as asked"


@dataclass(frozen=True)
class AttributeClassification:
    """The sum over attributes of the cross-entropy of a head each, on data shifted by up to `shift` elements.

    The heads are stretches of one network's logits, in the order of `classes`.

    Args:
        classes: number of classes by attribute, each a column of the data.
        shift: largest shift along each axis.
        smoothing: label smoothing, in [0, 1).
    """

    classes: Mapping[str, int]
    shift: int = 1
    smoothing: float = 0.05

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row; scalars["accuracy"] is the share of rows with every attribute read right."""
        x = shifted(components["codec"].encode(batch["x"], rng), rng.fold(0), self.shift)
        value, right = x.new_zeros(len(x)), torch.ones(len(x), dtype=torch.bool, device=x.device)
        for k, logits in heads(components["model"](x), self.classes).items():
            loss = nn.functional.cross_entropy(logits, batch[k], reduction="none", label_smoothing=self.smoothing)
            value, right = value + loss, right & (logits.argmax(1) == batch[k])
        return Loss(value, torch.ones_like(value), scalars={"accuracy": right.float().mean()})


def heads(logits: Tensor, classes: Mapping[str, int]) -> dict[str, Tensor]:
    """Logits [B, sum of classes] as [B, classes] by attribute."""
    return dict(zip(classes, torch.split(logits, list(classes.values()), 1), strict=True))


@dataclass(frozen=True)
class Attributes:
    """A judge to be trained: one classifier with a head for each attribute.

    Figures: for each attribute the share of samples in which it is read as asked, and the share in which all are;
    beside each that of held-out real data.

    Args:
        codec: of the data.
        classes: number of classes by attribute, each a column of the data and a condition of the model.
        width: channels of the first stage.
        stages: halvings of the picture.
        samples: samples to see.
        batch: samples a step.
        lr: learning rate.
        shift: augmentation by shifts, in pixels.
        seed: of weights and order.
        count: of samples to read unless told otherwise.
        grid: cells along each axis that the network tells apart, see `ConvClassifier`.

    Raises:
        ValueError: for no attribute.
    """

    codec: Any
    classes: Mapping[str, int]
    width: int = 16
    stages: int = 3
    samples: int = 40_000
    batch: int = 64
    lr: float = 2e-3
    shift: int = 1
    seed: int = 0
    count: int = 1000
    grid: int = 1

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("needs at least one attribute")

    def recipe(self, data: Any) -> Recipe:
        """The recipe by which our own trainer trains it."""
        channels, *sizes = self.codec.blank(1).shape[1:]
        net = Build(
            ConvClassifier,
            channels=channels,
            classes=sum(self.classes.values()),
            width=self.width,
            stages=self.stages,
            dims=len(sizes),
            hidden=128,
            grid=self.grid,
        )
        objective = AttributeClassification(self.classes, self.shift)
        return judge_recipe(net, self.codec, objective, data, self.lr, self.batch, self.samples)

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"asked": RULES["asked"]}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """Samples read by this judge, trained on the real data.

        Raises:
            UserError: for a model that is not conditioned on an attribute, and without held-out data.
        """
        require_told(model, list(self.classes))
        if not len(data.held_out["x"]):
            raise UserError("the judge is measured on held-out data, and there are none")
        trial.say("the judge: its weights are read, or trained on real data")
        columns = {k: data.train[k] for k in ("x", *self.classes)}
        net = taught_once(self.recipe(None), columns, self.seed, trial.run)
        reader = TrainedAttributes(TrainedClassifier(net, self.codec, trial.run.device), self.classes)
        trial.rests_on("judge", reader.reader.digest)
        drawn = [trial.samples(model, i, like=data.train) for i in range(trial.repeats)]
        own = [reader.shares(samples.raw, samples.cond) for samples in drawn]
        held_out = {k: loaded(data.held_out[k]) for k in ("x", *self.classes)}
        real = reader.shares(held_out["x"], held_out)
        return [measured(k, [x[k] for x in own], estimate) for k, estimate in real.items()]

    def train(self, columns: Columns, device: torch.device) -> TrainedAttributes:
        """The judge, trained on `columns` ("x" and the attributes)."""
        net = taught(self.recipe(None), columns, self.seed, device)
        return TrainedAttributes(TrainedClassifier(net, self.codec, device), self.classes)


@dataclass(frozen=True)
class TrainedAttributes:
    """A trained judge of attributes.

    Args:
        reader: of all heads' logits, and of features.
        classes: number of classes by attribute.
    """

    reader: TrainedClassifier
    classes: Mapping[str, int]

    def features(self, x: Tensor) -> Tensor:
        """[N, F] penultimate features, float32 on the CPU."""
        return self.reader.features(x)

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """int64 [N] by attribute: the class that each is read as."""
        return {k: logits.argmax(1) for k, logits in heads(self.reader.logits(x), self.classes).items()}

    def shares(self, x: Tensor, asked: Mapping[str, Tensor]) -> dict[str, Estimate]:
        """The shares of x read as `asked`, int64 [N] by attribute, with standard errors: of each attribute, of all."""
        right = {f"{k} read as asked": read == asked[k] for k, read in self.read(x).items()}
        right[ALL] = torch.stack([*right.values()]).all(0)
        return {k: share(v) for k, v in right.items()}
