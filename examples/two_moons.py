"""Vectors of one's own, a network of the toolkit, and one's own training loop: the two moons.

    python examples/two_moons.py

Writes two_moons.png: data on the left, samples on the right.
"""

import math

import torch
from PIL import Image, ImageDraw

import unnoise as un

STEPS, BATCH = 600, 256


def moons(rng):
    """Points [B, 2] on two half circles, with a little noise."""
    like = torch.zeros(len(rng), 2)
    u, noise = rng.fold(0).uniform(like), rng.fold(1).normal(like)
    angle, lower = math.pi * u[:, 0], u[:, 1] < 0.5
    x = torch.where(lower, 1 - angle.cos(), angle.cos())
    y = torch.where(lower, 0.5 - angle.sin(), angle.sin())
    return torch.stack([x, y], 1) + 0.05 * noise


def distance_to_moons(x):
    """How far each point is from the nearer half circle."""
    angle = torch.linspace(0, math.pi, 500)
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cdist(x, torch.cat([upper, torch.tensor([1.0, 0.5]) - upper])).min(1).values


def energy_distance(a, b):
    """2 E|a - b| - E|a - a'| - E|b - b'|: 0 for equal distributions."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def scatter(x):
    """Points of the plane as a picture."""
    picture = Image.new("L", (360, 240), 255)
    pen = ImageDraw.Draw(picture)
    for a, b in ((x + torch.tensor([1.5, 1.25])) * 90).tolist():
        pen.ellipse([a - 1.5, 238 - b - 1.5, a + 1.5, 238 - b + 1.5], 0)
    return picture


torch.manual_seed(0)
torch.set_num_threads(1)
objective = un.Denoising(density=un.LogitNormalTime(mean=-0.5))
denoiser = un.Preconditioned(
    un.nets.MLP(channels=2, width=96, blocks=2, noise_scale=10.0), un.Flow(), interval=objective.density.interval
)
model = un.Model(denoiser, codec=un.modality.Plain(shape=(2,), mean=0.4, std=0.75))

# One's own loop: the objective is a function of the parts, a batch, randomness and the number of samples seen.
optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
parts = {"model": denoiser, "codec": model.codec}
for step in range(STEPS):
    seen = step * BATCH
    position = torch.arange(seen, seen + BATCH)
    rng = un.Rng.of(position)
    loss = objective(parts, {"x": moons(rng.fold(0)), "position": position}, rng.fold(1), seen).mean
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()
    if (step + 1) % 100 == 0:
        print(f"{seen + BATCH:7} samples seen  loss {loss.item():.3f}")

denoiser.eval()
samples = model.sample(2000, seed=0, steps=20).raw
data, more = (moons(un.Rng.of(range(k, k + 2000))) for k in (10**6, 2 * 10**6))
near = float((distance_to_moons(samples) < 0.15).float().mean())
near_data = float((distance_to_moons(data) < 0.15).float().mean())
energy, energy_data = energy_distance(samples, data), energy_distance(more, data)
print(f"within 0.15 of the moons: samples {near:.3f}, data {near_data:.3f}")
print(f"energy distance to data: samples {energy:.5f}, other data {energy_data:.5f}")

sheet = Image.new("L", (730, 240), 160)
sheet.paste(scatter(data), (0, 0))
sheet.paste(scatter(samples), (370, 0))
sheet.save("two_moons.png")
assert near > 0.9
assert energy < 0.02
