"""Tensors in parts: what a process holds of a sharded one (a DTensor), and the whole of it.

What torch needs for them takes half a second to import, which nobody else should wait for.
"""

from __future__ import annotations

from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    return hasattr(x, "full_tensor")


def local(x: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds, where it lies; else the tensor."""
    return x.to_local() if hasattr(x, "to_local") else x


def whole(x: Tensor) -> Tensor:
    """All of a tensor that may be sharded, on each process's device; all processes ask for it together."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """All of a tensor of which each process holds `part`, cut as `like` is: the inverse of `local(divided(x, like))`.

    Where `like` is not sharded, the part itself.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    shape, stride = like.shape, like.stride()
    return whole(DTensor.from_local(part, like.device_mesh, like.placements, shape=shape, stride=stride))


def divided(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, on the device of `like` and sharded as `like` is, if it is."""
    if not is_sharded(like) or is_sharded(x):
        return x.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
