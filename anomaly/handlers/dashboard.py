"""The verbs of the Dashboard tab: what the record and the shipped evaluation say, in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np

from anomaly import metrics, runs
from anomaly.accounts import OPERATOR
from anomaly.errors import AnomalyError, RecordError, ThresholdError, UsageError
from anomaly.evaluation import FIGURES
from anomaly.handlers.session import Session, Site
from anomaly.history import History
from anomaly.monitor import REFUSED, Count, Drift, Figures, Share, drift
from anomaly.runs import Run
from anomaly.thresholds import Thresholds

PERIODS = (7, 30, 90)  # days


@dataclass(frozen=True)
class ScoreDrift:
    """Recorded scores of one run beside its calibration scores, both (n,) float64 and ascending."""

    title: str
    detector: str
    drift: Drift
    seen: np.ndarray
    reference: np.ndarray
    limit: float


@dataclass(frozen=True)
class Overview:
    """What the record says of some days.

    Attributes:
        products: {title: figures}, of those with inspections.
        days: {"2026-11-22": figures}, every day of the period, in order.
        objections: (sentence, share of the photos).
        untold: runs whose drift cannot be told, a sentence each.
    """

    total: Figures
    products: dict[str, Figures]
    days: dict[str, Figures]
    objections: tuple[tuple[str, Share], ...]
    drifts: tuple[ScoreDrift, ...]
    untold: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
    """The figures of metrics.json of one run.

    Attributes:
        values: {name in FIGURES: value, None where the test images did not allow it}.
        roc: (false alarm rates, hit rates) of the scores in calibration.json, or None where no defects are among them.
    """

    title: str
    values: dict[str, float | None]
    interval: tuple[float, float] | None
    confusion: dict[str, int]
    n_good: int
    n_defect: int
    roc: tuple[np.ndarray, np.ndarray] | None


class DashboardHandlers:
    """The verbs of the Dashboard tab."""

    def __init__(self, site: Site):
        self.site = site

    def overview(self, session: Session, category: str | None = None, days: int = 30) -> Overview:
        """What the record says of the last `days` days, today included."""
        session.person.require(OPERATOR, "look at the record")
        if self.site.history is None:
            raise RecordError("This server keeps no record", "Start it with --record DIR")
        if days not in PERIODS:
            raise UsageError(f"The period is {days} days", f"Choose one of: {', '.join(map(str, PERIODS))}")
        history, titles = self.site.history, {name: title for title, name in self.site.products()}
        today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        first = today - timedelta(days=days - 1)
        since = first.astimezone(timezone.utc).isoformat(timespec="seconds")
        counts = history.counts(category=category, since=since)
        calendar = [str(first.date() + timedelta(days=day)) for day in range(days)]
        judged = [one for one in counts if one.verdict != REFUSED]
        total = Figures.of(counts)
        objections = history.objections(category=category, since=since)
        drifts, untold = self._drifts(history, [category] if category else sorted(titles), since, titles)
        return Overview(
            total=total,
            products=_by(judged, lambda one: titles.get(one.category, one.category)),
            days=dict.fromkeys(calendar, Figures.of(())) | _by(judged, lambda one: one.day),
            objections=tuple((said, Share(k, total.inspected)) for said, k in objections),
            drifts=drifts,
            untold=untold,
        )

    def evaluation(self, session: Session, detector: str) -> list[Evaluated]:
        """What metrics.json says of each category's run of a detector, where it was evaluated."""
        session.person.require(OPERATOR, "look at the evaluation")
        found = []
        for title, category in self.site.products():
            if detector not in runs.names(self.site.runs).get(category, ()):
                continue
            try:
                run = runs.open_run(self.site.runs, category, detector)
            except AnomalyError:  # a broken run takes none of the others away; inspecting by it says what is wrong
                continue
            if run.metrics:
                found.append(_evaluated(title, run))
        return found

    def _drifts(
        self, history: History, categories: Iterable[str], since: str, titles: dict[str, str]
    ) -> tuple[tuple[ScoreDrift, ...], tuple[str, ...]]:
        told, untold, book = [], [], Thresholds.load(self.site.thresholds)
        for category in categories:
            for detector in runs.names(self.site.runs).get(category, ()):
                title = titles.get(category, category)
                try:
                    run = runs.open_run(self.site.runs, category, detector)
                except AnomalyError as error:
                    untold.append(f"{title} / {detector}: {error}")
                    continue
                seen = history.scores(category, detector, weights_sha256=run.weights_sha256, since=since)
                if seen.size:
                    told.append(_drift(title, run, seen, book))
        return tuple(told), tuple(untold)


def _by(counts: list[Count], name: Callable[[Count], str]) -> dict[str, Figures]:
    groups: dict[str, list[Count]] = {}
    for one in counts:
        groups.setdefault(name(one), []).append(one)
    return {key: Figures.of(groups[key]) for key in sorted(groups)}


def _drift(title: str, run: Run, seen: np.ndarray, book: Thresholds) -> ScoreDrift:
    reference = np.array([one["score"] for one in run.calibration["good"]], dtype=np.float64)
    try:
        limit = book.get(run.category, run.detector, weights_sha256=run.weights_sha256).fail
    except ThresholdError:  # recorded under a limit that has gone since
        limit = math.inf
    return ScoreDrift(
        title, run.detector, drift(seen, reference, limit=limit), np.sort(seen), np.sort(reference), limit
    )


def _evaluated(title: str, run: Run) -> Evaluated:
    figures = run.metrics
    interval = (figures.get("intervals") or {}).get("image_auroc")
    return Evaluated(
        title=title,
        values={name: figures.get(name) for name in FIGURES},
        interval=tuple(interval) if interval else None,
        confusion=figures["confusion"],
        n_good=figures["n_good"],
        n_defect=figures["n_defect"],
        roc=_roc(*([one["score"] for one in run.calibration[kind]] for kind in ("good", "defect"))),
    )


def _roc(good: list[float], defect: list[float]) -> tuple[np.ndarray, np.ndarray] | None:
    if not (good and defect):
        return None
    found = metrics.curves(np.repeat([0, 1], [len(good), len(defect)]), np.array(good + defect))
    return found.false_alarms, found.recall
