"""A file that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(path: str | os.PathLike, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that whoever reads it, also after power has failed, finds the old content or the new one.

    Args:
        path: a link stays a link, what it names is written; mode: who may do what with the file, less the umask.
    Raises:
        OSError: the file cannot be written, and nothing of it is left behind.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
