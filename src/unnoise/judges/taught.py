"""Networks of judges: trained by our own trainer, once for all that their weights follow from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise import cache
from unnoise.core.objective import Objective
from unnoise.data.dataset import Columns
from unnoise.data.stream import batches
from unnoise.nets import ConvClassifier, ResidualClassifier
from unnoise.optim import AdamW, Cosine
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.spec import Build, describe
from unnoise.state import State
from unnoise.train import train

WEIGHTS = Path(__file__).parent / "weights"
"""Weights that come with the package, made by `benchmarks/judges.py`."""
KIND = "classifier"

Network = ConvClassifier | ResidualClassifier
"""Of a judge."""


def judge_recipe(
    net: Build[Any], codec: Any, objective: Objective, data: Any, lr: float, batch: int, samples: int
) -> Recipe:
    """The recipe by which our own trainer trains a judge: `samples`, in whole batches."""
    return Recipe(
        name="judge",
        data=data,
        model=net,
        codec=codec,
        objective=objective,
        optim=AdamW(lr=lr, weight_decay=1e-2, rate=Cosine(warmup=10 * batch)),
        batch=batch,
        samples=math.ceil(samples / batch) * batch,
    )


def taught(recipe: Recipe, columns: Columns, seed: int, device: torch.device) -> Network:
    """The network of a judge's recipe, trained on `columns`; `seed` is of its weights and of their order."""
    state = State(recipe, seed, device, recipe.samples)
    for _ in train(recipe, state, batches(columns, recipe.batch, seed=seed, device=device), Runtime(device)):
        pass
    net = state.components["model"]
    assert isinstance(net, Network)
    return net.eval()


def key(recipe: Recipe, columns: Columns, seed: int) -> dict[str, Any]:
    """What the trained weights follow from: seed, every byte of the data, and the recipe but for sampling."""
    followed = {k: v for k, v in describe(recipe).items() if k != "sampling"}
    return {"recipe": followed, "seed": seed, "data": cache.digest_of(columns)}


def taught_once(recipe: Recipe, columns: Columns, seed: int, run: Runtime) -> Network:
    """`taught`, or the weights that were once learned so: those of this package, or of an earlier call.

    Weights that come with the package are known by `key`; those of an earlier call also by the code and the kind of
    device.
    """
    known = key(recipe, columns, seed)
    shipped = WEIGHTS / cache.name_of(KIND, known)
    if shipped.is_file():
        weights = cache.read(shipped, known)
    else:
        more = {"device": run.device.type, "torch": torch.__version__, "code": cache.code()}

        def make() -> dict[str, Tensor]:
            return {k: v.cpu() for k, v in taught(recipe, columns, seed, run.device).state_dict().items()}

        weights = cache.tensors(KIND, {**known, **more}, make, run)
    assert isinstance(recipe.model, Build)
    net = recipe.model()
    assert isinstance(net, Network)
    net.load_state_dict(dict(weights))
    return net.to(run.device).eval()
