"""Numbers of the host on a device, uploaded once: the host waits for an upload, and a captured step cannot have one."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

_kept: dict[tuple[tuple[float, ...], torch.dtype, torch.device], Tensor] = {}


def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, " n"]:
    """A vector of these numbers, never to be changed: beyond the CPU it is the same tensor at every call.

    What is kept is never dropped: a captured graph knows its address and holds no reference. Nothing is kept of what is
    made while code is compiled or exported, which may only stand in for a tensor.

    Args:
        values: the numbers.
        dtype: one that the device has.
        device: where to.
    """
    if device.type == "cpu" or torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    key = (values, dtype, device)
    if key not in _kept:
        with torch.inference_mode(False):
            made = torch.tensor(values, dtype=dtype, device=device)
        if type(made) is not Tensor:
            return made
        _kept[key] = made
    return _kept[key]
