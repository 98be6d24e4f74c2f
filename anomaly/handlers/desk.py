"""Limits on trial: what they do to the known parts of one detector."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from anomaly import metrics, runs, thresholds, training
from anomaly.errors import RecordError, StaleThreshold, UsageError
from anomaly.history import Columns
from anomaly.metrics import Estimate
from anomaly.thresholds import BY_HAND, Choice, OperatingPoint

VERDICTS = ("OK", "REVIEW", "ANOMALY")
FAR = 0.1  # quantile of defects, and of reviewed good parts from above, that the axis of scores reaches at least
ROOM = 1.25  # times the largest thing that the axis must hold


@dataclass(frozen=True)
class Desk:
    """One detector of one product: what is known of it, what is stored, and the limits on trial.

    An object never changes; its verbs give another one.

    Attributes:
        stored: the operating point that judges now, None if there is none.
        versions: all of them, oldest first, `stored` the last; damage: why they cannot be read.
        record: what people inspected with these weights, None where no record is kept; unread: why it cannot be read.
        reviewed: parts that people reviewed are counted among the known ones.
        choice: the limits on trial; number: which of `versions` they are, counted from 1, or None.
    """

    title: str
    run: runs.Run
    stored: OperatingPoint | None
    versions: tuple[OperatingPoint, ...]
    damage: str
    record: Columns | None
    unread: RecordError | None
    reviewed: bool
    choice: Choice
    number: int | None

    @property
    def fail(self) -> float:
        return max(self.choice.threshold, training.LEAST)

    @property
    def review(self) -> float:
        return min(max(self.choice.review, training.LEAST), self.fail)

    @property
    def held_out(self) -> np.ndarray:
        """Scores of good parts, a random sample, which alone can carry a promise of false alarms."""
        return np.array([entry["score"] for entry in self.run.calibration["good"]])

    @property
    def far_above(self) -> str:
        """What is to be said of held-out parts that alone keep the limit on trial high; "" where none do."""
        return training.far_above(self.run.calibration["good"], self.fail)

    @property
    def known(self) -> np.ndarray:
        """Scores of test images of defects, of which there may be none."""
        return np.array([entry["score"] for entry in self.run.calibration["defect"]])

    @property
    def good(self) -> np.ndarray:
        return np.concatenate([self.held_out, self.said("ok")]) if self.reviewed else self.held_out

    @property
    def defect(self) -> np.ndarray:
        return np.concatenate([self.known, self.said("defect")]) if self.reviewed else self.known

    def said(self, word: str) -> np.ndarray:
        """Scores of reviewed parts, each photo once; not those photos that the capture check objected to."""
        if self.record is None:
            return np.empty(0)
        looked_at = np.flatnonzero((self.record.said != "") & ~self.record.objected)
        newest = looked_at[np.unique(self.record.photo[looked_at], return_index=True)[1]]
        return self.record.score[newest[self.record.said[newest] == word]]

    @property
    def end(self) -> float:
        """Where the axis of scores ends, two digits long: past all held-out parts and the weakest defects, and at twice
        the limit at least, since too many false alarms are cured by a higher one. What lies further is counted at its
        end: one part that a person called good by mistake must not make the steps of the sliders coarse.
        """
        weakest = np.quantile(self.defect, FAR) if self.defect.size else 0.0
        usual = max(self.held_out.max(), np.quantile(self.good, 1 - FAR))
        least = max(2 * float(self.fail), ROOM * float(max(usual, weakest)))
        digits = 1 - math.floor(math.log10(least))
        return round(math.ceil(least * 10**digits) / 10**digits, digits)

    def include_reviewed(self, wanted: bool) -> Desk:
        desk = replace(self, reviewed=wanted)
        return desk.move() if self.choice.rule == BY_HAND else desk

    def move(self, *, fail: float | None = None, review: float | None = None) -> Desk:
        """Limits by hand; one that is not given stays, and gives way where the two would cross.

        Raises:
            UsageError: both are given and cross, or one is not over 0.
        """
        if review is None:
            review = self.review if fail is None else min(self.review, fail)
        elif fail is None:
            fail = max(self.fail, review)
        fail = self.fail if fail is None else fail
        choice = thresholds.by_hand(fail, review, self.good, self.defect, effect=self.run.design_effect)
        return replace(self, choice=self._as_sampled(choice), number=None)

    def by_rule(self, rule: str, *, target: float | None = None, costs: tuple[float, float] = (1.0, 10.0)) -> Desk:
        """Limits by a rule of `thresholds.choose`, whose errors these are."""
        # What people review is no random sample of good parts, so a rule that promises false alarms looks past it.
        good = self.good if rule in thresholds.NEEDS_DEFECTS else self.held_out
        if rule not in ("false-alarms", "percentile"):
            target = None
        choice = thresholds.choose(
            rule,
            good,
            self.defect,
            target=target,
            false_alarm_cost=costs[0],
            escape_cost=costs[1],
            effect=self.run.design_effect,
        )
        return replace(self, choice=self._as_sampled(choice), number=None)

    def restore(self, number: int) -> Desk:
        """The limits of a former version. Raises StaleThreshold when they were set for other weights."""
        if not isinstance(number, int) or not 1 <= number <= len(self.versions):
            problem = f"There is no version {number} of these limits, they go to {len(self.versions)}"
            raise UsageError(problem, "Choose one of the list")
        point = self.versions[number - 1]
        if point.weights_sha256 != self.run.weights_sha256:
            problem = f"Version {number} was set for other weights than those that judge now"
            raise StaleThreshold(problem, "Choose a later version, or a rule")
        return replace(self, choice=chosen(point), number=number)

    def point(self) -> OperatingPoint:
        """The limits on trial as they would be stored, still unsigned. Raises UsageError when they are stored."""
        if self.number is None:
            return training.operating_point(self.run, self.choice, why="")
        if self.number == len(self.versions) and self.stored:
            raise UsageError("These limits are the stored ones", "Move one of them, or choose a rule")
        return self.versions[self.number - 1]

    def _as_sampled(self, choice: Choice) -> Choice:
        """Says in the promise how many parts came from review, where they do not stand for the line."""
        good, defect = choice.n_good - self.held_out.size, choice.n_defect - self.known.size
        if not good + defect:
            return choice
        words = f"; {good} good and {defect} defective parts come from review, which sees doubtful parts first"
        return replace(choice, promise=choice.promise + words)


@dataclass(frozen=True)
class Figure:
    """A share of known parts at the limits on trial; `estimate` is None where these parts cannot tell."""

    name: str
    estimate: Estimate | None
    meaning: str


@dataclass(frozen=True)
class Figures:
    """What the limits on trial do to known parts.

    Attributes:
        counts: {"good" or "defect": parts judged OK, REVIEW and ANOMALY}.
        shares: each with its 95% interval and n; exact intervals (Clopper & Pearson 1934), F1 by bootstrap.
    """

    counts: dict[str, tuple[int, int, int]]
    shares: tuple[Figure, ...]


def figures(desk: Desk) -> Figures:
    counts = {kind: _counts(scores, desk) for kind, scores in (("good", desk.good), ("defect", desk.defect))}
    n, m = desk.good.size, desk.defect.size
    fp, tp, unseen = counts["good"][2], counts["defect"][2], counts["defect"][0]
    both = n and m
    shares = (
        Figure("False alarms", _share(fp, n), "good parts judged ANOMALY"),
        Figure("To look at", _share(counts["good"][1], n), "good parts judged REVIEW"),
        Figure("Escapes", _share(m - tp, m), "defects not judged ANOMALY"),
        Figure("Unseen escapes", _share(unseen, m), "defects judged OK: nobody looks"),
        Figure("Recall", _share(tp, m), "defects judged ANOMALY, 1 − escapes"),
        Figure("Precision", _share(tp, tp + fp) if both else None, "of parts judged ANOMALY, defects"),
        Figure("F1", _f1(tp, fp, n, m) if both else None, "harmonic mean of precision and recall"),
        Figure("Accuracy", _share(tp + n - fp, n + m) if both else None, "parts judged right at FAIL"),
    )
    return Figures(counts, shares)


@dataclass(frozen=True)
class Ranking:
    """How well scores part good from defective, at any limit: both curves and the area under each."""

    curves: metrics.Curves
    auroc: Estimate
    average_precision: Estimate


def ranking(desk: Desk) -> Ranking | None:
    """None without known defects."""
    if not desk.defect.size:
        return None
    return _ranking(tuple(desk.good), tuple(desk.defect))


def chosen(point: OperatingPoint) -> Choice:
    """The limits of an operating point, as something to try."""
    return Choice(point.fail, point.review, point.rule, point.target, point.promise, point.n_good, point.n_defect)


def judged(scores: np.ndarray, desk: Desk) -> np.ndarray:
    """`thresholds.decide` over an array."""
    return np.where(scores >= desk.fail, "ANOMALY", np.where(scores >= desk.review, "REVIEW", "OK"))


def _counts(scores: np.ndarray, desk: Desk) -> tuple[int, int, int]:
    found = judged(scores, desk)
    return tuple(int(np.sum(found == verdict)) for verdict in VERDICTS)


def _share(k: int, n: int) -> Estimate | None:
    return Estimate(k / n, *thresholds.interval(k, n), n) if n else None


@lru_cache(maxsize=256)
def _f1(tp: int, fp: int, n: int, m: int) -> Estimate:
    """F1 knows a part by its label and verdict alone, so a moved limit that changes no verdict costs nothing."""
    labels = np.repeat([0, 1], [n, m])
    verdicts = np.concatenate([np.arange(n) < fp, np.arange(m) < tp])
    return metrics.bootstrap(lambda labels, verdicts: metrics.confusion(labels, verdicts, 0.5).f1, labels, verdicts)


@lru_cache(maxsize=32)
def _ranking(good: tuple[float, ...], defect: tuple[float, ...]) -> Ranking:
    labels, scores = np.repeat([0, 1], [len(good), len(defect)]), np.array(good + defect)
    return Ranking(
        curves=metrics.curves(labels, scores),
        auroc=metrics.bootstrap(metrics.image_auroc, labels, scores),
        average_precision=metrics.bootstrap(metrics.image_ap, labels, scores),
    )
