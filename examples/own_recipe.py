"""A recipe in a file of one's own, with a network of one's own in it.

    unnoise train examples/own_recipe.py --out runs/own
    unnoise sample runs/own --types examples/own_recipe.py --out own.png

The file must define `recipe()`; its classes may be part of the recipe. A run keeps their arguments, not their source:
whoever loads it passes the classes (`--types FILE.py`, or `types=[...]` in Python). Run as a program it trains in a
temporary folder and looks at what it got:

    python examples/own_recipe.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import unnoise as un


class PixelNet(nn.Module):
    """net(x, c_noise, label): residual layers on all pixels at once. It has never heard of diffusion.

    Args:
        pixels: of a picture.
        classes: of the labels; index `classes` says nothing.
        width: of the layers.
        layers: how many.
    """

    def __init__(self, pixels: int = 64, classes: int = 10, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        # Kept under their own names: that is all that saving and rebuilding asks for.
        self.pixels, self.classes, self.width, self.layers = pixels, classes, width, layers
        self.stem = nn.Linear(pixels, width)
        self.told = nn.Linear(16, width)
        self.labels = nn.Embedding(classes + 1, width)
        self.body = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.head = nn.Linear(width, pixels)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, *, label: torch.Tensor) -> torch.Tensor:
        """x [B, 1, H, W], c_noise [B], label [B] -> like x."""
        phase = c_noise[:, None] * torch.arange(1, 9, device=x.device)
        told = self.told(torch.cat([phase.cos(), phase.sin()], 1)) + self.labels(label)
        h = self.stem(x.flatten(1))
        for layer in self.body:
            h = h + layer(h + told)
        return self.head(h).view_as(x)


def recipe() -> un.Recipe:
    """The recipe: flow matching on the digits."""
    return un.Recipe(
        name="own",
        data=un.data.Digits(),
        codec=un.modality.Image(shape=(1, 8, 8), low=0, high=16),
        conditioner=un.modality.Labels({"label": 10}),
        model=un.Build(un.Preconditioned, net=un.Build(PixelNet), parameterization=un.Flow()),
        objective=un.Denoising(density=un.LogitNormalTime(), drop=0.1),
        optim=un.optim.AdamW(lr=2e-3, rate=un.optim.Cosine(warmup=2560)),
        batch=128,
        samples=128 * 600,
        sampling=un.Sampling(grid=un.sample.grids.UniformGrid(un.core.schedule.Rectified()), steps=16, guidance=1.5),
        log_every=200,
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "own"
        un.start(recipe(), run)
        model = un.Model.load(run, types=[PixelNet])
        samples = model.sample(200, label="all")
        data = recipe().data.load()
        made, seen, new = (
            torch.as_tensor(x).float().flatten(1) for x in (samples.raw, data.train["x"], data.held_out["x"])
        )
        nearest = torch.cdist(made, seen).min(1)
        right = float((data.train["label"][nearest.indices] == samples.cond["label"]).float().mean())
        ratio = float(nearest.values.median() / torch.cdist(new, seen).min(1).values.median())
        print(f"the nearest training digit is of the class that was asked for: {right:.3f} of the samples")
        print(f"distance to it: {ratio:.2f} times that of held-out digits")
        assert right > 0.9
        assert ratio > 0.5  # near 0 would be a memory of the training set
