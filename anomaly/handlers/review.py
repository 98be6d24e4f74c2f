"""The verbs of the Review tab: one recorded part after the other, a person's word on each, and who agrees with whom."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field

import numpy as np

from anomaly import render
from anomaly.accounts import OPERATOR
from anomaly.errors import AnomalyError, ImageError, RecordError, UsageError
from anomaly.handlers.session import Notice, Session, Site, sentence
from anomaly.history import SAID, Entry, History
from anomaly.images import decode_image, read_image, stretch
from anomaly.monitor import Agreement

log = logging.getLogger(__name__)

WAITING, UNSURE, SPOT_CHECK = "waiting", "unsure", "spot check"
# Queue: verdicts of the machine, words of a person. Escapes are known only from a spot check of what was passed.
QUEUES = {
    WAITING: (("REVIEW", "ANOMALY"), (None,)),
    UNSURE: ((), ("unsure",)),
    SPOT_CHECK: (("OK",), (None,)),
}
MOST_TYPES = 9  # one digit key each
LONGEST_TYPE = 40  # characters


@dataclass
class Desk:
    """The parts before one person. Mutable: each verb moves it on.

    Attributes:
        order: numbers of the entries in the queue when it was laid out; at: place of the one that is shown.
        said: numbers that were judged here, in their order, for undo.
        seen: when the shown part was last judged, as far as its page tells.
    """

    category: str | None = None
    queue: str = WAITING
    order: list[int] = field(default_factory=list)
    at: int = 0
    said: list[int] = field(default_factory=list)
    seen: str | None = None


@dataclass(frozen=True)
class Part:
    """A recorded part to be judged, and where it stands in the queue.

    Attributes:
        photo: (h, w, 3) uint8 RGB, plain; marked: the same with outlined defects.
        note: one plain sentence on what just happened, or "".
        types: of defects that the product was taught, then others that people have named, as they first did.
        type: what the defect looks like and how sure that is, or "".
    """

    entry: Entry
    title: str
    place: int
    total: int
    photo: np.ndarray
    marked: np.ndarray
    types: tuple[str, ...]
    type: str
    note: str


class ReviewHandlers:
    """The verbs of the Review tab; each takes the session, since none is for visitors."""

    def __init__(self, site: Site):
        self.site = site

    def lay_out(self, session: Session, desk: Desk, category: str | None = None, queue: str = WAITING) -> Part | Notice:
        """Begin with the newest part of a queue (of a random one for a spot check, so that it stands for all)."""
        self._allowed(session)
        if queue not in QUEUES:
            raise UsageError(f"There is no queue {queue!r}", f"Choose one of: {', '.join(QUEUES)}")
        desk.category, desk.queue = category, queue
        self._fill(desk)
        return self._show(desk)

    def say(self, session: Session, desk: Desk, number: int, said: str, defect_type: str = "") -> Part | Notice:
        """Keep a person's word on the part that the page showed, and show the next one that waits.

        A word on any other part than the one on the desk comes from a key pressed too fast, and is dropped.
        """
        history = self._allowed(session)
        if said not in SAID or len(defect_type) > LONGEST_TYPE:
            raise UsageError(f"{said!r} of type {defect_type[:LONGEST_TYPE]!r} is no judgement", "Use the keys shown")
        if not desk.order[desk.at : desk.at + 1] == [number]:
            return self._show(desk)
        now = self._entry(number)
        if now is None or now.reviewed_at != desk.seen:
            who = "the part was deleted" if now is None else f"{now.reviewer or 'somebody'} judged this part"
            return self._show(desk, f"Not kept, since meanwhile {who}.")
        try:
            history.review(number, said=said, user=session.person.name, defect_type=defect_type.strip())
        except RecordError as error:
            return self._show(desk, f"Not kept. {error}")
        desk.said.append(number)
        self._forward(desk)
        words = f"defect, {defect_type.strip()}" if said == "defect" and defect_type.strip() else said
        return self._show(desk, " ".join(filter(None, (f"Part {number}: {words}.", self._learn(number)))))

    def move(self, session: Session, desk: Desk, step: int) -> Part | Notice:
        """Look at the part before (-1) or after (1) without a word."""
        self._allowed(session)
        desk.at = min(max(desk.at + (1 if step > 0 else -1), 0), len(desk.order))
        return self._show(desk)

    def undo(self, session: Session, desk: Desk) -> Part | Notice:
        """Take this person's last word back and show that part again."""
        history = self._allowed(session)
        if not desk.said:
            return self._show(desk, "There is nothing to undo.")
        number = desk.said.pop()
        history.withdraw(number, user=session.person.name)
        lost = self._learn(number)
        if number in desk.order:
            desk.at = desk.order.index(number)
        return self._show(desk, " ".join(filter(None, (f"Part {number}: taken back.", lost))))

    def agreement(self, session: Session, category: str | None = None) -> Agreement:
        return Agreement.of(self._allowed(session).counts(category=category, judged=True))

    def _allowed(self, session: Session) -> History:
        session.person.require(OPERATOR, "judge recorded parts")
        if self.site.history is None:
            raise RecordError("This server keeps no record", "Start it with --record DIR")
        return self.site.history

    def _fill(self, desk: Desk) -> None:
        verdicts, said = QUEUES[desk.queue]
        desk.order = self.site.history.numbers(category=desk.category, verdicts=verdicts, said=said)
        desk.at, desk.said = 0, []
        if desk.queue == SPOT_CHECK:
            random.Random(len(desk.order)).shuffle(desk.order)

    def _forward(self, desk: Desk) -> None:
        """To the next part that still waits: neither judged here, nor by somebody else meanwhile, nor deleted."""
        _, wanted = QUEUES[desk.queue]
        while desk.at + 1 < len(desk.order):
            desk.at += 1
            entry = self._entry(desk.order[desk.at])
            if entry is not None and entry.said in wanted and entry.id not in desk.said:
                return
        desk.at = len(desk.order)

    def _learn(self, number: int) -> str:
        """From the next part on, defects like this one have the type that was said of it; gives why not."""
        entry = self._entry(number)
        if entry is None or not entry.regions:
            return ""
        box = tuple(entry.regions[0]["box"])
        try:
            self.site.inspector.label(entry.category, entry.photo, box, entry.defect_type)
        except AnomalyError as error:
            log.warning("part %d is no example of its type: %s", number, error)
            return f"Defects like it will not be recognised. {sentence(error, entry.photo)}"
        return ""

    def _types(self, entry: Entry) -> tuple[str, ...]:
        taught = self.site.inspector.types(entry.category).taught
        return tuple(dict.fromkeys((*taught, *self.site.history.defect_types(entry.category))))[:MOST_TYPES]

    def _looks_like(self, entry: Entry) -> str:
        if entry.verdict == "OK" or not entry.regions:
            return ""
        try:
            return str(self.site.inspector.name(entry.category, entry.photo, tuple(entry.regions[0]["box"])) or "")
        except ImageError:  # said below the picture
            return ""

    def _entry(self, number: int) -> Entry | None:
        try:
            return self.site.history.get(number)
        except UsageError:  # too old, and removed meanwhile
            return None

    def _show(self, desk: Desk, note: str = "") -> Part | Notice:
        if not desk.order:  # at the first look, and when this server has forgotten what lay on the desk
            self._fill(desk)
        entry = None
        while desk.at < len(desk.order) and (entry := self._entry(desk.order[desk.at])) is None:
            desk.order.pop(desk.at)
        if entry is None:
            return _end(desk, note)
        desk.seen = entry.reviewed_at
        photo, marked, lost = _pictures(entry)
        return Part(
            entry=entry,
            title={name: title for title, name in self.site.products()}.get(entry.category, entry.category),
            place=desk.at + 1,
            total=len(desk.order),
            photo=photo,
            marked=marked,
            types=self._types(entry),
            type=self._looks_like(entry),
            note=" ".join(filter(None, (note, lost))),
        )


def _end(desk: Desk, note: str) -> Notice:
    if desk.order:
        done = f"{len(desk.said)} of {len(desk.order)} judged here. Choose the queue again for what came in meanwhile."
        return Notice("idle", "End of the queue", f"{note} {done}".strip())
    return {
        WAITING: Notice("idle", "Nothing waits", "Parts judged REVIEW or ANOMALY appear here once they are inspected."),
        UNSURE: Notice("idle", "No unsure parts", "Parts on which a person said unsure appear here for a second look."),
        SPOT_CHECK: Notice("idle", "No OK parts to check", "Parts judged OK appear here once they are inspected."),
    }[desk.queue]


def _pictures(entry: Entry) -> tuple[np.ndarray, np.ndarray, str]:
    """Photo, photo with outlines, and a sentence when the photo is lost and its thumbnail stands in."""
    defects = decode_image(entry.defects, name="the outlines")[:, :, 0] > 127
    try:
        photo = stretch(read_image(entry.photo), defects.shape)
    except ImageError:
        small = decode_image(entry.thumbnail, name="the thumbnail")
        return small, small, "The photo is no longer kept; this is its thumbnail."
    return photo, render.outlined(photo, defects), ""
