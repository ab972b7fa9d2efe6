"""A classifier of real data that says what a sample is read as, and whose features samples are compared by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unnoise import cache
from unnoise.core.objective import Batch, Components, Loss
from unnoise.core.rng import Rng
from unnoise.data.augment import Mirror
from unnoise.data.dataset import Columns, Dataset
from unnoise.errors import UserError
from unnoise.evaluate import RULES, SPLITS, judged, require_enough
from unnoise.judges.taught import Network, judge_recipe, taught, taught_once
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.nets import ConvClassifier, ResidualClassifier
from unnoise.optim import Cosine, Muon
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.spec import Build, describe
from unnoise.trial import Trial


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of a classifier, on pictures (or waves) shifted by up to `shift` elements.

    Args:
        label: the column that is to be predicted.
        shift: largest shift along each axis.
        smoothing: label smoothing, in [0, 1).
    """

    label: str = "label"
    shift: int = 1
    smoothing: float = 0.05

    def __call__(self, components: Components, batch: Batch, rng: Rng, seen: int) -> Loss:
        """The loss of each row; scalars["accuracy"] is the share read right."""
        x = shifted(components["codec"].encode(batch["x"], rng), rng.fold(0), self.shift)
        logits = components["model"](x)
        value = nn.functional.cross_entropy(logits, batch[self.label], reduction="none", label_smoothing=self.smoothing)
        right = (logits.argmax(1) == batch[self.label]).float().mean()
        return Loss(value, torch.ones_like(value), scalars={"accuracy": right})


def shifted(x: Tensor, rng: Rng, most: int) -> Tensor:
    """x [B, C, *spatial] moved by -most..most elements along each spatial axis, edges repeated."""
    if not most:
        return x
    offsets = (rng.uniform(x.new_zeros(len(x), x.ndim - 2)) * (2 * most + 1)).long() - most
    for axis, offset in enumerate(offsets.unbind(1), start=2):
        n = x.shape[axis]
        index = (torch.arange(n, device=x.device) + offset[:, None]).clamp(0, n - 1)
        index = index.reshape(len(x), *(n if a == axis else 1 for a in range(1, x.ndim)))
        x = x.gather(axis, index.expand(*x.shape[:axis], n, *x.shape[axis + 1 :]))
    return x


@dataclass(frozen=True)
class Classifier:
    """A judge to be trained; or, where this package brings weights that were trained so on the same data, not.

    Args:
        codec: of the data.
        classes: how many there are.
        label: the column that is predicted.
        width: channels of the first stage.
        samples: samples to see.
        batch: samples a step.
        lr: learning rate.
        shift: augmentation by shifts, in pixels.
        seed: of weights and order.
        count: of samples to read unless told otherwise.
        stages: halvings of the picture; a large one needs more, or only strokes are seen and not what they make.
        compared: items at most of the training and of the held-out part that samples are compared with pairwise.
        halves: also the distance to half of the real data, see `evaluate.judged`.
    """

    codec: Any
    classes: int
    label: str = "label"
    width: int = 32
    samples: int = 40_000
    batch: int = 128
    lr: float = 2e-3
    shift: int = 1
    seed: int = 0
    count: int = 1000
    stages: int = 2
    compared: int = 10_000
    halves: bool = False

    network: ClassVar[type[Network]] = ConvClassifier

    def recipe(self, data: Any) -> Recipe:
        """The recipe by which our own trainer trains it."""
        channels, *sizes = self.codec.blank(1).shape[1:]
        net = Build(self.network, channels=channels, classes=self.classes, dims=len(sizes), **self.shape)
        objective = Classification(self.label, self.shift)
        return judge_recipe(net, self.codec, objective, data, self.lr, self.batch, self.samples)

    @property
    def shape(self) -> dict[str, int]:
        """Of the network."""
        return {"width": self.width, "stages": self.stages}

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields and weights."""
        return {**RULES, "splits": SPLITS} if self.halves else dict(RULES)

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """Samples read by this judge, trained on the real data; see `evaluate.judged`.

        Raises:
            UserError: for a model that is not conditioned on the label, and too few samples.
        """
        require_told(model, [self.label])
        require_enough(trial.n, data, self.halves)
        reader = self.reader(data, trial)
        drawn = [trial.samples(model, i, like=data.train) for i in range(trial.repeats)]
        return self.judged([(x.raw, x.cond[self.label]) for x in drawn], data, reader, trial)

    def judged(
        self, sets: Sequence[tuple[Tensor, Tensor]], data: Dataset, reader: TrainedClassifier, trial: Trial
    ) -> list[Figure]:
        """The figures of samples and the classes asked for, as `evaluate.judged` states them."""
        return judged(sets, data, reader, self.label, trial, self.compared, self.halves)

    def reader(self, data: Dataset, trial: Trial) -> TrainedClassifier:
        """The judge, of all training data, once in a trial; its weights are noted as what the figures rest on."""

        def make() -> tuple[TrainedClassifier, Columns]:
            trial.say("the judge: its weights are read, or trained on real data")
            return self.train_once(data.train, trial.run), data.train  # kept, so that no other data get its id

        reader, _ = trial.once((self, "reader", id(data.train)), make)
        trial.rests_on("judge", reader.digest)
        return reader

    def train(self, columns: Columns, device: torch.device) -> TrainedClassifier:
        """The judge, trained on `columns` ("x" and the label)."""
        return TrainedClassifier(taught(self.recipe(None), columns, self.seed, device), self.codec, device)

    def train_once(self, columns: Columns, run: Runtime) -> TrainedClassifier:
        """`train`, or the weights that were once learned so, see `taught_once`."""
        known = {k: columns[k] for k in ("x", self.label)}
        return TrainedClassifier(taught_once(self.recipe(None), known, self.seed, run), self.codec, run.device)


@dataclass(frozen=True)
class DeepClassifier(Classifier):
    """A `Classifier` for photographs: a residual network of `stages` stages, trained by Muon.

    Args:
        blocks: residual blocks a stage.
        mirror: whether pictures are mirrored at random in training.
        weight_decay: per unit of learning rate.
    """

    blocks: int = 2
    mirror: bool = False
    weight_decay: float = 0.05

    network: ClassVar[type[Network]] = ResidualClassifier

    def recipe(self, data: Any) -> Recipe:
        """The recipe by which our own trainer trains it."""
        optim = Muon(lr=self.lr, weight_decay=self.weight_decay, rate=Cosine(warmup=10 * self.batch))
        return replace(super().recipe(data), optim=optim, augment=Mirror() if self.mirror else None)

    @property
    def shape(self) -> dict[str, int]:
        """Of the network."""
        return {**super().shape, "blocks": self.blocks}


def require_told(model: Model, labels: Sequence[str]) -> None:
    """Refuse a model that is not conditioned on each of `labels`; Raises UserError."""
    for name in labels:
        if name not in getattr(model.conditioner, "names", ()):
            raise UserError(f"the judge reads {name!r}, which the model is not conditioned on")


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained judge.

    Args:
        net: its network.
        codec: of the data.
        device: where it runs.
    """

    net: Network
    codec: Any
    device: torch.device

    @cached_property
    def digest(self) -> str:
        """The sha256 of its weights."""
        return cache.digest_of(self.net.state_dict())

    @property
    def key(self) -> dict[str, Any]:
        """What its features depend on."""
        return {"classifier": self.digest, "codec": describe(self.codec)}

    def named(self, raw: Tensor) -> dict[str, Tensor]:
        """Its features by name, as `evaluate.Reader` says."""
        return {"judge": self.features(raw)}

    def features(self, x: Tensor) -> Tensor:
        """[N, F] penultimate features, float32 on the CPU."""
        return self._applied(self.net.features, x)

    def logits(self, x: Tensor) -> Tensor:
        """[N, classes], float32 on the CPU."""
        return self._applied(self.net, x)

    @torch.no_grad()
    def _applied(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # Without TF32, which a GPU would use unasked: a judge says the same on every device.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = torch.split(x, 512) if len(x) else [x]
            return torch.cat([function(self.codec.encode(part.to(self.device))).cpu() for part in parts])

    def read(self, x: Tensor) -> Tensor:
        """int64 [N]: the class that each is read as."""
        return self.logits(x).argmax(1)
