"""The error that a user is meant to read: one line that names the value and the remedy."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend. The command line prints it as one line and ends with its exit code."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)" where a known name is close, else a list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    match = [k for k in known if close and k.lower() == close[0]]
    return f": did you mean {match[0]}?" if match else f"; there are: {', '.join(known)}"


def is_out_of_memory(e: Exception) -> bool:
    """Whether memory was short, of a device or of the host; told without torch."""
    return isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(e)


def is_disk_full(e: BaseException | None) -> bool:
    """Whether room was short on a disk, or of what the user may take of it; safetensors tells it in words alone."""
    told = getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return told or any(words in str(e).lower() for words in ("no space left", "quota exceeded"))
