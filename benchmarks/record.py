"""The file of a measurement, which says by what command, on what device and with which torch it came about."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def write(path: Path | None, device: torch.device, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, in a folder that is made where it is missing; None: nowhere."""
    if path is None:
        return
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, **result}, indent=1) + "\n")
