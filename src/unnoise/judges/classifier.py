"""A classifier of real data that says what a sample is read as, and whose features samples are compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.objective import Batch, Components, Loss
from unnoise.core.rng import Rng
from unnoise.data.dataset import Columns, Dataset
from unnoise.data.stream import batches
from unnoise.errors import UserError
from unnoise.evaluate import NEIGHBOURS, SPLITS, judged
from unnoise.judges.several import spread
from unnoise.metrics.figure import Figure
from unnoise.model import Model
from unnoise.nets import ConvClassifier
from unnoise.optim import AdamW, Cosine
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.spec import Build
from unnoise.train import State, train
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
    """A judge to be trained.

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
        compared: training and held-out items, of each so many, that samples are compared with, spread evenly over all
            there are; None: all. The judge learns from all training items.
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
    compared: int | None = None

    def recipe(self, data: Any) -> Recipe:
        """The recipe by which our own trainer trains it."""
        channels, *sizes = self.codec.blank(1).shape[1:]
        net = Build(
            ConvClassifier,
            channels=channels,
            classes=self.classes,
            width=self.width,
            stages=self.stages,
            dims=len(sizes),
        )
        return Recipe(
            name="judge",
            data=data,
            model=net,
            codec=self.codec,
            objective=Classification(self.label, self.shift),
            optim=AdamW(lr=self.lr, weight_decay=1e-2, rate=Cosine(warmup=10 * self.batch)),
            batch=self.batch,
            samples=math.ceil(self.samples / self.batch) * self.batch,
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"splits": SPLITS, "neighbours": NEIGHBOURS}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """Samples read by this judge, trained on the real data; see `evaluate.judged`.

        Raises:
            UserError: for a model that is not conditioned on the label, and too few samples.
        """
        self.check(model, data, trial.n)
        trial.say("training the judge on real data")
        reader = self.train(data.train, model.device)
        drawn = [trial.samples(model, i) for i in range(trial.repeats)]
        return judged([(x.raw, x.cond[self.label]) for x in drawn], self.part(data), reader, self.label)

    def part(self, data: Dataset) -> Dataset:
        """The real items that samples are compared with."""
        return Dataset(spread(data.train, self.compared), spread(data.held_out, self.compared), data.about)

    def check(self, model: Model, data: Dataset, n: int) -> None:
        """Refuse a model that is not conditioned on the label, and too few samples; Raises UserError."""
        require_told(model, [self.label])
        part = self.part(data)
        half = (len(part) + len(part.held_out["x"])) // 2
        if n < half:
            raise UserError(f"the distance to half of the real data needs -n of at least {half}, got {n}")

    def train(self, columns: Columns, device: torch.device) -> TrainedClassifier:
        """The judge, trained on `columns` ("x" and the label)."""
        return TrainedClassifier(taught(self.recipe(None), columns, self.seed, device), self.codec, device)


def share(right: Tensor) -> tuple[float, float]:
    """The share p of True among n, and its standard error sqrt(p (1 - p) / n)."""
    p = float(right.double().mean())
    return p, math.sqrt(p * (1 - p) / len(right))


def require_told(model: Model, labels: Sequence[str]) -> None:
    """Refuse a model that is not conditioned on each of `labels`; Raises UserError."""
    for name in labels:
        if name not in getattr(model.conditioner, "names", ()):
            raise UserError(f"the judge reads {name!r}, which the model is not conditioned on")


def taught(recipe: Recipe, columns: Columns, seed: int, device: torch.device) -> ConvClassifier:
    """The network of a judge's recipe, trained on `columns`; `seed` is of its weights and of their order."""
    state = State(recipe, seed, device, recipe.samples)
    for _ in train(recipe, state, batches(columns, recipe.batch, seed=seed, device=device), Runtime(device)):
        pass
    net = state.components["model"]
    assert isinstance(net, ConvClassifier)
    return net.eval()


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained judge.

    Args:
        net: its network.
        codec: of the data.
        device: where it runs.
    """

    net: ConvClassifier
    codec: Any
    device: torch.device

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """[N, F] penultimate features, float32 on the CPU."""
        parts = [self.net.features(self.codec.encode(part.to(self.device))).cpu() for part in torch.split(x, 512)]
        return torch.cat(parts)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """[N, classes], float32 on the CPU."""
        return torch.cat([self.net(self.codec.encode(part.to(self.device))).cpu() for part in torch.split(x, 512)])

    def read(self, x: Tensor) -> Tensor:
        """int64 [N]: the class that each is read as."""
        return self.logits(x).argmax(1)
