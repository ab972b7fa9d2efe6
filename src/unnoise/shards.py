"""Sharded tensors in a folder, a safetensors file a process, by torch.distributed.checkpoint.

    shards/shard-00001-model-00001-of-00001.safetensors     rows of each tensor; in its head, where they begin

Every process writes what it holds and nothing is gathered; what any number of processes wrote, any process reads.
Planner, writer and reader are torch's own: those for the Hugging Face format, of whose files nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write sharded tensors (DTensors) into a new folder, and flush each file to the disk. All processes call it.

    Raises:
        OSError: on every process, where any of them could not write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as e:  # not an Exception to torch
        cause, _ = next(iter(e.failures.values()))
        raise cause if isinstance(cause, OSError) else OSError(str(cause)) from e


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, whole and on the CPU. A process reads them for itself.

    Raises:
        SafetensorError: for a file that is damaged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    heads = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(head.size, dtype=head.properties.dtype)
        for name, head in heads.items()
        if isinstance(head, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process reads alone is meant
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors
