"""How well scores and maps separate good from defective, each figure with its n and 95% interval.

Labels are 0 = good, 1 = defective; scores are higher = more anomalous, in any unit; anomalous means
`score >= threshold`. Every function raises UsageError for input that leaves its value undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.special import betaincinv, ndtri

from anomaly.errors import UsageError

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_LEVELS = 2000  # false-positive rates at which the PRO curve is read
_MAX_GOOD_PIXELS = 20_000_000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval [low, high] and the number n of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Confusion:
    """Counts of verdicts; positive = judged anomalous. A ratio without cases is 0."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float:
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)


@dataclass(frozen=True)
class Curves:
    """ROC and precision-recall, (k,) each: shares at k thresholds, from over the highest score down to the lowest.

    `precision` is NaN at the first of them, where nothing is judged anomalous.
    """

    thresholds: np.ndarray
    false_alarms: np.ndarray
    recall: np.ndarray
    precision: np.ndarray


def curves(labels: ArrayLike, scores: ArrayLike) -> Curves:
    """What every threshold would give; labels and scores as in `image_auroc`."""
    tp, fp, positives = _counts(labels, scores)
    tp, fp = np.append(0, tp), np.append(0, fp)
    with np.errstate(invalid="ignore"):
        precision = tp / (tp + fp)
    thresholds = np.append(np.inf, np.unique(scores)[::-1])
    return Curves(thresholds, fp / (len(labels) - positives), tp / positives, precision)


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a defective image outscores a good one, ties counting half (Mann & Whitney 1947).

    Args:
        labels: (N,) 0 or 1, both present.
        scores: (N,) finite.
    """
    labels, scores = _labelled(labels, scores)
    return _auroc(np.sort(scores[labels == 0]), scores[labels == 1])


def image_ap(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: the sum over thresholds of precision times gain in recall, without interpolation."""
    tp, fp, positives = _counts(labels, scores)
    # Divided once, at the end: a perfect ranking is 1 to the last bit, and `bootstrap` knows it as such.
    return float(np.sum(np.diff(tp, prepend=0) * (tp / (tp + fp))) / positives)


def best_f1(labels: ArrayLike, scores: ArrayLike) -> float:
    """The highest F1 over all thresholds. It looks at the labels: a ceiling, not a promise."""
    tp, fp, positives = _counts(labels, scores)
    return float(np.max(2 * tp / (tp + fp + positives)))


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Counts at a threshold; one class alone is allowed."""
    labels, scores = _labelled(labels, scores, both=False)
    if not np.isfinite(threshold):
        raise UsageError(f"the threshold is {threshold}, a finite number was expected", "Calibrate the category")
    found, defective = scores >= threshold, labels == 1
    return Confusion(
        tp=int(np.sum(found & defective)),
        fp=int(np.sum(found & ~defective)),
        tn=int(np.sum(~found & ~defective)),
        fn=int(np.sum(~found & defective)),
    )


def bootstrap(
    metric: Callable[[np.ndarray, np.ndarray], float],
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    seed: int = 0,
    rounds: int = 1000,
) -> Estimate:
    """95% percentile interval of a metric, good and defective images drawn apart (Efron & Tibshirani 1993).

    A bootstrap of a perfect result (1.0, or 0.0) knows no doubt, however few the images. It is then given the bound of
    Clopper & Pearson for m successes in m trials, m the size of the smaller class: for AUROC that is m independent
    pairs of a good and a defective image, all in the right order.

    Args:
        metric: `metric(labels, scores) -> float` in [0, 1].
        labels: (N,) 0 or 1.
        scores: (N,) finite.
        seed: of the resampling.
        rounds: number of resamples.
    """
    labels, scores = _labelled(labels, scores, both=False)
    value = float(metric(labels, scores))
    rng = np.random.default_rng(seed)
    classes = [members for members in (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)) if members.size]
    values = np.empty(rounds)
    for i in range(rounds):
        drawn = np.concatenate([rng.choice(members, members.size) for members in classes])
        values[i] = metric(labels[drawn], scores[drawn])
    low, high = (float(bound) for bound in np.quantile(values, (0.025, 0.975)))
    smaller = min(members.size for members in classes)
    if low == high == value == 1.0:
        low = clopper_pearson(smaller, smaller)[0]
    elif low == high == value == 0.0:
        high = clopper_pearson(0, smaller)[1]
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=labels.size)


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    """Exact 95% interval of a rate of which k in n were seen; never too narrow (Clopper & Pearson 1934)."""
    _check_rate(k, n)
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.975))
    return low, high


def wilson(k: int, n: int) -> tuple[float, float]:
    """Approximate 95% interval of a rate, right on average and narrower than the exact one (Wilson 1927)."""
    _check_rate(k, n)
    z2 = float(ndtri(0.975)) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = (z2 * (k * (n - k) / n + z2 / 4)) ** 0.5 / (n + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def pixel_auroc(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> float:
    """AUROC over the pixels of all images together.

    Exact up to 20 million good pixels; of more, 20 million are drawn with a fixed seed (standard error below 0.0001).

    Args:
        masks: (H, W) bool each, True = defect; at least one pixel of either kind in all.
        maps: (H, W) float each, the shape of its mask, finite.
    """
    good, defect, _ = _pixels(masks, maps)
    return _auroc(good, np.sort(defect))


def aupro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], *, fpr_limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate, divided by it (Bergmann et al., IJCV 2021).

    Overlap: the fraction of a defect that is found, averaged over the defects (8-connected areas of the masks), so that
    a scratch weighs as much as a stain. False-positive rate: over the good pixels of all images.

    The curve is read at 2000 rates spread evenly over [0, fpr_limit], exact at each (or on 20 million good pixels drawn
    with a fixed seed, if there are more) and linear between them: off by at most 1/4000.

    Args:
        masks, maps: as in `pixel_auroc`.
        fpr_limit: in (0, 1].
    """
    if not 0 < fpr_limit <= 1:
        raise UsageError(f"the limit of the false-positive rate is {fpr_limit}, (0, 1] was expected", "Use 0.3")
    good, defect, weights = _pixels(masks, maps)
    ranks = np.linspace(0, min(good.size - 1, np.ceil(fpr_limit * good.size)), _LEVELS).astype(np.int64)
    levels = np.unique(good[good.size - 1 - ranks])[::-1]
    order = np.argsort(defect)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])

    # Each level gives two points, just over it and at it; equal scores lie on the straight line between the two.
    fpr = np.empty(2 * levels.size)
    pro = np.empty(2 * levels.size)
    for start, side in ((0, "right"), (1, "left")):
        fpr[start::2] = 1 - np.searchsorted(good, levels, side) / good.size
        pro[start::2] = 1 - below[np.searchsorted(defect[order], levels, side)] / below[-1]
    at_limit = np.interp(fpr_limit, fpr, pro)
    inside = fpr <= fpr_limit
    area = np.trapezoid(np.append(pro[inside], at_limit), np.append(fpr[inside], fpr_limit))
    return float(area / fpr_limit)


def iou(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], threshold: float) -> float:
    """Intersection over union of `map >= threshold` and the masks, over the pixels of all images together."""
    tp, fp, fn = _overlap(masks, maps, threshold)
    return _ratio(tp, tp + fp + fn)


def dice(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], threshold: float) -> float:
    """Dice coefficient, the F1 of pixels, of `map >= threshold`, over the pixels of all images together."""
    tp, fp, fn = _overlap(masks, maps, threshold)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _check_rate(k: int, n: int) -> None:
    if not 0 <= k <= n or n < 1:
        raise UsageError(f"{k} of {n} is no rate, 0 <= k <= n and n >= 1 were expected", "Count at least one part")


def _labelled(labels: ArrayLike, scores: ArrayLike, *, both: bool = True) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape or labels.size == 0:
        problem = (
            f"labels of shape {labels.shape} and scores of shape {scores.shape} were given, one of each was expected"
        )
        raise UsageError(problem, "Pass one label and one score an image")
    if not np.isin(labels, (0, 1)).all():
        raise UsageError("a label is neither 0 (good) nor 1 (defective)", "Pass 0 and 1")
    if not np.isfinite(scores).all():
        raise UsageError("a score is NaN or infinite", "Train the detector again; its weights are broken")
    defective = int(np.sum(labels == 1))
    if both and not 0 < defective < labels.size:
        problem = f"{labels.size - defective} good and {defective} defective images were found, both kinds are needed"
        raise UsageError(problem, "Add test images of the other kind")
    return labels.astype(np.int64), scores


def _counts(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    """True and false positives at each distinct score as the threshold, from the highest down; number of positives."""
    labels, scores = _labelled(labels, scores)
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    tp = np.cumsum(labels[order])[last_of_ties]
    return tp, last_of_ties + 1 - tp, int(labels.sum())


def _auroc(good: np.ndarray, defect: np.ndarray) -> float:
    """`good` sorted."""
    wins = np.searchsorted(good, defect, "left").sum(dtype=np.float64)
    wins_and_ties = np.searchsorted(good, defect, "right").sum(dtype=np.float64)
    return float((wins + wins_and_ties) / 2 / good.size / defect.size)


def _pairs(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    if len(masks) != len(maps):
        raise UsageError(f"{len(masks)} masks and {len(maps)} maps were given", "Pass one mask for each map")
    pairs = [
        (np.asarray(mask, dtype=bool), np.asarray(map, dtype=np.float32)) for mask, map in zip(masks, maps, strict=True)
    ]
    for mask, map in pairs:
        if mask.shape != map.shape or mask.ndim != 2:
            problem = f"a mask of shape {mask.shape} came with a map of shape {map.shape}"
            raise UsageError(problem, "Scale the map to the image")
        if not np.isfinite(map).all():
            raise UsageError("an anomaly map holds NaN or infinite values", "Train the detector again")
    if not any(mask.any() for mask, _ in pairs) or all(mask.all() for mask, _ in pairs):
        problem = "the masks hold only one kind of pixel, good and defective ones are needed"
        raise UsageError(problem, "Add images with a mask of their defect")
    return pairs


def _pixels(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Good pixels sorted, defect pixels, and for each of these 1 / area of its defect."""
    pairs = _pairs(masks, maps)
    total = sum(mask.size - int(mask.sum()) for mask, _ in pairs)
    kept = min(1.0, _MAX_GOOD_PIXELS / total)
    rng = np.random.default_rng(0)
    good, defect, weights = [], [], []
    for mask, map in pairs:
        pixels = map[~mask]
        if kept < 1 and pixels.size:
            pixels = pixels[rng.integers(0, pixels.size, max(1, round(kept * pixels.size)))]
        good.append(pixels)
        if mask.any():
            regions = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)[0][mask]
            defect.append(map[mask])
            weights.append(1 / np.bincount(regions)[regions])
    return np.sort(np.concatenate(good)), np.concatenate(defect), np.concatenate(weights)


def _overlap(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], threshold: float) -> tuple[int, int, int]:
    tp = fp = fn = 0
    for mask, map in _pairs(masks, maps):
        found = map >= threshold
        hits = int(np.sum(found & mask))
        tp += hits
        fp += int(found.sum()) - hits
        fn += int(mask.sum()) - hits
    return tp, fp, fn
