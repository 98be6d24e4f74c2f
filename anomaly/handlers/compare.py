"""The verbs of the Compare tab: one photo through every detector of a product, and against every product."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly import render
from anomaly.errors import AnomalyError, UsageError, WrongProduct
from anomaly.handlers.inspect import EXPIRED, doubt
from anomaly.handlers.session import Notice, Session, Site, sentence
from anomaly.images import shrink
from anomaly.inspection import CategoryInfo, Inspection
from anomaly.thresholds import Standing

log = logging.getLogger(__name__)

SHOWN = 640  # longest side in pixels of a picture: several stand side by side on one page


@dataclass
class Comparison:
    """What one browser tab compares; mutable for the same reason as `Session`."""

    photo: Path | None = None
    product: CategoryInfo | None = None
    turn: int = 0


@dataclass(frozen=True)
class Reading:
    """What one detector says of the photo, on scales that all detectors share: level, and rank among good parts.

    Attributes:
        level: score divided by limit; review: where REVIEW begins on that scale.
        doubt: the standing as a sentence; capture: how the photo differs from the training photos.
    """

    verdict: str
    level: float
    review: float
    score: float
    threshold: float
    standing: Standing
    doubt: str
    capture: tuple[str, ...]


@dataclass(frozen=True)
class Pictures:
    """(h, w, 3) uint8 RGB of one size.

    Attributes:
        regions: how many are over the limit; centre: of the strongest, as a share of the width, else the middle.
        width, height: of the original in pixels.
    """

    photo: np.ndarray
    overlay: np.ndarray
    reconstruction: np.ndarray | None
    regions: int
    centre: float
    width: int
    height: int


@dataclass(frozen=True)
class Side:
    """One detector of one product beside the others; `reading` is None where it refused.

    `heading` is then what it is in two words, and `refusal` says why.
    """

    product: str  # its title
    detector: str
    decides: bool  # the detector whose verdict counts for this product
    reading: Reading | None = None
    pictures: Pictures | None = None
    heading: str = "Not inspected"
    refusal: str = ""

    def to_json(self) -> dict:
        """What `python -m anomaly compare --json` prints of it; null where it refused, and `error` says why."""
        read = self.reading
        judged = ("verdict", "level", "score", "threshold")
        return {
            "product": self.product,
            "detector": self.detector,
            "decides": self.decides,
            **{name: read and getattr(read, name) for name in judged},
            "percentile": read and read.standing.to_json(),
            "capture": list(read.capture) if read else [],
            "error": self.refusal or None,
        }


class CompareHandlers:
    """The verbs of the Compare tab. Nothing is recorded: the same part is judged many times here."""

    def __init__(self, site: Site):
        self.site = site
        self.inspector = site.inspector

    def choose_product(self, asked: Comparison, category: str | None) -> None:
        asked.product = self.site.category(category)
        asked.turn += 1

    def take_photo(self, asked: Comparison, path: str | None) -> None:
        asked.photo = Path(path) if path else None
        asked.turn += 1

    def take_inspected(self, asked: Comparison, session: Session) -> None:
        """The photo and the product of the Inspect tab."""
        if session.photo is None or session.product is None:
            raise UsageError("No photo was inspected yet", "Inspect one first, or add a photo here")
        asked.photo, asked.product = session.photo, session.product
        asked.turn += 1

    def waiting(self, asked: Comparison) -> Notice:
        """What to say before anything is compared."""
        if asked.photo is None:
            return Notice("idle", "Add a photo", "Then see what every detector and every product says of it.")
        return Notice("busy", "Comparing", asked.photo.name)

    def detectors(self, asked: Comparison) -> Iterator[Side]:
        """The photo through every detector of the chosen product, the one that decides first, with pictures."""
        if asked.product is None:
            return
        info = asked.product
        names = sorted(info.detectors, key=lambda name: name != info.active)
        yield from self._sides(asked, [(info, name) for name in names], pictures=True)

    def all_products(self, asked: Comparison) -> Iterator[Side]:
        """The photo through the deciding detector of every product."""
        yield from self._sides(asked, [(info, info.active) for info in self.inspector.categories()], pictures=False)

    def _sides(self, asked: Comparison, pairs: list[tuple[CategoryInfo, str]], *, pictures: bool) -> Iterator[Side]:
        """Ends early when the person has moved on to another photo or product."""
        turn, photo = asked.turn, asked.photo
        if photo is None:
            return
        for info, detector in pairs:
            known = {"product": info.title, "detector": detector, "decides": detector == info.active}
            try:
                if not photo.exists():
                    raise UsageError(EXPIRED, "Add the photo again")
                found = self.inspector.inspect(photo, category=info.name, detector=detector)
                side = Side(**known, reading=_reading(found), pictures=_pictures(found) if pictures else None)
            except WrongProduct as error:
                heading, said = self.site.misplaced(error)
                side = Side(**known, heading=heading, refusal=f"{said.problem}.")
            except AnomalyError as error:
                side = Side(**known, refusal=sentence(error, photo))
            except Exception:
                # One broken detector must not take the others' answers away.
                log.exception("comparing %s as %s / %s failed", photo.name, info.name, detector)
                side = Side(**known, refusal="The program failed on this photo.")
            if asked.turn != turn:
                return
            yield side


def verdicts(sides: list[Side]) -> str:
    """One plain sentence on whether the detectors of a product agree."""
    said = {side.detector: side.reading.verdict for side in sides if side.reading}
    if len(said) < 2:
        return ""
    if len(set(said.values())) == 1:
        return f"The detectors agree: {next(iter(said.values()))}."
    decides = next((side.detector for side in sides if side.decides and side.reading), None)
    return "The detectors disagree." + (f" {decides} decides: {said[decides]}." if decides else "")


def nearest(sides: list[Side]) -> list[Side]:
    """The products by level, the one whose good parts the photo is most like first; refusals at the end."""
    return sorted(sides, key=lambda side: side.reading.level if side.reading else float("inf"))


def _reading(found: Inspection) -> Reading:
    return Reading(
        verdict=found.verdict,
        level=found.level,
        review=found.review_threshold / found.threshold,
        score=found.score,
        threshold=found.threshold,
        standing=found.percentile,
        doubt=doubt(found.percentile),
        capture=found.capture,
    )


def _pictures(found: Inspection) -> Pictures:
    overlay = render.overlay(found.preview, found.map, found.pixel_threshold, pixel_threshold=found.pixel_threshold)
    made = found.reconstruction
    left, _, across, _ = found.regions[0].box if found.regions else (0, 0, found.width, found.height)
    return Pictures(
        photo=shrink(found.preview, SHOWN),
        overlay=shrink(overlay, SHOWN),
        reconstruction=None if made is None else shrink(made, SHOWN),
        regions=len(found.regions),
        centre=(left + across / 2) / found.width,
        width=found.width,
        height=found.height,
    )
