"""Guidance by attribute from end to end: models, recipes, the command line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise import Model, recipes
from unnoise.cli import main
from unnoise.core.denoiser import Preconditioned
from unnoise.core.level import Level
from unnoise.core.parameterization import Edm
from unnoise.core.process import Gaussian
from unnoise.core.rng import Rng
from unnoise.errors import UserError
from unnoise.modality import Image, Labels
from unnoise.nets import UNet
from unnoise.override import override
from unnoise.recipe import Sampling

CLASSES = {"hair": 4, "body": 3}
X = Rng.of(range(3)).normal(torch.zeros(3, 1, 8, 8))
LEVEL = Level.of(1.0, 0.7)
ASKED = {"hair": [0, 1, 3], "body": [2, 0, 1]}


def model(labels: Any = Labels(CLASSES, apart=0.5)) -> Model:
    """One with random weights, all of them: what it says depends on every attribute."""
    classes = labels.classes if labels else {}
    net = UNet(channels=1, width=8, multipliers=(1, 2), blocks=1, attention=(), head_width=8, labels=classes)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.3 * Rng.of(i).normal(torch.zeros(1, *p.shape))[0])
    denoiser = Preconditioned(net=net, parameterization=Edm(sigma_data=0.5)).eval()
    return Model(denoiser, Image((1, 8, 8)), Gaussian(), labels, Sampling(steps=3))


def x0(m: Model, guidance: Any = None, **asked: Any) -> torch.Tensor:
    estimate: torch.Tensor = m.denoise(X, LEVEL, guidance=guidance, **asked).x0
    return estimate


def test_each_attribute_by_its_own_scale() -> None:
    m = model()
    told, hairless, bodyless = (x0(m, **{k: v for k, v in ASKED.items() if k != out}) for out in ("", "hair", "body"))
    got = x0(m, {"hair": 2.5, "body": 0.25}, **ASKED)
    torch.testing.assert_close(got, told + 1.5 * (told - hairless) - 0.75 * (told - bodyless), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got, told, atol=1e-3)
    assert torch.equal(x0(m, {"hair": 1.0}, **ASKED), told)
    torch.testing.assert_close(x0(m, {"body": 0.0}, **ASKED), bodyless, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x0(m, {"body": 3.0}, hair=ASKED["hair"]), bodyless, rtol=1e-5, atol=1e-6)  # nothing said


def test_with_one_attribute_a_mapping_is_a_scale() -> None:
    m = model(Labels({"hair": 4}))
    raw = [m.sample(3, guidance=g, hair=ASKED["hair"]).raw for g in (2.0, {"hair": 2.0}, 1.0)]
    assert int((raw[0].int() - raw[1].int()).abs().max()) <= 1 and not torch.equal(raw[0], raw[2])


def test_samples_depend_on_the_scale_of_each() -> None:
    m = model()
    made = [m.sample(3, guidance=g, **ASKED).raw for g in ({"hair": 1.0}, {"hair": 2.0}, {"body": 2.0}, 1.0, 2.0)]
    assert torch.equal(made[0], made[3])
    for i, j in ((0, 1), (0, 2), (1, 2), (1, 4), (2, 4)):
        assert not torch.equal(made[i], made[j])


def test_it_is_kept_with_a_model(tmp_path: Path) -> None:
    m = model()
    m.sampling = replace(m.sampling, guidance={"hair": 2.0, "body": 1.5})
    m.save(tmp_path / "m")
    loaded = Model.load(tmp_path / "m")
    assert loaded.sampling == m.sampling and loaded.conditioner == m.conditioner
    assert torch.equal(loaded.sample(2, seed=5).raw, m.sample(2, seed=5).raw)
    assert [replace(m.sampling, guidance=g).passes for g in (1.0, 2.0, {"hair": 2.0}, {"hair": 2, "body": 0})] == [
        1,
        2,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("labels", "guidance", "message"),
    [
        (Labels(CLASSES), {"hair": 2.0}, r"guidance of \['hair'\] by themselves needs .*Labels\(apart=0.5\)"),
        (None, {"hair": 2.0}, r"guidance of \['hair'\] by themselves needs"),
        (Labels(CLASSES, apart=0.5), {"hare": 2.0}, "unknown attribute 'hare': did you mean hair"),
        (Labels(CLASSES, apart=0.5), {"hair": float("nan")}, "guidance must be finite, got {'hair': nan}"),
        (Labels(CLASSES, apart=0.5), {"hair": 2.0, "body": float("inf")}, "must be finite"),
    ],
    ids=str,
)
def test_what_cannot_be_guided_is_refused(labels: Any, guidance: Any, message: str) -> None:
    m = model(labels)
    for call in (m.sample, m.settings):
        with pytest.raises(UserError, match=message):
            call(guidance=guidance)


def test_recipes_take_it_as_an_override() -> None:
    recipe = recipes.load("digits")[0]
    changed = override(override(recipe, "sampling.guidance=label=2.5"), "conditioner.apart=0.25")
    assert changed.sampling.guidance == {"label": 2.5} and changed.conditioner == Labels({"label": 10}, apart=0.25)
    assert override(changed, "sampling.guidance=3").sampling.guidance == 3.0
    with pytest.raises(UserError, match=r"sampling.guidance is a number, got 'much'"):
        override(recipe, "sampling.guidance=much")


def test_the_command_line_takes_scales_by_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    m = model()
    m.save(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    asked = ["sample", "m", "-n", "2", "--guidance"]
    assert main([*asked, "hair=2,body=1.5", "--out", "x.npz"]) == 0
    with np.load("x.npz") as archive:
        assert np.array_equal(archive["x"], m.sample(2, guidance={"hair": 2.0, "body": 1.5}).raw.numpy())
    for guidance, message in (
        ("hare=2", "did you mean hair"),
        ("hair=much", "--guidance is a number, got 'hair=much'"),
    ):
        capsys.readouterr()
        assert main([*asked, guidance, "--out", "y.npz"]) == 2
        assert message in capsys.readouterr().err
