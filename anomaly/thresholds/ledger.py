"""Who set which limit, when and why: the one way to save an operating point, and all former versions of it.

Beside threshold.json stands threshold.history.jsonl, a line a save: {"category", "detector", "who", "when", "why",
"before", "after"}, the last two operating points (before: null at first). Lines are added and never changed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from anomaly.errors import ConflictingSave, ThresholdError, UsageError
from anomaly.thresholds.book import OperatingPoint, Stored, Thresholds

NOTHING = ""  # the digest of a limit that is not there


class Save(Stored):
    """One line of the ledger."""

    category: str
    detector: str
    who: str
    when: str
    why: str
    before: OperatingPoint | None
    after: OperatingPoint


def save(
    path: str | os.PathLike, category: str, detector: str, point: OperatingPoint, *, started_from: str | None = None
) -> None:
    """Put an operating point into threshold.json and the former one into the ledger: both, or neither.

    A lock holds off other threads and processes from the comparison to the end. Power that fails between the two
    writes leaves a line whose limits never judged: the `before` of the next line tells.

    Args:
        path: of threshold.json.
        started_from: digest of the operating point that the person saw, `NOTHING` if there was none; None replaces
            whatever is stored, as a training must: its weights are new, so the stored limit is void.
    Raises:
        ConflictingSave: another one is stored meanwhile; ThresholdError: threshold.json cannot be read, or a file
            cannot be written.
    """
    path = Path(os.path.realpath(path))  # the ledger stands beside the book, not beside a link to it
    with _locked(_beside(path)) as stream:
        book = Thresholds.load(path)
        before = book.find(category, detector)
        if started_from not in (None, digest(before)):
            raise _conflict(before, category, detector)
        signature = {"who": point.set_by, "when": point.set_at, "why": point.why}
        line = Save(category=category, detector=detector, **signature, before=before, after=point)
        with _added(stream, line):
            book.with_point(category, detector, point).save(path)


def versions(path: str | os.PathLike, category: str, detector: str) -> list[OperatingPoint]:
    """Every limit that judged or was saved, oldest first; the last one is stored now, if any is.

    One that somebody wrote into threshold.json by hand is among them, once another was saved over it.

    Raises:
        ThresholdError: threshold.json or the ledger is damaged.
    """
    path = Path(os.path.realpath(path))
    points = []
    for line in _lines(_beside(path)):
        if (line.category, line.detector) == (category, detector):
            points += [line.before, line.after]
    points.append(Thresholds.load(path).find(category, detector))
    known = [point for point in points if point]
    return [point for point, former in zip(known, [None, *known]) if point != former]


def version(path: str | os.PathLike, category: str, detector: str, number: int) -> OperatingPoint:
    """One of `versions`, the oldest being 1. Raises UsageError when there is none of this number."""
    known = versions(path, category, detector)
    if not 1 <= number <= len(known):
        problem = f"There is no version {number} of the limits of {category} / {detector}, they go to {len(known)}"
        raise UsageError(problem, "List them: python -m anomaly thresholds")
    return known[number - 1]


def signed(point: OperatingPoint, *, who: str, why: str) -> OperatingPoint:
    """The same limits under a new signature. Raises UsageError without a name or a reason."""
    if not (who.strip() and why.strip()):
        missing = "name" if not who.strip() else "reason"
        raise UsageError(f"No {missing} was given for the new limits", "Say who sets them and why; both are kept")
    return point.model_copy(update={"set_by": who.strip(), "set_at": now(), "why": why.strip()})


def digest(point: OperatingPoint | None) -> str:
    return point.digest if point else NOTHING


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _conflict(stored: OperatingPoint | None, category: str, detector: str) -> ConflictingSave:
    problem = f"The limits of {category} / {detector} were deleted meanwhile"
    if stored:
        problem = (
            f"{stored.set_by} saved other limits for {category} / {detector} meanwhile, at {stored.set_at}: "
            f"FAIL {stored.fail:.4g}, REVIEW {stored.review:.4g}, {stored.why!r}"
        )
    remedy = "Nothing was overwritten; look at what is stored now, and save again if you still want to"
    return ConflictingSave(problem, remedy)


def _beside(path: Path) -> Path:
    return path.with_suffix(".history.jsonl")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The ledger, open for adding and closed to everybody else."""
    try:
        stream = path.open("ab", buffering=0)  # unbuffered: a failed write must not be tried again on closing
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise ThresholdError(problem, "Check that its folder is there and may be written to") from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


@contextmanager
def _added(stream: BinaryIO, line: Save) -> Iterator[None]:
    """A line at the end of the ledger, which goes again if what it tells of does not happen.

    Cutting needs no room on the disk, so a full one leaves both files as they were.
    """
    path, whole = Path(stream.name), _whole(Path(stream.name).read_bytes())
    done = False
    try:
        stream.truncate(len(whole))  # power may have failed in the middle of a line
        content = line.model_dump_json().encode() + b"\n"
        if stream.write(content) != len(content):
            raise OSError(28, "No space left on device")
        os.fsync(stream.fileno())
        yield
        done = True
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise ThresholdError(problem, "Make room on the disk, then save again") from error
    finally:
        if not done:
            stream.truncate(len(whole))


def _lines(path: Path) -> list[Save]:
    try:
        content = _whole(path.read_bytes())
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            found.append(Save.model_validate(json.loads(line)))
        except (ValueError, ThresholdError) as error:
            problem = f"line {number} of {path} cannot be read"
            raise ThresholdError(problem, "Restore the file from a backup, or correct the line") from error
    return found


def _whole(content: bytes) -> bytes:
    """Without the half line at the end that failing power left."""
    return content[: content.rfind(b"\n") + 1]
