"""The inspection record: what was judged, how, and what people said of it afterwards (SQLite)."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly import render
from anomaly.errors import RecordError, UsageError
from anomaly.images import SUFFIXES, encode_jpeg, shrink
from anomaly.inspection import Inspection
from anomaly.monitor import Count

log = logging.getLogger(__name__)

SAID = ("ok", "defect", "unsure")  # what a person may say of a part
THUMBNAIL = 256  # longest side in pixels
WAIT = 5.0  # seconds for another writer to finish
KEEP_DAYS, KEEP_BYTES = 90, 2 * 2**30
SWEEP = 50  # additions from one look at age and size to the next
UNCLAIMED = 3600  # seconds that a photo may lie there before its entry is written
VERSION = 1  # of the schema
# Pictures apart from the facts: figures over 100,000 entries then read 20 MB and not a gigabyte.
SCHEMA = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE inspections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, user TEXT NOT NULL, file TEXT NOT NULL,
    category TEXT NOT NULL, detector TEXT NOT NULL, weights_sha256 TEXT NOT NULL, score REAL NOT NULL,
    threshold REAL NOT NULL, review_threshold REAL NOT NULL, verdict TEXT NOT NULL, capture TEXT NOT NULL,
    regions TEXT NOT NULL, photo TEXT NOT NULL
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
LATEST = """inspections i LEFT JOIN reviews r
ON r.id = (SELECT MAX(id) FROM reviews WHERE inspection = i.id AND withdrawn = '')"""
ENTRY = f"""SELECT i.*, p.thumbnail, p.defects, r.said, r.defect_type, r.user AS reviewer, r.at AS reviewed_at
FROM {LATEST} JOIN pictures p ON p.inspection = i.id"""
# What goes first where room is short: OK parts that nobody judged, then those that wait for a person, then the judged.
LEAST_WORTH_FIRST = f"""SELECT i.photo FROM {LATEST} GROUP BY i.photo ORDER BY
MAX(CASE WHEN r.said IS NOT NULL THEN 2 WHEN i.verdict != 'OK' THEN 1 ELSE 0 END), MAX(i.id)"""
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


@dataclass(frozen=True)
class Entry:
    """One recorded inspection with the last thing that a person said of it.

    Attributes:
        at, reviewed_at: ISO 8601 in UTC.
        capture: sentences of the capture check; regions: {box, area, peak} in pixels of the original.
        photo: the file as it was inspected, kept beside the database; gone once the record has outgrown its size.
        thumbnail: JPEG with the outlined defects, longest side 256 pixels.
        defects: PNG, white where the map reached the pixel limit, in the frame of the photo, no side over 1024.
        said: "ok", "defect", "unsure", or None as long as nobody has looked; defect_type: "" if none was named.
    """

    id: int
    at: str
    user: str
    file: str
    category: str
    detector: str
    weights_sha256: str
    score: float
    threshold: float
    review_threshold: float
    verdict: str
    capture: tuple[str, ...]
    regions: tuple[dict, ...]
    photo: Path
    thumbnail: bytes
    defects: bytes
    said: str | None
    defect_type: str
    reviewer: str | None
    reviewed_at: str | None

    @property
    def level(self) -> float:
        return self.score / self.threshold

    def to_json(self) -> dict:
        """One line of `python -m anomaly record --json`: all but the pictures."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        del known["thumbnail"], known["defects"]
        plain = {"capture": list(self.capture), "regions": list(self.regions), "photo": str(self.photo)}
        return known | plain | {"level": self.level}


@dataclass(frozen=True)
class Columns:
    """What the record holds of one model, newest first, as (n,) arrays: many thousands fit into memory.

    `photo` names the content of the file, the same for a part that was inspected twice; `objected`: the capture check
    did; `said` as in `Entry`, "" as long as nobody has looked.
    """

    id: np.ndarray
    score: np.ndarray
    verdict: np.ndarray
    objected: np.ndarray
    said: np.ndarray
    photo: np.ndarray


class History:
    """The record in a folder of its own: `record.sqlite` and `photos/`. Safe to share between threads and processes.

    Entries go after `keep_days`, whatever was said of them, so that every share over a span of days stays true. Where
    photos and database take more than `keep_bytes`, photos go first and their entries stay: photos of OK parts that
    nobody has judged, then of parts that wait for a person, then of judged ones, each time the oldest first. Only a
    database that is too large by itself loses its oldest entries earlier. All of this is looked after when adding.

    Args:
        folder: made when the first inspection is added.
    """

    def __init__(self, folder: Path, *, keep_days: float = KEEP_DAYS, keep_bytes: int = KEEP_BYTES):
        self.folder = Path(folder)
        self.keep_days = keep_days
        self.keep_bytes = keep_bytes

    @property
    def path(self) -> Path:
        return self.folder / "record.sqlite"

    def add(self, inspection: Inspection, *, user: str) -> int:
        """Record an inspection, its photo and a thumbnail; gives its number.

        Raises:
            RecordError: the record is locked, damaged, of another version or may not be written, or the disk is full.
        """
        heat = render.overlay(
            inspection.preview, inspection.map, inspection.pixel_threshold, pixel_threshold=inspection.pixel_threshold
        )
        facts = {
            "at": now(),
            "user": user,
            "file": Path(inspection.path).name,
            "category": inspection.category,
            "detector": inspection.detector,
            "weights_sha256": inspection.weights_sha256,
            "score": inspection.score,
            "threshold": inspection.threshold,
            "review_threshold": inspection.review_threshold,
            "verdict": inspection.verdict,
            "capture": json.dumps(inspection.capture),
            "regions": json.dumps([region.to_json() for region in inspection.regions]),
            "photo": self._keep(Path(inspection.path)),
        }
        pictures = (encode_jpeg(shrink(heat, THUMBNAIL)), _png(inspection.map >= inspection.pixel_threshold))
        with self._open(writing=True) as book:
            columns, marks = ", ".join(facts), ", ".join("?" * len(facts))
            number = book.execute(f"INSERT INTO inspections ({columns}) VALUES ({marks})", [*facts.values()]).lastrowid
            book.execute("INSERT INTO pictures VALUES (?, ?, ?)", [number, *pictures])
        if number % SWEEP == 0:
            try:
                self.sweep()
            except RecordError:  # this inspection is on record all the same, and the next sweep comes soon
                log.exception("old entries could not be removed")
        return number

    def entries(
        self,
        *,
        category: str | None = None,
        detector: str | None = None,
        weights_sha256: str | None = None,
        verdicts: Sequence[str] = (),
        said: Sequence[str | None] = (),
        since: str = "",
        limit: int = 1000,
    ) -> list[Entry]:
        """Recorded inspections, newest first; every argument that is given narrows them.

        Args:
            said: of these only; None in it stands for those that nobody has looked at.
            since: ISO 8601 in UTC.
        """
        wanted = {"category": category, "detector": detector, "weights_sha256": weights_sha256}
        where, values = _narrowed(wanted, verdicts, said, since)
        rows = self._read(f"{ENTRY} {where} ORDER BY i.id DESC LIMIT ?", [*values, limit])
        return [self._entry(row) for row in rows]

    def numbers(
        self, *, category: str | None = None, verdicts: Sequence[str] = (), said: Sequence[str | None] = ()
    ) -> list[int]:
        """Numbers of the entries that `entries` would give, all of them, newest first."""
        where, values = _narrowed({"category": category}, verdicts, said)
        return [row["id"] for row in self._read(f"SELECT i.id FROM {LATEST} {where} ORDER BY i.id DESC", values)]

    def columns(self, *, category: str, detector: str, weights_sha256: str) -> Columns:
        """Every inspection by one model, without pictures."""
        where, values = _narrowed({"category": category, "detector": detector, "weights_sha256": weights_sha256})
        query = f"""SELECT i.id, i.score, i.verdict, i.capture != '[]', IFNULL(r.said, ''), i.photo
            FROM {LATEST} {where} ORDER BY i.id DESC"""
        rows = self._read(query, values)
        kinds = (np.int64, np.float64, np.str_, np.bool_, np.str_, np.str_)
        return Columns(*(np.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)))

    def get(self, number: int) -> Entry:
        """One entry. Raises UsageError when there is none of this number."""
        rows = self._read(f"{ENTRY} WHERE i.id = ?", [number]) if _is_number(number) else []
        if not rows:
            raise UsageError(f"The record has no inspection {number}", "Reload the page; old entries are deleted")
        return self._entry(rows[0])

    def review(self, number: int, *, said: str, user: str, defect_type: str = "") -> None:
        """Keep what a person says of a part; earlier words stay on record, the last one counts."""
        if said not in SAID:
            raise UsageError(f"{said!r} is no verdict of a person", f"Use one of {', '.join(SAID)}")
        self.get(number)
        with self._open(writing=True) as book:
            book.execute(
                "INSERT INTO reviews (inspection, at, user, said, defect_type) VALUES (?, ?, ?, ?, ?)",
                [number, now(), user, said, defect_type if said == "defect" else ""],
            )

    def withdraw(self, number: int, *, user: str) -> None:
        """Take back the last word on a part, if it is this person's; what was said before counts again."""
        with self._open(writing=True) as book:
            book.execute(
                """UPDATE reviews SET withdrawn = ? WHERE user = ?
                AND id = (SELECT MAX(id) FROM reviews WHERE inspection = ? AND withdrawn = '')""",
                [now(), user, number],
            )

    def defect_types(self, category: str | None = None) -> list[str]:
        """Types that people have named, the first one first: a key that stands for one keeps its meaning."""
        where, values = _narrowed({"category": category}, said=("defect",))
        query = f"SELECT r.defect_type FROM {LATEST} {where} AND r.defect_type != '' GROUP BY 1 ORDER BY MIN(r.id)"
        return [row[0] for row in self._read(query, values)]

    def counts(self, *, category: str | None = None, since: str = "", judged: bool = False) -> list[Count]:
        """How many inspections there were of each product, day, verdict, judgement and kind of photo.

        Args:
            judged: only those of which a person has said something, which is quick however long the record.
        """
        where, values = _narrowed({"category": category}, since=since)
        if judged:
            where += f" {'AND' if where else 'WHERE'} i.id IN (SELECT inspection FROM reviews) AND r.said IS NOT NULL"
        query = f"""SELECT i.category, date(i.at, 'localtime'), i.verdict, r.said, i.capture != '[]', COUNT(*)
            FROM {LATEST} {where} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2"""
        return [Count(*row[:4], bool(row[4]), row[5]) for row in self._read(query, values)]

    def objections(self, *, category: str | None = None, since: str = "") -> list[tuple[str, int]]:
        """(sentence of the capture check, photos), the most frequent first."""
        where, values = _narrowed({"category": category}, since=since)
        query = (
            f"SELECT j.value, COUNT(*) FROM inspections i, json_each(i.capture) j {where} GROUP BY 1 ORDER BY 2 DESC"
        )
        return [tuple(row) for row in self._read(query, values)]

    def scores(self, category: str, detector: str, *, weights_sha256: str, since: str = "") -> np.ndarray:
        """(n,) scores by these weights, one a photo: a part that was inspected twice counts once."""
        wanted = {"category": category, "detector": detector, "weights_sha256": weights_sha256}
        where, values = _narrowed(wanted, since=since)
        rows = self._read(f"SELECT MAX(i.score) FROM inspections i {where} GROUP BY i.photo", values)
        return np.array([row[0] for row in rows], dtype=np.float64)

    def sweep(self) -> None:
        """Remove what is older or more than is kept, and photos that no entry refers to."""
        oldest = datetime.now(timezone.utc) - timedelta(days=self.keep_days)
        with self._open(writing=True) as book:
            book.execute("DELETE FROM inspections WHERE at < ?", [oldest.isoformat(timespec="seconds")])
            used = _pages(book)
            if used > self.keep_bytes:
                count = book.execute("SELECT COUNT(*) FROM inspections").fetchone()[0]
                surplus = round(count * (1 - self.keep_bytes / used)) + 1
                book.execute(
                    "DELETE FROM inspections WHERE id IN (SELECT id FROM inspections ORDER BY id LIMIT ?)", [surplus]
                )
                used = _pages(book)
            referred = [row[0] for row in book.execute(LEAST_WORTH_FIRST)]
        # Only after the entries are surely gone: an entry may miss its photo, a photo must not miss its entry for long.
        self._sweep_photos(referred, room=self.keep_bytes - used)

    def _sweep_photos(self, referred: list[str], *, room: int) -> None:
        """Remove photos that nobody refers to, then those of least worth until the rest fits into `room` bytes."""
        try:
            files = _files(self.folder / "photos")
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
                (self.folder / "photos" / name).unlink(missing_ok=True)
        except OSError as error:
            problem = f"Old photos of {self.folder} cannot be removed ({error.strerror})"
            raise RecordError(problem, "Give this user write permission to the folder") from error

    def _entry(self, row: sqlite3.Row) -> Entry:
        known = dict(row)
        return Entry(
            **known
            | {
                "capture": tuple(json.loads(row["capture"])),
                "regions": tuple(json.loads(row["regions"])),
                "photo": self.folder / "photos" / row["photo"],
                "defect_type": row["defect_type"] or "",
            }
        )

    def _keep(self, photo: Path) -> str:
        """Copy a photo to `photos/`, named by its content, so that one part inspected twice is kept once."""
        suffix = photo.suffix.lower()
        part = self.folder / "photos" / f".{uuid.uuid4().hex}.part"
        try:
            content = photo.read_bytes()
            name = hashlib.sha256(content).hexdigest() + (suffix if suffix in SUFFIXES else "")
            target = part.with_name(name)
            if target.exists():
                os.utime(target)  # claimed anew: no sweep may take it before the entry is written
                return name
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("xb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            return name
        except OSError as error:
            problem = f"The photo cannot be recorded in {self.folder} ({error.strerror})"
            raise RecordError(problem, "Check that the disk has room and the folder may be written to") from error

    def _read(self, query: str, values: Sequence) -> list[sqlite3.Row]:
        """Rows of a query; none of a record that has not been begun."""
        if not self.path.exists():
            return []
        with self._open() as book:
            return book.execute(query, values).fetchall()

    @contextmanager
    def _open(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
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
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{uuid.uuid4().hex}.part"
        try:
            book = sqlite3.connect(part)
            book.executescript(SCHEMA)
            book.close()
            with suppress(FileExistsError):
                os.link(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def _check(self, book: sqlite3.Connection) -> None:
        """Refuse a record that another version has written."""
        version = book.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            problem = f"The record {self.path} is of version {version}, version {VERSION} was expected"
            raise RecordError(problem, "Use the program that wrote it, or move the file away and a new record is begun")


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _files(folder: Path) -> dict[str, os.stat_result]:
    found = {}
    with os.scandir(folder) as entries:
        for one in entries:
            with suppress(FileNotFoundError):  # finished or removed by another process meanwhile
                found[one.name] = one.stat()
    return found


def _is_number(number: object) -> bool:
    """A page may send anything; SQLite counts up to 2^63."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**63


def _narrowed(
    wanted: dict[str, str | None], verdicts: Sequence[str] = (), said: Sequence[str | None] = (), since: str = ""
) -> tuple[str, list]:
    """WHERE clause over i (inspections) and r (their last review), "" for none, and the values of its marks."""
    clauses = [f"i.{name} = ?" for name, value in wanted.items() if value is not None]
    values: list = [value for value in wanted.values() if value is not None]
    if verdicts:
        clauses.append(f"i.verdict IN ({', '.join('?' * len(verdicts))})")
        values += verdicts
    if said:
        clauses.append(f"IFNULL(r.said, '') IN ({', '.join('?' * len(said))})")
        values += [one or "" for one in said]
    if since:
        clauses.append("i.at >= ?")
        values.append(since)
    return f"WHERE {' AND '.join(clauses)}" if clauses else "", values


def _pages(book: sqlite3.Connection) -> int:
    """Bytes of the database that hold something; freed pages are written again before the file grows."""
    pages, free, size = (
        book.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _png(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
