"""What would break a promise to the quality engineer, or judge a part by the wrong number."""

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from anomaly.errors import (
    AnomalyError,
    MissingThreshold,
    StaleThreshold,
    ThresholdError,
    UnknownName,
    UnsupportedPromise,
    UsageError,
)
from anomaly.thresholds import (
    RULES,
    OperatingPoint,
    Thresholds,
    by_hand,
    choose,
    decide,
    design_effect,
    interval,
    rate_to_come,
    review_limit,
    standing,
    strongest_target,
)

GOOD = [1.0, 2.0, 3.0, 6.0]
DEFECT = [4.0, 5.0, 7.0, 8.0]


def just_over(score):
    return math.nextafter(score, math.inf)


# --- rules that look at good parts


@pytest.mark.parametrize(
    ("n", "target", "k"),
    [
        (49, 0.02, 49),  # 50 * 0.98 = 49
        (60, 0.02, 60),  # 61 * 0.98 = 59.78
        (99, 0.02, 98),  # 100 * 0.98 = 98
        (100, 0.02, 99),  # 101 * 0.98 = 98.98
        (19, 0.05, 19),  # 20 * 0.95 = 19
        (999, 0.001, 999),  # 1000 * 0.999 = 999
        (3, 0.5, 2),  # 4 * 0.5 = 2
        (149, 0.18, 123),  # 150 * 0.82 = 123, in floats 123.00000000000001
    ],
)
def test_false_alarms_by_hand(n, target, k):
    good = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))  # the k-th lowest score is k
    choice = choose("false-alarms", good, target=target)
    assert choice.threshold == just_over(k)
    assert (choice.rule, choice.target, choice.n_good, choice.n_defect) == ("false-alarms", target, n, 0)


def test_the_promise_in_words():
    # k = 60 = n: the rate follows Beta(1, 60), quantiles 1 - 0.975^(1/60) = 0.042% and 1 - 0.025^(1/60) = 6.0%
    assert choose("false-alarms", range(60)).promise == (
        "on average at most 2.0% false alarms (95% interval 0.042-6.0%, n = 60 held-out good parts); "
        "4 of 60 held-out good parts go to REVIEW (6.7%, 95% interval 1.8-16.2%)"
    )
    # 1 of 4 defects under the threshold 60: 25%; Clopper & Pearson of 1 in 4: 0.6% to 80.6%
    assert choose("false-alarms", range(60), [10, 70, 80, 90]).promise == (
        "on average at most 2.0% false alarms (95% interval 0.042-6.0%, n = 60 held-out good parts); "
        "1 of 4 known defective parts escape (25.0%, 95% interval 0.6-80.6%); "
        "4 of 60 held-out good parts go to REVIEW (6.7%, 95% interval 1.8-16.2%)"
    )


# --- parts that resemble each other


def test_the_design_effect_of_groups_by_hand():
    # Ten batches of five parts, each nearly one score: five parts say as much as one.
    batches = np.repeat(np.arange(10), 5)
    alike = batches + 0.01 * np.random.default_rng(0).random(50)
    assert design_effect(alike, batches) == pytest.approx(5, rel=0.05)
    assert design_effect(np.exp(alike), batches) == design_effect(alike, batches), "only the order counts"
    # Two thirds of the variance between batches: 1 + (5 - 1) * 2 / 3
    rng = np.random.default_rng(1)
    many = np.repeat(np.arange(2000), 5)
    mixed = rng.normal(0, np.sqrt(2), 2000)[many] + rng.normal(size=10_000)
    assert design_effect(mixed, many) == pytest.approx(1 + 4 * 2 / 3, rel=0.03)


def test_the_end_of_an_interval_is_not_said_more_precisely_than_anybody_can_use():
    # Beta(1 / 20, 50 / 20) of fifty parts that say as much as two or three
    low, high = rate_to_come(50, 50, 20.0)
    assert 0 < low < 1e-20
    assert f"(95% interval 0.0000-{100 * high:.1f}%," in choose("false-alarms", range(50), effect=20.0).promise


def test_parts_that_are_not_alike_count_in_full():
    found = [design_effect(np.random.default_rng(i).random(60), np.repeat(np.arange(20), 3)) for i in range(400)]
    assert np.mean(np.array(found) > 1) == pytest.approx(0.05, abs=0.03), "an F test at 5%"
    assert design_effect([3.0, 1.0, 2.0], [0, 1, 2]) == 1, "each by itself"
    assert design_effect([3.0, 1.0, 2.0], [0, 0, 0]) == 1, "all of one batch: nothing to compare with"
    assert design_effect([2.0] * 8, np.repeat(np.arange(4), 2)) == 1, "all the same"
    assert design_effect([], []) == 1


def test_a_promise_on_parts_that_are_alike_says_less_and_why():
    plain, alike = (choose("false-alarms", range(120), effect=effect) for effect in (1.0, 3.0))
    assert (plain.threshold, plain.review) == (alike.threshold, alike.review), "the limits stay"
    low, high = beta(2 / 3, 119 / 3).ppf([0.025, 0.975])
    assert rate_to_come(119, 120, 3.0) == pytest.approx((low, high))
    assert f"-{100 * high:.1f}%, n = 120 held-out good parts)" in alike.promise
    worth = "; neighbouring photos are alike: 120 good parts tell as much as 40 unrelated ones"
    assert alike.promise.endswith(worth) and worth not in plain.promise
    for said in (by_hand(110, 100, range(120), effect=3.0), choose("f1", range(120), [200.0], effect=3.0)):
        assert said.promise.endswith(worth)
    low, high = beta(10 / 3, 110 / 3 + 1).ppf(0.025), beta(10 / 3 + 1, 110 / 3).ppf(0.975)
    assert (
        f"(8.3%, 95% interval {100 * low:.1f}-{100 * high:.1f}%)" in by_hand(110, 100, range(120), effect=3.0).promise
    )


def test_defective_scores_do_not_move_a_threshold_for_good_parts():
    for rule in ("false-alarms", "percentile"):
        assert choose(rule, range(60), [10, 70]).threshold == choose(rule, range(60)).threshold


def test_a_promise_that_the_images_cannot_support_is_refused_with_the_number_needed():
    with pytest.raises(UnsupportedPromise, match="need 49 held-out good images, 48 were found") as caught:
        choose("false-alarms", range(48), target=0.02)
    # 1 / (48 + 1) = 2.04%, rounded up
    assert "2.1%" in caught.value.remedy
    with pytest.raises(UnsupportedPromise, match=r"0\.10?% false alarms need 999 "):
        choose("false-alarms", range(60), target=0.001)


@pytest.mark.parametrize("n", [*range(1, 120), 500, 999, 1999])
def test_the_strongest_target_is_supported_and_no_stronger_one(n):
    target = strongest_target(n)
    assert target == pytest.approx(1 / (n + 1))
    assert choose("false-alarms", range(n), target=target).threshold == just_over(n - 1)
    with pytest.raises(UnsupportedPromise):
        choose("false-alarms", range(n), target=0.999 * target)


def test_no_images_support_nothing():
    with pytest.raises(UsageError, match="nothing can be promised"):
        strongest_target(0)


@settings(max_examples=150, deadline=None)
@given(scores=st.lists(st.integers(0, 12), min_size=3, max_size=40), target=st.floats(0.01, 0.9))
def test_the_false_alarm_promise_holds_for_any_scores_with_ties(scores, target):
    """The theorem itself: leave out each of n + 1 exchangeable parts in turn and judge it by the others."""
    n = len(scores) - 1
    if target < strongest_target(n):
        return
    alarms = 0
    for i, score in enumerate(scores):
        threshold = choose("false-alarms", scores[:i] + scores[i + 1 :], target=target).threshold
        alarms += decide(score, threshold=threshold, review=threshold) == "ANOMALY"
    assert alarms <= target * (n + 1) + 1e-6


@pytest.mark.parametrize(("n", "target"), [(60, 0.02), (59, 0.05), (200, 0.02)])
def test_the_false_alarm_promise_and_its_interval_hold_in_simulation(n, target):
    rng = np.random.default_rng(5)
    k = math.ceil((n + 1) * (1 - target) - 1e-9)
    rates = np.empty(600)
    for i in range(rates.size):
        threshold = choose("false-alarms", rng.exponential(size=n), target=target).threshold
        rates[i] = math.exp(-threshold)  # the true rate of exponential scores
    spread = rates.std() / rates.size**0.5
    assert rates.mean() <= target + 3 * spread
    assert rates.mean() == pytest.approx((n + 1 - k) / (n + 1), abs=4 * spread)  # and no part is wasted
    low, high = beta(n + 1 - k, k).ppf([0.025, 0.975])
    inside = np.mean((rates >= low) & (rates <= high))
    assert 0.92 <= inside <= 0.98
    assert f"{100 * high:.1f}%" in choose("false-alarms", range(n), target=target).promise


@pytest.mark.parametrize(
    ("n", "target", "k"),
    [
        (100, None, 99),  # the default, 99
        (100, 95, 95),
        (10, 99, 10),  # 9.9, rounded up
        (1000, 99.9, 999),
        (3, 1, 1),
        (750, 10.8, 81),  # 81, in floats 81.00000000000001
    ],
)
def test_percentile_by_hand(n, target, k):
    choice = choose("percentile", np.arange(1.0, n + 1), target=target)
    assert choice.threshold == just_over(k)
    assert choice.target == (99 if target is None else target)
    # the expected rate over the k-th of n scores is (n + 1 - k) / (n + 1)
    assert f"n = {n} held-out good parts" in choice.promise
    if n == 10:
        assert choice.promise.startswith("on average 9.1% false alarms")


# --- rules that weigh both kinds


@pytest.mark.parametrize(
    ("rule", "costs", "threshold"),
    [
        # at 3.5: 4 hits, 1 false alarm, 0 escapes: F1 = 8/9, 1 error; at 6.5: 2 hits, 0, 2: F1 = 4/6, 2 errors
        ("f1", {}, 3.5),
        ("accuracy", {}, 3.5),
        ("cost", {}, 3.5),  # 1 * 1 + 10 * 0 = 1 against 1 * 0 + 10 * 2 = 20
        ("cost", {"false_alarm_cost": 10.0, "escape_cost": 1.0}, 6.5),  # 10 against 2
    ],
)
def test_rules_for_both_kinds_by_hand(rule, costs, threshold):
    choice = choose(rule, GOOD, DEFECT, **costs)
    assert choice.threshold == threshold
    assert (choice.n_good, choice.n_defect, choice.target) == (4, 4, None)


def test_the_promise_of_both_kinds_counts_and_bounds():
    assert choose("f1", GOOD, DEFECT).promise == (
        "1 of 4 good parts raise a false alarm (25.0%, 95% interval 0.6-80.6%) and "
        "0 of 4 defective parts escape (0.0%, 95% interval 0.0-60.2%); "
        "chosen on these same parts, so expect slightly worse; "
        # 3 of 4 are under 3.5. Were that the true share, 0 of 4 would be under it with 0.4%, at most 1 with 5%: doubt
        # begins over the lowest, and holds 2 and 3
        "2 of 4 held-out good parts go to REVIEW (50.0%, 95% interval 6.8-93.2%)"
    )


def test_of_equal_thresholds_the_one_with_fewer_escapes_is_taken():
    # good 1, 3, defective 2, 4: at 1.5 one false alarm, at 3.5 one escape
    assert choose("accuracy", [1, 3], [2, 4]).threshold == 1.5


def test_classes_that_touch_or_are_upside_down_still_get_a_threshold():
    low, high = 1.0, just_over(1.0)
    assert choose("f1", [low], [high]).threshold == high
    assert choose("accuracy", [5, 6, 7, 8], [1]).threshold == just_over(8)
    assert choose("f1", [5.0], [1.0]).threshold == 1.0


@settings(max_examples=80, deadline=None)
@given(
    good=st.lists(st.integers(0, 15), min_size=1, max_size=15),
    defect=st.lists(st.integers(0, 15), min_size=1, max_size=15),
    rule=st.sampled_from(["f1", "accuracy", "cost"]),
)
def test_no_other_threshold_is_better(good, defect, rule):
    def merit(t):
        alarms, escapes = sum(g >= t for g in good), sum(d < t for d in defect)
        hits = len(defect) - escapes
        return {
            "f1": 2 * hits / (2 * hits + alarms + escapes) if hits else 0,
            "accuracy": -alarms - escapes,
            "cost": -alarms - 10 * escapes,
        }[rule]

    chosen = choose(rule, good, defect).threshold
    assert merit(chosen) == pytest.approx(max(merit(t / 2) for t in range(-1, 34)))


def test_every_rule_is_known_and_gives_a_finite_threshold():
    for rule in RULES:
        assert math.isfinite(choose(rule, range(60), range(50, 90)).threshold)


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "says"),
    [
        (("best", GOOD), {}, UnknownName, "f1, accuracy, percentile, false-alarms, cost"),
        (("f1", GOOD), {}, UsageError, "needs scores of defective parts"),
        (("accuracy", GOOD), {}, UsageError, "needs scores of defective parts"),
        (("cost", GOOD), {}, UsageError, "needs scores of defective parts"),
        (("f1", GOOD, DEFECT), {"target": 0.9}, UsageError, "takes no target"),
        (("cost", GOOD, DEFECT), {"escape_cost": 0}, UsageError, "positive"),
        (("false-alarms", []), {}, UsageError, "no scores of good parts"),
        (("f1", [], DEFECT), {}, UsageError, "no scores of good parts"),
        (("false-alarms", [1, float("nan")]), {}, UsageError, "good parts is NaN"),
        (("f1", GOOD, [float("inf")]), {}, UsageError, "defective parts is NaN or infinite"),
        (("false-alarms", GOOD), {"target": 0}, UsageError, "between 0 and 1"),
        (("false-alarms", GOOD), {"target": 2}, UsageError, "between 0 and 1"),
        (("percentile", GOOD), {"target": 100}, UsageError, "between 0 and 100"),
        (("percentile", GOOD), {"target": float("nan")}, UsageError, "between 0 and 100"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(arguments, options, expected, says):
    with pytest.raises(expected, match=says) as caught:
        choose(*arguments, **options)
    assert caught.value.remedy


# --- doubt


@pytest.mark.parametrize(
    ("n", "share", "k"),
    [
        # of 50 parts with 2% over the quantile, P(4 or more over it) = 1.8%, P(3 or more) = 7.8%: the 47th bounds it
        (50, 0.98, 47),
        (60, 0.98, 56),  # P(5 or more) = 0.6% ... P(4 or more) = 3.3%
        (4, 0.75, 1),  # P(all 4 over it) = 0.25^4 = 0.4%, P(3 or more) = 5.1%
        (4, 1.0, 4),  # over all of them
        (2, 2 / 3, 0),  # P(both over it) = 1/9: nothing bounds it
        (5, 0.0, 0),
    ],
)
def test_where_doubt_begins_by_hand(n, share, k):
    good = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert review_limit(good, share=share, threshold=n + 1) == (just_over(k) if k else -math.inf)
    over = binom(n, 1 - share)
    assert over.sf(n - k) <= 0.025 or k == 0  # the k-th lowest over the quantile: n - k + 1 or more over it
    assert over.sf(n - k - 1) > 0.025


@settings(max_examples=150, deadline=None)
@given(
    good=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    defect=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    rule=st.sampled_from(RULES),
)
def test_a_part_is_in_doubt_iff_the_interval_of_its_standing_reaches_the_promised_share(good, defect, rule):
    """What the page says of a part, and its verdict, are one and the same."""
    target = strongest_target(len(good)) if rule == "false-alarms" else None
    choice = choose(rule, good, defect, target=target)
    assert choice.review <= choice.threshold
    share = 1 - target if target else np.mean(np.array(good) < choice.threshold)
    for score in range(-1, 32):
        if score < choice.threshold:
            assert (score >= choice.review) == (standing(score, good).high >= share)


def test_doubt_bounds_the_quantile_as_often_as_it_says():
    rng = np.random.default_rng(3)
    begins = [choose("false-alarms", rng.exponential(size=100)).review for _ in range(2000)]
    over = np.mean(np.array(begins) > math.log(50))  # the quantile of 98% of exponential scores
    # P(5 or fewer of 100 over it) misses 2.5% from below: P(6 or more over 2%) = 1.5%
    assert over == pytest.approx(binom(100, 0.02).sf(5), abs=0.01) and over < 0.025


def test_more_held_out_parts_leave_fewer_in_doubt():
    shares = []
    for n in (50, 100, 400, 2000):
        choice, good = choose("false-alarms", range(n)), np.arange(n)
        shares.append(np.mean((good >= choice.review) & (good < choice.threshold)))
        assert f"{shares[-1] * n:.0f} of {n} held-out good parts go to REVIEW" in choice.promise
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.01 < 0.05 < shares[0]


def test_the_standing_of_a_score_by_hand():
    found = standing(59.5, range(1, 61))
    assert (found.below, found.n) == (59, 60)
    # Clopper & Pearson of 59 in 60
    assert found.low == pytest.approx(beta(59, 2).ppf(0.025)) and found.high == pytest.approx(beta(60, 1).ppf(0.975))
    assert found.to_json() == {"value": 98.33, "low": 91.06, "high": 99.96, "n": 60}
    assert standing(5, [1, 5, 5, 9]).below == 1, "equal is not less"


def test_a_score_over_or_under_all_is_not_certain():
    top, bottom = standing(99, range(60)), standing(-1, range(60))
    assert (top.low, top.high) == (pytest.approx(0.025 ** (1 / 60)), 1.0)  # P(60 of 60) = p^60
    assert (bottom.low, bottom.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 60)))
    with pytest.raises(UsageError, match="no scores of good parts"):
        standing(1.0, [])


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_the_interval_holds_the_true_share_at_least_as_often_as_it_says(p):
    chances = binom(60, p).pmf(np.arange(61))
    held = [low <= p <= high for low, high in (interval(k, 60) for k in range(61))]
    assert 0.95 <= chances[held].sum() < 0.995


def test_the_rate_to_come_is_that_of_the_promise():
    assert rate_to_come(60, 60) == (pytest.approx(1 - 0.975 ** (1 / 60)), pytest.approx(1 - 0.025 ** (1 / 60)))


# --- verdict


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(-1, "OK"), (1.999, "OK"), (2, "REVIEW"), (2.999, "REVIEW"), (3, "ANOMALY"), (99, "ANOMALY")],
)
def test_verdicts(score, verdict):
    assert decide(score, threshold=3, review=2) == verdict


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_number_is_never_ok(bad):
    for numbers in ((bad, 3, 2), (1, bad, 2), (1, 3, bad)):
        with pytest.raises(UsageError, match="finite"):
            decide(numbers[0], threshold=numbers[1], review=numbers[2])
    with pytest.raises(UsageError, match="over the fail threshold"):
        decide(1, threshold=2, review=3)


# --- the book


def point(**changes):
    values = {
        "fail": 3.0,
        "review": 2.0,
        "pixel": 2.5,
        "rule": "false-alarms",
        "target": 0.02,
        "promise": "on average at most 2.0% false alarms",
        "n_good": 60,
        "n_defect": 0,
        "weights_sha256": "ab" * 32,
        "set_by": "Grete",
        "set_at": "2026-03-01T08:00:00+00:00",
        "why": "first calibration",
    }
    return OperatingPoint(**{**values, **changes})


def book():
    return Thresholds().with_point("screw", "mahalanobis", point()).with_point("screw", "unet", point(fail=5.5))


def test_the_file_has_the_fixed_layout(tmp_path):
    path = tmp_path / "threshold.json"
    book().save(path)
    content = json.loads(path.read_text())
    assert list(content) == ["schema", "categories"]
    assert content["schema"] == 1
    assert list(content["categories"]["screw"]) == ["active", "detectors"]
    assert content["categories"]["screw"]["active"] == "mahalanobis"
    assert content["categories"]["screw"]["detectors"]["unet"] == {**point().model_dump(), "fail": 5.5}
    assert list(point().model_dump()) == [
        *("fail", "review", "pixel", "rule", "target", "promise", "n_good", "n_defect"),
        *("weights_sha256", "set_by", "set_at", "why"),
    ]


@settings(max_examples=50, deadline=None)
@given(fail=st.floats(1e-300, 1e300), share=st.floats(0.01, 1), why=st.text(max_size=20))
def test_a_threshold_survives_the_file_to_the_last_digit(tmp_path_factory, fail, share, why):
    path = tmp_path_factory.mktemp("book") / "threshold.json"
    stored = point(fail=fail, review=fail * share, why=why)
    Thresholds().with_point("öse", "cae", stored).save(path)
    assert Thresholds.load(path).get("öse", "cae", weights_sha256="ab" * 32) == stored


def test_a_missing_file_is_an_empty_book_and_an_empty_book_never_means_ok(tmp_path):
    empty = Thresholds.load(tmp_path / "threshold.json")
    assert empty == Thresholds()
    assert empty.active("screw") is None
    with pytest.raises(MissingThreshold) as caught:
        empty.get("screw", "unet", weights_sha256="x")
    assert "python -m anomaly calibrate --category screw --detector unet --rule false-alarms" in caught.value.remedy
    with pytest.raises(MissingThreshold):
        book().get("screw", "vae", weights_sha256="x")


def test_a_score_is_never_judged_by_the_threshold_of_other_weights():
    assert book().get("screw", "unet", weights_sha256="ab" * 32).fail == 5.5
    with pytest.raises(StaleThreshold, match="other weights") as caught:
        book().get("screw", "unet", weights_sha256="cd" * 32)
    assert "calibrate --category screw --detector unet" in caught.value.remedy


def test_a_new_point_leaves_the_old_book_and_the_other_points_alone():
    before = book()
    after = before.with_point("screw", "unet", point(fail=9), activate=True)
    assert before.get("screw", "unet", weights_sha256="ab" * 32).fail == 5.5
    assert after.get("screw", "unet", weights_sha256="ab" * 32).fail == 9
    assert after.get("screw", "mahalanobis", weights_sha256="ab" * 32).fail == 3
    assert (before.active("screw"), after.active("screw")) == ("mahalanobis", "unet")
    assert after.with_point("nut", "cae", point()).active("nut") == "cae"


def test_a_failed_write_keeps_the_old_book_and_leaves_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "threshold.json"
    book().save(path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ThresholdError, match=r"threshold.json cannot be written \(No space left"):
        Thresholds().save(path)
    assert Thresholds.load(path) == book()
    assert [p.name for p in tmp_path.iterdir()] == ["threshold.json"]


def test_the_book_is_written_beside_and_renamed(tmp_path, monkeypatch):
    path = tmp_path / "threshold.json"
    moves = []
    monkeypatch.setattr(os, "replace", lambda old, new: moves.append((old.parent, old.name[0], new)) or old.rename(new))
    book().save(path)
    assert moves == [(tmp_path, ".", path)]


def test_a_link_to_a_shared_book_stays_a_link(tmp_path):
    (tmp_path / "shared").mkdir()
    link = tmp_path / "threshold.json"
    link.symlink_to(tmp_path / "shared" / "book.json")
    book().save(link)
    assert link.is_symlink()
    assert Thresholds.load(tmp_path / "shared" / "book.json") == book()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ThresholdError, match="absent"):
        book().save(tmp_path / "absent" / "threshold.json")


def edited(change):
    content = json.loads(book().model_dump_json(by_alias=True))
    change(content, content["categories"]["screw"]["detectors"]["unet"])
    return json.dumps(content)


TAMPERED = {
    "not JSON": ("{'schema': 1}", "cannot be read as JSON"),
    "truncated": (edited(lambda book, unet: None)[:-40], "cannot be read as JSON"),
    "empty": ("", "cannot be read as JSON"),
    "not text": (b"\xff\xfe\x00\x80", "cannot be read as JSON"),
    "a list": ("[]", "no schema"),
    "no schema": ('{"categories": {}}', "no schema"),
    "another schema": (edited(lambda book, unet: book.update(schema=2)), "is of schema 2, schema 1 was expected"),
    "extra key on top": (edited(lambda book, unet: book.update(note="x")), "note: Extra inputs"),
    "extra key in a category": (edited(lambda book, unet: book["categories"]["screw"].update(a=1)), "screw / a: Extra"),
    "extra key in a point": (edited(lambda book, unet: unet.update(fial=1)), "screw / detectors / unet / fial: Extra"),
    "missing key": (edited(lambda book, unet: unet.pop("review")), "unet / review: Field required"),
    "NaN": (edited(lambda book, unet: unet.update(fail=float("nan"))), "unet / fail"),
    "a word for a number": (edited(lambda book, unet: unet.update(fail="high")), "unet / fail"),
    "a limit of zero": (edited(lambda book, unet: unet.update(review=0)), "unet / review"),
    "review over fail": (edited(lambda book, unet: unet.update(review=6)), "unet: review 6 lies over fail 5.5"),
    "local time": (edited(lambda book, unet: unet.update(set_at="2026-03-01T08:00:00+02:00")), "not in UTC"),
    "no time": (edited(lambda book, unet: unet.update(set_at="yesterday")), "yesterday"),
    "unknown active detector": (
        edited(lambda book, unet: book["categories"]["screw"].update(active="vae")),
        "screw: the active detector 'vae' has no operating point",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_book_is_refused_by_name_with_a_remedy(case, tmp_path):
    content, says = TAMPERED[case]
    path = tmp_path / "threshold.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ThresholdError) as caught:
        Thresholds.load(path)
    assert str(path) in caught.value.problem
    assert says in caught.value.problem
    assert "calibrate again" in caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"fail": float("inf")}, {"review": 4.0}, {"review": -1.0}, {"pixel": 0.0}, {"n_good": -1}, {"set_at": "now"}],
)
def test_an_operating_point_that_makes_no_sense_is_our_own_error(changes):
    with pytest.raises(AnomalyError) as caught:
        point(**changes)
    assert next(iter(changes)) in str(caught.value)


def test_utc_may_be_written_as_z():
    assert point(set_at="2026-03-01T08:00:00Z").set_at == "2026-03-01T08:00:00Z"
