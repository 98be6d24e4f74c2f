"""From scores of known parts to a verdict: rules, the promise that comes with each, and threshold.json.

A score is anomalous iff `score >= threshold`. Scores are raw, higher = more anomalous, in the unit of the detector.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from scipy.special import betaincinv

from anomaly.errors import MissingThreshold, StaleThreshold, ThresholdError, UnknownName, UnsupportedPromise, UsageError

RULES = ("f1", "accuracy", "percentile", "false-alarms", "cost")

# Far over the rounding of n times a fraction, far under 1: 150 * (1 - 0.18) is 123, not 123.00000000000001.
_ROUNDING = 1e-9
_FROM_FILE = "from file"


@dataclass(frozen=True)
class Choice:
    """A threshold that a rule chose, where REVIEW begins, and what to expect in one plain sentence with n and interval.

    `review` is minus infinity when even the lowest score may belong over the threshold.
    """

    threshold: float
    review: float
    rule: str
    target: float | None
    promise: str
    n_good: int
    n_defect: int


def choose(
    rule: str,
    good: ArrayLike,
    defect: ArrayLike = (),
    *,
    target: float | None = None,
    false_alarm_cost: float = 1.0,
    escape_cost: float = 10.0,
) -> Choice:
    """Choose the threshold of the verdict.

    - `false-alarms`: on average at most `target` (default 0.02) of good parts raise an alarm. Split conformal (Vovk et
      al. 2005; Lei et al. 2018): just over the k-th lowest of n good scores, k = ceil((n + 1) (1 - target)). It holds
      for any distribution, if the parts to come are exchangeable with the held-out ones.
    - `percentile`: just over the lowest score that `target` (default 99) percent of the good scores do not exceed.
    - `f1`, `accuracy`: the highest value on these parts; needs defective ones.
    - `cost`: the lowest false_alarm_cost * false alarms + escape_cost * escapes on these parts, so at their share of
      defects; needs defective ones.

    The last three take thresholds midway between neighbouring scores; of equal ones the lowest, since an escape is
    worse than a false alarm. Under the first two, the rate of false alarms to come follows Beta(n + 1 - k, k), whose
    2.5% and 97.5% quantiles are the interval; other rates carry the exact interval (Clopper & Pearson 1934).

    Args:
        rule: one of `RULES`.
        good: (n,) scores of good parts that the detector did not learn from.
        defect: (m,) scores of defective parts.
        target: a fraction in (0, 1) for `false-alarms`, a percentage in (0, 100) for `percentile`, else None.
        false_alarm_cost, escape_cost: positive, in one unit; used by `cost`.

    Raises:
        UnknownName: no such rule.
        UnsupportedPromise: fewer good scores than `false-alarms` needs for its target.
        UsageError: no good scores, a score that is not finite, no defective scores where the rule needs them, a target
            or a cost outside its range.
    """
    if rule not in RULES:
        raise UnknownName(f"there is no rule {rule!r}", f"Use one of {', '.join(RULES)}")
    good, defect = _scores(good, "good"), _scores(defect, "defective")
    if not good.size:
        raise UsageError("no scores of good parts were given", "Hold out good images, at least 49 for 2% false alarms")
    if rule in ("false-alarms", "percentile"):
        threshold, target, promise = _from_good(rule, good, target)
        if defect.size:
            promise += f"; {_rate(int(np.sum(defect < threshold)), defect.size, 'known defective parts escape')}"
    else:
        if target is not None:
            raise UsageError(f"the rule {rule} takes no target", "Leave the target out, or use the rule false-alarms")
        threshold, promise = _from_both(rule, good, defect, false_alarm_cost, escape_cost)
    below = np.mean(good < threshold)
    review = review_limit(good, share=1 - target if rule == "false-alarms" else below, threshold=threshold)
    doubtful = int(np.sum((good >= review) & (good < threshold)))
    promise += f"; {_rate(doubtful, good.size, 'held-out good parts go to REVIEW')}"
    return Choice(
        threshold=float(threshold),
        review=review,
        rule=rule,
        target=target,
        promise=promise,
        n_good=int(good.size),
        n_defect=int(defect.size),
    )


def review_limit(good: ArrayLike, *, share: float, threshold: float) -> float:
    """Where doubt begins: the lower end of the 95% interval of the quantile of good parts where the threshold stands.

    The threshold shall have `share` of all good parts below it. A score with k of the n held-out ones below it has some
    share p of all good parts below it, and p is known to lie in the exact interval of k of n (`interval`) only. Doubt
    begins with the smallest k whose upper end reaches `share`: from there on the held-out parts cannot say on which
    side of the promised quantile a part lies. That is just over the k-th lowest score, the order statistic that bounds
    a quantile from below whatever the distribution, P(Binomial(n, share) <= k - 1) < 2.5% <= P(Binomial(n, share) <= k)
    (Thompson 1936; David & Nagaraja, Order Statistics, 2003, section 7.1).

    Args:
        good: (n,) scores of held-out good parts.
        share: of good parts under the threshold, in [0, 1].
        threshold: of the verdict.
    Returns:
        A score, never over `threshold`; minus infinity when the parts are too few to bound the quantile from below.
    """
    good = _scores(good, "good")
    below = np.arange(good.size)
    k = int(np.searchsorted(betaincinv(below + 1, good.size - below, 0.975), share))  # the upper ends grow with k
    return min(float(np.nextafter(good[k - 1], np.inf)), float(threshold)) if k else -math.inf


def interval(k: int, n: int) -> tuple[float, float]:
    """The exact 95% interval of a share that was seen k times in n (Clopper & Pearson 1934), as fractions."""
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.975))
    return low, high


def rate_to_come(k: int, n: int) -> tuple[float, float]:
    """The 95% interval of the rate of false alarms to come, of a limit just over the k-th lowest of n good scores.

    The rate follows Beta(n + 1 - k, k) whatever the distribution of scores (Vovk 2012, split conformal).
    """
    low, high = (float(betaincinv(n + 1 - k, k, q)) for q in (0.025, 0.975))
    return low, high


@dataclass(frozen=True)
class Standing:
    """Where a score lies: over `below` of n held-out good parts, and over a share `low` to `high` of all good parts."""

    below: int
    n: int
    low: float
    high: float

    def to_json(self) -> dict:
        """In percent."""
        value, low, high = (round(100 * share, 2) for share in (self.below / self.n, self.low, self.high))
        return {"value": value, "low": low, "high": high, "n": self.n}


def standing(score: float, good: ArrayLike) -> Standing:
    """The share of good parts that score less, with its 95% interval.

    The ends are quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k), k of n held-out parts being below: the exact
    interval of Clopper & Pearson (1934), which holds the posterior of the Bayesian bootstrap (Rubin 1981). The plain
    bootstrap would say 100-100% of a score over all n, however few they are: it never draws a part it has not seen.

    Raises:
        UsageError: no good scores, or one that is not finite.
    """
    good = _scores(good, "good")
    if not good.size:
        raise UsageError("no scores of good parts were given", "Hold out good images")
    below = int(np.searchsorted(good, score, "left"))
    return Standing(below, int(good.size), *interval(below, good.size))


def strongest_target(n: int) -> float:
    """The smallest false-alarm target that n held-out good images support: 1 / (n + 1).

    Raises:
        UsageError: n < 1.
    """
    if n < 1:
        raise UsageError("no good images are held out, so nothing can be promised", "Hold out good images")
    return 1 / (n + 1)


def decide(score: float, *, threshold: float, review: float) -> str:
    """The verdict: "ANOMALY" at or over `threshold`, else "REVIEW" at or over `review`, else "OK".

    Raises:
        UsageError: a number is not finite (a NaN would pass as OK), or `review` lies over `threshold`.
    """
    if not all(map(math.isfinite, (score, threshold, review))):
        problem = f"score {score}, threshold {threshold} and review {review} must be finite numbers"
        raise UsageError(problem, "Train and calibrate the category again")
    if review > threshold:
        problem = f"the review threshold {review:g} lies over the fail threshold {threshold:g}"
        raise UsageError(problem, "Set it at or below the fail threshold")
    if score >= threshold:
        return "ANOMALY"
    return "REVIEW" if score >= review else "OK"


class _Stored(BaseModel):
    """What a file holds: unchangeable, no unknown keys, no NaN, and our own error for the person who wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values, handler, info: ValidationInfo):
        try:
            entry = handler(values)
            entry._check()
            return entry
        except ValueError as error:  # pydantic's ValidationError is one, too
            if info.context == _FROM_FILE:  # left to `load`, which knows the whole way to the entry
                raise
            problem = _first(error) if isinstance(error, ValidationError) else str(error)
            raise ThresholdError(problem, "Calibrate the category again") from error

    def _check(self) -> None:
        """Raise ValueError if the values contradict each other."""


class OperatingPoint(_Stored):
    """The thresholds of one detector of one category, who set them and why.

    Attributes:
        fail, review: image scores; 0 < review <= fail.
        pixel: value of the map from which a pixel belongs to a defect; over 0, in the unit of the score.
        rule, target, promise, n_good, n_defect: of the `Choice`.
        weights_sha256: digest of the weights whose scores these are.
        set_by, set_at, why: the signature; `set_at` is ISO 8601 in UTC.
    """

    fail: float
    review: float = Field(gt=0)
    pixel: float = Field(gt=0)
    rule: str
    target: float | None = None
    promise: str
    n_good: int = Field(ge=0)
    n_defect: int = Field(ge=0)
    weights_sha256: str = Field(min_length=1)
    set_by: str
    set_at: str
    why: str

    @field_validator("set_at")
    @classmethod
    def _in_utc(cls, text: str) -> str:
        # Python 3.10 does not read the "Z" of ISO 8601.
        moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
        if moment.utcoffset() != timedelta(0):
            raise ValueError(f"{text!r} is not in UTC")
        return text

    def _check(self) -> None:
        if self.review > self.fail:
            raise ValueError(f"review {self.review:g} lies over fail {self.fail:g}")


class _Category(_Stored):
    active: str
    detectors: dict[str, OperatingPoint]

    def _check(self) -> None:
        if self.active not in self.detectors:
            raise ValueError(f"the active detector {self.active!r} has no operating point")


class Thresholds(_Stored):
    """The content of threshold.json. An object never changes; `with_point` gives a new one."""

    version: Literal[1] = Field(default=1, alias="schema")
    categories: dict[str, _Category] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Thresholds:
        """Read threshold.json; a missing file is an empty book.

        Raises:
            ThresholdError: not JSON, another schema, unknown keys, or values out of range.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            problem = f"{path} cannot be read as JSON"
            raise ThresholdError(problem, "Restore it from a backup, or delete it and calibrate again") from error
        if not isinstance(content, dict) or content.get("schema") != 1:
            found = content.get("schema", "no schema") if isinstance(content, dict) else "no schema"
            problem = f"{path} is of schema {found!r}, schema 1 was expected"
            raise ThresholdError(problem, "Use the version that wrote it, or delete it and calibrate again")
        try:
            return cls.model_validate(content, context=_FROM_FILE)
        except ValidationError as error:
            problem = f"{path} cannot be used, {_first(error)}"
            raise ThresholdError(problem, "Correct this entry, or delete the file and calibrate again") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write threshold.json whole or not at all: a reader sees the old content or the new one.

        Raises:
            ThresholdError: the file cannot be written.
        """
        path = Path(os.path.realpath(path))  # a link stays a link
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with part.open("x", encoding="utf-8") as stream:
                json.dump(self.model_dump(by_alias=True), stream, indent=2, ensure_ascii=False)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        except OSError as error:
            problem = f"{path} cannot be written ({error.strerror})"
            raise ThresholdError(problem, "Check that its folder is there and may be written to") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def get(self, category: str, detector: str, *, weights_sha256: str) -> OperatingPoint:
        """The operating point that was set for exactly these weights.

        Raises:
            MissingThreshold: none is stored.
            StaleThreshold: it was set for other weights.
        """
        remedy = f"Run: python -m anomaly calibrate --category {category} --detector {detector} --rule false-alarms"
        entry = self.categories.get(category)
        point = entry.detectors.get(detector) if entry else None
        if point is None:
            raise MissingThreshold(f"no threshold is stored for detector {detector!r} of category {category!r}", remedy)
        if point.weights_sha256 != weights_sha256:
            problem = f"the threshold of {category!r} / {detector!r} was set for other weights than those loaded"
            raise StaleThreshold(problem, remedy)
        return point

    def active(self, category: str) -> str | None:
        """The detector that judges a category; None when nothing is stored."""
        entry = self.categories.get(category)
        return entry.active if entry else None

    def with_point(self, category: str, detector: str, point: OperatingPoint, *, activate: bool = False) -> Thresholds:
        """A new book with this operating point; the first detector of a category becomes the active one."""
        entry = self.categories.get(category)
        detectors = {**(entry.detectors if entry else {}), detector: point}
        active = detector if entry is None or activate else entry.active
        changed = _Category(active=active, detectors=detectors)
        return Thresholds(categories={**self.categories, category: changed})


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = " / ".join(map(str, first["loc"])) or "the entry"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _scores(scores: ArrayLike, kind: str) -> np.ndarray:
    scores = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not np.isfinite(scores).all():
        raise UsageError(f"a score of the {kind} parts is NaN or infinite", "Train the detector again")
    return scores


def _from_good(rule: str, good: np.ndarray, target: float | None) -> tuple[float, float, str]:
    """Threshold, target and promise of a rule that looks at the k-th lowest good score."""
    n = good.size
    limit, default = (1, 0.02) if rule == "false-alarms" else (100, 99.0)
    target = default if target is None else float(target)
    if not 0 < target < limit:
        problem = f"the target of {rule} is {target:g}, a number between 0 and {limit} was expected"
        raise UsageError(problem, f"Use {default:g}, for example")
    if rule == "percentile":
        k = max(1, math.ceil(n * target / 100 - _ROUNDING))
        expected = f"{_percent((n + 1 - k) / (n + 1))}%"
    else:
        k = math.ceil((n + 1) * (1 - target) - _ROUNDING)
        expected = f"at most {_percent(target)}%"
    if k > n:
        needed = math.ceil(1 / target - _ROUNDING) - 1
        problem = f"at most {_percent(target)}% false alarms need {needed} held-out good images, {n} were found"
        remedy = f"Add good images, or promise {_percent(strongest_target(n), up=True)}% or more"
        raise UnsupportedPromise(problem, remedy)
    low, high = rate_to_come(k, n)
    promise = (
        f"on average {expected} false alarms "
        f"(95% interval {_percent(low)}-{_percent(high)}%, n = {n} held-out good parts)"
    )
    return np.nextafter(good[k - 1], np.inf), target, promise


def _from_both(
    rule: str, good: np.ndarray, defect: np.ndarray, false_alarm_cost: float, escape_cost: float
) -> tuple[float, str]:
    """Threshold and promise of a rule that weighs false alarms against escapes."""
    if not defect.size:
        problem = f"the rule {rule} needs scores of defective parts, none were given"
        raise UsageError(problem, "Add test images of defects, or use the rule false-alarms")
    if not all(math.isfinite(cost) and cost > 0 for cost in (false_alarm_cost, escape_cost)):
        problem = f"the costs are {false_alarm_cost} and {escape_cost}, positive numbers were expected"
        raise UsageError(problem, "Use 1 and 10, for example")
    thresholds = _candidates(np.concatenate([good, defect]))
    alarms = good.size - np.searchsorted(good, thresholds, "left")
    escapes = np.searchsorted(defect, thresholds, "left")
    hits = defect.size - escapes
    merit = {
        "f1": 2 * hits / (2 * hits + alarms + escapes),
        "accuracy": -(alarms + escapes),
        "cost": -(false_alarm_cost * alarms + escape_cost * escapes),
    }[rule]
    best = int(np.argmax(merit))  # the first of equals is the lowest threshold
    promise = (
        f"{_rate(int(alarms[best]), good.size, 'good parts raise a false alarm')} and "
        f"{_rate(int(escapes[best]), defect.size, 'defective parts escape')}; "
        "chosen on these same parts, so expect slightly worse"
    )
    return thresholds[best], promise


def _candidates(scores: np.ndarray) -> np.ndarray:
    """A threshold at the lowest score, one midway between each two neighbours, one over the highest; ascending."""
    distinct = np.unique(scores)
    middle = distinct[:-1] / 2 + distinct[1:] / 2
    # Between two neighbouring floats there is no middle; the upper one then parts them.
    middle = np.where(middle > distinct[:-1], middle, distinct[1:])
    return np.concatenate([distinct[:1], middle, [np.nextafter(distinct[-1], np.inf)]])


def _rate(k: int, n: int, what: str) -> str:
    low, high = interval(k, n)
    return f"{k} of {n} {what} ({_percent(k / n)}%, 95% interval {_percent(low)}-{_percent(high)}%)"


def _percent(fraction: float, *, up: bool = False) -> str:
    """One decimal, or two digits where one decimal would say 0."""
    value = 100 * fraction
    digits = 1 if value >= 0.1 or value == 0 else 1 - math.floor(math.log10(value))
    if up:
        value = math.ceil(value * 10**digits - _ROUNDING) / 10**digits
    return f"{value:.{digits}f}"
