"""The verbs of the Inspect tab: choose a product, judge a photo, move the limit, ask why."""

import logging
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from anomaly import render, report
from anomaly.accounts import OPERATOR
from anomaly.errors import AnomalyError, RecordError, UsageError, WrongProduct
from anomaly.handlers.session import Notice, Session, Site, refusal, sentence
from anomaly.images import read_image, shrink
from anomaly.inspection import PREVIEW, Inspection, redecide
from anomaly.thresholds import Standing

log = logging.getLogger(__name__)

STORED = 100  # the trial limit, in percent of the stored one, at which nothing was moved
DEEPEST = 10  # a REVIEW band that ends lower than a tenth of the limit has no OK within reach of a slider
MOST_REGIONS = 8  # more numbers on one picture than this hide the defect that they point at
THUMBNAIL = 144  # longest side in pixels, sharp at 72 CSS pixels on a dense screen
UNCHECKED = "Whether the photo shows this product was not checked: train it again"
EXPIRED = "The photo is no longer kept by this server"
TRAILING_NUMBER = re.compile(r"[_-]?\d+$")


@dataclass(frozen=True)
class Example:
    path: Path
    thumbnail: np.ndarray  # (h, w, 3) uint8 RGB
    kind: str  # "good" or the defect type, from the file name

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Product:
    """What the page offers once a product is chosen."""

    detectors: tuple[str, ...]
    active: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Slider:
    """Range of the trial limit in percent of the stored limit; `step` divides 100, so 100 is always on the grid."""

    minimum: int
    maximum: int
    step: int


@dataclass(frozen=True)
class Region:
    """One defect, in pixels of the original image; `level` is its peak divided by the pixel limit."""

    x: int
    y: int
    width: int
    height: int
    area: int
    level: float


@dataclass(frozen=True)
class Why:
    """The place in question beside what a good part looks like there; images are (h, w, 3) uint8 RGB of one size."""

    here: np.ndarray
    good: np.ndarray
    source: str  # where `good` comes from
    shares: tuple[tuple[str, float], ...]  # what the score is made of, largest first; they sum to 1


@dataclass(frozen=True)
class Report:
    """Everything that the page says about one inspected photo. Images are (h, w, 3) uint8 RGB of one size."""

    verdict: str
    stored_verdict: str
    title: str
    name: str
    detector: str
    score: float
    threshold: float
    review_threshold: float
    percent: float  # of the stored limit
    width: int  # of the original image
    height: int
    milliseconds: float
    regions: tuple[Region, ...]
    note: str
    doubt: str
    type: str  # of the defect and how sure that is, or ""
    attributes: tuple[str, ...]  # what the defect looks like
    unchecked: str  # that nobody knows whether the photo shows the product, or ""
    capture: tuple[str, ...]
    unrecorded: str  # why the inspection is not on record, although it should be
    photo: np.ndarray
    reconstruction: np.ndarray | None
    overlay: np.ndarray
    scale: np.ndarray  # (1, n, 3): the colours from 0 to twice the stored limit
    slider: Slider = field(default_factory=lambda: Slider(1, 300, 1))

    @property
    def level(self) -> float:
        return self.score / self.threshold


class InspectHandlers:
    """The verbs of the Inspect tab."""

    def __init__(self, site: Site):
        self.site = site
        self.inspector = site.inspector

    def welcome(self) -> Notice:
        if not self.site.products():
            return Notice("idle", "No product yet", "Train one with `python -m anomaly train`, then reload this page.")
        return self.waiting(Session())

    def choose_product(self, session: Session, category: str | None) -> Product:
        session.product, session.examples = None, ()
        session.restart()
        info = self.site.category(category)
        examples = tuple(filter(None, map(_example, info.examples)))
        session.product, session.detector = info, info.active
        session.examples = tuple(one.path for one in examples)
        return Product(detectors=tuple(info.detectors), active=info.active, examples=examples)

    def choose_detector(self, session: Session, detector: str) -> None:
        session.detector = detector
        session.restart()

    def take_photo(self, session: Session, path: str | None) -> None:
        if session.product is None:
            problem = "No product is chosen, so there is nothing to compare the photo with"
            raise UsageError(problem, "Choose a product first")
        session.photo = Path(path) if path else None
        session.restart()

    def take_example(self, session: Session, index: int) -> None:
        if not isinstance(index, int) or not 0 <= index < len(session.examples):
            raise UsageError(f"Example {index} does not exist", "Click one of the examples shown")
        session.photo = session.examples[index]
        session.restart()

    def waiting(self, session: Session) -> Notice:
        """What to say before the inspection has run."""
        if session.product is None:
            return Notice("idle", "Choose a product", "Then add a photo of the part, or click an example.")
        title = session.product.title
        if session.photo is None:
            return Notice("idle", "Add a photo", f"{title}: drop, paste or take a photo, or click an example.")
        return Notice("busy", "Inspecting", f"{title} · {session.photo.name}")

    def inspect(self, session: Session) -> Report | Notice | None:
        """Run the network on the session's photo. None: the person has moved on, show nothing."""
        turn, photo, product = session.turn, session.photo, session.product
        if photo is None or product is None:
            return None
        inspection, unrecorded, shown = None, "", None
        try:
            if not photo.exists():
                raise UsageError(EXPIRED, "Add the photo again")
            inspection = self.inspector.inspect(photo, category=product.name, detector=session.detector)
            unrecorded = self._record(session, photo, inspection)
            said = _report(product.title, inspection, unrecorded=unrecorded)
        except WrongProduct as error:
            unrecorded = self._record(session, photo, error)
            said, shown = self._wrong(photo, error, unrecorded), error.product["seen"]
        except AnomalyError as error:
            said = refusal(error, photo)
        except Exception:
            # Whatever broke, the person must read "not inspected" and never an old or an empty verdict.
            log.exception("inspection of %s as %s failed", photo.name, product.name)
            said = _refused("The program failed on this photo. Try again, and report it if it repeats.")
        if session.turn != turn:
            return None
        session.inspection, session.unrecorded, session.shown = inspection, unrecorded, shown
        return said

    def _wrong(self, photo: Path, error: WrongProduct, unrecorded: str) -> Notice:
        """What the photo shows instead, by the titles of the page, and the photo itself."""
        title, said = self.site.misplaced(error)
        seen = error.product["seen"] if error.product["known"] else None
        better = next((title for title, name in self.site.products() if name == seen), "")
        text = " ".join(filter(None, (str(said), unrecorded)))
        return Notice("refused", title, text, better, shrink(read_image(photo), PREVIEW), photo.name)

    def _record(self, session: Session, photo: Path, found: Inspection | WrongProduct) -> str:
        """Keep the inspection; gives why that failed, since a verdict counts whether or not it was written down."""
        # Visitors come by a public link: what they try out is neither kept nor counted.
        if session.person.may(OPERATOR):
            try:
                self.site.record(photo, found, user=session.person.name, detector=session.detector)
            except RecordError as error:
                log.warning("an inspection is not on record: %s", error)
                return str(error)
        return ""

    def move_limit(self, session: Session, percent: float) -> Report | Notice | None:
        """Decide again from the stored map at `percent` of the stored limit; nothing is written.

        None: an inspection is under way and will answer by itself.
        """
        if session.inspection is not None and session.product is not None:
            return _report(session.product.title, session.inspection, percent, session.unrecorded)
        return _refused(f"{EXPIRED}. Add the photo again.") if session.photo is None else None

    def explain(self, session: Session) -> Why | Notice | None:
        """Why the inspected photo differs. None: there is none, or the person has moved on."""
        turn, inspection = session.turn, session.inspection
        if inspection is None:
            return None
        try:
            found = self.inspector.explain(inspection)
        except AnomalyError as error:
            return refusal(error, Path(inspection.path))
        if session.turn != turn:
            return None
        shares = sorted(found.shares.items(), key=lambda share: -share[1])
        return Why(here=found.here, good=found.good, source=found.source, shares=tuple(shares))

    def inspect_json(self, category: str | None, path: str | None, detector: str | None) -> dict:
        """One photo for a script: the keys of `python -m anomaly inspect --json`."""
        name = Path(path).name if path else None
        try:
            self.site.require(category)
            if not path:
                raise UsageError("No image was given", "Upload one and pass it as `image`")
            found = self.inspector.inspect(path, category=category, detector=detector or None).to_json()
            return found | {"path": name}  # where this server keeps the upload is nobody's business
        except WrongProduct as error:
            return report.refused(name, detector or None, error)
        except AnomalyError as error:
            asked = {"path": name, "category": category, "detector": detector}
            return asked | {"verdict": None, "error": sentence(error, path)}


def _refused(text: str) -> Notice:
    return Notice("refused", "Not inspected", text)


def slider_range(level: float) -> Slider:
    """Range that reaches OK whatever the score: 3 times the stored limit, or more.

    Args:
        level: score divided by the stored review limit, which moves with the limit and is the last bar before OK.
    """
    reach = max(3 * STORED, 1.2 * STORED * level)
    step = next((step for step in (1, 5, 10, 20, 25, 50) if reach / step <= 500), STORED)
    return Slider(minimum=step, maximum=math.ceil(reach / step) * step, step=step)


def _report(title: str, stored: Inspection, percent: float = STORED, unrecorded: str = "") -> Report:
    limit = stored.default_threshold
    now = stored if percent == STORED else redecide(stored, limit * percent / STORED)
    anchor = now.pixel_threshold * limit / now.threshold  # the pixel limit before any move: colours stand still
    return Report(
        verdict=now.verdict,
        stored_verdict=stored.verdict,
        title=title,
        name=Path(now.path).name,
        detector=now.detector,
        score=now.score,
        threshold=now.threshold,
        review_threshold=now.review_threshold,
        percent=percent,
        width=now.width,
        height=now.height,
        milliseconds=now.milliseconds,
        regions=tuple(
            Region(*region.box, area=region.area, level=region.peak / now.pixel_threshold) for region in now.regions
        ),
        note=_note(now),
        doubt=doubt(now.percentile),
        type=str(now.named or ""),
        attributes=now.attributes,
        unchecked=UNCHECKED if now.product is None else "",
        capture=now.capture,
        unrecorded=unrecorded,
        photo=now.preview,
        reconstruction=now.reconstruction,
        overlay=render.overlay(now.preview, now.map, anchor, pixel_threshold=now.pixel_threshold),
        scale=render.heatmap(np.linspace(0, 2 * anchor, 64, dtype=np.float32)[None], anchor),
        slider=slider_range(stored.score / max(stored.review_threshold, limit / DEEPEST)),
    )


def _note(inspection: Inspection) -> str:
    """One plain sentence on where the defect is."""
    count = len(inspection.regions)
    if count == 0:
        if inspection.verdict == "ANOMALY":
            return "No single region stands out: the part as a whole differs from the good ones."
        return "No region is over the limit."
    if inspection.verdict == "OK":
        if count == 1:
            return "One region is over the pixel limit, but the part as a whole is under its limit."
        return f"{count} regions are over the pixel limit, but the part as a whole is under its limit."
    return "One region is over the limit." if count == 1 else f"{count} regions are over the limit."


def doubt(standing: Standing) -> str:
    """One plain sentence on how sure the held-out parts make it that this one is unusual."""
    low, high = math.floor(100 * standing.low), math.ceil(100 * standing.high)
    return f"Higher than {standing.below} of {standing.n} good parts (95% interval {low}-{high}%)"


def _example(path: Path) -> Example | None:
    """None for a picture that cannot be read: one bad file must not take the product away."""
    try:
        thumbnail = _thumbnail(path, path.stat().st_mtime_ns)
    except (AnomalyError, OSError):
        log.warning("the example %s cannot be shown", path)
        return None
    kind = TRAILING_NUMBER.sub("", path.stem).replace("_", " ") or path.stem
    return Example(path=path, thumbnail=thumbnail, kind=kind)


@lru_cache(maxsize=512)
def _thumbnail(path: Path, modified: int) -> np.ndarray:
    """`modified` is part of the key, so that an exchanged example is drawn anew."""
    return shrink(read_image(path), THUMBNAIL)
