"""Made format2/ (a checkpoint of a sharded run of two processes) and format2.json, once, with FORMAT 2.

Not to be run again: what is beside it was written by the version of its day, which is the point of it. It was
`torchrun --nproc-per-node 2 make_format2.py`, in this folder.
"""

import json
import shutil
import sys
from pathlib import Path

from unnoise import Model, checkpoint, fit
from unnoise.core.denoiser import Preconditioned
from unnoise.core.density import LogNormalSigma
from unnoise.core.objective import Denoising
from unnoise.core.parameterization import Edm
from unnoise.data import Arrays
from unnoise.modality import Plain
from unnoise.nets import MLP
from unnoise.optim import AdamW
from unnoise.recipe import Recipe, Sampling
from unnoise.runtime import launch
from unnoise.sample import Heun
from unnoise.sample.grids import KarrasGrid
from unnoise.spec import Build

HERE = Path(__file__).parent


def points() -> Recipe:
    """Two features of each digit: the ink in its upper and in its left half."""
    return Recipe(
        name="points",
        data=Arrays("points.npz", held_out=0.1),
        codec=Plain(shape=(2,), mean=5.0, std=1.0),
        model=Build(Preconditioned, net=Build(MLP, channels=2, width=8, blocks=1), parameterization=Edm()),
        objective=Denoising(density=LogNormalSigma(mean=-0.6, std=1.1)),
        optim=AdamW(lr=4e-3),
        batch=16,
        samples=640,
        sampling=Sampling(Heun(), KarrasGrid(sigma_min=0.01, sigma_max=40), steps=5),
    )


def main() -> None:
    if checkpoint.FORMAT != 2 or (HERE / "format2").exists():
        sys.exit("format2 is there, or this version writes another format")
    with launch("cpu") as run:
        fit.start(points(), "/tmp/golden-points", run, sharded=True)
        run.barrier()
        if run.is_main:
            shutil.copytree(checkpoint.locate(Path("/tmp/golden-points")), HERE / "format2")
            *_, last = Model.load(HERE / "format2").stream(2, seed=7)
            golden = {"format2": [round(v, 5) for v in last.x.flatten().tolist()]}
            (HERE / "format2.json").write_text(json.dumps(golden) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
