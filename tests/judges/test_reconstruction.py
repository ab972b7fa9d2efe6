"""The fidelity of reconstructions: a perfect codec, the baseline by hand, drift; several judges on part of the data."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.data import Digits
from unnoise.data.dataset import Dataset
from unnoise.errors import UserError
from unnoise.judges import Reconstruction, Several
from unnoise.metrics.figure import Figure
from unnoise.modality import Image, Latent
from unnoise.model import Model
from unnoise.spec import build, describe
from unnoise.trial import Judge, Trial

CODEC = Image((1, 8, 8), 0, 16)
DATA = Digits().load()


class Means(nn.Module):
    """2x2 means as an autoencoder: what the baseline is; `offset` is added to what comes out."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        self.weight = nn.Parameter(torch.ones(()))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(x, 2)
        return mean, torch.zeros_like(mean)

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3) + self.offset

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[0])


def model(net: nn.Module) -> Model:
    return Model(net, CODEC, None)


def by_name(figures: Any) -> dict[str, Figure]:
    return {f.name: f for f in figures}


def test_it_is_a_judge_and_a_value() -> None:
    one = Reconstruction(CODEC, block=4)
    both = Several((one, Reconstruction(CODEC, through="codec", count=7)), train=10)
    for judge in (one, both):
        assert isinstance(judge, Judge) and build(describe(judge)) == judge
    assert both.count == 2000 and both.protocol == {"peak": 16.0}


def test_a_perfect_codec_has_all_decibels_and_no_drift() -> None:
    found = by_name(Reconstruction(CODEC)(model(nn.Identity()), DATA, Trial(50)))
    assert found["PSNR of reconstructions, dB"].samples == 100
    assert found["drift of channel 0"].samples == 0


def test_the_baseline_is_the_means_of_blocks_by_hand() -> None:
    """As an autoencoder, means have the baseline's own figure; and that is 10 log10(peak^2 / mean square), a row."""
    n = len(DATA.held_out["x"])
    found = by_name(Reconstruction(CODEC)(model(Means()), DATA, Trial(n)))
    own, base = found["PSNR of reconstructions, dB"], found["PSNR of means of 2x2 pixels, dB"]
    assert own.samples == base.samples and own.error == base.error
    rows = []
    for x in DATA.held_out["x"].double():
        blocks = x.reshape(4, 2, 4, 2).mean((1, 3)).float().round()  # half to even, as uint8 pixels are made
        rows.append(
            float(
                10
                * (
                    256 / (x[0] - blocks.double().repeat_interleave(2, 0).repeat_interleave(2, 1)).square().mean()
                ).log10()
            )
        )
    values = torch.tensor(rows, dtype=torch.float64)
    assert base.samples == pytest.approx(float(values.mean()), abs=0.02)
    assert base.error == pytest.approx(float(values.std()) / math.sqrt(n), rel=0.02)


def test_drift_is_in_units_of_the_data() -> None:
    """One level of 16 darker everywhere it can be."""
    x = torch.full((40, 1, 8, 8), 9, dtype=torch.uint8)
    data = Dataset({"x": x}, {"x": x})
    found = by_name(Reconstruction(CODEC)(model(Means(offset=-2 / 16)), data, Trial(40)))
    assert found["drift of channel 0"].samples == -1
    assert found["PSNR of reconstructions, dB"].samples == pytest.approx(20 * math.log10(16))


def test_through_the_codec_of_a_model() -> None:
    codec = Latent(CODEC, Means())
    codec.measure(DATA.train["x"])
    on_top = Model(nn.Identity(), codec)
    own = Reconstruction(CODEC)(model(Means()), DATA, Trial(60))
    assert [f.samples for f in Reconstruction(CODEC, through="codec")(on_top, DATA, Trial(60))] == pytest.approx(
        [f.samples for f in own], abs=0.05
    )


def test_sides_that_no_block_divides() -> None:
    image = Image((3, 7, 5))
    x = torch.arange(2 * 3 * 7 * 5).reshape(2, 3, 7, 5).to(torch.uint8)
    means = Reconstruction(image, block=4).means(x)
    assert means.shape == x.shape
    assert int(means[0, 0, 6, 4]) == round(float(x[0, 0, 4:, 4:].double().mean()))
    found = Reconstruction(image, block=1)(Model(nn.Identity(), image, None), Dataset({"x": x}, {"x": x}), Trial(2))
    assert [f.name for f in found[2:]] == [f"drift of channel {k}" for k in range(3)]


def test_without_held_out_data_there_is_nothing_to_measure() -> None:
    with pytest.raises(UserError, match=r"set data\.held_out"):
        Reconstruction(CODEC)(model(nn.Identity()), Dataset(DATA.train, {"x": DATA.train["x"][:0]}), Trial(5))


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="block"):
        Reconstruction(CODEC, block=0)
    with pytest.raises(ValueError, match="at least one judge"):
        Several(())
    with pytest.raises(ValueError, match="held_out must be at least 1"):
        Several((Reconstruction(CODEC),), held_out=0)


@dataclass(frozen=True)
class Sees:
    """A judge that says what it was shown."""

    count: int = 3

    @property
    def protocol(self) -> dict[str, Any]:
        return {"seen": True}

    def __call__(self, model: Any, data: Dataset, trial: Trial) -> list[Figure]:
        assert len(data.train["label"]) == len(data.train["x"])
        return [Figure("train", len(data)), Figure("first", float(data.held_out["x"][0].sum())), Figure("n", trial.n)]


def test_several_judges_see_a_part_spread_over_all() -> None:
    columns = {"x": torch.arange(100.0).reshape(100, 1), "label": torch.arange(100)}
    held_out = {"x": torch.arange(10.0).reshape(10, 1)}
    found = Several((Sees(), Sees()), train=7, held_out=50)(None, Dataset(columns, held_out), Trial(5))  # type: ignore[arg-type]
    assert [f.samples for f in found] == [7.0, 0.0, 5.0] * 2
    part = Several((Sees(),), train=4)
    assert part(None, Dataset(columns, held_out), Trial(5))[0].samples == 4  # type: ignore[arg-type]
    from unnoise.judges.several import spread

    assert spread(columns, 4)["label"].tolist() == [0, 25, 50, 75]
