"""A process that forks Python programs, and leaves the one that starts it: `python forks.py SOCKET`, see `programs`."""

from __future__ import annotations

import os

if os.fork():
    os._exit(0)  # no child of the tests' own process, some of which count theirs

import gc
import json
import runpy
import signal
import socket
import sys
from pathlib import Path
from typing import Any

# What takes seconds, and none of it is ours.
import numpy  # noqa: F401
import PIL.Image  # noqa: F401
import safetensors.torch  # noqa: F401
import sklearn.datasets  # noqa: F401


def asked_for(orders: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next order and the files that came with it; ends the process where there will be none."""
    text, files = b"", []
    while not text.endswith(b"\n"):
        part, given, _, _ = socket.recv_fds(orders, 1 << 16, 3)
        if not part:
            sys.exit()
        text, files = text + part, files + given
    return json.loads(text), files


def serve(orders: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Do as is asked; returns in each process that is to run a program, with what was asked of it."""
    gc.freeze()  # else each process that ends takes a second to look through all that was imported
    while True:
        order, files = asked_for(orders)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            for file in files:
                os.close(file)
        elif "imports" in order:  # to be another of this kind
            orders.close()
            exec(order["imports"])
            return serve(socket.socket(fileno=files[0]))
        else:
            orders.close()
            return order, files
        orders.sendall(json.dumps(answer).encode() + b"\n")


def begin(order: dict[str, Any], files: list[int]) -> None:
    """The program, as if this process had been started for it."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if order["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    what, *sys.argv = order["arguments"]
    if what == "-c":
        code, sys.argv[0], sys.path[0] = sys.argv[0], "-c", ""
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif what == "-m":
        sys.path[0] = str(Path.cwd())
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [what, *sys.argv], str(Path(what).parent)
        runpy.run_path(what, run_name="__main__")


begin(*serve(socket.socket(fileno=int(sys.argv[1]))))
