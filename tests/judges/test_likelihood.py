"""Bits per token: the bound of the exact denoiser, the exact likelihood of a twin, and the recipe in small."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import Exact
from torch import Tensor, nn

from unnoise import cli
from unnoise.core.discrete import Absorbing
from unnoise.core.exact_tokens import MarkovChain
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.data import Text
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import BitsPerToken
from unnoise.judges.autoregressive import NextToken
from unnoise.modality import Characters
from unnoise.model import Model
from unnoise.nets import Transformer
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

D = torch.float64
CODEC = Characters("abc", 8)
JUDGE = BitsPerToken(Text(length=8), draws=8)
START = torch.tensor([0.4, 0.25, 0.35], dtype=D)
STEP = torch.tensor([[0.1, 0.6, 0.3], [0.7, 0.05, 0.25], [0.2, 0.2, 0.6]], dtype=D)
needs_text = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")


def windows(n: int) -> Tensor:
    """Texts of the chain, as raw data."""
    g = torch.Generator().manual_seed(0)
    tokens = [torch.multinomial(START.expand(n, 3), 1, generator=g)]
    for _ in range(CODEC.length - 1):
        tokens.append(torch.multinomial(STEP[tokens[-1][:, 0]], 1, generator=g))
    return CODEC.decode(torch.cat(tokens, 1))


def test_the_bound_of_the_exact_denoiser_is_the_likelihood() -> None:
    chain, raw = MarkovChain(START, STEP), windows(300)
    model = Model(Exact(chain), CODEC, Absorbing(3))
    bits = -chain.log_prob(CODEC.encode(raw)) / CODEC.length / math.log(2)
    over = JUDGE.bound(model, {"x": raw}, 8) - bits
    error = float(over.std()) / math.sqrt(len(over))
    assert error < 0.03 and abs(float(over.mean())) < 4 * error
    again = JUDGE.bound(model, {"x": raw[:7]}, 8)
    torch.testing.assert_close(again, JUDGE.bound(model, {"x": raw}, 8)[:7], rtol=1e-6, atol=0)  # a row's own noise
    assert not torch.equal(again, JUDGE.bound(model, {"x": raw[:7]}, 8, seed=9))
    flat = MarkovChain(torch.full((3,), 1 / 3, dtype=D), torch.full((3, 3), 1 / 3, dtype=D))
    loose = JUDGE.bound(Model(Exact(flat), CODEC, Absorbing(3)), {"x": raw}, 8)
    assert float(loose.mean()) == pytest.approx(math.log2(3), abs=4 * float(loose.std()) / math.sqrt(len(loose)))


def test_the_next_token_is_judged_by_what_came_before_it() -> None:
    """The loss against the network asked prefix by prefix; what is to come is not seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Transformer(vocabulary=4, outputs=3, width=16, depth=2, head_width=8, causal=True, told=False)
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    raw = windows(5)
    x = CODEC.encode(raw)
    loss = NextToken(3)({"model": net, "codec": CODEC}, {"x": raw}, Rng.of(range(5)), 0)
    total = torch.zeros(5)
    for n in range(CODEC.length):
        prefix = torch.cat([torch.full((5, 1), 3), x[:, :n]], 1)
        total -= net(prefix)[:, -1].log_softmax(-1).gather(1, x[:, n : n + 1])[:, 0]
    torch.testing.assert_close(loss.value, total / CODEC.length, rtol=1e-4, atol=1e-5)
    assert loss.weight.tolist() == [1.0] * 5


def test_it_is_a_judge_and_a_description() -> None:
    assert isinstance(JUDGE, Judge) and build(describe(JUDGE)) == JUDGE


def test_models_of_other_noise_networks_and_data_are_refused() -> None:
    chain, x = Exact(MarkovChain(START, STEP)), windows(40)
    data, nothing = Dataset({"x": x}, {"x": x}), Dataset({"x": x}, {"x": x[:0]})
    with pytest.raises(UserError, match="the model's is Gaussian"):
        JUDGE(Model(chain, CODEC, Gaussian()), data, Trial(4))
    with pytest.raises(UserError, match=r"there are none: set data\.held_out"):
        JUDGE(Model(chain, CODEC, Absorbing(3)), nothing, Trial(4))
    with pytest.raises(UserError, match="a network that can be causal, not NoneType"):
        JUDGE.twin(Model(chain, CODEC, Absorbing(3)), data.train, data.held_out, Trial(4))


@needs_text
def test_the_recipe_in_small_by_the_command_line(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    small = ["model.net.width=16", "model.net.depth=1", "model.net.head_width=8", "sampling.steps=6", "judge.draws=4"]
    small += ["optim.lr=1e-2", "judge.optim.lr=1e-2", "optim.rate.warmup=80", "judge.optim.rate.warmup=80"]
    assert (
        cli.main(
            ["train", "shakespeare", *(a for s in small for a in ("-s", s)), "--samples", "480", "--out", str(run)]
        )
        == 0
    )
    assert cli.main(["sample", str(run), "-n", "3", "--out", str(tmp_path / "texts")]) == 0
    texts = [f.read_bytes().decode() for f in sorted((tmp_path / "texts").glob("*.txt"))]
    model = Model.load(run)
    assert len(texts) == 3 and all(len(t) == model.codec.length for t in texts)
    assert texts == [model.codec.text(row) for row in model.sample(3).raw]
    assert cli.main(["sample", str(run), "-n", "2", "--out", str(tmp_path / "x.npz")]) == 0
    assert cli.main(["sample", str(run), "-n", "2", "--out", str(tmp_path / "x.png")]) == 0
    assert cli.main(["info", str(run)]) == 0
    assert cli.main(["evaluate", str(run), "-n", "60"]) == 0
    found = {f["name"]: f for f in json.loads((run / "evaluation.json").read_text())["figures"]}
    bound, twin = found["bound, bits per token"], found["autoregressive twin"]
    for figure in (bound, twin):  # something is learned, and no wonder happens
        assert 3 < figure["samples"] < math.log2(65) - 0.5 and 0 < figure["error"] < 0.3
    assert found["bigram of the training text"]["samples"] == pytest.approx(3.58, abs=0.01)
    assert found["trigram of the training text"]["samples"] == pytest.approx(2.95, abs=0.01)
    read = found["samples read by the trigram"]
    assert read["samples"] > read["real"] + 1
    capsys.readouterr()
    assert cli.main(["sample", str(run), "-n", "2", "--out", str(tmp_path / "x.wav")]) == 2
    assert "cannot write samples as '.wav'" in capsys.readouterr().err


@needs_text
def test_in_filling_by_the_model_keeps_what_is_known(tmp_path: Path) -> None:
    from unnoise import recipes
    from unnoise.override import override

    recipe = recipes.load("shakespeare")[0]
    for assignment in ("model.net.width=16", "model.net.depth=1", "model.net.head_width=8", "sampling.steps=5"):
        recipe = override(recipe, assignment)
    parts = recipe.components()
    model = Model(parts["model"], parts["codec"], parts["process"], sampling=recipe.sampling)
    text = "To be, or ____ to be, that is the ________:".ljust(model.codec.length, "_")
    raw = model.codec.raw([text, text])
    filled = model.inpaint(raw, raw != ord("_"))
    for row in filled.raw:
        got = model.codec.text(row)
        assert [c for c, was in zip(got, text, strict=True) if was != "_"] == [c for c in text if c != "_"]
        assert "_" not in got and "\ufffd" not in got
    assert not torch.equal(filled.raw[0], filled.raw[1])
