"""Real digits as noise: encode them with the ODE, decode them again, and walk between two of them.

    python examples/edit_noise.py

The probability-flow ODE is a one-to-one map between noise and data. `Model.encode` solves it from data to noise,
`Model.decode` back. A small model is trained first, in a temporary folder. Writes edit_noise.png: held-out digits, what
came back, and the way from the first digit to the last through their noises.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import unnoise as un
from unnoise.recipes import load

# The recipe of the example beside this one: its network is a fast one.
recipe, types = load(str(Path(__file__).with_name("own_recipe.py")))
recipe = replace(recipe, samples=128 * 400, sampling=replace(recipe.sampling, steps=40))
with tempfile.TemporaryDirectory() as folder:
    un.start(recipe, Path(folder) / "run")
    model = un.Model.load(Path(folder) / "run", types=types)

raw = recipe.data.load().held_out["x"][:10]
noise = model.encode(raw)  # nothing is said of the classes, which change on the way from one digit to another
back = model.decode(noise)

# What `encode` gives should look like the noise of the grid's first level.
top = float(noise.std() / model.settings().levels(model.denoiser.interval).sigma[0])
error = float((back.raw.float() - raw.float()).abs().mean())
distance = float((raw[:, None].float() - raw[None].float()).abs().mean())
print(f"standard deviation of the noise, as a multiple of its level: {top:.3f}")
print(f"mean difference of a pixel (0..16): there and back {error:.3f}, between two digits {distance:.3f}")

# The straight line between two noises would be too short; the great circle keeps their length.
share = torch.linspace(0, 1, 10).reshape(-1, 1, 1, 1)
first, last = noise[:1], noise[-1:]
angle = torch.nn.functional.cosine_similarity(first.flatten(), last.flatten(), dim=0).arccos()
between = (((1 - share) * angle).sin() * first + (share * angle).sin() * last) / angle.sin()
way = model.decode(between)

sheet = torch.cat([raw, back.raw, way.raw])
model.codec.grid(sheet, columns=10, scale=8).save("edit_noise.png")
assert 0.8 < top < 1.2
assert error < 0.02 * distance
ends = (way.raw[[0, -1]].float() - raw[[0, -1]].float()).abs().mean()
assert float(ends) < 0.02 * distance
