"""Rules that choose a threshold from the scores of known parts, each with the promise that comes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from anomaly.errors import UnknownName, UnsupportedPromise, UsageError
from anomaly.thresholds.intervals import (
    ROUNDING,
    needed_for,
    percent,
    rate,
    rate_to_come,
    sorted_scores,
    strongest_target,
)

RULES = ("f1", "accuracy", "percentile", "false-alarms", "cost")
NEEDS_DEFECTS = ("f1", "accuracy", "cost")
BY_HAND = "by hand"  # stands in the place of a rule where a person set the limit


@dataclass(frozen=True)
class Choice:
    """A threshold, where REVIEW begins, and what to expect in one plain sentence with n and interval.

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
    effect: float = 1.0,
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
        effect: `design_effect` of the good scores; it widens the interval of false alarms, and the promise says so.

    Raises:
        UnknownName: no such rule.
        UnsupportedPromise: fewer good scores than `false-alarms` needs for its target.
        UsageError: no good scores, a score that is not finite, no defective scores where the rule needs them, a target
            or a cost outside its range.
    """
    if rule not in RULES:
        raise UnknownName(f"there is no rule {rule!r}", f"Use one of {', '.join(RULES)}")
    good, defect = sorted_scores(good, "good"), sorted_scores(defect, "defective")
    if not good.size:
        raise UsageError("no scores of good parts were given", "Hold out good images, at least 49 for 2% false alarms")
    if rule in ("false-alarms", "percentile"):
        threshold, target, promise = _from_good(rule, good, target, effect)
        if defect.size:
            promise += f"; {rate(int(np.sum(defect < threshold)), defect.size, 'known defective parts escape')}"
    else:
        if target is not None:
            raise UsageError(f"the rule {rule} takes no target", "Leave the target out, or use the rule false-alarms")
        threshold, promise = _from_both(rule, good, defect, false_alarm_cost, escape_cost, effect)
    below = np.mean(good < threshold)
    review = review_limit(good, share=1 - target if rule == "false-alarms" else below, threshold=threshold)
    doubtful = int(np.sum((good >= review) & (good < threshold)))
    promise += f"; {rate(doubtful, good.size, 'held-out good parts go to REVIEW')}{_worth(good.size, effect)}"
    return Choice(
        threshold=float(threshold),
        review=review,
        rule=rule,
        target=target,
        promise=promise,
        n_good=int(good.size),
        n_defect=int(defect.size),
    )


def by_hand(threshold: float, review: float, good: ArrayLike, defect: ArrayLike = (), *, effect: float = 1.0) -> Choice:
    """Limits that a person set, with what they did to these parts.

    Of n good parts n - k raise an alarm. The exact interval of that share is also that of the rate to come, wherever
    the limit lies between the k-th score and the next: from the lower end of Beta(n - k, k + 1) to the upper end of
    Beta(n + 1 - k, k), as in `rate_to_come`.

    Args:
        threshold, review: of the verdict, 0 < review <= threshold.
        good: (n,) scores of good parts; defect: (m,) scores of defective ones, none is allowed.
        effect: `design_effect` of the good scores, as for `choose`.
    Raises:
        UsageError: limits out of order, no good scores, a score that is not finite.
    """
    good, defect = sorted_scores(good, "good"), sorted_scores(defect, "defective")
    if not 0 < review <= threshold < math.inf:
        problem = f"the limits are FAIL {threshold:g} and REVIEW {review:g}, 0 < REVIEW <= FAIL was expected"
        raise UsageError(problem, "Set REVIEW at or below FAIL, and both over 0")
    if not good.size:
        raise UsageError("no scores of good parts were given", "Hold out good images")
    promise = rate(int(np.sum(good >= threshold)), good.size, "good parts raise a false alarm", effect)
    if defect.size:
        promise += f"; {rate(int(np.sum(defect < threshold)), defect.size, 'known defective parts escape')}"
    doubtful = int(np.sum((good >= review) & (good < threshold)))
    promise += f"; {rate(doubtful, good.size, 'good parts go to REVIEW')}{_worth(good.size, effect)}"
    return Choice(float(threshold), float(review), BY_HAND, None, promise, int(good.size), int(defect.size))


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
    good = sorted_scores(good, "good")
    below = np.arange(good.size)
    k = int(np.searchsorted(betaincinv(below + 1, good.size - below, 0.975), share))  # the upper ends grow with k
    return min(float(np.nextafter(good[k - 1], np.inf)), float(threshold)) if k else -math.inf


def _worth(n: int, effect: float) -> str:
    """What is said where good parts resemble each other, to follow a promise."""
    if effect <= 1:
        return ""
    return f"; neighbouring photos are alike: {n} good parts tell as much as {max(1, round(n / effect))} unrelated ones"


def _from_good(rule: str, good: np.ndarray, target: float | None, effect: float) -> tuple[float, float, str]:
    """Threshold, target and promise of a rule that looks at the k-th lowest good score."""
    n = good.size
    limit, default = (1, 0.02) if rule == "false-alarms" else (100, 99.0)
    target = default if target is None else float(target)
    if not 0 < target < limit:
        problem = f"the target of {rule} is {target:g}, a number between 0 and {limit} was expected"
        raise UsageError(problem, f"Use {default:g}, for example")
    if rule == "percentile":
        k = max(1, math.ceil(n * target / 100 - ROUNDING))
        expected = f"{percent((n + 1 - k) / (n + 1))}%"
    else:
        k = math.ceil((n + 1) * (1 - target) - ROUNDING)
        expected = f"at most {percent(target)}%"
    if k > n:
        needed = needed_for(target)
        problem = f"at most {percent(target)}% false alarms need {needed} held-out good images, {n} were found"
        remedy = f"Add good images, or promise {percent(strongest_target(n), up=True)}% or more"
        raise UnsupportedPromise(problem, remedy)
    low, high = rate_to_come(k, n, effect)
    promise = (
        f"on average {expected} false alarms "
        f"(95% interval {percent(low)}-{percent(high)}%, n = {n} held-out good parts)"
    )
    return np.nextafter(good[k - 1], np.inf), target, promise


def _from_both(
    rule: str, good: np.ndarray, defect: np.ndarray, false_alarm_cost: float, escape_cost: float, effect: float
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
        f"{rate(int(alarms[best]), good.size, 'good parts raise a false alarm', effect)} and "
        f"{rate(int(escapes[best]), defect.size, 'defective parts escape')}; "
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
