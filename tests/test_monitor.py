"""What the record tells: shares, agreement and drift, worked out by hand."""

import numpy as np
import pytest

from anomaly.monitor import Agreement, Count, Figures, Share, daily, drift


def counts(*rows: tuple[str, str | None, int]) -> list[Count]:
    return [Count("plate", "2026-11-22", verdict, said, False, n) for verdict, said, n in rows]


FOUND = counts(
    ("OK", None, 40), ("OK", "ok", 20), ("OK", "defect", 5), ("REVIEW", "defect", 3), ("REVIEW", "unsure", 2),
    ("ANOMALY", "ok", 10), ("ANOMALY", "defect", 15), ("ANOMALY", "unsure", 1), ("ANOMALY", None, 4),
)  # fmt: skip


def test_figures_of_a_day():
    found = Figures.of([*FOUND, Count("plate", "2026-11-22", "REVIEW", None, True, 7)])
    assert found.inspected == 107
    assert (found.failed, found.review, found.objected) == (Share(30, 107), Share(12, 107), Share(7, 107))
    # unsure and unjudged parts say nothing of alarms and escapes
    assert (found.false_alarms, found.escapes) == (Share(10, 25), Share(5, 25))


def test_a_share_of_nothing_has_no_value():
    assert (Share(0, 0).value, Share(0, 0).interval) == (None, (0.0, 1.0))
    # Clopper & Pearson of 0 in 10: 1 - 0.025^(1/10)
    assert Share(0, 10).interval == pytest.approx((0, 0.30850), abs=1e-5)


def test_agreement_beyond_chance():
    found = Agreement.of(FOUND)
    assert found.table["ANOMALY"] == {"ok": 10, "defect": 15, "unsure": 1}
    assert found.agreed == Share(35, 50)
    # Cohen's own arithmetic: observed 35/50 = 0.7; chance (25*30 + 25*20) / 50^2 = 0.5; (0.7 - 0.5) / 0.5
    assert found.kappa == pytest.approx(0.4)
    assert found.share("REVIEW", "defect") == Share(3, 3)


def test_one_sided_words_have_no_kappa():
    assert Agreement.of(counts(("ANOMALY", "defect", 5), ("ANOMALY", "ok", 2))).kappa is None
    assert Agreement.of([]).agreed.value is None


def test_daily_figures_part_days_and_products():
    rows = [Count("a", "2026-11-21", "OK", None, False, 3), Count("a", "2026-11-22", "ANOMALY", "ok", False, 1)]
    rows += [Count("b", "2026-11-22", "OK", None, False, 2)]
    found = [(line["day"], line["category"], line["inspected"], line["false_alarms"]) for line in daily(rows)]
    assert found == [("2026-11-22", "b", 2, 0), ("2026-11-22", "a", 1, 1), ("2026-11-21", "a", 3, 0)]


REFERENCE = np.arange(50.0)


@pytest.mark.parametrize(("shift", "direction"), [(15, "upward"), (-15, "downward"), (0, "")])
def test_drift_is_told_with_its_direction(shift, direction):
    found = drift(np.repeat(REFERENCE, 4) + shift, REFERENCE, limit=70)
    assert found.direction == direction
    # a shift by 15 steps over 15 of the 50 equally likely scores
    assert found.distance == pytest.approx(0.3 if shift else 0.0)
    assert (("drifted" in found.sentence), ("No drift" in found.sentence)) == (bool(shift), not shift)


def test_more_defects_are_no_drift():
    defects = np.full(300, 300.0)
    found = drift(np.concatenate([np.repeat(REFERENCE, 4), defects]), REFERENCE, limit=70)
    assert (found.direction, found.over, found.n_seen) == ("", 300, 200)


def test_too_few_parts_are_not_called_steady():
    found = drift([90.0] * 40 + [1.0] * 19, REFERENCE, limit=70)
    assert found.distance is None and "No drift" not in found.sentence
    assert "n = 19 against 50" in found.sentence and "40 lie over it" in found.sentence


def test_drift_cries_wolf_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    alarms = [drift(rng.gamma(2, 1, 200), rng.gamma(2, 1, 50), limit=9.0).direction != "" for _ in range(200)]
    assert np.mean(alarms) < 0.035  # 0.01 plus three deviations of 200 draws
