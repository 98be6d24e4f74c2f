"""What would make a published figure wrong."""

import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import binomtest, norm
from sklearn import metrics as reference

from anomaly import metrics
from anomaly.errors import UsageError
from anomaly.metrics import (
    Confusion,
    Estimate,
    aupro,
    best_f1,
    bootstrap,
    clopper_pearson,
    confusion,
    dice,
    image_ap,
    image_auroc,
    iou,
    pixel_auroc,
    wilson,
)

LABELS = [0, 0, 1, 1]
SCORES = [0.1, 0.4, 0.35, 0.8]


def test_auroc_by_hand():
    # pairs (defective, good): 0.35 > 0.1 yes, 0.35 > 0.4 no, 0.8 > 0.1 yes, 0.8 > 0.4 yes: 3 of 4
    assert image_auroc(LABELS, SCORES) == 0.75
    # ties count half: (1 + 0.5) of 2
    assert image_auroc([0, 0, 1], [1, 2, 2]) == 0.75
    assert image_auroc([0, 1], [5, 5]) == 0.5


def test_average_precision_by_hand():
    # threshold 0.8: precision 1/1, recall 1/2; 0.4: recall unchanged; 0.35: precision 2/3, recall 1
    # 1/2 * 1 + 1/2 * 2/3 = 5/6
    assert image_ap(LABELS, SCORES) == pytest.approx(5 / 6)


def test_best_f1_by_hand():
    # at 0.8: 2*1 / (1 + 2) = 0.667; at 0.4: 2*1 / (2 + 2) = 0.5; at 0.35: 2*2 / (3 + 2) = 0.8; at 0.1: 4 / 6 = 0.667
    assert best_f1(LABELS, SCORES) == pytest.approx(0.8)


def test_confusion_by_hand():
    # at 0.35: judged anomalous 0.4 (good), 0.35 and 0.8 (defective)
    table = confusion(LABELS, SCORES, 0.35)
    assert table == Confusion(tp=2, fp=1, tn=1, fn=0)
    assert table.precision == pytest.approx(2 / 3)
    assert table.recall == 1
    assert table.f1 == pytest.approx(0.8)
    assert table.accuracy == 0.75


def test_a_score_at_the_threshold_is_anomalous():
    assert confusion([1], [2.0], 2.0) == Confusion(tp=1, fp=0, tn=0, fn=0)
    assert confusion([1], [2.0], np.nextafter(2.0, 3)) == Confusion(tp=0, fp=0, tn=0, fn=1)


def test_a_ratio_without_cases_is_zero():
    nothing = confusion([0, 0], [1, 2], 9)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.accuracy) == (0, 0, 0, 1)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30))
def test_image_metrics_equal_scikit_learn(pairs):
    labels, scores = map(list, zip(*pairs, strict=True))
    labels += [0, 1]
    scores += [3, 3]
    assert image_auroc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores))
    assert image_ap(labels, scores) == pytest.approx(reference.average_precision_score(labels, scores))
    f1 = [reference.f1_score(labels, np.array(scores) >= t) for t in set(scores)]
    assert best_f1(labels, scores) == pytest.approx(max(f1))


def test_negative_scores_are_ranked_like_any_other():
    assert image_auroc([0, 1], [-5, -1]) == 1


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([0, 0], [1, 2], "2 good and 0 defective"),
        ([1], [1], "0 good and 1 defective"),
        ([], [], "shape"),
        ([0, 1], [1, 2, 3], "shape"),
        ([0, 2], [1, 2], "neither 0"),
        ([0, 1], [1, float("nan")], "NaN"),
    ],
)
def test_an_undefined_value_is_an_error_and_not_a_number(labels, scores, says):
    for metric in (image_auroc, image_ap, best_f1):
        with pytest.raises(UsageError, match=says):
            metric(labels, scores)


def test_a_confusion_without_threshold_is_refused():
    with pytest.raises(UsageError, match="finite"):
        confusion([0, 1], [1, 2], float("nan"))


# --- intervals


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 60), (1, 60), (5, 10), (59, 60), (60, 60), (333, 1000)])
def test_intervals_of_a_rate_equal_scipy(k, n):
    test = binomtest(k, n)
    assert clopper_pearson(k, n) == pytest.approx(tuple(test.proportion_ci(method="exact")), abs=1e-9)
    assert wilson(k, n) == pytest.approx(tuple(test.proportion_ci(method="wilson")), abs=1e-9)


def test_exact_interval_by_hand():
    # none of n: the upper end p leaves 2.5% for none at all, (1 - p)^n = 0.025
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    for k, n in ((5, 4), (-1, 4), (0, 0)):
        with pytest.raises(UsageError):
            clopper_pearson(k, n)


def test_bootstrap_draws_each_class_apart():
    labels = np.array([0] * 30 + [1] * 3)
    seen = []
    estimate = bootstrap(lambda y, s: seen.append(y.sum()) or 0.5, labels, np.arange(33), rounds=50)
    assert set(seen) == {3}
    assert estimate == Estimate(value=0.5, low=0.5, high=0.5, n=33)


def test_bootstrap_is_repeatable_and_uses_its_seed_and_rounds():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    scores = rng.normal(size=60) + labels
    first = bootstrap(image_auroc, labels, scores, seed=3, rounds=200)
    assert first == bootstrap(image_auroc, labels, scores, seed=3, rounds=200)
    assert first != bootstrap(image_auroc, labels, scores, seed=4, rounds=200)
    assert first != bootstrap(image_auroc, labels, scores, seed=3, rounds=100)
    assert first.low < first.value < first.high
    assert first.value == image_auroc(labels, scores)


def test_a_perfect_result_of_few_images_is_not_called_certain():
    # 4 defective and 9 good, all in order: 4 pairs of 4, and low^4 = 0.025
    perfect = bootstrap(image_auroc, [0] * 9 + [1] * 4, range(13), rounds=20)
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low == pytest.approx(0.025**0.25)
    for n in (4, 30, 49):  # n parts of 1/n each may sum to less than 1
        precise = bootstrap(image_ap, [0] * 9 + [1] * n, range(9 + n), rounds=20)
        assert (precise.value, precise.high) == (1, 1)
        assert precise.low == pytest.approx(0.025 ** (1 / min(n, 9)))
    worst = bootstrap(image_auroc, [1] * 4 + [0] * 9, range(13), rounds=20)
    assert (worst.low, worst.high) == pytest.approx((0, 1 - 0.025**0.25))


def test_an_interval_always_holds_its_value():
    for first, rest in ((0.2, 0.9), (0.9, 0.2)):
        values = iter([first] + [rest] * 20)
        estimate = bootstrap(lambda y, s, values=values: next(values), LABELS, SCORES, rounds=20)
        assert (estimate.value, estimate.low, estimate.high) == (first, 0.2, 0.9)


def test_the_bootstrap_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = norm.cdf(1 / 2**0.5)  # two unit normals, one apart
    labels = np.repeat([0, 1], 40)
    covered = 0
    for seed in range(150):
        estimate = bootstrap(image_auroc, labels, rng.normal(size=80) + labels, seed=seed, rounds=150)
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 133  # 95% of 150 is 142; three standard deviations below


def test_an_estimate_is_plain_json():
    estimate = bootstrap(image_auroc, LABELS, SCORES, rounds=10)
    assert json.loads(json.dumps(estimate.to_json())) == {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": 4,
    }


# --- pixels


def hand_worked():
    """Good pixels from 0 to 0.9; a defect of one pixel (1.0) and one of two (0.95, 0.75)."""
    map = np.array(
        [
            [1.00, 0.0, 0.95, 0.1],
            [0.20, 0.3, 0.75, 0.4],
            [0.50, 0.6, 0.70, 0.8],
            [0.90, 0.0, 0.00, 0.0],
        ],
        dtype=np.float32,
    )
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 0] = mask[0, 2] = mask[1, 2] = True
    return mask, map


def test_aupro_by_hand():
    mask, map = hand_worked()
    # 13 good pixels: 0.9 0.8 0.7 0.6 0.5 0.4 0.3 0.2 0.1 and four of 0. Rate 1/13 at 0.9, 2/13 at 0.8, 3/13 at 0.7.
    # Overlap: over 0.9 mean(1, 1/2) = 0.75, at 0.75 and below 1. So 0.75 up to the rate 2/13, then 1 up to 0.3.
    expected = (0.75 * 2 / 13 + (0.3 - 2 / 13)) / 0.3
    assert aupro([mask], [map]) == pytest.approx(expected)
    # up to the rate 0.1 the overlap is 0.75 throughout
    assert aupro([mask], [map], fpr_limit=0.1) == pytest.approx(0.75)


def test_pixel_auroc_by_hand():
    mask, map = hand_worked()
    # 1.0 and 0.95 beat all 13; 0.75 beats 11 (not 0.9 and 0.8): 37 of 39
    assert pixel_auroc([mask], [map]) == pytest.approx(37 / 39)


def test_iou_and_dice_by_hand():
    mask, map = hand_worked()
    # at 0.75: hits 1.0, 0.95, 0.75; false 0.9, 0.8; none missed: 3 / 5 and 6 / 8
    assert iou([mask], [map], 0.75) == pytest.approx(3 / 5)
    assert dice([mask], [map], 0.75) == pytest.approx(6 / 8)
    # a second image, all good, one pixel over the threshold: 3 / 6 and 6 / 9
    clean = np.zeros((2, 2), dtype=bool)
    assert iou([mask, clean], [map, np.array([[1, 0], [0, 0]])], 0.75) == pytest.approx(3 / 6)
    assert dice([mask], [map], 5.0) == 0


def test_a_small_defect_weighs_as_much_as_a_large_one():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = True
    mask[15, 15] = True
    found_large = np.where(np.indices((20, 20)).max(axis=0) < 10, 1.0, 0.0)
    # half of the defects is found at rate 0; the rest is the line from (0, 0.5) to (1, 1): at 0.3 it is 0.65
    assert aupro([mask], [found_large]) == pytest.approx((0.5 + 0.65) / 2)


def test_a_map_that_knows_nothing_scores_as_chance():
    mask, _ = hand_worked()
    # overlap = rate: the area under the diagonal up to 0.3 is 0.045, over 0.3
    assert aupro([mask], [np.ones((4, 4))]) == pytest.approx(0.15)
    assert pixel_auroc([mask], [np.ones((4, 4))]) == 0.5


def brute_force_aupro(masks, maps, limit):
    """Every threshold, straight from the definition."""
    regions = []
    for mask, map in zip(masks, maps, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [map[labels == i] for i in range(1, count + 1)]
    good = np.concatenate([map[~mask] for mask, map in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for t in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        points.append((np.mean(good >= t), np.mean([np.mean(r >= t) for r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            stop = min(x1, limit)
            y_stop = y0 + (y1 - y0) * (stop - x0) / (x1 - x0)
            area += (stop - x0) * (y0 + y_stop) / 2
    return area / limit


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 30), limit=st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_equals_the_definition(seed, levels, limit):
    rng = np.random.default_rng(seed)
    masks = [rng.random((7, 9)) < share for share in (0.2, 0.0, 0.4)]
    masks[0][0, 0], masks[0][6, 8] = True, False
    maps = [(rng.integers(0, levels, (7, 9)) / levels + 0.2 * mask).astype(np.float32) for mask in masks]
    assert aupro(masks, maps, fpr_limit=limit) == pytest.approx(brute_force_aupro(masks, maps, limit))


def many_maps(count, size, seed=0):
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for i in range(count):
        mask = np.zeros((size, size), dtype=bool)
        if i % 2:
            y, x = rng.integers(0, size // 2, 2)
            mask[y : y + size // 8, x : x + size // 16] = True
            mask[-3:, -2:] = True
        masks.append(mask)
        maps.append(rng.random((size, size), dtype=np.float32) + np.float32(0.5) * mask)
    return masks, maps


def test_pixel_metrics_equal_scikit_learn_on_large_maps():
    masks, maps = many_maps(20, 96)
    weights = []
    for mask in masks:
        labels = ndimage.label(mask, structure=np.ones((3, 3)))[0]
        weights.append(np.where(mask, 1 / np.bincount(labels.ravel())[labels], 1.0).ravel())
    truth, scores = (np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps))
    fpr, pro, _ = reference.roc_curve(truth, scores, sample_weight=np.concatenate(weights), drop_intermediate=False)
    inside = fpr <= 0.3
    expected = np.trapezoid(np.append(pro[inside], np.interp(0.3, fpr, pro)), np.append(fpr[inside], 0.3)) / 0.3
    assert abs(aupro(masks, maps) - expected) < 1 / 4000  # the precision that the docstring promises
    assert pixel_auroc(masks, maps) == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-9)
    assert dice(masks, maps, 0.9) == pytest.approx(reference.f1_score(truth, scores >= np.float32(0.9)))
    assert iou(masks, maps, 0.9) == pytest.approx(reference.jaccard_score(truth, scores >= np.float32(0.9)))


def test_drawing_good_pixels_changes_little_and_is_repeatable(monkeypatch):
    masks, maps = many_maps(20, 96)
    exact = aupro(masks, maps), pixel_auroc(masks, maps)
    monkeypatch.setattr(metrics, "_MAX_GOOD_PIXELS", 50_000)
    drawn = aupro(masks, maps), pixel_auroc(masks, maps)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.005)
    assert drawn == (aupro(masks, maps), pixel_auroc(masks, maps))


def test_200_maps_take_seconds():
    masks, maps = many_maps(200, 256)
    start = time.perf_counter()
    aupro(masks, maps)
    pixel_auroc(masks, maps)
    assert time.perf_counter() - start < 10


def test_pixels_without_a_meaning_are_refused():
    mask, map = hand_worked()
    for metric in (pixel_auroc, aupro, lambda a, b: iou(a, b, 0.5), lambda a, b: dice(a, b, 0.5)):
        with pytest.raises(UsageError, match="only one kind"):
            metric([np.zeros((4, 4), dtype=bool)], [map])
        with pytest.raises(UsageError, match="only one kind"):
            metric([], [])
        with pytest.raises(UsageError, match="shape"):
            metric([mask], [map[:2]])
        with pytest.raises(UsageError, match="1 masks and 2 maps"):
            metric([mask], [map, map])
        with pytest.raises(UsageError, match="NaN"):
            metric([mask], [np.full((4, 4), np.nan)])
    with pytest.raises(UsageError, match="limit"):
        aupro([mask], [map], fpr_limit=0)
