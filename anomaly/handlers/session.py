"""What all tabs share: the place that is served, and what one browser tab is looking at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly.accounts import Person
from anomaly.errors import AnomalyError, UnknownName, UsageError, WrongProduct
from anomaly.gate import Seen
from anomaly.history import History
from anomaly.inspection import AUTO, CategoryInfo, Inspection, Inspector


@dataclass(frozen=True)
class Site:
    """Where everything lies that one server shows and writes.

    Attributes:
        runs: folder of trained categories; thresholds: threshold.json.
        history: the inspection record; None keeps none.
    """

    runs: Path
    thresholds: Path
    inspector: Inspector
    history: History | None = None

    def products(self) -> list[tuple[str, str]]:
        """(title, name) of every category, for a list to choose from."""
        return [(info.title, info.name) for info in self.inspector.categories()]

    def detectors(self) -> list[str]:
        """Every detector that any category has."""
        return sorted({name for info in self.inspector.categories() for name in info.detectors})

    def category(self, name: str | None) -> CategoryInfo:
        """The category of that name. Raises UsageError without a name, UnknownName when there is none."""
        found = {info.name: info for info in self.inspector.categories()}
        choices = f"Give one of: {', '.join(found) or 'none is trained yet'}"
        if not name:
            raise UsageError("No category was given", choices)
        if name not in found:
            raise UnknownName(f"Category {name!r} does not exist", choices)
        return found[name]

    def misplaced(self, error: WrongProduct) -> tuple[str, WrongProduct]:
        """A heading for a photo that shows something else, and the refusal by the titles of the products."""
        seen, titles = Seen(**error.product), {name: title for title, name in self.products()}
        heading = "Another product" if seen.known else "Unknown product"
        return heading, seen.refusal(titles, error.capture, error.attributes)

    def require(self, name: str | None) -> None:
        """Raise as `category` does, unless the photo is to tell its product itself."""
        if name != AUTO:
            self.category(name)

    def record(self, photo: Path, found: Inspection | AnomalyError, *, user: str, detector: str | None = None) -> None:
        """Keep what was found on a photo, or that it was refused; other errors say nothing of a part.

        Raises:
            RecordError: the record does not take it.
        """
        if self.history and isinstance(found, Inspection):
            self.history.add(found, user=user)
        elif self.history and isinstance(found, WrongProduct):
            self.history.refuse(photo, found, detector=detector, user=user)


@dataclass
class Session:
    """What one browser tab is looking at, and who sits there.

    Mutable on purpose: an inspection that waits in the queue reads `turn` when it is done, so that a result
    of a product or photo that the person has left meanwhile is thrown away instead of shown.
    """

    person: Person = field(default_factory=Person)
    product: CategoryInfo | None = None
    examples: tuple[Path, ...] = ()
    detector: str | None = None
    photo: Path | None = None
    inspection: Inspection | None = None
    unrecorded: str = ""  # why the inspection is not on record, although it should be
    shown: str | None = None  # the product that a refused photo shows
    turn: int = 0

    def restart(self) -> None:
        """Forget the verdict: from here on it would stand beside another photo, product or detector."""
        self.inspection, self.unrecorded, self.shown = None, "", None
        self.turn += 1


@dataclass(frozen=True)
class Notice:
    """The page without a verdict.

    Attributes:
        kind: "idle", "busy" or "refused".
        switch: the title of a better product.
        photo: what was refused, (h, w, 3) uint8 RGB, so that a person sees what lies under the camera; name: its file.
    """

    kind: str
    title: str
    text: str = ""
    switch: str = ""
    photo: np.ndarray | None = None
    name: str = ""


def refusal(error: AnomalyError, path: Path | None = None, *, title: str = "Not inspected") -> Notice:
    return Notice("refused", title, sentence(error, path))


def sentence(error: AnomalyError, path: Path | str | None) -> str:
    """The refusal without the folder in which this server keeps the photo."""
    text = str(error)
    return text.replace(str(path), Path(path).name) if path else text
