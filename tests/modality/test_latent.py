"""Latents as a codec: one owner of scale and shift, stored with the weights; runs on top of another run."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from unnoise import checkpoint, cli, fit, recipes
from unnoise.checkpoint import locate, read
from unnoise.data import Digits
from unnoise.errors import UserError
from unnoise.judges import Classifier, Reconstruction, Several
from unnoise.modality import Image, Latent
from unnoise.model import Model
from unnoise.nets import Autoencoder
from unnoise.override import override
from unnoise.recipe import Recipe
from unnoise.runtime import Runtime

CODEC = Image((1, 8, 8), 0, 16)
CPU = Runtime()
JUDGES = Several(
    (Classifier(CODEC, 10, width=8, samples=512, count=80), Reconstruction(CODEC, through="codec")),
    train=100,
    held_out=60,
)
TINY = {
    "autoencoder": ("model.width=4", "model.multipliers=1,2", "more.discriminator.width=4", "objective.start=160"),
    "latent": ("model.net.width=8", "model.net.head_width=8", "sampling.steps=2"),
}


class Halves(nn.Module):
    """Means of 2x2 pixels, times 3 plus 5 in the first channel, times -0.1 in the second: anything but unit scale."""

    def __init__(self, gains: tuple[float, ...] = (3.0, -0.1)) -> None:
        super().__init__()
        self.gains = gains
        self.weight = nn.Parameter(torch.tensor(gains)[:, None, None])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(x, 2) * self.weight + torch.tensor([5.0, 0.0])[:, None, None]
        return mean, torch.zeros_like(mean)

    def decode(self, z: Tensor) -> Tensor:
        return ((z[:, :1] - 5) / self.weight[:1]).repeat_interleave(2, 2).repeat_interleave(2, 3)


def digits() -> Tensor:
    return Digits().load().train["x"]


def tiny(name: str, *more: str) -> Recipe:
    """A recipe of the package on 8x8 digits."""
    recipe = recipes.load(name)[0]
    if name == "autoencoder":
        recipe = replace(recipe, data=Digits(), codec=CODEC, judge=replace(recipe.judge, image=CODEC))  # type: ignore[type-var]
        # No patch discriminator fits on 8 pixels but one without a halving.
        more = ("more.discriminator.layers=0", *more)
    else:
        recipe = replace(recipe, data=Digits(), codec=recipe.codec.replace(image=CODEC), judge=JUDGES)
    for assignment in (*TINY[name], "batch=32", "log_every=10", *more):
        recipe = override(recipe, assignment)
    return recipe


# The codec ------------------------------------------------------------------------------------------------------------


def test_pitfall_10_latents_are_scaled_by_the_codec_and_nobody_else() -> None:
    """MONAI-GenerativeModels #212: latents of the data have mean 0 and width 1, and the way back is exact."""
    raw, net = digits(), Halves()
    codec = Latent(CODEC, net)
    before = codec.decode(codec.encode(raw[:64]))
    codec.measure(raw)
    x = codec.encode(raw)
    assert codec.blank(3).shape == (3, *x.shape[1:]) == (3, 2, 4, 4)
    assert float(x.mean((0, 2, 3)).abs().max()) < 1e-4
    assert float((x.std((0, 2, 3)) - 1).abs().max()) < 1e-3
    own = CODEC.decode(net.decode(net.encode(CODEC.encode(raw[:64]))[0]))
    assert torch.equal(codec.decode(x[:64]), own) and torch.equal(before, own)


def test_pitfall_10_whatever_the_scale_decoding_is_the_autoencoders_own() -> None:
    torch.manual_seed(1)
    net = Autoencoder(channels=1, latent=3, width=4, multipliers=(1, 2))
    codec, raw = Latent(CODEC, net), digits()[:20]
    own = net(CODEC.encode(raw)).clamp(-1, 1)
    for shift, scale in ((0.0, 1.0), (3.0, 0.02), (-0.5, 40.0)):
        codec.shift.fill_(shift)
        codec.scale.fill_(scale)
        found = CODEC.encode(codec.decode(codec.encode(raw)))
        assert float((found - own).abs().max()) <= 1 / 16 + 1e-4  # half a step of the pixels


def test_the_scale_is_that_of_items_spread_over_all() -> None:
    """2,048 of them: data that are sorted by class are measured on all classes."""
    raw = torch.arange(0, 17, dtype=torch.uint8).repeat_interleave(1000).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    codec = Latent(CODEC, Halves())
    codec.measure(raw)
    assert float(codec.shift[0]) == pytest.approx(5, abs=5e-3)
    assert float(codec.scale[0]) == pytest.approx(3 * math.sqrt((17**2 - 1) / 12) / 8, rel=2e-3)


def test_the_autoencoder_is_frozen_and_gradients_go_through_it() -> None:
    """A guide in pixels differentiates through decode."""
    codec = Latent(CODEC, Halves())
    assert not any(p.requires_grad for p in codec.parameters())
    z = torch.zeros(1, 2, 4, 4, requires_grad=True)
    codec.autoencoder.decode(z * codec.scale + codec.shift).sum().backward()
    assert z.grad is not None and float(z.grad[:, 0].abs().min()) > 0


@pytest.mark.parametrize("margin", [0, 1])
def test_a_latent_is_known_where_all_pixels_of_its_patch_and_its_neighbours_are(margin: int) -> None:
    codec = Latent(Image((3, 8, 12)), Autoencoder(channels=3, latent=2, width=4, multipliers=(1, 2)), margin)
    mask = torch.ones(1, 3, 8, 12, dtype=torch.bool)
    assert bool(codec.known(mask).all())
    mask[0, 1, 5, 2] = False  # one channel of one pixel
    known = codec.known(mask)
    want = torch.ones(1, 2, 4, 6, dtype=torch.bool)
    want[0, :, 2 - margin : 3 + margin, 1 - margin : 2 + margin] = False
    assert torch.equal(known, want)
    assert not bool(codec.known(torch.zeros_like(mask)).any())


def test_it_writes_and_checks_as_its_pictures_do(tmp_path: Path) -> None:
    codec, raw = Latent(CODEC, Halves()), digits()[:4]
    codec.write(raw[0], tmp_path / f"x{codec.suffix}")
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "x.png")), CODEC.pictures(raw[:1])[0, ..., 0])
    assert np.array_equal(np.asarray(codec.grid(raw)), np.asarray(CODEC.grid(raw)))
    with pytest.raises(UserError, match="shape"):
        codec.check(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"codec\.low and codec\.high"):
        codec.measure(raw.repeat(8, 1, 1, 1) // 16)


def test_a_channel_that_holds_nothing_is_refused() -> None:
    """Its width of 0 would make every latent infinite."""
    with pytest.raises(UserError, match="channel 1 of the latents has mean 0 and standard deviation 0"):
        Latent(CODEC, Halves((3.0, 0.0))).measure(digits())
    with pytest.raises(UserError, match="channel 0 of the latents has mean nan"):
        Latent(CODEC, Halves((math.nan, 1.0))).measure(digits())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_never_becomes_a_picture(bad: float) -> None:
    with pytest.raises(FloatingPointError):
        Latent(CODEC, Halves()).decode(torch.full((1, 2, 4, 4), bad))


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each recipe."""
    home = tmp_path_factory.mktemp("latent")
    fit.start(tiny("autoencoder"), home / "autoencoder", CPU, samples=320)
    fit.start(tiny("latent", f"codec.autoencoder.run={home}/autoencoder"), home / "latent", CPU, samples=160)
    return home


def test_both_components_and_the_scale_lie_in_one_checkpoint(both: Path) -> None:
    """Pitfall 10: what a sample needs to be decoded is where its model is."""
    folder = locate(both / "latent")
    assert {"model", "codec"} <= {p.name for p in (folder / "components").iterdir()}
    weights = read(folder).weights["codec"]
    fresh = Latent(CODEC, checkpoint.components(read(locate(both / "autoencoder")))["model"])
    taken = checkpoint.components(read(folder))["codec"]
    x = taken.encode(digits())
    assert float(x.mean((0, 2, 3)).abs().max()) < 1e-3 and float((x.std((0, 2, 3)) - 1).abs().max()) < 1e-2
    assert torch.equal(weights["shift"], taken.shift) and not torch.equal(taken.shift, fresh.shift)


def test_the_autoencoder_taken_is_the_averaged_one_and_stays_as_it_is(both: Path) -> None:
    averaged = Model.load(both / "autoencoder").denoiser.state_dict()
    raw = Model.load(both / "autoencoder", weights="raw").denoiser.state_dict()
    taken = Model.load(both / "latent").codec.autoencoder.state_dict()
    assert all(torch.equal(taken[k], averaged[k]) for k in averaged)
    assert not all(torch.equal(taken[k], raw[k]) for k in raw)


def test_a_run_goes_on_without_the_folder_of_its_autoencoder(both: Path, tmp_path: Path) -> None:
    """And to the bit as if it had not been stopped."""
    shutil.copytree(both / "autoencoder", tmp_path / "autoencoder")
    recipe = tiny("latent", f"codec.autoencoder.run={tmp_path}/autoencoder")
    whole = fit.start(recipe, tmp_path / "whole", CPU, samples=128)
    fit.start(recipe, tmp_path / "half", CPU, samples=64)
    shutil.rmtree(tmp_path / "autoencoder")
    half = fit.resume(tmp_path / "half", CPU, samples=128)
    assert all(torch.equal(a, b) for a, b in zip(whole.named.values(), half.named.values(), strict=True))
    assert Model.load(tmp_path / "half").sample(2).raw.shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match=r"no such run: .*autoencoder.*unnoise train autoencoder --out"):
        fit.start(recipe, tmp_path / "another", CPU, samples=32)


def test_two_phases_are_gone_on_with_to_the_bit(tmp_path: Path) -> None:
    """2N = N + resume N, of autoencoder, discriminator, both optimisers and averages; the adversary is at work."""
    recipe = tiny("autoencoder", "objective.start=64")
    fit.start(recipe, tmp_path / "whole", CPU, samples=192)
    fit.start(recipe, tmp_path / "half", CPU, samples=96)
    fit.resume(tmp_path / "half", CPU, samples=192)
    a, b = (read(locate(tmp_path / k)) for k in ("whole", "half"))
    for mine, other in ((a.weights, b.weights), (a.groups, b.groups)):
        assert mine.keys() == other.keys()
        for k in mine:
            assert [n for n in mine[k] if not torch.equal(mine[k][n], other[k][n])] == []
    assert {"optim-0", "optim-1"} <= a.groups.keys() and {"model", "discriminator"} <= a.weights.keys()
    alone = fit.start(tiny("autoencoder", "objective.factor=0"), tmp_path / "alone", CPU, samples=192)
    assert any(
        not torch.equal(v, a.weights["model"][k.removeprefix("model.")])
        for k, v in alone.named.items()
        if k.startswith("model.")
    )


def test_the_commands(both: Path, tmp_path: Path, capsys: Any) -> None:
    """Sample, as files and as npz; evaluate; info."""
    run = str(both / "latent")
    cli.main(["sample", run, "-n", "3", "--out", str(tmp_path / "files")])
    assert len(list((tmp_path / "files").glob("*.png"))) == 3
    cli.main(["sample", run, "-n", "3", "--out", str(tmp_path / "x.npz")])
    assert np.load(tmp_path / "x.npz")["x"].dtype == np.uint8
    cli.main(["evaluate", str(both / "autoencoder"), "-n", "50"])
    cli.main(["evaluate", run, "-n", "80"])
    cli.main(["info", run])
    out = capsys.readouterr().out
    assert out.count("PSNR of reconstructions, dB") == out.count("drift of channel 0") == 2 and "read as asked" in out
    for name in ("autoencoder", "latent"):
        cli.main(["info", name])
    assert "codec.autoencoder.run" in capsys.readouterr().out


def test_an_autoencoder_is_nothing_to_sample(both: Path) -> None:
    with pytest.raises(UserError, match="Autoencoder is not a denoiser: there is nothing to sample"):
        Model.load(both / "autoencoder").sample(1)
