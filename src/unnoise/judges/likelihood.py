"""How many bits a model of tokens needs for what it has not seen, beside n-grams and its autoregressive twin."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.density import UniformTime, stratified
from unnoise.core.discrete import Absorbing
from unnoise.core.level import exact
from unnoise.core.objective import MaskedTokens
from unnoise.core.rng import Rng
from unnoise.core.schedule import Masking
from unnoise.data.dataset import Columns, Dataset, Source, loaded
from unnoise.data.stream import batches
from unnoise.errors import UserError
from unnoise.judges.autoregressive import NextToken
from unnoise.metrics.figure import Figure
from unnoise.metrics.ngram import Fitted, Ngram
from unnoise.model import Model
from unnoise.optim import AdamW, Optim
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime
from unnoise.spec import Build, fields_of
from unnoise.state import State
from unnoise.train import train
from unnoise.trial import Trial

SAMPLED = 64
"""Texts that are sampled at most."""


@dataclass(frozen=True)
class BitsPerToken:
    """Bits per token of held-out windows: the model's bound, n-grams of the same text, an autoregressive twin.

    The bound is `MaskedTokens` at `draws` levels a window, stratified; its standard error is that of the mean over
    windows, of which each is judged without its surroundings. The n-grams read the held-out text as one. The twin is
    the model's own network, made causal, trained on as many samples in the same order by the same trainer; its bits
    are exact.

    Args:
        text: the data in windows that do not overlap: laid end to end they are the text that n-grams are fitted to.
        optim: of the twin: that of the model, for a fair comparison.
        batch: samples a step of the twin, as in the training of the model.
        draws: levels a window.
        seed: of the twin's weights and order.
        count: of windows unless told otherwise; all, where there are fewer.
    """

    text: Source
    optim: Optim = field(default_factory=AdamW)
    batch: int = 128
    draws: int = 16
    seed: int = 0
    count: int = 2000

    @property
    def protocol(self) -> dict[str, Any]:
        """What the figures depend on besides the judge's own fields."""
        return {"ngram": "interpolated Kneser-Ney", "smoothing": Ngram(2).smoothing, "texts sampled": SAMPLED}

    def __call__(self, model: Model, data: Dataset, trial: Trial) -> list[Figure]:
        """The figures, in bits per token.

        Raises:
            UserError: for a model of other than masked tokens, and data without a held-out part.
        """
        if not isinstance(model.process, Absorbing):
            raise UserError(
                f"bits per token are bounded for Absorbing noise, the model's is {type(model.process).__name__}"
            )
        if not len(data.held_out["x"]):
            raise UserError("bits per token need held-out data, and there are none: set data.held_out")
        windows = torch.arange(min(trial.n, len(data.held_out["x"])))
        held_out = {k: v[windows] for k, v in data.held_out.items()}
        trial.say(f"the bound of {len(windows)} windows, {self.draws * trial.repeats} levels each")
        bound = self.bound(model, held_out, self.draws * trial.repeats, trial.seed)
        grams = {
            n: Ngram(n).fit(_ids(model, loaded(self.text.load().train["x"])), model.process.vocabulary) for n in (2, 3)
        }
        whole = _ids(model, loaded(data.held_out["x"]))
        trial.say("sampling")
        texts = model.sample(min(trial.n, SAMPLED), seed=trial.seed, **trial.settings).raw
        real = _mean("", _each(grams[3], model, held_out["x"][: len(texts)])).samples
        return [
            _mean("bound, bits per token", bound),
            *(
                Figure(f"{name} of the training text", *_flip(grams[n], whole))
                for n, name in ((2, "bigram"), (3, "trigram"))
            ),
            _mean("autoregressive twin", self.twin(model, data.train, held_out, trial)),
            _mean("samples read by the trigram", _each(grams[3], model, texts), real),
        ]

    @torch.no_grad()
    def bound(self, model: Model, columns: Mapping[str, Tensor], draws: int, seed: int = 0) -> Tensor:
        """Bits per token of each window, float64 [N], at least -log2 p / length in the mean over noise.

        Levels run from the masked share t = 1 to the cleanest that the model is trained for (the share below, of some
        1e-4, would add as many bits as its share).

        Args:
            model: of masked tokens.
            columns: raw data and conditions, of N windows.
            draws: levels a window, evenly spaced from a start of its own.
            seed: of the noise.
        """
        clean = getattr(model.denoiser, "interval", (-math.inf, math.inf))[1]
        low = max(1e-6, 1 / (1 + math.exp(min(clean, 700.0))))
        objective = MaskedTokens(model.process, UniformTime(Masking(), low=low), drop=0)
        parts = {"model": model.denoiser, "codec": model.codec, "conditioner": model.conditioner}
        components = {k: v for k, v in parts.items() if v is not None}
        index = torch.arange(len(columns["x"]))
        total = torch.zeros(len(index), dtype=torch.float64)
        for rows in torch.split(index, 64):
            batch = {k: v[rows].to(model.device) for k, v in columns.items()}
            first = stratified(rows).to(model.device, exact(model.device))
            for k in range(draws):
                rng = Rng.of(seed + rows, model.device).fold(k)
                loss = objective.at((k + first) / draws, components, batch, rng)
                total[rows] += (loss.weight * loss.value).double().cpu()
        return total / (draws * math.log(2))

    def twin(self, model: Model, columns: Columns, held_out: Mapping[str, Tensor], trial: Trial) -> Tensor:
        """Train the twin; its bits per token of each held-out window, float64 [N]."""
        assert isinstance(model.process, Absorbing)
        net: Any = getattr(model.denoiser, "net", None)
        if not isinstance(net, nn.Module) or "causal" not in fields_of(net):
            raise UserError(f"an autoregressive twin needs a network that can be causal, not {type(net).__name__}")
        objective = NextToken(model.process.vocabulary)
        recipe = Recipe(
            name="twin",
            data=None,  # type: ignore[arg-type]
            model=Build(type(net), **{**fields_of(net), "causal": True, "told": False}),
            codec=model.codec,
            objective=objective,
            optim=self.optim,
            batch=self.batch,
            samples=math.ceil(int(model.facts.get("seen", 0)) / self.batch) * self.batch or self.batch,
        )
        trial.say(f"training the autoregressive twin on {recipe.samples} samples")
        begun = time.monotonic()
        state = State(recipe, self.seed, model.device, recipe.samples)
        for _ in train(
            recipe, state, batches(columns, self.batch, seed=self.seed, device=model.device), Runtime(model.device)
        ):
            pass
        took = time.monotonic() - begun
        trial.say(f"the twin took {took:.0f} s, the model {float(model.facts.get('elapsed', math.nan)):.0f} s")
        bits = []
        with torch.no_grad(), state.averaged(recipe.average):
            for rows in torch.split(torch.arange(len(held_out["x"])), 64):
                batch = {k: v[rows].to(model.device) for k, v in held_out.items()}
                bits.append(objective(state.components, batch, Rng.of(rows, model.device), 0).value.double().cpu())
        return torch.cat(bits) / math.log(2)


def _ids(model: Model, raw: Tensor) -> Tensor:
    """Windows that follow each other as one row of tokens."""
    return model.codec.encode(raw.reshape(1, -1)).flatten()


def _each(gram: Fitted, model: Model, raw: Tensor) -> Tensor:
    """Bits per token of each text by itself."""
    return torch.stack([gram.token_bits(_ids(model, row)).mean() for row in raw])


def _flip(gram: Fitted, ids: Tensor) -> tuple[float, None, float]:
    bits = gram.bits(ids)
    return bits.mean, None, bits.standard_error


def _mean(name: str, bits: Tensor, real: float | None = None) -> Figure:
    """The mean over windows, with its standard error."""
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else None
    return Figure(name, float(bits.mean()), real, error)
