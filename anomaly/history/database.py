"""The SQLite file of the inspection record: its tables, how it is begun and opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from anomaly.errors import RecordError

WAIT = 5.0  # seconds for another writer to finish
VERSION = 2  # of the schema
# Pictures apart from the facts: figures over 100,000 entries then read 20 MB and not a gigabyte.
SCHEMA = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE inspections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, user TEXT NOT NULL, file TEXT NOT NULL,
    category TEXT NOT NULL, detector TEXT NOT NULL, weights_sha256 TEXT NOT NULL, score REAL NOT NULL,
    threshold REAL NOT NULL, review_threshold REAL NOT NULL, verdict TEXT NOT NULL, capture TEXT NOT NULL,
    regions TEXT NOT NULL, photo TEXT NOT NULL, alarm TEXT NOT NULL DEFAULT ''
);
CREATE INDEX by_category ON inspections (category, at);
CREATE TABLE pictures (
    inspection INTEGER PRIMARY KEY REFERENCES inspections ON DELETE CASCADE,
    thumbnail BLOB NOT NULL, defects BLOB NOT NULL
);
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY, inspection INTEGER NOT NULL REFERENCES inspections ON DELETE CASCADE,
    at TEXT NOT NULL, user TEXT NOT NULL, said TEXT NOT NULL, defect_type TEXT NOT NULL,
    withdrawn TEXT NOT NULL DEFAULT ''
);
CREATE INDEX by_inspection ON reviews (inspection);
PRAGMA user_version = {VERSION};
"""
# What a record of version 1 lacks.
LACKING_IN_1 = "ALTER TABLE inspections ADD COLUMN alarm TEXT NOT NULL DEFAULT ''"
# Words of SQLite's errors (Python 3.10 has no codes for them), what they mean here, and what to do.
TROUBLES = {
    "locked": ("is locked by another program", "Try again in a moment; if it stays so, close what has the file open"),
    "full": ("cannot grow, the disk is full", "Make room on the disk and try again"),
    "disk I/O": ("cannot grow or be read, the disk is full or failing", "Make room on the disk and try again"),
    "readonly": ("may not be written", "Give this user write permission to the file and its folder"),
    "unable to open": ("cannot be opened", "Check that its folder may be read and written by this user"),
    "not a database": ("is damaged", "Move the file away and a new record is begun; the photos beside it stay"),
    "malformed": ("is damaged", "Move the file away and a new record is begun; the photos beside it stay"),
}


class Database:
    """One file, opened anew for each piece of work. Safe to share between threads and processes.

    Args:
        path: of the file, which is made when something is first written.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self, query: str, values: Sequence) -> list[sqlite3.Row]:
        """Rows of a query; none of a record that has not been begun."""
        if not self.path.exists():
            return []
        with self.open() as book:
            return book.execute(query, values).fetchall()

    @contextmanager
    def open(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection whose work is kept if all went well, and undone if not."""
        try:
            if writing and not self.path.exists():
                self._begin()
            book = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=WAIT)
            try:
                book.row_factory = sqlite3.Row
                self._check(book)
                book.execute("PRAGMA foreign_keys = ON")
                with book:
                    yield book
            finally:
                book.close()
        except (sqlite3.Error, OSError) as error:
            unknown = (f"cannot be used ({error})", "Try again; if it stays so, move it away and a new record is begun")
            problem, remedy = next((said for word, said in TROUBLES.items() if word in str(error)), unknown)
            raise RecordError(f"The record {self.path} {problem}", remedy) from error

    def _begin(self) -> None:
        """Put an empty record in its place whole: of two processes that begin one, both go on with the first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.parent / f".{uuid.uuid4().hex}.part"
        try:
            book = sqlite3.connect(part)
            book.executescript(SCHEMA)
            book.close()
            with suppress(FileExistsError):
                os.link(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def _check(self, book: sqlite3.Connection) -> None:
        """Bring an older record up to date, refuse one that another program has written."""
        version = _version(book)
        if version == 1:
            with book:
                book.execute("BEGIN IMMEDIATE")
                if _version(book) == 1:  # of two programs that find it old, one brings it up to date
                    book.execute(LACKING_IN_1)
                    book.execute(f"PRAGMA user_version = {VERSION}")
            version = VERSION
        if version != VERSION:
            problem = f"The record {self.path} is of version {version}, version {VERSION} was expected"
            raise RecordError(problem, "Use the program that wrote it, or move the file away and a new record is begun")


def _version(book: sqlite3.Connection) -> int:
    return book.execute("PRAGMA user_version").fetchone()[0]


def used_bytes(book: sqlite3.Connection) -> int:
    """Bytes of the database that hold something; freed pages are written again before the file grows."""
    pages, free, size = (
        book.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
