"""Sharded tensors in a folder, a safetensors file a process, by torch.distributed.checkpoint.

    shards/shard-00001-model-00001-of-00001.safetensors     rows of each tensor; in its head, where they begin

Every process writes what it holds and nothing is gathered. The planner is torch's own and so are writer and reader,
those for the Hugging Face format: they alone pickle nothing. Any number of processes may read what any other wrote.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write sharded tensors (DTensors) into a folder, made here, and flush each file to the disk. All processes call it.

    Raises:
        OSError: on every process, where any of them could not write.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        dcp.save(dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as e:  # not an Exception to torch
        cause, _ = next(iter(e.failures.values()))
        raise cause if isinstance(cause, OSError) else OSError(str(cause)) from e


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, whole and on the CPU. A process reads them for itself.

    Raises:
        SafetensorError: for a file that is damaged.
    """
    import torch.distributed.checkpoint as dcp

    heads = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(head.size, dtype=head.properties.dtype) for name, head in heads.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process reads alone is meant
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors
