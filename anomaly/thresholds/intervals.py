"""How sure a share is: exact intervals, and how they are said in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, fdtrc, ndtri

from anomaly.errors import UsageError

# Far over the rounding of n times a fraction, far under 1: 150 * (1 - 0.18) is 123, not 123.00000000000001.
ROUNDING = 1e-9
ALIKE = 0.05  # level of the F test by which groups of parts differ from each other


def interval(k: float, n: float) -> tuple[float, float]:
    """The exact 95% interval of a share that was seen k times in n (Clopper & Pearson 1934), as fractions."""
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.975))
    return low, high


def rate_to_come(k: int, n: int, effect: float = 1.0) -> tuple[float, float]:
    """The 95% interval of the rate of false alarms to come, of a limit just over the k-th lowest of n good scores.

    The rate follows Beta(n + 1 - k, k) whatever the distribution of scores (Vovk 2012, split conformal). Both numbers
    are divided by the `design_effect`: n parts that resemble each other say less than n unrelated ones.
    """
    low, high = (float(betaincinv((n + 1 - k) / effect, k / effect, q)) for q in (0.025, 0.975))
    return low, high


def design_effect(scores: ArrayLike, groups: ArrayLike) -> float:
    """How many parts say together as much as one unrelated part, at least 1 (Kish, Survey Sampling, 1965).

    Parts of one batch, or photos of one part, resemble each other. It is 1 + (b - 1) r for groups of b parts, the
    larger ones counting for more, and the intraclass correlation r of the scores, of which only the order counts
    (one-way analysis of variance of normal scores); and 1 where an F test at 5% does not see that groups differ.

    Args:
        scores: (n,); groups: (n,) which group each part is of, integers from 0 on without a gap.
    """
    groups = np.asarray(groups)
    sizes = np.bincount(groups) if groups.size else np.zeros(0, int)
    between, within = len(sizes) - 1, len(groups) - len(sizes)
    if between < 1 or within < 1:
        return 1.0
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # from 1 on, equal scores share the mean of theirs
    x = ndtri((ranks - 0.5) / len(groups))
    means = np.bincount(groups, x) / sizes
    apart = float((sizes * np.square(means - x.mean())).sum()) / between
    inside = float(np.square(x - means[groups]).sum()) / within
    if fdtrc(between, within, apart / max(inside, ROUNDING)) >= ALIKE:
        return 1.0
    together = float(np.square(sizes).sum()) / len(groups)
    usual = (len(groups) - together) / between
    correlation = (apart - inside) / (apart + (usual - 1) * inside)
    return 1 + (together - 1) * max(0.0, correlation)


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
    good = sorted_scores(good, "good")
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


def needed_for(target: float) -> int:
    """How many held-out good images a false-alarm target takes: the inverse of `strongest_target`."""
    return math.ceil(1 / target - ROUNDING) - 1


def sorted_scores(scores: ArrayLike, kind: str) -> np.ndarray:
    """Ascending float64. Raises UsageError when one is not finite."""
    scores = np.sort(np.asarray(scores, dtype=np.float64).ravel())
    if not np.isfinite(scores).all():
        raise UsageError(f"a score of the {kind} parts is NaN or infinite", "Train the detector again")
    return scores


def rate(k: int, n: int, what: str, effect: float = 1.0) -> str:
    """As in "2 of 50 parts escape (4.0%, 95% interval 0.5-13.7%)", with the `design_effect` of the parts."""
    low, high = interval(k / effect, n / effect)
    return f"{k} of {n} {what} ({percent(k / n)}%, 95% interval {percent(low)}-{percent(high)}%)"


def percent(fraction: float, *, up: bool = False) -> str:
    """One decimal, or two digits where one decimal would say 0; no more than four decimals."""
    value = 100 * fraction
    digits = 1 if value >= 0.1 or value == 0 else min(4, 1 - math.floor(math.log10(value)))
    if up:
        value = math.ceil(value * 10**digits - ROUNDING) / 10**digits
    return f"{value:.{digits}f}"
