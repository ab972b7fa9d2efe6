"""One launch for many kernels: a function of tensors recorded as a CUDA graph and replayed on the same memory.

A step of a small network is a few thousand kernels of microseconds each, and the host needs longer to launch them than
the device to run them. What may be recorded branches on the host's facts alone, waits for nothing and uploads nothing;
randomness of torch's own generators goes on in a graph as outside of it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unnoise.errors import UserError

WARM = 3
"""Calls that run as they are: they allocate, compile and tune; from the next one on the graph is replayed."""


def require_cuda(device: torch.device) -> None:
    """Raises UserError for another kind of device."""
    if device.type != "cuda":
        raise UserError(f"--capture records CUDA graphs, and the device is {device}: leave it out")


class Captured:
    """`call(inputs)` as one graph. What it returns is overwritten by the next call: copy what is to stay.

    Args:
        call: takes a mapping of tensors; returns tensors in any structure.
        device: a CUDA device.
        warm: calls before the recording.

    Raises:
        UserError: for another kind of device.
    """

    def __init__(self, call: Callable[[Mapping[str, Tensor]], Any], device: torch.device, warm: int = WARM) -> None:
        require_cuda(device)
        self._call, self._device, self._left = call, device, warm
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._out: Any = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """The function's result for these inputs, which have the shapes and types of the first ones.

        Raises:
            ValueError: for other shapes or types than those that were recorded.
            UserError: where something cannot be recorded.
        """
        if self._graph is None and self._left > 0:
            self._left -= 1
            with self._aside():
                return self._call(inputs)
        if self._graph is None:
            self._record(inputs)
        else:
            self._take(inputs)
        assert self._graph is not None
        self._graph.replay()
        return self._out

    def _record(self, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = {k: v.clone() for k, v in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, which load data, may go on with what they do.
            with (
                _without_collection(),
                torch.cuda.graph(graph, stream=_STREAMS[self._device], capture_error_mode="thread_local"),
            ):
                self._out = self._call(self._inputs)
        except RuntimeError as e:
            raise UserError(f"this cannot be recorded as a CUDA graph ({_reason(e)}): leave --capture out") from e
        self._graph = graph

    def _take(self, inputs: Mapping[str, Tensor]) -> None:
        for k, own in self._inputs.items():
            if inputs[k].shape != own.shape or inputs[k].dtype != own.dtype:
                raise ValueError(
                    f"the graph was recorded for {k} {tuple(own.shape)} {own.dtype}, "
                    f"got {tuple(inputs[k].shape)} {inputs[k].dtype}"
                )
            own.copy_(inputs[k], non_blocking=True)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Within, on the stream of the recording, where autograd's accumulators are then at home."""
        outer, own = torch.cuda.current_stream(self._device), _STREAMS[self._device]
        own.wait_stream(outer)
        with torch.cuda.stream(own):
            yield
        outer.wait_stream(own)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first: a recording that was spoilt fails a second time when it ends."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return next(iter(str(error).splitlines()), type(error).__name__)


class _Streams(threading.local):
    """One a thread and device, for all that it records: libraries set memory aside for each stream they ever see."""

    def __init__(self) -> None:
        self._held: dict[torch.device, torch.cuda.Stream] = {}

    def __getitem__(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._held:
            self._held[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._held[device]


_STREAMS = _Streams()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Within, no garbage is collected: freeing another graph, which lay in a cycle, would spoil the recording."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
