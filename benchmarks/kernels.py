"""Fused group norm beside its eager twin and what torch.compile makes of that: microseconds, and bytes a second.

    python benchmarks/kernels.py [--batch 512] [--out FILE.json]

At the shapes of DDPM's CIFAR-10 network in bfloat16, with the bias of a convolution and an embedding added, SiLU and
dropout, forward and backward. Bytes are those that any program has to move: x read and y written; backward x and the
gradient read and that of x written. Beside them a copy of the same device. Inputs are drawn anew for each shape; times
are means over calls recorded as one CUDA graph, as in a captured step: launched one by one, all but the largest
shapes would tell how fast the host is. Small shapes are read from the cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor

from unnoise.nets.kernels import norm

SHAPES = ((128, 32), (256, 32), (384, 32), (128, 16), (256, 16), (512, 16), (256, 8), (512, 8), (256, 4), (512, 4))
"""Channels and pixels a side."""


def milliseconds(call: Callable[[], Any]) -> float:
    """The time of a call on the device, within a graph of many."""
    from triton.testing import do_bench_cudagraph

    return float(do_bench_cudagraph(call, rep=50))


def copied() -> float:
    """TB/s of a large copy on the device, read and written."""
    a = torch.randn(2**28, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() * a.element_size() / milliseconds(lambda: b.copy_(a)) / 1e9


def inputs(batch: int, channels: int, side: int) -> dict[str, Tensor]:
    x = torch.randn(batch, channels, side, side, device="cuda").bfloat16().to(memory_format=torch.channels_last)
    add = torch.randn(batch, channels, 1, 1, device="cuda").bfloat16()
    weight, bias = torch.randn(2, channels, device="cuda").unbind(0)
    return {k: v.detach().requires_grad_() for k, v in {"x": x, "weight": weight, "bias": bias, "add": add}.items()}


def measured(call: Callable[..., Tensor], given: dict[str, Tensor], groups: int) -> tuple[float, float]:
    """Milliseconds forward, and forward and backward."""

    def forward() -> Tensor:
        return call(given["x"], given["weight"], given["bias"], groups, 1e-5, add=given["add"], silu=True, dropout=0.1)

    # Of a result's shape; a result held here would keep autograd's nodes on another stream than the recording's.
    gradient = torch.randn_like(given["x"])
    both = milliseconds(lambda: torch.autograd.grad(forward(), list(given.values()), gradient))
    with torch.no_grad():
        return milliseconds(forward), both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures kernels on a CUDA GPU, and there is none")
    top = copied()
    print(f"a copy: {top:.2f} TB/s")
    print(f"{'shape':>20} {'kind':>10} {'forward us':>11} {'TB/s':>6} {'both us':>9} {'TB/s':>6}")
    rows: list[dict[str, Any]] = []
    for channels, side in SHAPES:
        given = inputs(o.batch, channels, side)
        size = 2 * given["x"].numel()
        torch._dynamo.reset()
        kinds = {"fused": norm.fused, "eager": norm.eager, "compiled": torch.compile(norm.eager)}
        for kind, call in kinds.items():
            forward, both = measured(call, given, 32)
            rows.append({"channels": channels, "side": side, "kind": kind, "forward_ms": forward, "both_ms": both})
            print(
                f"{f'{o.batch}x{channels}x{side}x{side}':>20} {kind:>10} {1e3 * forward:11.1f} "
                f"{2 * size / forward / 1e9:6.2f} {1e3 * both:9.1f} {5 * size / both / 1e9:6.2f}",
                flush=True,
            )
    result = {
        "batch": o.batch,
        "copy_terabytes_per_second": top,
        "rows": rows,
    }
    record.write(o.out, torch.device("cuda"), result)


if __name__ == "__main__":
    main()
