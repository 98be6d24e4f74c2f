"""The verbs of the Teach tab: look photos through, teach a product, look on, refit it, choose a version."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly import detectors, intake, runs, teaching, training, versions
from anomaly.accounts import SUPERVISOR
from anomaly.detectors.base import Detector
from anomaly.errors import AnomalyError, RecordError, TooFewImages, UsageError
from anomaly.handlers.session import Session, Site
from anomaly.history import Entry, History
from anomaly.images import Box, checked_region, read_image, resize_map, shrink
from anomaly.intake import FEWEST, MOST, Photo
from anomaly.lessons import Classroom, Lesson
from anomaly.render import outlined
from anomaly.training import Outcome
from anomaly.versions import Version

log = logging.getLogger(__name__)

KINDS = ("object", "texture")
MINUTES = (0.5, 240.0)
SAMPLE = 900  # longest side in pixels of the photo on which the region is drawn
APART = 360  # of a photo that alone keeps the limit high
PROMISES = (0.1, 0.05, 0.02, 0.01)  # shares of false alarms that people ask for


@dataclass
class Tray:
    """Photos that were looked through and wait to be learned from.

    Attributes:
        photos: all of them, in their order; kept: by the same index, what is to be learned from.
        category: the product that they are added to; None for a new one.
        folder: what was unpacked; it vanishes with the tray.
    """

    photos: list[Photo]
    kept: list[bool]
    category: str | None
    folder: tempfile.TemporaryDirectory = field(repr=False)

    @property
    def learned(self) -> bool:
        """Whether a training is through with it."""
        return not Path(self.folder.name).exists()

    def chosen(self) -> list[tuple[str, Path]]:
        return [(photo.name, photo.path) for photo, kept in zip(self.photos, self.kept) if kept]


@dataclass(frozen=True)
class Checked:
    """How far the look at the photos is; the tray once it is done."""

    done: int
    total: int
    tray: Tray | None = None


@dataclass(frozen=True)
class Lessons:
    """What a product can be refitted from.

    Attributes:
        detectors: that the product has, the active one first; kept: photos of its training that are kept.
        reviewed: parts of the record that people called OK and that it was not taught with.
    """

    title: str
    detectors: tuple[str, ...]
    kept: int
    reviewed: int


@dataclass(frozen=True)
class Learned:
    """One detector when all is done.

    Attributes:
        scores: (n,) of the held-out good photos; fail, review: its limits.
        apart: held-out photos that alone keep the limit high: name, and picture with what stands out outlined.
        more: sentences on what more photos would buy.
    """

    category: str
    detector: str
    scores: np.ndarray
    fail: float
    review: float
    promise: str
    photos: int
    warnings: tuple[str, ...]
    apart: tuple[tuple[str, np.ndarray], ...]
    more: tuple[str, ...]


@dataclass(frozen=True)
class Taught:
    """The result of a lesson; `version` is the one that a refit made and that does not judge yet."""

    learned: tuple[Learned, ...]
    version: Version | None = None


class TeachHandlers:
    """The verbs of the Teach tab. Each needs the role of supervisor."""

    def __init__(self, site: Site):
        self.site = site
        self.room = Classroom()

    def sweep(self) -> None:
        """Clear away what a training that was killed has left; done once, when the server starts."""
        try:
            teaching.sweep(self.site.runs)
        except OSError as error:
            log.warning("%s cannot be cleared of killed trainings (%s)", self.site.runs, error.strerror)

    def products(self, session: Session) -> list[tuple[str, str]]:
        """(title, name) of every product, to add photos to."""
        _allow(session)
        return self.site.products()

    def lessons(self, session: Session, category: str) -> Lessons:
        """What a product was taught with, and what could be added."""
        _allow(session)
        info = self.site.category(category)
        run = runs.open_run(self.site.runs, category, info.active)
        return Lessons(
            title=info.title,
            detectors=(info.active, *(name for name in info.detectors if name != info.active)),
            kept=len(teaching.kept_photos(self.site.runs, run)),
            reviewed=len(self._recorded(category, "ok")),
        )

    def check(
        self, session: Session, paths: Sequence[str | Path], *, category: str | None = None, reviewed: bool = False
    ) -> Iterator[Checked]:
        """Look the photos through; the last answer holds the tray.

        Args:
            paths: files and ZIPs; category: the product that they are added to, None for a new one.
            reviewed: add the parts that people called OK in the record.
        Raises:
            ArchiveError: a ZIP that is refused as a whole; TooFewImages, UsageError: too few or too many photos.
        """
        _allow(session)
        known, region = self._known(category) if category else ([], None)
        extra = [(Path(one.file).name, one.photo, None) for one in self._recorded(category, "ok")] if reviewed else []
        folder = tempfile.TemporaryDirectory(prefix="teach-")
        found = [*intake.gather([Path(path) for path in paths], Path(folder.name)), *extra]
        if len(found) > MOST:
            problem = f"{len(found)} photos were given, at most {MOST} are taken at once"
            raise UsageError(problem, "Choose those that show how good parts differ")
        if not found:
            raise TooFewImages("No photo was given", "Drop photos of good parts, or a ZIP of them")
        total = len(found) + len(known)
        photos = []
        for name, path, error in [*((path.name, path, None) for path in known), *found]:
            yield Checked(len(photos), total)
            photos.append(intake.look(name, path, error, region=region))
        judged = intake.judge(photos[len(known) :], photos[: len(known)])
        yield Checked(total, total, Tray(judged, [not photo.reasons for photo in judged], category, folder))

    def choose(self, session: Session, tray: Tray, index: int, keep: bool) -> None:
        """Keep a photo, or leave it out."""
        _allow(session)
        if not isinstance(index, int) or not 0 <= index < len(tray.photos):
            raise UsageError(f"Photo {index} does not exist", "Click one of the photos shown")
        tray.kept[index] = bool(keep) and tray.photos[index].readable

    def sample(self, session: Session, tray: Tray) -> np.ndarray | None:
        """An ordinary photo to draw the region of interest on, (h, w, 3) uint8 RGB."""
        _allow(session)
        path = next((photo.path for photo, kept in zip(tray.photos, tray.kept) if kept), None)
        try:
            return None if path is None else shrink(read_image(path), SAMPLE)
        except AnomalyError:  # swept away meanwhile; the training will say so
            return None

    def teach(
        self,
        session: Session,
        tray: Tray | None,
        *,
        title: str,
        kind: str,
        region: Sequence[float] | None,
        names: Sequence[str],
        minutes: float,
    ) -> Lesson:
        """Begin to teach a new product in the background.

        Raises:
            TooFewImages, UsageError: nothing was begun, and why.
        """
        _allow(session)
        category = teaching.free_name(self.site.runs, title)
        photos = self._photos(tray, FEWEST)
        box = checked_region(region) if region else None
        if kind not in KINDS:
            raise UsageError(f"{kind!r} is no kind of product", f"Choose one of: {', '.join(KINDS)}")
        order = [name for name in choices() if name in names]
        if not order:
            raise UsageError("No detector is chosen", "Choose one at least")
        budget = _minutes(minutes)
        about = {"title": title.strip(), "kind": kind} | ({"region": box} if box else {})

        def work(lesson: Lesson) -> Taught:
            models = _models(lesson, order, budget)
            done = teaching.teach(
                photos,
                category,
                about,
                models,
                by=session.person.name,
                root=self.site.runs,
                book=self.site.thresholds,
                progress=lesson.progress,
            )
            tray.folder.cleanup()
            return Taught(tuple(map(_learned, done)))

        return self.room.begin(title.strip(), work)

    def refit(self, session: Session, tray: Tray | None, *, detector: str, minutes: float) -> Lesson:
        """Begin to train a new version of a detector on the photos of the one in place and those of the tray.

        Raises:
            TooFewImages, UsageError: nothing was begun, and why.
        """
        _allow(session)
        if tray is None or tray.category is None:
            raise UsageError("No photos were looked through for this product", "Add photos first")
        category, root = tray.category, self.site.runs
        run = runs.open_run(root, category, detector)
        photos = self._photos(tray, 1 if teaching.kept_photos(root, run) else FEWEST)
        model = teaching.successor(run, minutes=_minutes(minutes))
        defects = [one.photo for one in self._recorded(category, "defect")]

        def work(lesson: Lesson) -> Taught:
            lesson.detector = model
            made = teaching.refit(
                photos,
                category,
                model,
                defects=defects,
                root=root,
                book=self.site.thresholds,
                progress=lesson.progress,
            )
            tray.folder.cleanup()
            version = Version(made.outcome.run, made.stamp, made.outcome.point, made.old, made.new)
            return Taught((_learned(made.outcome),), version)

        return self.room.begin(runs.describe(root, category)["title"], work)

    def watch(self, session: Session) -> Lesson | None:
        """The lesson that runs, or the last one."""
        _allow(session)
        return self.room.lesson

    def stop(self, session: Session) -> None:
        """End the lesson early and keep what it has learned."""
        _allow(session)
        if self.room.lesson:
            self.room.lesson.stop()

    def cancel(self, session: Session) -> None:
        """End the lesson and leave nothing of it."""
        _allow(session)
        if self.room.lesson:
            self.room.lesson.cancel()

    def close(self, session: Session) -> None:
        """Forget a lesson that has ended."""
        _allow(session)
        self.room.close()

    def versions(self, session: Session, category: str) -> list[Version]:
        """Those in place first, then the others, newest first."""
        _allow(session)
        return versions.listed(self.site.runs, self.site.thresholds, category)

    def activate(self, session: Session, category: str, stamp: str, detector: str) -> None:
        """Let a version judge from now on; the one that judged until now can be brought back the same way."""
        _allow(session)
        versions.activate(self.site.runs, self.site.thresholds, category, stamp, detector, by=session.person.name)
        log.info("%s made version %s of %s / %s active", session.person.name, stamp, category, detector)

    def _known(self, category: str) -> tuple[list[Path], Box | None]:
        """The photos that a product was taught with, and the region that it looks at."""
        info = self.site.category(category)
        run = runs.open_run(self.site.runs, category, info.active)
        return teaching.kept_photos(self.site.runs, run), run.region

    def _recorded(self, category: str, said: str) -> list[Entry]:
        try:
            return recorded(self.site.history, category, said)
        except RecordError as error:
            log.warning("the record cannot be read (%s)", error)
            return []

    def _photos(self, tray: Tray | None, fewest: int) -> list[tuple[str, Path]]:
        photos = tray.chosen() if tray else []
        if len(photos) < fewest:
            problem = f"{len(photos)} photos are kept, at least {fewest} are needed"
            raise TooFewImages(problem, "Add photos of good parts, or keep some of those left out")
        return photos


def recorded(history: History | None, category: str, said: str) -> list[Entry]:
    """Parts of which people said this last, one of each photo that is still kept."""
    found = history.entries(category=category, said=(said,)) if history else []
    return list({one.photo: one for one in found if one.photo.is_file()}.values())


def choices() -> list[str]:
    """Every detector, the usual ones first: the first one that is chosen will judge."""
    return [*dict.fromkeys((*detectors.USUAL, *detectors.names()))]


def _allow(session: Session) -> None:
    session.person.require(SUPERVISOR, "teach a product")


def _minutes(minutes: float) -> float:
    low, high = MINUTES
    if not isinstance(minutes, int | float) or not low <= minutes <= high:
        raise UsageError(f"The time budget is {minutes}, {low:g} to {high:g} minutes were expected", "Use 10")
    return float(minutes)


def _models(lesson: Lesson, names: Sequence[str], budget: float) -> Iterator[Detector]:
    """Each detector when its turn comes, with the time that is left; none more once the lesson shall stop."""
    for name in names:
        if lesson.stopping and lesson.detector is not None:
            return
        left = budget - (time.monotonic() - lesson.began) / 60
        # Whatever the ones before took: half of the budget is the least that is worth beginning.
        lesson.detector = detectors.create(name, minutes=max(budget / 2, left))
        yield lesson.detector


def _outlined(path: Path, found: np.ndarray) -> np.ndarray:
    image = shrink(read_image(path), APART)
    return outlined(image, resize_map(found.astype(np.float32), image.shape[:2]) >= 0.5)


def _learned(outcome: Outcome) -> Learned:
    run, point = outcome.run, outcome.point
    held_out = len(run.calibration["good"])
    next_ones = [target for target in PROMISES if target < training.supported_target(held_out) or target < 0.02]
    return Learned(
        category=run.category,
        detector=run.detector,
        scores=np.array([entry["score"] for entry in run.calibration["good"]]),
        fail=point.fail,
        review=point.review,
        promise=point.promise,
        photos=run.manifest["data"]["good_images"],
        warnings=outcome.warnings,
        apart=tuple((Path(name).name, _outlined(run.folder.parent / name, found)) for name, found in outcome.apart),
        more=tuple(
            f"About {training.photos_for(target)} photos would support a promise of {100 * target:g}%"
            for target in next_ones[:2]
        ),
    )
