"""Files that are written whole or not at all, and files whose content is sealed by a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from anomaly.errors import BrokenRun


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


def save_sealed(path: Path, kind: str, about: dict, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as safetensors, with plain JSON values under the name `kind` and a digest of all in the header."""
    said = json.dumps(about)
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}  # others would be written wrongly
    save_file(tensors, path, metadata={kind: said, "sha256": _digest(said, tensors)})
    path.chmod(0o644)  # safetensors lets only its writer read, but who serves is often somebody else


def load_sealed(path: Path, kind: str, remedy: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What `save_sealed` wrote. Raises BrokenRun, with this remedy, when it is missing, damaged or of another kind."""
    if not path.is_file():
        raise BrokenRun(f"{path} is missing", remedy)
    try:
        with safe_open(path, "np") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        if header.get("sha256") != _digest(header.get(kind, ""), tensors):
            raise BrokenRun(f"{path} was changed since it was saved", remedy)
        return json.loads(header[kind]), tensors
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BrokenRun(f"{path} is damaged ({type(error).__name__})", remedy) from error


def _digest(said: str, tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(said.encode())
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].tobytes())
    return found.hexdigest()
