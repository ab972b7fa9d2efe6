"""From noise levels to digits: what a diffusion model is, in ten steps that run.

    python docs/tutorials/01_from_noise_levels_to_digits.py [FOLDER]

Read it from top to bottom. Claims in the prose are followed by assertions, and pictures are written to FOLDER (default
tutorial/). It takes about a minute on one CPU core and needs the extra `demo` (the digits of scikit-learn).
"""

import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import unnoise as un
from unnoise.core import exact, schedule
from unnoise.data.stream import batches
from unnoise.evaluate import EDGES, loss_by_level
from unnoise.metrics import nearest_distances
from unnoise.recipes import digits
from unnoise.sample import RK4, DPMpp2M, Euler, Heun
from unnoise.sample.driver import sample
from unnoise.train import train as training

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial")
out.mkdir(parents=True, exist_ok=True)
COLOURS = ("#1b6ca8", "#c8501e", "#3d8b40", "#8a4fa3", "#8c6d1f")


def plot(name, curves, x_label, y_label, bars=False):
    """Curves {name: (xs, ys)} as a picture: axes with round ticks, a legend, nothing else."""
    wide, high, left, low = 1440, 840, 130, 100
    font = ImageFont.load_default(30)
    picture = Image.new("RGB", (wide, high), "white")
    pen = ImageDraw.Draw(picture)

    def ticks(values, pad=0.0):
        least, most = min(values) - pad, max(values) + pad
        rough = (most - least) / 5
        step = next(
            m * 10.0 ** math.floor(math.log10(rough))
            for m in (1, 2, 5, 10)
            if m * 10.0 ** math.floor(math.log10(rough)) >= rough
        )
        return [step * i for i in range(math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9) + 1)]

    xs, ys = ([float(v) for c in curves.values() for v in c[i]] for i in (0, 1))
    x_ticks, y_ticks = ticks(xs, pad=1.0 if bars else 0.0), ticks([0.0, *ys] if bars else ys)

    def at(x, y):
        across, up = ((v - t[0]) / (t[-1] - t[0]) for v, t in ((x, x_ticks), (y, y_ticks)))
        return left + across * (wide - left - 60), high - low - up * (high - low - 110)

    for x in x_ticks:
        pen.line([at(x, y_ticks[0]), at(x, y_ticks[-1])], "#e4e4e4", 2)
        pen.text((at(x, 0)[0], high - low + 14), f"{x:,.6g}", "black", font, anchor="ma")
    for y in y_ticks:
        pen.line([at(x_ticks[0], y), at(x_ticks[-1], y)], "#e4e4e4", 2)
        pen.text((left - 14, at(0, y)[1]), f"{y:,.6g}", "black", font, anchor="rm")
    place = left
    for colour, (label, (xs, ys)) in zip(COLOURS, curves.items(), strict=False):
        points = [at(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
        if bars:
            for x, y in points:
                pen.rectangle([x - 40, y, x + 40, at(0, 0)[1]], colour)
        else:
            pen.line(points, colour, 6, joint="curve")
        pen.text((place, 12), label, colour, font)
        place += pen.textlength(label, font) + 50
    pen.text((wide - 60, high - 8), x_label, "black", font, anchor="rs")
    pen.text((14, 56), y_label, "black", font)
    picture.resize((wide // 2, high // 2), Image.Resampling.LANCZOS).save(out / name)


# 1. A level ----------------------------------------------------------------------------------------------------------
#
# A noisy state is x = alpha x0 + sigma eps: x0 are data, eps is standard normal noise. The pair (alpha, sigma) is a
# *level*. What matters of it is the ratio, told as the log signal-to-noise ratio, logsnr = 2 log(alpha / sigma): +inf
# is clean data, -inf is pure noise. Multiplying alpha, sigma and x by one number changes nothing that can be known of
# x0. So "variance preserving" (alpha^2 + sigma^2 = 1), "flow" (alpha + sigma = 1) and "variance exploding" (alpha = 1)
# are three *frames* in which to write the same level.

level = un.Level.of(alpha=0.6, sigma=0.8)
assert math.isclose(float(level.logsnr), 2 * math.log(0.6 / 0.8))
for frame in ("vp", "flow", "ve"):
    same = un.Level.of_logsnr(level.logsnr, frame)
    assert math.isclose(float(same.logsnr), float(level.logsnr))
    print(f"1. logsnr {float(level.logsnr):.3f} in the frame {frame:4}: alpha {same.alpha:.3f}, sigma {same.sigma:.3f}")

# 2. Schedules --------------------------------------------------------------------------------------------------------
#
# A *schedule* is a path of levels: t = 0 is data, t = 1 is noise. In the plane of t and logsnr, where frames do not
# matter, famous schedules are just curves (schedules.png). A network that is told the level, and not t, can be
# sampled along any of them.

t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
paths = {
    "DDPM's table": schedule.Linear(),
    "cosine": schedule.Cosine(),
    "rectified flow": schedule.Rectified(),
    "the same, shifted by -2 log 3": schedule.Shifted(schedule.Rectified(), -2 * math.log(3), "flow"),
}
plot("schedules.png", {k: (t, path(t).logsnr) for k, path in paths.items()}, "t", "log-SNR")
middle = torch.tensor(0.5, dtype=torch.float64)
assert float(schedule.Rectified()(middle).logsnr) == 0  # as much signal as noise

# 3. The forward process ----------------------------------------------------------------------------------------------
#
# `Gaussian.forward` draws q(x_dst | x_src), the noisier from the cleaner. All randomness comes from an `Rng` with one
# seed a row: row i of anything does not depend on the rows beside it. Here is one digit at seven levels (forward.png).

recipe = digits.recipe()
data, codec, process = recipe.data.load(), recipe.codec, un.Gaussian()
train = codec.encode(data.train["x"])  # states: float32 in [-1, 1]
held_out = codec.encode(data.held_out["x"])
seven = un.Level.of_logsnr(torch.tensor([8.0, 4.0, 2.0, 0.0, -2.0, -4.0, -8.0]))
noisy = process.forward(train[:1].expand(7, -1, -1, -1), un.CLEAN, seven, un.Rng.of(range(7)))
codec.grid(codec.decode(noisy), columns=7, scale=12).save(out / "forward.png")

many = train[:1].expand(2000, -1, -1, -1)
spread = float((process.forward(many, un.CLEAN, level, un.Rng.of(range(2000))) - 0.6 * many).std())
print(f"3. the standard deviation of the noise at sigma = 0.8: {spread:.4f}")
assert abs(spread - 0.8) < 0.01

# 4. The exact denoiser -----------------------------------------------------------------------------------------------
#
# A *denoiser* answers with an estimate of x0. The one that minimises the mean square error is E[x0 | x], and for some
# data it is known in closed form. For normal data N(m, s^2) it moves x / alpha towards m, the more, the noisier x is.

x = torch.tensor([[1.5]], dtype=torch.float64)
estimate = exact.Normal(mean=0.0, std=0.5)(x, level)
gain = 0.5**2 * 0.6 / (0.6**2 * 0.5**2 + 0.8**2)
assert math.isclose(float(estimate.x0), gain * 1.5)

# For a finite set of points it is their mean, weighted by how probably each of them gave x:
#
#     x0_hat = sum_i w_i x_i,    w = softmax(-|x - alpha x_i|^2 / (2 sigma^2))
#
# This is the best possible denoiser of the training set, at every level (exact.png: noisy digits above, its estimates
# below). At low noise one weight is 1: it answers with a training digit.

best = exact.Empirical(train)
estimates = best(noisy, seven).x0
codec.grid(codec.decode(torch.cat([noisy, estimates])), columns=7, scale=12).save(out / "exact.png")
assert float((best(noisy[:1], seven.at(slice(0, 1))).x0 - train[:1]).abs().max()) < 1e-5
# At high noise it knows nothing, and answers with something near the mean of all digits.
assert float((estimates[-1] - train.mean(0)).square().mean()) < 0.1 * float(train.var(0).mean())

# 5. Sampling, and why the best denoiser memorises --------------------------------------------------------------------
#
# Sampling starts from noise and walks a *grid*, a list of levels from noise to clean data. `driver.sample` is the one
# loop; a sampler says how to take a step. With the exact denoiser of the training set every sample *is* a training
# digit (memorised.png). So a network that makes new digits is one that fails, in a useful way, to reach the minimum of
# its loss: its architecture generalises where the exact answer only remembers.

grid = un.sample.grids.KarrasGrid(sigma_min=0.01, sigma_max=40)
levels = grid(20, (-math.inf, math.inf))
rng = un.Rng.of(range(40))
start = process.forward(torch.zeros(40, 1, 8, 8), un.CLEAN, levels.at(0).to(dtype=torch.float32), rng.fold(0))
*_, last = sample(Heun(), process, best, start, levels, rng.fold(1))
codec.grid(codec.decode(last.x), columns=10, scale=6).save(out / "memorised.png")
farthest = float(nearest_distances(last.x, train).max())
novel = float(nearest_distances(held_out, train).median())
print(
    f"5. distance to the nearest training digit: samples {farthest:.1e} at most, held-out digits {novel:.2f} (median)"
)
assert farthest < 1e-2 < novel

# 6. The order of a solver --------------------------------------------------------------------------------------------
#
# Without fresh noise, sampling solves an ordinary differential equation. A solver of order p has an error that falls
# like steps^-p. For normal data the exact solution is known (`Normal.transport`), so the order can be measured: the
# slopes of the lines in order.png. Euler's method is what the field calls DDIM.

normal = exact.Normal(mean=0.3, std=0.5)
x = torch.tensor([[-1.0], [0.2], [1.4]], dtype=torch.float64)
counts, errors = (16, 32, 64, 128), {}
for solver in (Euler(), Heun(), DPMpp2M(), RK4()):
    name, errors[name] = type(solver).__name__, []
    for steps in counts:
        levels = schedule.Cosine(offset=0)(torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64))
        *_, last = sample(solver, process, normal, x, levels, un.Rng.of(range(3)), open_end=True)
        exactly = normal.transport(x, levels.at(0), levels.at(-1))
        errors[name].append(float((last.x - exactly).abs().max()))
    order = math.log2(errors[name][-2] / errors[name][-1])
    print(f"6. {name:8} order {order:.2f} (states {solver.order})")
    assert abs(order - solver.order) < 0.25
logs = {k: ([math.log10(n) for n in counts], [math.log10(e) for e in v]) for k, v in errors.items()}
plot("order.png", logs, "log10 of steps", "log10 of the largest error")

# 7. Training a network -----------------------------------------------------------------------------------------------
#
# A training step draws a level from a *density*, adds noise, and asks the network for x0. `recipes/digits.py` says all
# of that for a small U-Net; here it is made smaller still, to be done in half a minute. The loop is a generator: what
# is logged is up to the loop body.

recipe = replace(
    recipe,
    model=recipe.model.replace(net=recipe.model.args["net"].replace(width=16, dropout=0.0)),
    optim=replace(recipe.optim, lr=4e-3),
    samples=64 * 300,
)
torch.set_num_threads(1)
state = un.State(recipe, seed=0, device=torch.device("cpu"), total=recipe.samples)
stream = batches(data.train, recipe.batch, seed=0)
losses = [float(progress.loss) for progress in training(recipe, state, stream, un.Runtime())]
smooth = [sum(part) / len(part) for part in (losses[i : i + 25] for i in range(0, len(losses), 25))]
seen = [recipe.batch * (25 * i + 12) for i in range(len(smooth))]
plot("loss.png", {"training loss, means of 25 steps": (seen, smooth)}, "samples seen", "loss")
print(f"7. loss {smooth[0]:.3f} -> {smooth[-1]:.3f} after {state.seen} samples")
assert smooth[-1] < 0.6 * smooth[0]

# 8. Sampling the network ---------------------------------------------------------------------------------------------
#
# What is sampled is a running average of the weights. A `Model` is the denoiser with its codec, its conditions and
# its defaults: all that is needed to sample it (samples.png: a column a digit).
#
# Are they the digits that were asked for? The class of the nearest training digit is a simple reader.

parts = state.components
model = un.Model(parts["model"], codec, process, recipe.conditioner, recipe.sampling)


def read(raw):
    """The class of the nearest training digit."""
    return data.train["label"][torch.cdist(codec.encode(raw).flatten(1), train.flatten(1)).argmin(1)]


def right(samples):
    """The share that is read as asked."""
    return float((read(samples.raw) == samples.cond["label"]).float().mean())


with state.averaged(recipe.average):
    samples = model.sample(100, label="all", guidance=1.5)
    codec.grid(samples.raw, columns=10, scale=6).save(out / "samples.png")
    again = model.sample(3, seed=42, label=[2, 3, 4], guidance=1.5)
real = float((read(data.held_out["x"]) == data.held_out["label"]).float().mean())
ours = float(nearest_distances(codec.encode(samples.raw), train).median())
print(f"8. read as asked: {right(samples):.3f} of samples, {real:.3f} of held-out digits")
print(f"   distance to the nearest training digit: samples {ours:.2f}, held-out digits {novel:.2f}")
assert right(samples) > 0.8
assert ours > 0.5 * novel  # new digits, unlike those of section 5
assert (again.raw.int() - samples.raw[42:45].int()).abs().max() <= 1  # row i is seed + i, whatever is beside it

# 9. Guidance ---------------------------------------------------------------------------------------------------------
#
# Now and then training hides the label, so that the network also knows digits in general. *Classifier-free guidance*
# extrapolates from that estimate through the one that knows the label:
#
#     x0_hat = s x0_hat(label) + (1 - s) x0_hat(nothing)
#
# The guidance scale s = 1 is off. More of it gives digits that are read more easily and differ less from one another
# (guidance.png: the same seeds with s = 0, 1, 2 and 4, a row each; 0 does not know the label at all).

sheets, spreads, shares = [], {}, {}
with state.averaged(recipe.average):
    for scale in (0.0, 1.0, 2.0, 4.0):
        guided = model.sample(100, seed=1000, guidance=scale, label="all")
        sheets.append(guided.raw[:20])
        x = codec.encode(guided.raw)
        spreads[scale] = sum(float(x[guided.cond["label"] == c].var(0).mean()) for c in range(10)) / 10
        shares[scale] = right(guided)
        print(f"9. guidance {scale:g}: read as asked {shares[scale]:.3f}, variance within a class {spreads[scale]:.3f}")
codec.grid(torch.cat(sheets), columns=20, scale=5).save(out / "guidance.png")
assert shares[0.0] < shares[1.0] <= shares[2.0] + 0.02
assert spreads[4.0] < spreads[2.0] < spreads[1.0]

# 10. The loss by noise level -----------------------------------------------------------------------------------------
#
# One number hides where a network is good. The target of the EDM parameterization has about unit variance at every
# level, so a network that answers 0 has a loss of about 1 everywhere. By bins of log-SNR (loss_by_level.png) it shows
# what can be learned: at high noise the mean of the digits with that label, so that their variance is left over; at low
# noise almost nothing, since little noise cannot be told from the strokes' own gray values. What is learned is learned
# in between, and that is where a training density should look.

with state.averaged(recipe.average):
    by_level = loss_by_level(recipe.objective, parts, data.held_out, torch.device("cpu"))["held_out_by_logsnr"]
centres = [(a + b) / 2 for a, b in pairwise([EDGES[0] - 2, *EDGES, EDGES[-1] + 2])]
known = [(c, v) for c, v in zip(centres, by_level, strict=True) if v is not None]
plot("loss_by_level.png", {"held-out loss": tuple(zip(*known, strict=True))}, "log-SNR", "loss", bars=True)
lowest = min(known, key=lambda pair: pair[1])
print("10. held-out loss by log-SNR: " + ", ".join(f"{c:+.0f}: {v:.2f}" for c, v in known))
assert known[0][0] < lowest[0] < known[-1][0]  # the lowest is in the middle
assert lowest[1] < 0.5 * known[-1][1]

print(f"pictures in {out}/")
