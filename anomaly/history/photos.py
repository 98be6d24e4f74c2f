"""The photos of the inspection record, one file for each content, and which of them go when room is short."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from anomaly.errors import RecordError
from anomaly.files import write_whole
from anomaly.images import SUFFIXES

UNCLAIMED = 3600  # seconds that a photo may lie there before its entry is written


class Photos:
    """Files in a folder, named by what is in them, so that one part inspected twice is kept once."""

    def __init__(self, folder: Path):
        self.folder = folder

    def keep(self, photo: Path) -> str:
        """Copy a photo here; gives the name of its file. Raises RecordError."""
        suffix = photo.suffix.lower()
        try:
            content = photo.read_bytes()
            name = hashlib.sha256(content).hexdigest() + (suffix if suffix in SUFFIXES else "")
            target = self.folder / name
            if target.exists():
                os.utime(target)  # claimed anew: no sweep may take it before the entry is written
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(target, content)
            return name
        except OSError as error:
            problem = f"The photo cannot be recorded in {self.folder.parent} ({error.strerror})"
            raise RecordError(problem, "Check that the disk has room and the folder may be written to") from error

    def sweep(self, referred: list[str], *, room: int) -> None:
        """Remove photos that nobody refers to, then others until the rest fits into `room` bytes.

        Args:
            referred: names of those that an entry refers to, in the order in which they go.
        Raises:
            RecordError: they may not be removed.
        """
        try:
            files = _files(self.folder)
            # A photo without an entry may be that of an inspection which is being added right now.
            claimed = time.time() - UNCLAIMED
            gone = [name for name in files.keys() - set(referred) if files[name].st_mtime < claimed]
            surplus = sum(about.st_size for about in files.values()) - sum(files[name].st_size for name in gone) - room
            for name in filter(files.__contains__, referred):
                if surplus <= 0:
                    break
                gone.append(name)
                surplus -= files[name].st_size
            for name in gone:
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            problem = f"Old photos of {self.folder.parent} cannot be removed ({error.strerror})"
            raise RecordError(problem, "Give this user write permission to the folder") from error


def _files(folder: Path) -> dict[str, os.stat_result]:
    found = {}
    with os.scandir(folder) as entries:
        for one in entries:
            with suppress(FileNotFoundError):  # finished or removed by another process meanwhile
                found[one.name] = one.stat()
    return found
