"""The verbs of the Batch tab: inspect many photos in the background, look at what came out, take it home."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from anomaly.accounts import OPERATOR, SUPERVISOR, Person
from anomaly.errors import AnomalyError, DatasetError, Forbidden, UnknownName, UsageError, WrongProduct
from anomaly.handlers.photos import BY_FOLDER, Photo, gather, judge, refused
from anomaly.handlers.session import Session, Site
from anomaly.inspection import AUTO, Inspection
from anomaly.report import ERROR, Results, write_summary
from anomaly.report.document import write_report

log = logging.getLogger(__name__)

KEPT = 4 * 3600  # seconds that a finished batch can still be looked at
MOST = 8  # batches kept at once, finished or not; a thousand photos are about 20 MB of disk
PAGE = 60  # photos shown at once
PREFIX = "anomaly-batch-"
ABANDONED = 86400  # seconds after which the folder of a server that was killed is swept


@dataclass(frozen=True)
class Progress:
    """Where a batch stands; `state` is "waiting", "running", "done", "stopped" or "failed"."""

    state: str
    done: int
    total: int
    seconds: float
    counts: dict[str, int]
    said: tuple[str, ...]  # what went wrong, beside single photos

    @property
    def over(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    @property
    def rate(self) -> float:
        """Photos a second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None until the first photos tell."""
        return (self.total - self.done) / self.rate if self.done >= 3 and self.rate else None


class Batch:
    """One batch. It works in a thread of its own: a page that sleeps or is reloaded neither stops nor loses it."""

    def __init__(self, site: Site, paths: list[Path], category: str, person: Person):
        self.person = person
        self.home = tempfile.TemporaryDirectory(prefix=PREFIX)
        self._site, self._category, self._folder = site, category, Path(self.home.name)
        try:
            self.total, self._photos = gather(paths, self._folder / "unpacked", deep=category == BY_FOLDER)
            self.results = Results(self._folder / "results")
        except AnomalyError:
            self.home.cleanup()
            raise
        self.downloads: tuple[Path, ...] = ()
        self.ended: float | None = None
        self._known = {info.name for info in site.inspector.categories()}
        self._state, self._began, self._failure = "waiting", None, ""
        self._unrecorded, self._record_error = 0, ""
        self._stop = threading.Event()

    def start(self, turn: threading.Lock) -> None:
        """Begin when `turn` is free: one batch at a time, so that two do not share the same cores."""
        threading.Thread(target=self._run, args=(turn,), name="batch", daemon=True).start()

    def stop(self) -> None:
        """End after the photo that is being judged; what is done is kept."""
        self._stop.set()

    def progress(self) -> Progress:
        now = self.ended or time.monotonic()
        said = [self._failure] if self.ended and self._failure else []
        if self._unrecorded:
            said.append(f"{self._unrecorded:,} inspections are not in the record. {self._record_error}")
        seconds = now - self._began if self._began else 0.0
        counts = dict(self.results.counts)
        return Progress(self._state, len(self.results), self.total, seconds, counts, tuple(said))

    def _run(self, turn: threading.Lock) -> None:
        state, self._failure = "failed", "The program failed on this batch. What was done before is kept."
        try:
            while not turn.acquire(timeout=0.5):
                if self._stop.is_set():
                    break
            else:
                try:
                    self._work()
                finally:
                    turn.release()
            state, self._failure = "stopped" if self._stop.is_set() else "done", ""
        except OSError as error:
            self._failure = f"The batch ended early ({error.strerror}). Make room on the disk of this server."
            log.warning("a batch ended early: %s", error)
        finally:
            shutil.rmtree(self._folder / "unpacked", ignore_errors=True)
            self.ended = time.monotonic()
            self._state = state

    def _work(self) -> None:
        self._state, self._began = "running", time.monotonic()
        try:
            for photo in self._photos:
                if self._stop.is_set():
                    break
                self._one(photo)
        finally:
            self._photos.close()
            self._write_downloads()

    def _one(self, photo: Photo) -> None:
        site, category, name = self._site, self._category, photo.name
        try:
            row, found = judge(site.inspector, photo, category, None, known=self._known, name=name)
        except AnomalyError as error:
            row, found = refused(error, photo, category, None, name=name), error
        judged = found if isinstance(found, Inspection) else None
        self.results.add(row, judged, wrong=photo.path if isinstance(found, WrongProduct) else None)
        try:
            site.record(photo.path, found, user=self.person.name)
        except AnomalyError as error:
            self._unrecorded, self._record_error = self._unrecorded + 1, str(error)

    def _write_downloads(self) -> None:
        folder = self._folder / "downloads"
        summary, *reports = (folder / name for name in ("predict_summary.csv", "report.html", "report.pdf"))
        write_summary(self.results.rows(), summary)
        for path in reports:
            write_report(self.results, path, book=self._site.thresholds, by=self.person.name)
        self.downloads = (summary, self.results.lines, *reports)


@dataclass(frozen=True)
class Card:
    """One photo of the result; `verdict` is one of `VERDICTS`, `thumbnail` a JPEG, None when it could not be read."""

    name: str
    category: str
    verdict: str
    score: float | None
    threshold: float | None
    level: float | None
    said: str
    thumbnail: bytes | None


@dataclass(frozen=True)
class Page:
    """Cards `first` to `first + len(cards)` of the `matching` ones, highest level first, errors last."""

    cards: tuple[Card, ...]
    first: int
    matching: int


class BatchHandlers:
    """The verbs of the Batch tab. A batch is told by its ticket, which only the page that began it holds."""

    def __init__(self, site: Site):
        self.site = site
        self._batches: dict[str, Batch] = {}
        self._turn, self._lock = threading.Lock(), threading.Lock()
        _sweep()

    def products(self) -> list[tuple[str, str]]:
        """(title, name) of every category, and last the choices photo by photo."""
        several = [("Several: each photo shows which", AUTO), ("Several: each photo's folder names it", BY_FOLDER)]
        return [*self.site.products(), *several]

    def start(self, session: Session, category: str | None, files: list[str] | None, *, now: str | None = None) -> str:
        """Begin a batch of uploaded files and ZIPs; gives its ticket. `now` is that of the batch before."""
        session.person.require(OPERATOR, "inspect a batch")
        if not files:
            raise UsageError("There is nothing to inspect yet", "Add photos or a ZIP first")
        return self._begin(session, category, [Path(file) for file in files], now)

    def start_folder(self, session: Session, category: str | None, folder: str, *, now: str | None = None) -> str:
        """Begin a batch of a folder of this server; gives its ticket. `now` is that of the batch before."""
        session.person.require(SUPERVISOR, "inspect a folder of the server")
        path = Path(folder.strip())
        if not folder.strip() or not path.is_dir():
            raise DatasetError(f"There is no folder {folder.strip() or 'given'} on this server", "Check the path")
        return self._begin(session, category, [path.resolve()], now)

    def _begin(self, session: Session, category: str | None, paths: list[Path], now: str | None) -> str:
        before = self.progress(session, now)
        if before and not before.over:
            raise UsageError("Your batch before this one is still at work", "Wait for its end, or stop it")
        if category not in {name for _, name in self.products()}:
            raise UnknownName("No product is chosen", "Choose a product first")
        with self._lock:
            self._forget()
            try:
                batch = Batch(self.site, paths, category, session.person)
            except OSError as error:
                problem = f"The batch cannot begin ({error.strerror})"
                raise UsageError(problem, "Make room on the disk of this server") from error
            ticket = secrets.token_urlsafe(24)
            self._batches[ticket] = batch
        batch.start(self._turn)
        return ticket

    def stop(self, session: Session, ticket: str | None) -> None:
        self._find(session, ticket).stop()

    def progress(self, session: Session, ticket: str | None) -> Progress | None:
        """None: there is no such batch, or not for this person."""
        try:
            return self._find(session, ticket).progress()
        except (UsageError, Forbidden):
            return None

    def downloads(self, session: Session, ticket: str | None) -> tuple[Path, ...]:
        """CSV, JSONL, HTML and PDF, once the batch is over; empty when they could not be written."""
        return self._find(session, ticket).downloads

    def page(self, session: Session, ticket: str | None, verdict: str | None, text: str, first: int) -> Page:
        """Some of the results.

        Args:
            verdict: one of `VERDICTS`, None for all; text: part of the name, the product or what was said.
            first: place of the first card to show.
        """
        results = self._find(session, ticket).results
        wanted, found = text.strip().lower(), []
        for number, row in enumerate(results.rows()):
            card = _card(row)
            if verdict in (None, card.verdict) and wanted in f"{card.name} {card.category} {card.said}".lower():
                found.append((-1.0 if card.level is None else card.level, number))
        found.sort(key=lambda one: (-one[0], one[1]))
        first = max(0, min(first, (len(found) - 1) // PAGE * PAGE))
        shown = {number for _, number in found[first : first + PAGE]}
        rows = {number: row for number, row in enumerate(results.rows()) if number in shown}
        cards = [_card(rows[number], results.thumbnail(number)) for _, number in found[first : first + PAGE]]
        return Page(tuple(cards), first, len(found))

    def _find(self, session: Session, ticket: str | None) -> Batch:
        session.person.require(OPERATOR, "see a batch")
        batch = self._batches.get(ticket or "")
        if batch is None or batch.person.name != session.person.name:
            raise UsageError("This batch is no longer kept by this server", "Start it again")
        return batch

    def _forget(self) -> None:
        """Make room: batches that nobody can want any more go, then the oldest that are over."""
        over = [ticket for ticket, batch in self._batches.items() if batch.ended is not None]
        late = {ticket for ticket in over if time.monotonic() - self._batches[ticket].ended > KEPT}
        crowd = len(self._batches) - len(late) - MOST + 1
        for ticket in [*late, *[one for one in over if one not in late][: max(0, crowd)]]:
            self._batches.pop(ticket).home.cleanup()
        if len(self._batches) >= MOST:
            raise UsageError(f"{MOST} batches are waiting on this server already", "Try again when one is done")


def _card(row: dict, thumbnail: bytes | None = None) -> Card:
    return Card(
        name=row["path"],
        category=row["category"] or "",
        verdict=row["verdict"] or ERROR,
        score=row["score"],
        threshold=row["threshold"],
        level=row["level"],
        said=row["error"] or "; ".join(filter(None, (*row["capture"], row["alarm"]))),
        thumbnail=thumbnail,
    )


def _sweep() -> None:
    """Remove what servers left behind that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            log.warning("%s cannot be swept", folder)
