"""The inspection record: what was judged, how, and what people said of it afterwards (SQLite)."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly.errors import RecordError, UsageError, WrongProduct
from anomaly.history.database import Database, used_bytes
from anomaly.history.photos import Photos
from anomaly.images import encode_jpeg, read_image, shrink
from anomaly.inspection import AUTO, PREVIEW, Inspection
from anomaly.monitor import REFUSED, VERDICTS, Count
from anomaly.thresholds import ledger

log = logging.getLogger(__name__)

SAID = ("ok", "defect", "unsure")  # what a person may say of a part
THUMBNAIL = 256  # longest side in pixels
KEEP_DAYS, KEEP_BYTES = 90, 2 * 2**30
SWEEP = 50  # additions from one look at age and size to the next
LATEST = """inspections i LEFT JOIN reviews r
ON r.id = (SELECT MAX(id) FROM reviews WHERE inspection = i.id AND withdrawn = '')"""
ENTRY = f"""SELECT i.*, p.thumbnail, p.defects, r.said, r.defect_type, r.user AS reviewer, r.at AS reviewed_at
FROM {LATEST} JOIN pictures p ON p.inspection = i.id"""
# What goes first where room is short: OK parts that nobody judged, then those that wait for a person, then the judged.
LEAST_WORTH_FIRST = f"""SELECT i.photo FROM {LATEST} GROUP BY i.photo ORDER BY
MAX(CASE WHEN r.said IS NOT NULL THEN 2 WHEN i.verdict != 'OK' THEN 1 ELSE 0 END), MAX(i.id)"""


@dataclass(frozen=True)
class Entry:
    """One recorded inspection with the last thing that a person said of it.

    Attributes:
        at, reviewed_at: ISO 8601 in UTC.
        score, threshold, review_threshold: say nothing of a photo that was REFUSED, and are 0, 1 and 1.
        capture: sentences of the capture check, or why it was refused.
        regions: {box, area, peak} in pixels of the original.
        alarm: type, place and looks of the defect as they were said, or what a refused photo showed; "" of an OK part.
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
    alarm: str
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
        scores = {} if self.verdict != REFUSED else dict.fromkeys(("score", "threshold", "review_threshold", "level"))
        return known | plain | {"level": self.level} | scores


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
        self.path = self.folder / "record.sqlite"
        self.database = Database(self.path)
        self.photos = Photos(self.folder / "photos")

    def add(self, inspection: Inspection, *, user: str) -> int:
        """Record an inspection, its photo and a thumbnail; gives its number.

        Raises:
            RecordError: the record is locked, damaged, of another version or may not be written, or the disk is full.
        """
        facts = {
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
            "alarm": inspection.alarm,
        }
        defects = inspection.map >= inspection.pixel_threshold
        return self._write(facts, Path(inspection.path), inspection.outlined(), defects, user)

    def refuse(self, path: Path, error: WrongProduct, *, detector: str | None, user: str) -> int:
        """Record a photo that shows another product than the one asked for, or none; gives its number.

        Raises:
            RecordError: as in `add`.
        """
        photo = shrink(read_image(path), PREVIEW)
        facts = {
            "file": path.name,
            "category": error.product["expected"] or AUTO,
            "detector": detector or "",
            "weights_sha256": "",  # nothing judged it, so it is counted with the scores of no model
            "score": 0.0,
            "threshold": 1.0,
            "review_threshold": 1.0,
            "verdict": REFUSED,
            "capture": json.dumps([error.problem, *error.capture]),
            "regions": "[]",
            "alarm": str(error),
        }
        return self._write(facts, path, photo, np.zeros(photo.shape[:2], bool), user)

    def _write(self, facts: dict, path: Path, shown: np.ndarray, defects: np.ndarray, user: str) -> int:
        facts = {"at": ledger.now(), "user": user, **facts, "photo": self.photos.keep(path)}
        pictures = (encode_jpeg(shrink(shown, THUMBNAIL)), _png(defects))
        with self.database.open(writing=True) as book:
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
        rows = self.database.read(f"{ENTRY} {where} ORDER BY i.id DESC LIMIT ?", [*values, limit])
        return [self._entry(row) for row in rows]

    def numbers(
        self, *, category: str | None = None, verdicts: Sequence[str] = (), said: Sequence[str | None] = ()
    ) -> list[int]:
        """Numbers of the entries that `entries` would give, all of them, newest first."""
        where, values = _narrowed({"category": category}, verdicts, said)
        return [
            row["id"] for row in self.database.read(f"SELECT i.id FROM {LATEST} {where} ORDER BY i.id DESC", values)
        ]

    def columns(self, *, category: str, detector: str, weights_sha256: str) -> Columns:
        """Every inspection by one model, without pictures."""
        where, values = _narrowed({"category": category, "detector": detector, "weights_sha256": weights_sha256})
        query = f"""SELECT i.id, i.score, i.verdict, i.capture != '[]', IFNULL(r.said, ''), i.photo
            FROM {LATEST} {where} ORDER BY i.id DESC"""
        rows = self.database.read(query, values)
        kinds = (np.int64, np.float64, np.str_, np.bool_, np.str_, np.str_)
        return Columns(*(np.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)))

    def get(self, number: int) -> Entry:
        """One entry. Raises UsageError when there is none of this number."""
        rows = self.database.read(f"{ENTRY} WHERE i.id = ?", [number]) if _is_number(number) else []
        if not rows:
            raise UsageError(f"The record has no inspection {number}", "Reload the page; old entries are deleted")
        return self._entry(rows[0])

    def review(self, number: int, *, said: str, user: str, defect_type: str = "") -> None:
        """Keep what a person says of a part; earlier words stay on record, the last one counts."""
        if said not in SAID:
            raise UsageError(f"{said!r} is no verdict of a person", f"Use one of {', '.join(SAID)}")
        self.get(number)
        with self.database.open(writing=True) as book:
            book.execute(
                "INSERT INTO reviews (inspection, at, user, said, defect_type) VALUES (?, ?, ?, ?, ?)",
                [number, ledger.now(), user, said, defect_type if said == "defect" else ""],
            )

    def withdraw(self, number: int, *, user: str) -> None:
        """Take back the last word on a part, if it is this person's; what was said before counts again."""
        with self.database.open(writing=True) as book:
            book.execute(
                """UPDATE reviews SET withdrawn = ? WHERE user = ?
                AND id = (SELECT MAX(id) FROM reviews WHERE inspection = ? AND withdrawn = '')""",
                [ledger.now(), user, number],
            )

    def defect_types(self, category: str | None = None) -> list[str]:
        """Types that people have named, the first one first: a key that stands for one keeps its meaning."""
        where, values = _narrowed({"category": category}, said=("defect",))
        query = f"SELECT r.defect_type FROM {LATEST} {where} AND r.defect_type != '' GROUP BY 1 ORDER BY MIN(r.id)"
        return [row[0] for row in self.database.read(query, values)]

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
        return [Count(*row[:4], bool(row[4]), row[5]) for row in self.database.read(query, values)]

    def objections(self, *, category: str | None = None, since: str = "") -> list[tuple[str, int]]:
        """(sentence of the capture check, photos that were judged), the most frequent first."""
        where, values = _narrowed({"category": category}, VERDICTS, since=since)
        query = (
            f"SELECT j.value, COUNT(*) FROM inspections i, json_each(i.capture) j {where} GROUP BY 1 ORDER BY 2 DESC"
        )
        return [tuple(row) for row in self.database.read(query, values)]

    def scores(self, category: str, detector: str, *, weights_sha256: str, since: str = "") -> np.ndarray:
        """(n,) scores by these weights, one a photo: a part that was inspected twice counts once."""
        wanted = {"category": category, "detector": detector, "weights_sha256": weights_sha256}
        where, values = _narrowed(wanted, since=since)
        rows = self.database.read(f"SELECT MAX(i.score) FROM inspections i {where} GROUP BY i.photo", values)
        return np.array([row[0] for row in rows], dtype=np.float64)

    def sweep(self) -> None:
        """Remove what is older or more than is kept, and photos that no entry refers to."""
        oldest = datetime.now(timezone.utc) - timedelta(days=self.keep_days)
        with self.database.open(writing=True) as book:
            book.execute("DELETE FROM inspections WHERE at < ?", [oldest.isoformat(timespec="seconds")])
            used = used_bytes(book)
            if used > self.keep_bytes:
                count = book.execute("SELECT COUNT(*) FROM inspections").fetchone()[0]
                surplus = round(count * (1 - self.keep_bytes / used)) + 1
                book.execute(
                    "DELETE FROM inspections WHERE id IN (SELECT id FROM inspections ORDER BY id LIMIT ?)", [surplus]
                )
                used = used_bytes(book)
            referred = [row[0] for row in book.execute(LEAST_WORTH_FIRST)]
        # Only after the entries are surely gone: an entry may miss its photo, a photo must not miss its entry for long.
        self.photos.sweep(referred, room=self.keep_bytes - used)

    def _entry(self, row: sqlite3.Row) -> Entry:
        known = dict(row)
        return Entry(
            **known
            | {
                "capture": tuple(json.loads(row["capture"])),
                "regions": tuple(json.loads(row["regions"])),
                "photo": self.photos.folder / row["photo"],
                "defect_type": row["defect_type"] or "",
            }
        )


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


def _png(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
