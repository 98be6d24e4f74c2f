"""The verbs of the Tune tab: put limits on trial, see what the record would have got, save them."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from anomaly import runs, thresholds, training
from anomaly.accounts import OPERATOR, SUPERVISOR
from anomaly.errors import RecordError, StaleThreshold, ThresholdError, UsageError
from anomaly.handlers.desk import Desk, chosen, figures, judged, ranking
from anomaly.handlers.session import Session, Site
from anomaly.history import Entry
from anomaly.thresholds import Choice, Thresholds, ledger

SHOWN = 24  # parts of the record that come with their picture: the newest


@dataclass(frozen=True)
class WhatIf:
    """What the limits on trial would have said to recorded parts.

    Attributes:
        total: of recorded parts.
        objected: those of them that stay in REVIEW, because the photo is unlike the good ones.
        counts: {(verdict on record, verdict on trial): parts}, of those that change.
        parts: the newest of them, (entry, verdict on trial).
    """

    total: int
    objected: int
    counts: dict[tuple[str, str], int]
    parts: tuple[tuple[Entry, str], ...]


class TuneHandlers:
    """The verbs of the Tune tab that read or write what is stored."""

    def __init__(self, site: Site):
        self.site = site

    def products(self, session: Session) -> list[tuple[str, str]]:
        """(title, name) of every category."""
        session.person.require(OPERATOR, "look at limits")
        return self.site.products()

    def detectors(self, session: Session, category: str) -> tuple[str, ...]:
        session.person.require(OPERATOR, "look at limits")
        return runs.names(self.site.runs).get(category, ())

    def open(self, session: Session, category: str, detector: str | None = None) -> Desk:
        """A detector with its stored limits; None takes the active one.

        Raises:
            Forbidden: not an operator; UnknownName: no such category or detector; BrokenRun: the run is damaged;
            ThresholdError: threshold.json cannot be read.
        """
        session.person.require(OPERATOR, "look at limits")
        book = Thresholds.load(self.site.thresholds)
        detector = detector or runs.meant(self.site.runs, book, category)
        run = runs.open_run(self.site.runs, category, detector)
        stored, damage = book.find(category, detector), ""
        try:
            versions = tuple(ledger.versions(self.site.thresholds, category, detector))
        except ThresholdError as error:  # a damaged ledger must not keep anybody from working
            versions, damage = (stored,) if stored else (), str(error)
        fresh = stored is not None and stored.weights_sha256 == run.weights_sha256
        names = {"category": category, "detector": detector, "weights_sha256": run.weights_sha256}
        record, unread = None, None
        try:
            record = self.site.history.columns(**names) if self.site.history else None
        except RecordError as error:  # nor must a record that is locked or damaged
            unread = error
        return Desk(
            title=runs.describe(self.site.runs, category)["title"],
            run=run,
            stored=stored,
            versions=versions,
            damage=damage,
            record=record,
            unread=unread,
            reviewed=False,
            choice=chosen(stored) if fresh else _first_choice(run),
            number=len(versions) if fresh else None,
        )

    def refresh(self, session: Session, desk: Desk) -> Desk:
        """What is stored and recorded now, under the same limits on trial if their weights still judge."""
        now = self.open(session, desk.run.category, desk.run.detector)
        if now.run.weights_sha256 != desk.run.weights_sha256:
            return now
        return replace(now, reviewed=desk.reviewed, choice=desk.choice, number=desk.number)

    def what_if(self, session: Session, desk: Desk) -> WhatIf | None:
        """Every recorded part judged anew from its score. None where no record is kept.

        A photo that the capture check objected to stays in REVIEW, whatever its score.

        Raises:
            RecordError: the record could not be read when the desk was laid out.
        """
        session.person.require(OPERATOR, "look at the record")
        if desk.unread:
            raise desk.unread
        if desk.record is None:
            return None
        now = np.where(desk.record.objected, "REVIEW", judged(desk.record.score, desk))
        changed = np.flatnonzero(now != desk.record.verdict)
        counts = Counter(zip(desk.record.verdict[changed].tolist(), now[changed].tolist()))
        parts = []
        for place in changed[:SHOWN]:
            with contextlib.suppress(UsageError):  # deleted since: old entries go
                parts.append((self.site.history.get(int(desk.record.id[place])), str(now[place])))
        return WhatIf(len(now), int(desk.record.objected.sum()), dict(counts.most_common()), tuple(parts))

    def save(self, session: Session, desk: Desk, *, who: str, why: str) -> Desk:
        """Store the limits on trial under a name and a reason; gives the desk as it is then.

        Raises:
            Forbidden: not a supervisor; UsageError: no name, no reason or no change; StaleThreshold: the run was
            trained again; ConflictingSave: somebody else saved since the desk was opened; ThresholdError: a file
            cannot be written.
        """
        session.person.require(SUPERVISOR, "save limits")
        category, detector = desk.run.category, desk.run.detector
        if runs.open_run(self.site.runs, category, detector).weights_sha256 != desk.run.weights_sha256:
            problem = f"{desk.title} / {detector} was trained again since these limits were chosen"
            raise StaleThreshold(problem, "Open it again, and choose limits for the new scores")
        point = ledger.signed(desk.point(), who=who, why=why)
        ledger.save(self.site.thresholds, category, detector, point, started_from=ledger.digest(desk.stored))
        saved = self.open(session, category, detector)
        return replace(saved, reviewed=desk.reviewed)


def _first_choice(run: runs.Run) -> Choice:
    """Of a run without limits of its own: as training sets them."""
    good, defect = ([entry["score"] for entry in run.calibration[kind]] for kind in ("good", "defect"))
    target = training.supported_target(len(good))
    return thresholds.choose("false-alarms", good, defect, target=target, effect=run.design_effect)


def to_json(desk: Desk, found: WhatIf | None) -> dict:
    """What `python -m anomaly tune --json` prints; null is what these parts cannot tell."""
    shown, order = figures(desk), ranking(desk)
    shares = {figure.name.lower().replace(" ", "_"): figure.estimate for figure in shown.shares}
    ranked = {"image_auroc": order and order.auroc, "image_ap": order and order.average_precision}
    record = found and {
        "parts": found.total,
        "changes": [{"from": old, "to": new, "parts": count} for (old, new), count in found.counts.items()],
        "newest": [
            {"id": entry.id, "file": entry.file, "score": entry.score, "from": entry.verdict, "to": now}
            for entry, now in found.parts
        ],
    }
    return {
        "category": desk.run.category,
        "detector": desk.run.detector,
        "fail": desk.fail,
        "review": desk.review,
        "rule": desk.choice.rule,
        "promise": desk.choice.promise,
        "confusion": {kind: list(counts) for kind, counts in shown.counts.items()},
        "figures": {name: one and one.to_json() for name, one in (shares | ranked).items()},
        "record": record,
    }
