"""One process at a time: locks on files, which a process gives back however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from unnoise.errors import UserError


@contextlib.contextmanager
def waiting(lock: Path) -> Iterator[None]:
    """Within, no other process does the same; those that come later wait. Where a system has no locks, none waits."""
    with lock.open("ab") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, or the process ends
        yield


@contextlib.contextmanager
def alone(
    lock: Path, doing: str, is_main: bool = True, broadcast: Callable[[float], float] = lambda x: x
) -> Iterator[None]:
    """Within, no other process does the same; one that comes later is refused.

    Where a system has no locks, or nothing may be written, none is refused.

    Args:
        lock: a folder; or a file, which says whose it is. Neither is made in a folder that is not there.
        doing: what, for the error.
        is_main: whether this process asks for several.
        broadcast: gives each of these what the main one found.

    Raises:
        UserError: naming the process that does it.
    """
    holder = 0.0
    with contextlib.ExitStack() as stack:
        if is_main:
            with contextlib.suppress(ImportError, OSError, ValueError):
                import fcntl

                handle = os.open(lock, os.O_RDONLY if lock.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, handle)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = -1.0  # whoever it is
                    holder = int(os.pread(handle, 20, 0))
                else:
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, b"%d" % os.getpid(), 0)
        holder = broadcast(holder)
        if holder:
            who = f"process {holder:.0f}" if holder > 0 else "another process"
            raise UserError(f"{doing} by {who}: wait for it, or stop it")
        yield
