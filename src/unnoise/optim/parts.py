"""Parameters in parts: what a process holds of a sharded tensor, and the whole of it."""

from __future__ import annotations

from torch import Tensor


def local(x: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds, where it lies; else the tensor."""
    return x.to_local() if hasattr(x, "to_local") else x


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """All of a tensor of which each process holds such a part as it holds of `like`; all processes ask for it together.

    Where `like` is not sharded, the part itself.
    """
    if not hasattr(like, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def part_of(x: Tensor, like: Tensor) -> Tensor:
    """Of a tensor that every process has, the part that this one holds of `like`: the inverse of `gathered`."""
    if not hasattr(like, "to_local"):
        return x
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return local(distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None))
