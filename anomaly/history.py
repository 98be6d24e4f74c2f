"""The inspection record: what was judged, how, and what people said of it afterwards (SQLite)."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from anomaly import render
from anomaly.errors import RecordError, UsageError
from anomaly.images import encode_jpeg, shrink
from anomaly.inspection import Inspection

SAID = ("ok", "defect", "unsure")  # what a person may say of a part
THUMBNAIL = 256  # longest side in pixels
WAIT = 5.0  # seconds for another writer to finish
SCHEMA = """
CREATE TABLE IF NOT EXISTS inspections (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, user TEXT NOT NULL, file TEXT NOT NULL, category TEXT NOT NULL,
    detector TEXT NOT NULL, weights_sha256 TEXT NOT NULL, score REAL NOT NULL, threshold REAL NOT NULL,
    review_threshold REAL NOT NULL, verdict TEXT NOT NULL, capture TEXT NOT NULL, regions TEXT NOT NULL,
    photo TEXT NOT NULL, thumbnail BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_category ON inspections (category, at);
CREATE TABLE IF NOT EXISTS reviews (
    id INTEGER PRIMARY KEY, inspection INTEGER NOT NULL REFERENCES inspections ON DELETE CASCADE,
    at TEXT NOT NULL, user TEXT NOT NULL, said TEXT NOT NULL, defect_type TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_inspection ON reviews (inspection);
"""
LATEST = """
SELECT i.*, r.said, r.defect_type, r.user AS reviewer, r.at AS reviewed_at FROM inspections i
LEFT JOIN reviews r ON r.id = (SELECT MAX(id) FROM reviews WHERE inspection = i.id)
"""


@dataclass(frozen=True)
class Entry:
    """One recorded inspection with the last thing that a person said of it.

    Attributes:
        at, reviewed_at: ISO 8601 in UTC.
        capture: sentences of the capture check; regions: {box, area, peak} in pixels of the original.
        photo: the file as it was inspected, kept beside the database.
        thumbnail: JPEG with the outlined defects, longest side 256 pixels.
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
    said: str | None
    defect_type: str
    reviewer: str | None
    reviewed_at: str | None


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

    Args:
        folder: made when the first inspection is added.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def add(self, inspection: Inspection, *, user: str) -> int:
        """Record an inspection, its photo and a thumbnail; gives its number.

        Raises:
            RecordError: the record is locked, damaged or may not be written.
        """
        heat = render.overlay(
            inspection.preview, inspection.map, inspection.pixel_threshold, pixel_threshold=inspection.pixel_threshold
        )
        values = {
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
            "thumbnail": encode_jpeg(shrink(heat, THUMBNAIL)),
        }
        with self._open() as book:
            columns, marks = ", ".join(values), ", ".join("?" * len(values))
            return book.execute(f"INSERT INTO inspections ({columns}) VALUES ({marks})", [*values.values()]).lastrowid

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
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        with self._open() as book:
            rows = book.execute(f"{LATEST} {where} ORDER BY i.id DESC LIMIT ?", [*values, limit]).fetchall()
        return [self._entry(row) for row in rows]

    def columns(self, *, category: str, detector: str, weights_sha256: str) -> Columns:
        """Every inspection by one model, without pictures."""
        query = (
            "SELECT i.id, i.score, i.verdict, i.capture != '[]', IFNULL(r.said, ''), i.photo FROM inspections i "
            "LEFT JOIN reviews r ON r.id = (SELECT MAX(id) FROM reviews WHERE inspection = i.id) "
            "WHERE i.category = ? AND i.detector = ? AND i.weights_sha256 = ? ORDER BY i.id DESC"
        )
        with self._open() as book:
            rows = book.execute(query, [category, detector, weights_sha256]).fetchall()
        kinds = (np.int64, np.float64, np.str_, np.bool_, np.str_, np.str_)
        return Columns(*(np.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)))

    def get(self, number: int) -> Entry:
        """One entry. Raises UsageError when there is none of this number."""
        with self._open() as book:
            row = book.execute(f"{LATEST} WHERE i.id = ?", [number]).fetchone()
        if row is None:
            raise UsageError(f"The record has no inspection {number}", "Reload the page; old entries are deleted")
        return self._entry(row)

    def review(self, number: int, *, said: str, user: str, defect_type: str = "") -> None:
        """Keep what a person says of a part; earlier words stay on record, the last one counts."""
        if said not in SAID:
            raise UsageError(f"{said!r} is no verdict of a person", f"Use one of {', '.join(SAID)}")
        self.get(number)
        with self._open() as book:
            book.execute(
                "INSERT INTO reviews (inspection, at, user, said, defect_type) VALUES (?, ?, ?, ?, ?)",
                [number, now(), user, said, defect_type if said == "defect" else ""],
            )

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
        try:
            name = hashlib.sha256(photo.read_bytes()).hexdigest() + photo.suffix.lower()
            target = self.folder / "photos" / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_suffix(f"{target.suffix}.part")
                shutil.copyfile(photo, part)
                part.rename(target)
            return name
        except OSError as error:
            problem = f"The photo cannot be recorded in {self.folder} ({error.strerror})"
            raise RecordError(problem, "Check that the disk has room and the folder may be written to") from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose work is kept if all went well, and undone if not."""
        path = self.folder / "record.sqlite"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            book = sqlite3.connect(path, timeout=WAIT)
            try:
                book.row_factory = sqlite3.Row
                book.executescript("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;" + SCHEMA)
                with book:
                    yield book
            finally:
                book.close()
        except (sqlite3.Error, OSError) as error:
            remedy = "Try again; if it stays so, move the file away and a new record is begun"
            raise RecordError(f"The record {path} cannot be used ({error})", remedy) from error


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
