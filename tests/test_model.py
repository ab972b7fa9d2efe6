"""What a user holds: sampling, editing, saving and loading a model; on a run of 30 steps of the digits recipe."""

import io
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import unnoise as un
from unnoise import checkpoint
from unnoise.checkpoint import CheckpointError
from unnoise.core.parameterization import V
from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.modality import Image, Plain
from unnoise.model import Model
from unnoise.sample import RK4, Ancestral, Euler, Heun
from unnoise.spec import SpecError

SAMPLERS = [getattr(un.sample, name)() for name in un.sample.__all__]
RANGE = 16.0


@pytest.fixture
def model(tiny: Path) -> Model:
    return Model.load(tiny)


@pytest.fixture
def smooth(model: Model) -> Model:
    """The same model with a codec that does not round: what rounding to 17 gray values would hide, it shows."""
    model.codec = Image((1, 8, 8), 0, 16, dtype="float32")
    return model


def close(a: Any, b: Any) -> bool:
    """To 1e-3 of the data's range, as promised for float32 samples."""
    return bool(np.abs(np.asarray(a, float) - np.asarray(b, float)).max() <= 1e-3 * RANGE)


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_row_i_is_the_sample_of_seed_plus_i(smooth: Model, sampler: Any) -> None:
    """Pitfall 14: sample i of a batch can be made again alone."""
    rows = smooth.sample(5, seed=40, sampler=sampler, steps=4)
    assert rows.seeds.tolist() == [40, 41, 42, 43, 44]
    for i in (0, 3, 4):
        alone = smooth.sample(1, seed=40 + i, sampler=sampler, steps=4)
        assert close(alone, rows[i])
        assert alone.cond["label"].tolist() == rows[i].cond["label"].tolist()
    assert not close(rows[0], rows[1])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_deterministic_rows_are_equal_to_the_bit(smooth: Model, sampler: Any) -> None:
    """Pitfall 15: kernels sum in another order in batches of other sizes; with deterministic=True they do not."""
    rows = smooth.sample(5, seed=7, sampler=sampler, steps=3, deterministic=True)
    again = smooth.sample(3, seed=9, sampler=sampler, steps=3, deterministic=True, batch=2)
    assert np.array_equal(rows[2:], again)


def test_results_do_not_depend_on_the_batch(smooth: Model) -> None:
    whole, pieces = smooth.sample(7, steps=4), smooth.sample(7, steps=4, batch=3)
    assert close(whole, pieces)
    assert pieces.seeds.tolist() == list(range(7))
    assert pieces.cond["label"].tolist() == whole.cond["label"].tolist()


def test_negative_seeds_and_the_ends_of_the_range_of_seeds(model: Model) -> None:
    assert np.array_equal(model.sample(3, seed=-2, steps=1)[2], model.sample(1, seed=0, steps=1))
    last = 2**63 - 4
    assert model.sample(3, seed=last, steps=1).seeds[-1] == last + 2
    for seed in (2**63 - 3, 2**64, -(2**63) - 1):
        with pytest.raises(un.UserError, match=f"64-bit integers, got {seed}"):
            model.sample(3, seed=seed, steps=1)


def test_samples_are_in_the_range_and_dtype_of_the_data(model: Model) -> None:
    x = np.asarray(model.sample(12, steps=5))
    assert x.dtype == np.uint8 and x.shape == (12, 1, 8, 8)
    assert x.min() == 0 and 12 <= x.max() <= 16
    assert np.asarray(model.sample(2, steps=1), dtype=np.float64).dtype == np.float64


def test_no_samples_are_none(model: Model) -> None:
    none = model.sample(0)
    assert np.asarray(none).shape == (0, 1, 8, 8) and len(none) == 0 and none._repr_png_() is None


# Conditions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (3, [3, 3, 3, 3]),
        ([0, 1, 2], [0, 1, 2, 0]),
        ("all", [0, 1, 2, 3]),
        (torch.tensor([7, 8]), [7, 8, 7, 8]),
        (np.array([5]), [5, 5, 5, 5]),
        (range(2, 10), [2, 3, 4, 5]),
    ],
    ids=str,
)
def test_conditions_are_said_in_any_of_these_ways(model: Model, asked: Any, labels: list[int]) -> None:
    assert model.sample(4, steps=1, label=asked).cond["label"].tolist() == labels


def test_without_conditions_classes_are_uniform_and_a_function_of_the_seed(model: Model) -> None:
    labels = model.conditions(1000, 123, {})["label"]
    assert labels.bincount().tolist() == [100] * 10
    assert model.conditions(1, 130, {})["label"] == labels[7]


def test_the_condition_matters(smooth: Model) -> None:
    assert not close(smooth.sample(1, label=1, guidance=4.0), smooth.sample(1, label=0, guidance=4.0))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"label": 10}, "label=10 is out of range: there are classes 0 to 9"),
        ({"label": [0, -1]}, "label=-1 is out of range"),
        ({"lable": 3}, "unknown condition 'lable': did you mean label?"),
        ({"lable": "all"}, "unknown condition 'lable': did you mean label?"),
        ({"label": 2.5}, "takes integers from 0 to 9"),
        ({"label": "three"}, "got 'three'"),
        ({"label": []}, "got \\[\\]"),
        ({"label": None}, "got None"),
    ],
    ids=str,
)
def test_conditions_that_do_not_exist_are_refused(model: Model, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(un.UserError, match=message):
        model.sample(2, steps=1, **asked)


def test_a_model_without_conditions_takes_none(model: Model) -> None:
    model.conditioner = None
    with pytest.raises(un.UserError, match="takes no conditions, got \\['label'\\]"):
        model.sample(1, steps=1, label=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"guidance": math.nan}, "guidance must be finite, got nan"),
        ({"guidance": math.inf}, "guidance must be finite, got inf"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(model: Model, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(un.UserError, match=message):
        model.sample(1, **settings)


# Guidance -----------------------------------------------------------------------------------------------------------


def test_guidance_is_linear_in_its_scale_at_one_level(model: Model) -> None:
    x = un.Rng.of(range(3)).normal(torch.zeros(3, 1, 8, 8)) * 2
    level = un.Level.of(1.0, 2.0)
    at = [model.denoise(x, level, guidance=g, label=4).x0 for g in (0.0, 1.0, 3.0)]
    torch.testing.assert_close(at[0], model.denoise(x, level).x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(at[2], 3 * at[1] - 2 * at[0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(at[0], at[1])


def test_guidance_acts_within_its_interval_only(smooth: Model) -> None:
    def made(guidance: float, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
        smooth.sampling = replace(smooth.sampling, guidance=guidance, low=low, high=high)
        return np.asarray(smooth.sample(2, seed=5, label=3))

    off, everywhere = made(1.0), made(3.0)
    assert not close(off, everywhere)
    assert np.array_equal(made(3.0, low=30.0), off)  # no level of the grid is that clean
    assert np.array_equal(made(3.0, low=-30.0, high=30.0), everywhere)
    within = made(3.0, low=-2.0, high=4.0)
    assert not close(within, off) and not close(within, everywhere)
    asked: dict[str, Any] = {"seed": 5, "label": 3, "interval": (-math.inf, math.inf)}
    assert np.array_equal(smooth.sample(2, **asked), everywhere)
    *_, last = smooth.stream(2, **asked)
    assert np.array_equal(smooth.codec.decode(last.x), everywhere)
    made(3.0)
    assert np.array_equal(smooth.sample(2, seed=5, label=3, interval=(-2.0, 4.0)), within)
    with pytest.raises(UserError, match=r"two log-SNR, \(low, high\), got \(1.0, 2.0, 3.0\)"):
        smooth.settings(interval=(1.0, 2.0, 3.0))  # type: ignore[arg-type]


def test_the_interval_is_kept_with_the_model(smooth: Model, tmp_path: Path) -> None:
    smooth.sampling = replace(smooth.sampling, guidance=3.0, low=-2.0, high=4.0, steps=5)
    smooth.save(tmp_path / "m")
    again = Model.load(tmp_path / "m")
    assert again.sampling == smooth.sampling
    assert np.array_equal(again.sample(2, label=3), smooth.sample(2, label=3))


# Steps, noise, and back ---------------------------------------------------------------------------------------------


def test_the_last_step_of_a_stream_decodes_to_the_sample(model: Model) -> None:
    steps = list(model.stream(3, seed=2, steps=6, label=[1, 2]))
    assert len(steps) == 6
    assert torch.equal(model.codec.decode(steps[-1].x), model.sample(3, seed=2, steps=6, label=[1, 2]).raw)
    assert not torch.equal(steps[0].x, steps[1].x)


def test_denoising_at_little_noise_gives_back_what_was_noised(model: Model) -> None:
    raw = Digits().load().held_out["x"][:20]
    x0 = model.codec.encode(raw)
    errors = []
    for sigma in (0.01, 0.1):
        x = x0 + sigma * un.Rng.of(range(20)).normal(x0)
        errors.append(float((model.denoise(x, un.Level.of(1.0, sigma)).x0 - x0).square().mean().sqrt()))
    assert errors[0] < 0.012 and errors[1] < 0.12  # no worse than the noise itself
    x = x0 + 0.01 * un.Rng.of(range(20)).normal(x0)
    assert torch.equal(model.codec.decode(model.denoise(x, un.Level.of(1.0, 0.01)).x0), raw)


def test_encode_and_decode_are_inverse_up_to_the_solver(smooth: Model) -> None:
    """Pitfall 9: the ODE solved from data to noise and back gives the data, the better the more steps are taken.

    The network has seen 30 steps of training: the inverse is the ODE's, not the network's.
    """
    data = Digits().load().held_out
    raw, label = data["x"][:10].float(), data["label"][:10]

    def error(sampler: Any, steps: int) -> float:
        noise = smooth.encode(raw, steps=steps, sampler=sampler, label=label)
        assert 20 < float(noise.std()) < 45  # sigma_max is 40
        there = smooth.decode(noise, steps=steps, sampler=sampler, label=label)
        return float((there.raw - raw).square().mean().sqrt()) / RANGE

    assert error(Heun(), 20) < 2e-3 and error(RK4(), 10) < 2e-3
    euler = [error(Euler(), k) for k in (10, 20, 40)]
    assert euler[1] < 0.65 * euler[0] and euler[2] < 0.65 * euler[1]  # first order
    assert euler[0] > 0.03  # with few steps there is an error to see


def test_encoded_digits_come_back_exactly_after_rounding(model: Model) -> None:
    data = Digits().load().held_out
    noise = model.encode(data["x"][:10], steps=20, label=data["label"][:10])
    assert torch.equal(model.decode(noise, steps=20, label=data["label"][:10]).raw, data["x"][:10])


def test_a_sampler_that_draws_noise_has_no_inverse(model: Model) -> None:
    with pytest.raises(ValueError, match="draws noise"):
        model.encode(Digits().load().held_out["x"][:1], sampler=Ancestral(), steps=5)
    model.sampling = replace(model.sampling, sampler=Ancestral())
    with pytest.raises(un.UserError, match="use an ODE solver"):
        model.interpolate(0, 1, 3)


def test_interpolation_ends_on_the_two_samples(smooth: Model) -> None:
    way = smooth.interpolate(3, 8, 5, steps=6, label=2)
    assert len(way) == 5
    assert close(way[0], smooth.sample(1, seed=3, steps=6, label=2))
    assert close(way[4], smooth.sample(1, seed=8, steps=6, label=2))
    x = np.asarray(way)
    jumps = [float(np.abs(a - b).mean()) for a, b in pairwise(x)]
    assert max(jumps) < 0.6 * float(np.abs(x[0] - x[4]).mean())  # the middle lies between


# Saving and loading -------------------------------------------------------------------------------------------------


def test_a_saved_model_samples_the_same_bits(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    again = Model.load(tmp_path / "m")
    assert np.array_equal(again.sample(4, steps=3), model.sample(4, steps=3))
    assert again.facts["seen"] == 1920
    with pytest.raises(un.UserError, match="exists: choose another folder"):
        model.save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"no snapshots to make 0\.1 from"):
        Model.load(tmp_path / "m", weights=0.1)


def test_a_model_is_saved_in_fewer_bits(model: Model, tmp_path: Path) -> None:
    """Parameters only: loaded they are float32, and what they were rounded to; the file is half as large."""
    model.save(tmp_path / "whole")
    model.save(tmp_path / "half", torch.bfloat16)
    again, net = Model.load(tmp_path / "half"), dict(model.denoiser.named_parameters())
    for name, p in again.denoiser.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, net[name].bfloat16().float())
    for name, b in again.denoiser.named_buffers():
        assert torch.equal(b, model.denoiser.get_buffer(name))
    size = [(tmp_path / k / "components/model/weights.safetensors").stat().st_size for k in ("half", "whole")]
    assert 0.45 < size[0] / size[1] < 0.6
    assert next(iter(net.values())).dtype == torch.float32  # what was saved is as it was


def test_weights_are_those_asked_for(tiny: Path, tmp_path: Path) -> None:
    def weights(which: Any, path: Path = tiny) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in Model.load(path, weights=which).denoiser.parameters()])

    raw, wide, narrow, between = (weights(w) for w in ("raw", 0.1, 0.05, 0.07))
    contents = checkpoint.read(checkpoint.locate(tiny))
    assert torch.equal(weights(None), wide)  # that of the recipe
    model = Model.load(tiny, weights=0.05).denoiser
    for name, p in model.state_dict().items():
        assert torch.equal(p, contents.groups["ema-0.05"][f"model.{name}"])
    for name, p in Model.load(tiny, weights="raw").denoiser.state_dict().items():
        assert torch.equal(p, contents.weights["model"][name])
    # A width between two others lies between them: nearer to the weights as trained the shorter it is.
    distance = [float((w - raw).norm()) for w in (narrow, between, wide)]
    assert 0 < distance[0] < distance[1] < distance[2]
    with pytest.raises(un.UserError, match=r"weights is an EMA width such as 0\.1, or 'raw'; got 'best'"):
        Model.load(tiny, weights="best")  # type: ignore[arg-type]
    with pytest.raises(un.UserError, match="EMA width is a share of the run"):
        Model.load(tiny, weights=0.9)
    alone = tmp_path / "checkpoint"
    shutil.copytree(tiny / "checkpoints" / "1920", alone)
    assert torch.equal(weights(None, alone), wide)
    with pytest.raises(CheckpointError, match=r"tracks averages of width .*0\.05.*0\.1.* no snapshots"):
        weights(0.07, alone)


class Scale(torch.nn.Module):
    """A user's own network."""

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.start = start
        self.gain = torch.nn.Parameter(torch.tensor(start))

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return self.gain * x * c_noise.reshape(-1, 1).cos()


class Forgetful(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, width)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return x


def test_a_network_of_ones_own_is_saved_and_loaded(tmp_path: Path) -> None:
    model = Model(un.Preconditioned(Scale(0.3), V()), Plain((2,), std=3.0))
    with torch.no_grad():
        model.denoiser.net.gain.fill_(-0.7)  # type: ignore[union-attr, operator]
    model.save(tmp_path / "own")
    with pytest.raises(SpecError, match=r"Scale.*pass its class"):
        Model.load(tmp_path / "own")
    again = Model.load(tmp_path / "own", types=[Scale])
    assert np.array_equal(again.sample(3), model.sample(3))
    assert again.denoiser.net.start == 0.3  # type: ignore[union-attr]
    assert again.denoiser.parameterization == V()


def test_a_network_that_forgets_its_arguments_is_named(tmp_path: Path) -> None:
    model = Model(un.Preconditioned(Forgetful(4), V()), Plain((2,)))
    with pytest.raises(SpecError, match=r"Forgetful cannot be saved.*'width'; write self.width = width"):
        model.save(tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_the_device_is_that_of_the_weights(model: Model) -> None:
    assert model.device == torch.device("cpu") and model.to("cpu") is model


# Precision ----------------------------------------------------------------------------------------------------------


def test_networks_multiply_as_they_were_trained_or_as_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    """On a CPU float32 unless other is asked for, which stays when weights move and holds for both networks."""
    plain = Model.load(tiny)
    assert (plain.facts["precision"], plain.precision) == ("fp32", "fp32")
    half = Model.load(tiny, precision="bf16", weaker=0.5)
    assert half.precision == half.to("cpu").precision == "bf16"
    assert [getattr(m, "precision", None) for m in half.networks] == [torch.bfloat16] * 2
    settings: dict[str, Any] = {"steps": 4, "sampler": Euler(), "guidance": 1.0, "label": 3}
    plain.codec = half.codec = Image((1, 8, 8), 0, 16, dtype="float32")
    a, b = (np.asarray(m.sample(8, **settings), float) for m in (plain, half))
    assert 0 < np.abs(a - b).mean() < 0.02 * RANGE
    assert np.array_equal(np.asarray(plain.to("cpu", "bf16").sample(8, **settings), float), b)
    half.save(tmp_path / "half")
    assert Model.load(tmp_path / "half").precision == "fp32"
    with pytest.raises(UserError, match="unknown precision 'fp8': fp32, bf16 or fp16"):
        Model.load(tiny, precision="fp8")


def test_a_network_whose_training_is_not_known_stays_as_it_is(model: Model) -> None:
    del model.facts["precision"]
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float64, "torch.float64")):
        model.denoiser.precision = dtype  # type: ignore[assignment]
        assert model.to("cpu").precision == name


# Threads ------------------------------------------------------------------------------------------------------------


def test_threads_share_a_model(smooth: Model) -> None:
    """Pitfall 13: nothing of a run of sampling is kept in the model, so that four at once are four in turn."""
    tasks: list[Callable[[], np.ndarray]] = [
        lambda k=k, s=s: np.asarray(smooth.sample(3, seed=k, sampler=s, steps=3 + k, guidance=1.0 + k, label=k))
        for k, s in enumerate([Heun(), Ancestral(), Euler(), un.sample.DPMpp2M()] * 2)
    ]
    alone = [task() for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        together = [f.result() for f in [pool.submit(task) for task in tasks]]
    for a, b in zip(alone, together, strict=True):
        assert close(a, b)


# Compiled -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")
def test_whole_batches_are_compiled_once(smooth: Model) -> None:
    """Pitfall 27: a last batch of another size would compile anew, and that of another thread too."""
    sizes: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def call(*given: Any) -> Any:
            sizes.append(max(x.shape[0] for x in given if isinstance(x, torch.Tensor) and x.shape[1:] == (1, 8, 8)))
            return graph(*given)

        compiled.append(graph)
        return call

    compiled: list[Any] = []
    settings: dict[str, Any] = {"batch": 8, "sampler": Euler(), "steps": 2, "guidance": 1.0, "label": [3, 1, 4]}
    plain = smooth.sample(27, **settings)
    torch._dynamo.reset()
    assert smooth.compile(backend=backend, dynamic=False) is smooth
    assert close(smooth.sample(27, **settings), plain)
    assert (len(compiled), sizes) == (1, [8] * 6)  # three whole batches of two steps
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(smooth.sample, 3, seed=k, **settings) for k in range(0, 12, 3)]
        assert close(np.concatenate([f.result() for f in tasks]), plain[:12])
    assert close(smooth.sample(8, **settings), plain[:8])
    assert (len(compiled), sizes) == (1, [8] * 8)


# What is shown ------------------------------------------------------------------------------------------------------


def test_samples_show_in_a_notebook(model: Model) -> None:
    png = model.sample(6, steps=1)._repr_png_()
    assert png is not None
    picture = Pillow.open(io.BytesIO(png))
    assert picture.format == "PNG" and picture.mode == "L"
    assert picture.size == (3 * 33 - 1, 2 * 33 - 1)  # three columns, pixels of 4 x 4, lines between


def test_no_label_that_was_asked_for_is_left_out_in_silence(tiny: Path) -> None:
    model = Model.load(tiny)
    for label in ([1, 2, 3], (1, 2, 3)):
        with pytest.raises(UserError, match="label has 3 values for 2 samples: ask for 3, or leave some out"):
            model.sample(2, steps=1, label=label)
    assert model.sample(3, steps=1, label=[1, 2, 3]).cond["label"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": "3"}, "n is an integer; got '3'"),
        ({"seed": 1.5}, "seed is an integer; got 1.5"),
        ({"batch": 2.0}, "batch is an integer; got 2.0"),
        ({"steps": 2.5}, "steps is an integer; got 2.5"),
        ({"sampler": "Heun"}, r"sampler is a sampler such as unnoise.sample.Heun\(\); got 'Heun'"),
        ({"sampler": Heun}, r"sampler is a sampler such as unnoise.sample.Heun\(\); got <class"),
        ({"grid": "Karras"}, r"grid is a grid such as unnoise.sample.grids.KarrasGrid\(.*; got 'Karras'"),
        ({"start": 0}, "start is zero or mean; got 0"),
        ({"start": "men"}, "sampling starts from noise around zero or mean, got 'men'"),
        ({"guidance": "x"}, "guidance is a number, or numbers by attribute; got 'x'"),
        ({"autoguidance": "x"}, "autoguidance is a number; got 'x'"),
        ({"interval": 3}, r"interval is two log-SNR, \(low, high\); got 3"),
        ({"n": -1}, "n is at least 0; got -1"),
        ({"batch": 0}, "batch is at least 1; got 0"),
    ],
    ids=str,
)
def test_settings_of_another_kind_are_one_sentence(model: Model, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        model.sample(**{"n": 2, **given})


def test_numbers_of_numpy_will_do(model: Model) -> None:
    given = {"n": np.int64(2), "seed": np.int64(3), "guidance": np.float64(1.5)}
    assert torch.equal(model.sample(steps=2, **given).raw, model.sample(2, seed=3, steps=2, guidance=1.5).raw)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, raw: m.encode(raw.numpy()), r"raw is a tensor, .*; got ndarray of shape \(2, 1, 8, 8\)"),
        (lambda m, raw: m.encode(None), "raw is a tensor, .*; got None"),
        (lambda m, raw: m.sample(None), "n is an integer; got None"),
        (lambda m, raw: m.encode([1, 2]), r"raw is a tensor, .*; got \[1, 2\]"),
        (lambda m, raw: m.encode(raw[:0]), r"there is nothing in data of shape \(0, 1, 8, 8\)"),
        (lambda m, raw: m.encode(raw[:, :, 2:]), r"of shape \(1, 6, 8\), the codec expects torch.uint8 of \(1, 8, 8\)"),
        (lambda m, raw: m.encode(raw + 20), "the data range from 20 to 3., the codec expects 0 to 16"),
        (lambda m, raw: m.decode(raw.numpy()), "x is a tensor"),
        (lambda m, raw: m.decode(raw[:, :, 2:].float()), r"states of shape \(1, 6, 8\) do not fit .* of \(1, 8, 8\)"),
        (lambda m, raw: m.denoise(raw.numpy(), un.Level.of(1.0, 0.01)), "x is a tensor"),
        (lambda m, raw: m.inpaint(raw, raw), "a mask is of bool, True where raw is known; got torch.uint8"),
        (lambda m, raw: m.inpaint(raw, raw > 0, grid=3), "grid is a grid such as .*; got 3"),
        (lambda m, raw: m.inpaint(raw[:, :, 2:], raw[:, :, 2:] > 0), r"states of shape \(1, 6, 8\) do not fit"),
        (lambda m, raw: m.interpolate(0, "1", 3), "last is an integer; got '1'"),
        (lambda m, raw: m.interpolate(0, 1, 0), "n is at least 1 on the way from one seed to another; got 0"),
        (lambda m, raw: next(m.stream(1.5)), "n is an integer; got 1.5"),
        (lambda m, raw: m.to("gpu"), "unknown device 'gpu': cpu, cuda, cuda:1, mps"),
    ],
)
def test_data_of_another_kind_are_one_sentence(model: Model, call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(model, Digits().load().held_out["x"][:2])


def test_a_device_that_is_not_there_is_one_sentence(tiny: Path) -> None:
    with pytest.raises(UserError, match="unknown device 'gpu': cpu, cuda, cuda:1, mps"):
        Model.load(tiny, device="gpu")
