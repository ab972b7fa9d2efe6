"""The ruler of FD-1280 and FD-768: python benchmarks/ruler.py [--limit 500]

Distances of CIFAR-10's 10,000 test images, as they are and damaged, from its 50,000 training images, in features of the
Inception network, beside what was measured with pytorch-fid itself. Needs UNNOISE_DATA with cifar10 and inception.
The result goes to benchmarks/results/ruler_<device>.json; with --limit, a dry run on a part, which has no ruler (a
smaller set is farther away), it is only printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import record
import torch
import torch.nn.functional as F
from torch import Tensor

from unnoise.core.rng import Rng
from unnoise.data import Cifar10
from unnoise.judges.inception import Inception
from unnoise.metrics import Moments, frechet_distance
from unnoise.runtime import pick_device

DIMS = (64, 192, 768, 1280)
CHUNK = 1000
RULER = {
    ("test images", 1280): 0.196,
    ("test images", 768): 0.0093,
    ("blurred by 0.6 px", 1280): 1.24,
    ("noise of 4/255", 1280): 1.73,
}


def blurred(x: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of seven taps, the edges reflected: uint8 [N, C, H, W]."""
    taps = torch.exp(-torch.arange(-3.0, 4.0).square() / (2 * sigma**2))
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    h = F.conv2d(F.pad(x.float(), (3, 3, 3, 3), "reflect").flatten(0, 1)[:, None], kernel)
    return h.reshape(x.shape).round().clamp(0, 255).to(torch.uint8)


def noisy(x: Tensor, sigma: float) -> Tensor:
    """With normal noise, a row's by its number: uint8 [N, C, H, W]."""
    noise = Rng.of(torch.arange(len(x))).normal(x.float())
    return (x.float() + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, help="images of each set, for a dry run")
    parser.add_argument("--device")
    o = parser.parse_args()
    device = pick_device(o.device)
    data = Cifar10().load()
    train, test = (part["x"][: o.limit] for part in (data.train, data.held_out))
    sets = {
        "training images": train,
        "test images": test,
        "blurred by 0.6 px": blurred(test, 0.6),
        "noise of 4/255": noisy(test, 4.0),
        "blurred by 0.345 px": blurred(test, 0.345),
        "brighter by 2/255": (test.int() + 2).clamp(max=255).to(torch.uint8),
        "mirrored": test.flip(-1),
    }
    extractor = Inception(max(DIMS)).load(device)
    began, moments = time.perf_counter(), {}
    for name, x in sets.items():
        moments[name] = {d: Moments.empty(d) for d in DIMS}
        for part in torch.split(x, CHUNK):
            found = extractor.features(part)
            moments[name] = {d: moments[name][d].update(found[d]) for d in DIMS}
        print(f"{name}: {len(x)} in {time.perf_counter() - began:.0f} s", flush=True)
    seconds = time.perf_counter() - began

    rows = []
    real = moments.pop("training images")
    for name, of in moments.items():
        for d in DIMS:
            figure, ruler = f"fd-{d}", RULER.get((name, d))
            distance = float(frechet_distance(of[d], real[d]))
            rows.append({"set": name, "figure": figure, "distance": distance, "ruler": ruler})
            print(f"{name:20} {figure:8} {distance:10.4f}" + (f"  ruler {ruler}" if ruler and not o.limit else ""))
    assert extractor.name == "1280"
    if o.limit:
        return
    result = {
        "extractor": extractor.digest,
        "images": {k: len(x) for k, x in sets.items()},
        "seconds": seconds,
        "distances": rows,
    }
    path = Path(__file__).parent / "results" / f"ruler_{device.type}.json"
    record.write(path, device, result)


if __name__ == "__main__":
    main()
