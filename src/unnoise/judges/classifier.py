"""A classifier of real data that says what a sample is read as, and whose features samples are compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.objective import Batch, Components, Loss
from unnoise.core.rng import Rng
from unnoise.data.stream import batches
from unnoise.modality import Image
from unnoise.nets import ConvClassifier
from unnoise.optim import AdamW, Cosine
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.spec import Build
from unnoise.train import State, train


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of a classifier, on pictures shifted by up to `shift` pixels.

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
    """Pictures [B, C, H, W] moved by -most..most pixels along each axis, edges repeated."""
    if not most:
        return x
    h, w = x.shape[-2:]
    offsets = (rng.uniform(x.new_zeros(len(x), 2)) * (2 * most + 1)).long()
    padded = nn.functional.pad(x, (most,) * 4, mode="replicate")
    rows = torch.arange(h, device=x.device) + offsets[:, :1]
    columns = torch.arange(w, device=x.device) + offsets[:, 1:]
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


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
    """

    codec: Image
    classes: int
    label: str = "label"
    width: int = 32
    samples: int = 40_000
    batch: int = 128
    lr: float = 2e-3
    shift: int = 1
    seed: int = 0

    def recipe(self, data: Any) -> Recipe:
        """The recipe by which our own trainer trains it."""
        net = Build(ConvClassifier, channels=self.codec.shape[0], classes=self.classes, width=self.width)
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

    def __call__(self, columns: Mapping[str, Tensor], device: torch.device) -> TrainedClassifier:
        """The judge, trained on `columns` ("x" and the label)."""
        recipe = self.recipe(None)
        state = State(recipe, self.seed, device, recipe.samples)
        stream = batches(columns, self.batch, seed=self.seed, device=device)
        for _ in train(recipe, state, stream, Runtime(device)):
            pass
        net = state.components["model"]
        assert isinstance(net, ConvClassifier)
        return TrainedClassifier(net.eval(), self.codec, device)


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained judge.

    Args:
        net: its network.
        codec: of the data.
        device: where it runs.
    """

    net: ConvClassifier
    codec: Image
    device: torch.device

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """[N, F] penultimate features, float32 on the CPU."""
        parts = [self.net.features(self.codec.encode(part.to(self.device))).cpu() for part in torch.split(x, 512)]
        return torch.cat(parts)

    @torch.no_grad()
    def read(self, x: Tensor) -> Tensor:
        """int64 [N]: the class that each is read as."""
        parts = [self.net(self.codec.encode(part.to(self.device))).argmax(1).cpu() for part in torch.split(x, 512)]
        return torch.cat(parts)
