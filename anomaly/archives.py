"""Files out of a ZIP, one at a time, under names of our own.

Whoever sends a ZIP chose its names, its sizes and its table of contents, and none of them is believed: a name is shown
and never opened, and what is written is counted while it is written. A file that is refused is told by name and the
rest go on; a ZIP that cannot be honest (a bomb, a table without end) is refused as a whole.
"""

from __future__ import annotations

import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from anomaly.errors import ArchiveError

MAX_FILES = 2000
MAX_FILE = 64 * 2**20  # bytes: the largest photo that is read has 50 megapixels
MAX_TOTAL = 8 * 2**30
RATIO = 100  # photos hardly shrink in a ZIP: a thousandfold is a bomb
FREE = 64 * 2**20  # bytes that any ZIP may unpack to, so that a few plain bitmaps, which do shrink, are no bomb
LONGEST = 60  # characters of a file as it is kept
TABLE = MAX_FILES * 2**10  # bytes of a table of contents; Python's reader takes it into memory as a whole

_CHUNK = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others expand without bound before they can be counted
_ENCRYPTED = 0x1
_INNER = re.compile(r"\.(zip|7z|rar|tar|gz|tgz|bz2|xz|zst|jar|cab|iso)$", re.IGNORECASE)
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error, OverflowError)


@dataclass(frozen=True)
class Unpacked:
    """One file of a ZIP.

    Attributes:
        name: as the ZIP calls it, printable, folders parted by "/"; to be shown, never to be opened.
        path: where the content lies now; None when it was refused, and then `error` says why.
    """

    name: str
    path: Path | None
    error: ArchiveError | None = None


def is_archive(path: Path) -> bool:
    """Whether a file is, or calls itself, a ZIP."""
    if path.suffix.lower() == ".zip":
        return path.is_file()
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def contents(archive: Path) -> list[str]:
    """The names of the files that `unpack` will give, in its order, from the table of contents alone.

    Raises:
        ArchiveError: no ZIP, damaged, empty, or by its own words too many files or too much in them.
    """
    with _Book(archive) as book:
        return [_shown(entry.filename) for entry in book.files]


def unpack(archive: Path, folder: Path) -> Iterator[Unpacked]:
    """Write the files of a ZIP into `folder`, each when it is asked for: `folder`/<number>/<harmless name>.

    The caller may delete each file as soon as it is done with it. Folders, hidden files and those that macOS adds
    are left out; what kind of file it is, is for its reader to say.

    Raises:
        ArchiveError: as `contents`, and when more comes out than a ZIP of photos can hold, or the disk is full.
    """
    with _Book(archive) as book:
        for number, entry in enumerate(book.files):
            name = _shown(entry.filename)
            target = folder / f"{number:06d}" / harmless(name.rsplit("/", 1)[-1])
            objection = _objection(entry, name)
            if objection:
                yield Unpacked(name, None, ArchiveError(objection, "Pack the photos themselves, and only them"))
                continue
            try:
                book.copy(entry, name, target)
                found = Unpacked(name, target)
            except _Refused as error:
                found = Unpacked(name, None, ArchiveError(str(error), "Export the photo again"))
            yield found


class _Refused(Exception):
    """A file that cannot be unpacked."""


class _Book:
    """An open ZIP whose table of contents has been checked."""

    def __init__(self, archive: Path):
        self.name = archive.name
        try:
            size = archive.stat().st_size
            self._stream = archive.open("rb")
        except OSError as error:
            raise ArchiveError(f"{self.name} cannot be read ({error.strerror})", "Add it again") from error
        self.allowed = self._left = min(MAX_TOTAL, FREE + RATIO * size)
        try:
            self._zip = zipfile.ZipFile(_Bounded(self._stream, self.name))
            self.files = [entry for entry in self._zip.infolist() if _counts(entry)]
            self._check()
        except (*_DAMAGE, OSError) as error:
            self._stream.close()
            raise ArchiveError(f"{self.name} is no ZIP file, or a damaged one", "Pack it and add it again") from error
        except ArchiveError:
            self._stream.close()
            raise

    def __enter__(self) -> _Book:
        return self

    def __exit__(self, *_) -> None:
        self._stream.close()

    def _check(self) -> None:
        if not self.files:
            raise ArchiveError(f"{self.name} holds no files", "Pack photos into it")
        if len(self.files) > MAX_FILES:
            problem = f"{self.name} holds {len(self.files):,} files, at most {MAX_FILES:,} are unpacked"
            raise ArchiveError(problem, "Split it")
        if sum(entry.file_size for entry in self.files) > self.allowed:
            raise self._bomb()

    def _bomb(self) -> ArchiveError:
        problem = f"{self.name} unpacks to over {self.allowed / 2**20:,.0f} MB, which no ZIP of photos of its size does"
        return ArchiveError(problem, "Pack fewer photos, or JPEG or PNG instead of bitmaps")

    def copy(self, entry: zipfile.ZipInfo, name: str, target: Path) -> None:
        """Unpack one file, `name` for people; half of one is never left behind."""
        whole = False
        try:
            target.parent.mkdir(parents=True)
            with target.open("xb") as out, self._zip.open(entry) as stream:
                self._pour(stream, name, out)
            whole = True
        except _DAMAGE as error:
            raise _Refused(f"{name} is damaged inside of {self.name}") from error
        except OSError as error:
            problem = f"{self.name} cannot be unpacked on this server ({error.strerror})"
            raise ArchiveError(problem, "Make room on its disk, or send fewer photos at once") from error
        finally:
            if not whole:
                shutil.rmtree(target.parent, ignore_errors=True)

    def _pour(self, stream: IO[bytes], name: str, out: IO[bytes]) -> None:
        """Copy and count: the sizes in a ZIP are its own word."""
        written = 0
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            self._left -= len(chunk)
            if self._left < 0:
                raise self._bomb()
            if written > MAX_FILE:
                raise _Refused(f"{name} is larger than {MAX_FILE // 2**20} MB, the most for one photo")
            out.write(chunk)


class _Bounded:
    """A file of which no more than `TABLE` bytes are read at once, whatever its table of contents says of itself."""

    def __init__(self, stream: IO[bytes], name: str):
        self._stream, self._name = stream, name
        self.seek, self.tell = stream.seek, stream.tell

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        if count > TABLE:
            problem = f"{self._name} holds far more than {MAX_FILES:,} files, the most that are unpacked"
            raise ArchiveError(problem, "Split it")
        return self._stream.read(count)


def _counts(entry: zipfile.ZipInfo) -> bool:
    """Not a folder, nor what a file manager left behind."""
    parts = entry.filename.replace("\\", "/").split("/")
    hidden = parts[-1].startswith(".") or parts[-1] == "Thumbs.db" or "__MACOSX" in parts
    return bool(parts[-1]) and (not hidden or parts[-1] == "..")


def _objection(entry: zipfile.ZipInfo, name: str) -> str:
    """Why a file, `name` for people, is not unpacked; "" if it is."""
    path, kind = entry.filename.replace("\\", "/"), stat.S_IFMT(entry.external_attr >> 16)
    if path.startswith("/") or ".." in path.split("/") or re.match(r"[A-Za-z]:", path):
        return f"{name} names a place outside of the ZIP"
    if kind and kind != stat.S_IFREG:
        return f"{name} is a link or a device, not a file"
    if entry.flag_bits & _ENCRYPTED:
        return f"{name} is locked with a password"
    if entry.compress_type not in _METHODS:
        return f"{name} is packed by another method than an ordinary ZIP's"
    return f"{name} is an archive inside of an archive" if _INNER.search(path) else ""


def _shown(name: str) -> str:
    """The name for people: no control characters, none that turn the direction of writing, not endless."""
    return "".join(c if c.isprintable() else "_" for c in name.replace("\\", "/"))[-240:]


def harmless(name: str) -> str:
    """The end of a name as one that any disk takes and no program reads as a path, an option or a hidden file."""
    return re.sub(r"[^\w.-]", "_", name)[-LONGEST:].lstrip(".-") or "file"
