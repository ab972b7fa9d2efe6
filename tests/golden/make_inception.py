"""Made inception.npz, once: what pytorch-fid 0.3.0 makes of a few pictures, with published and with drawn weights.

    UNNOISE_DATA=... python tests/golden/make_inception.py     (needs pytorch-fid and torchvision)

The draws and the pictures are rules of numpy's, which tests/judges/test_inception.py repeats from this file. Of each
layer's features 32 are kept, evenly spread, and the norm of all.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
HERE = Path(__file__).parent
DIMS = (64, 192, 768, 1280, 2048)
SET = 80
"""Pictures in each of the two sets whose distance is taken."""


def drawn(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Array]:
    """Weights of convolutions of these shapes by layer, each with a batch norm, by torchvision's names."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = {}
    for name in sorted(shapes):
        outputs, *fan = shapes[name]
        weight = rng.standard_normal(tuple(shapes[name]), np.float32)
        found[f"{name}.conv.weight"] = weight * np.float32((2 / np.prod(fan)) ** 0.5)
        found[f"{name}.bn.weight"] = rng.random(outputs, np.float32) + np.float32(0.5)
        found[f"{name}.bn.bias"] = rng.standard_normal(outputs, np.float32) / 10
        found[f"{name}.bn.running_mean"] = rng.standard_normal(outputs, np.float32) / 10
        found[f"{name}.bn.running_var"] = rng.random(outputs, np.float32) + np.float32(0.5)
    return found


def pictures() -> list[Array]:
    """Drawn pictures, uint8 [C, H, W]: of CIFAR's size, gray, not square, and larger than the network's input."""
    rng = np.random.Generator(np.random.PCG64(5))
    blocks = rng.integers(0, 256, (3, 40, 50), np.uint8).repeat(8, 1).repeat(8, 2)
    ramp = np.broadcast_to(np.linspace(0, 255, 56).astype(np.uint8), (3, 40, 56)) // np.uint8([[[1]], [[2]], [[3]]])
    return [rng.integers(0, 256, (3, 32, 32), np.uint8), rng.integers(0, 256, (1, 28, 28), np.uint8), ramp, blocks]


def strip(file: str, high: int) -> Array:
    """The pictures uint8 [N, 3, H, W] of the first strip of a tar in UNNOISE_DATA."""
    with tarfile.open(Path(os.environ["UNNOISE_DATA"], file)) as tar:
        member = tar.extractfile(min(tar.getnames()))
        assert member is not None
        rows = np.asarray(Image.open(io.BytesIO(member.read())).convert("RGB"))
    return np.ascontiguousarray(rows.reshape(-1, high, rows.shape[1], 3).transpose(0, 3, 1, 2))


def real_pictures() -> list[Array]:
    """Two of CIFAR-10's test set, a flower, a digit."""
    digits = gzip.decompress(Path(os.environ["UNNOISE_DATA"], "mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    digit = np.frombuffer(digits, np.uint8, 784, 16).reshape(1, 28, 28)
    return [*strip("cifar10/cifar10_test.tar", 32)[:2], strip("flowers102/flowers102_128_1.tar", 128)[0], digit]


def two_sets() -> tuple[Array, Array]:
    """The first pictures of CIFAR-10's test set, and the next ones."""
    x = strip("cifar10/cifar10_test.tar", 32)
    return x[:SET], x[SET : 2 * SET]


def kept(features: Array) -> Array:
    """[N, D] -> float32 [N, 33]: 32 of them, and the norm of all."""
    every = features[:, :: features.shape[1] // 32][:, :32]
    return np.concatenate([every, np.linalg.norm(features.astype(np.float64), axis=1)[:, None]], 1).astype(np.float32)


def main() -> None:
    import torch
    from safetensors.torch import load_file

    operators = torch.library.Library("torchvision", "DEF")
    while "torchvision" not in sys.modules:  # built for another torch, its operators are missing: their names will do
        try:
            import torchvision  # noqa: F401
        except RuntimeError as e:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(e))
            if not missing:
                raise
            operators.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [k for k in sys.modules if k.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    from pytorch_fid import inception
    from pytorch_fid.fid_score import calculate_frechet_distance

    def network(published: Mapping[str, Any], seed: int) -> Any:
        """pytorch-fid's network: what is not published is drawn."""

        def give(*_: Any, **__: Any) -> Any:
            """In the place of the download; the network that is to be filled is in the caller's frame."""
            whole = sys._getframe(1).f_locals["inception"].state_dict()
            shapes = {k.removesuffix(".conv.weight"): v.shape for k, v in whole.items() if k.endswith(".conv.weight")}
            absent = {k: tuple(v) for k, v in shapes.items() if f"{k}.weight" not in published}
            whole.update({k: torch.from_numpy(v) for k, v in drawn(absent, seed).items()})
            for name in shapes.keys() - absent.keys():
                bias = published[f"{name}.bias"].float()
                whole[f"{name}.conv.weight"] = published[f"{name}.weight"].float()
                whole[f"{name}.bn.weight"], whole[f"{name}.bn.bias"] = torch.ones_like(bias), bias
                whole[f"{name}.bn.running_mean"] = torch.zeros_like(bias)
                whole[f"{name}.bn.running_var"] = torch.full_like(bias, 1 - 0.001)
            return whole

        inception.load_state_dict_from_url = give
        return inception.InceptionV3([0, 1, 2, 3]).eval()

    @torch.no_grad()
    def features(net: Any, images: Sequence[Array], only: int = 3) -> list[Array]:
        """The features of each layer, of pictures one by one; of files, pytorch-fid repeats a gray channel likewise."""
        found: dict[int, list[Array]] = {d: [] for d in DIMS}
        seventh: list[Any] = []
        hook = net.blocks[3][0].register_forward_hook(lambda m, i, o: seventh.append(o))
        net.last_needed_block = only
        for image in images:
            x = torch.from_numpy(image.copy()).expand(3, -1, -1)[None].float().div(255)
            blocks = net(x)
            maps = [*blocks[:3], seventh[-1], blocks[3]] if only == 3 else blocks
            for d, h in zip(DIMS, maps, strict=False):
                pooled = torch.nn.functional.adaptive_avg_pool2d(h, (1, 1))
                found[d].append(pooled.squeeze(3).squeeze(2).numpy()[0])
        hook.remove()
        return [np.stack(v) for v in found.values() if v]

    out: dict[str, Array] = {}
    net = network({}, 1)
    for d, f in zip(DIMS, features(net, pictures()), strict=True):
        out[f"drawn_{d}"] = kept(f)
    file = Path(os.environ["UNNOISE_DATA"], "inception/inception2015_to_mixed7a_fp16.safetensors")
    net = network(load_file(file), 2)
    for d, f in zip(DIMS, features(net, [*real_pictures(), *pictures()]), strict=True):
        out[f"published_{d}"] = kept(f)
    a, b = (features(net, x, only=0)[0] for x in two_sets())
    stats = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    out["distance_64"] = np.float64(calculate_frechet_distance(*stats[0], *stats[1]))
    np.savez_compressed(HERE / "inception.npz", **out)
    print({k: v.shape for k, v in out.items()}, out["distance_64"], (HERE / "inception.npz").stat().st_size)


if __name__ == "__main__":
    main()
