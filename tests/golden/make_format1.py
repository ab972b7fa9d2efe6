"""Made format1/ (a saved model), format1-run/ (a run that can be gone on with) and format1.json, once, with FORMAT 1.

Not to be run again: what is beside it was written by the version of its day, which is the point of it.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from unnoise import Model, checkpoint, fit, session
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Arrays, Digits
from unnoise.modality import Image, Labels, Plain
from unnoise.nets import MLP, UNet
from unnoise.optim import AdamW, Trapezoid
from unnoise.recipe import Recipe, Sampling
from unnoise.runtime import Runtime
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build

HERE = Path(__file__).parent


def digits() -> Recipe:
    net = Build(
        UNet,
        channels=1,
        width=8,
        multipliers=(1,),
        blocks=1,
        attention=(),
        middle_attention=False,
        labels={"label": 10},
    )
    return Recipe(
        name="golden",
        data=Digits(),
        codec=Image(shape=(1, 8, 8), low=0, high=16),
        conditioner=Labels({"label": 10}),
        model=Build(Preconditioned, net=net, parameterization=Edm(sigma_data=0.75)),
        objective=Denoising(density=LogNormalSigma(mean=-0.6, std=1.1)),
        optim=AdamW(lr=4e-3, rate=Trapezoid(warmup=640, decay=0.5)),
        batch=64,
        samples=32_000,
        sampling=Sampling(Heun(), KarrasGrid(sigma_min=0.01, sigma_max=40), steps=10, guidance=1.2),
    )


def points() -> Recipe:
    """Two features of each digit: the ink in its upper and in its left half."""
    return Recipe(
        name="points",
        data=Arrays("points.npz", held_out=0.1),
        codec=Plain(shape=(2,), mean=5.0, std=1.0),
        model=Build(Preconditioned, net=Build(MLP, channels=2, width=8, blocks=1, dropout=0.1), parameterization=Edm()),
        objective=Denoising(density=LogNormalSigma(mean=-0.6, std=1.1)),
        optim=AdamW(lr=4e-3),
        batch=16,
        samples=320,
        log_every=4,
        sampling=Sampling(Heun(), KarrasGrid(sigma_min=0.01, sigma_max=40), steps=5),
    )


def main() -> None:
    run = Runtime()
    if checkpoint.FORMAT != 1 or (HERE / "format1").exists():
        sys.exit("format1 is there, or this version writes another format")
    fit.start(digits(), "/tmp/golden-digits", run)
    Model.load("/tmp/golden-digits").save(HERE / "format1")

    x = Digits().load().train["x"].float()[:128]
    features = np.stack([x[:, 0, :4].mean((1, 2)).numpy(), x[:, 0, :, :4].mean((1, 2)).numpy()], 1)
    np.savez(HERE / "points.npz", x=features)
    session.PREVIEWS = 0
    fit.start(points(), HERE / "format1-run", run)
    shutil.rmtree(HERE / "format1-run" / "checkpoints" / "0")  # to be small
    for file in (HERE / "format1-run" / "ema").iterdir():
        if file.stem not in ("112", "208", "320"):
            file.unlink()

    golden = {}
    for name, kind in (("format1", {"label": [3, 8]}), ("format1-run", {})):
        *_, last = Model.load(HERE / name).stream(2, seed=7, **kind)
        golden[name] = [round(v, 5) for v in last.x.flatten().tolist()]
    (HERE / "format1.json").write_text(json.dumps(golden) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
