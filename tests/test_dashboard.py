"""The Dashboard tab and the record on the command line: what the record and the shipped evaluation say."""

import csv
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from served import ROOT, toy_site, write_plate

from anomaly import runs
from anomaly.accounts import OPERATOR, Person
from anomaly.cli import main
from anomaly.errors import Forbidden, RecordError, UsageError
from anomaly.evaluation import FIGURES
from anomaly.handlers.dashboard import DashboardHandlers, _roc
from anomaly.handlers.session import Session, Site
from anomaly.inspection import Inspector
from anomaly.monitor import Share
from anomaly.ui import charts, dashboard

ANNA, VISITOR = Session(person=Person("anna", OPERATOR)), Session()
PRODUCT, DETECTOR = "leather", "mahalanobis"  # shipped


@pytest.fixture
def add(history, inspector, tmp_path):
    def add(spot: int, *, days_ago: int = 0, category: str = "plate", said: str | None = None, **changed) -> int:
        photo = write_plate(tmp_path / f"part_{len(list(tmp_path.glob('part_*')))}.png", spot=spot)
        number = history.add(
            replace(inspector.inspect(photo, category="plate"), category=category, **changed), user="a"
        )
        noon = datetime.now().astimezone().replace(hour=12) - timedelta(days=days_ago)
        with history.database.open(writing=True) as book:
            moment = noon.astimezone(timezone.utc).isoformat(timespec="seconds")
            book.execute("UPDATE inspections SET at = ? WHERE id = ?", [moment, number])
        if said:
            history.review(number, said=said, user="anna")
        return number

    return add


@pytest.fixture
def handlers(inspector, history):
    return DashboardHandlers(toy_site(inspector, history))


@pytest.fixture
def shipped(history):
    site = Site(ROOT / "runs", ROOT / "threshold.json", None, history)
    return DashboardHandlers(replace(site, inspector=Inspector(runs=site.runs, thresholds=site.thresholds)))


def test_figures_of_products_and_days(handlers, add):
    add(0, said="ok")
    add(0, days_ago=1, said="defect")
    add(100, days_ago=1, said="defect")
    add(55, category="other_plate", capture=("Too dark",))
    add(100, days_ago=40)
    found = handlers.overview(ANNA, days=7)
    assert (found.total.inspected, found.total.failed, found.total.review) == (4, Share(2, 4), Share(1, 4))
    assert (found.total.false_alarms, found.total.escapes) == (Share(1, 2), Share(1, 1))
    assert {name: one.inspected for name, one in found.products.items()} == {"Gray plate": 3, "Other plate": 1}
    assert [one.inspected for one in found.days.values()] == [0, 0, 0, 0, 0, 2, 2]
    assert list(found.days)[-1] == str(datetime.now().date())
    assert found.objections == (("Too dark", Share(1, 4)),)
    assert handlers.overview(ANNA, days=90).total.inspected == 5
    only = handlers.overview(ANNA, "other_plate", days=7)
    assert (only.total.inspected, only.objections) == (1, (("Too dark", Share(1, 1)),))


def test_the_page_tells_them_with_intervals(handlers, add):
    for spot in (0, 0, 100, 100):
        add(spot)
    shown = dashboard.overview(handlers.overview(ANNA))
    # Clopper & Pearson of 2 in 4
    assert "50.0%" in shown and "95% interval 6.8-93.2%" in shown
    assert "unknown: nobody judged any" in shown  # never 0% escapes where nobody has looked
    assert "Every photo was taken like the training photos." in shown
    assert shown.count("<li title=") == 60  # 30 days, twice


def test_an_empty_record_says_so(handlers):
    assert "Nothing was inspected" in dashboard.overview(handlers.overview(ANNA))


def test_visitors_see_nothing(handlers):
    for verb in (lambda: handlers.overview(VISITOR), lambda: handlers.evaluation(VISITOR, "toy")):
        with pytest.raises(Forbidden, match="role of operator"):
            verb()


def test_a_server_without_record_and_an_odd_period_are_refused(inspector, handlers):
    with pytest.raises(RecordError, match="--record DIR"):
        DashboardHandlers(toy_site(inspector)).overview(ANNA)
    with pytest.raises(UsageError, match="7, 30, 90"):
        handlers.overview(ANNA, days=1000)


@pytest.mark.parametrize(
    ("factor", "words"), [(1.0, "No drift of the scores"), (3.0, "drifted upward"), (0.4, "downward")]
)
def test_drift_against_the_calibration_of_the_shipped_run(shipped, add, factor, words):
    run = runs.open_run(ROOT / "runs", PRODUCT, DETECTOR)
    about = {"category": PRODUCT, "detector": DETECTOR, "weights_sha256": run.weights_sha256}
    for spot, one in enumerate(run.calibration["good"]):
        add(spot, score=factor * one["score"], **about)
    add(99, score=99.0, **about | {"weights_sha256": "0" * 64})  # by older weights: another unit
    (found,) = shipped.overview(ANNA).drifts
    assert words in found.drift.sentence
    assert found.drift.n_seen + found.drift.over == len(run.calibration["good"])
    assert found.drift.sentence in dashboard.overview(shipped.overview(ANNA))


def test_the_shipped_evaluation_is_shown_as_it_is_on_disk(shipped):
    found = {one.title: one for one in shipped.evaluation(ANNA, DETECTOR)}
    assert len(found) == len([name for name, inner in runs.names(ROOT / "runs").items() if DETECTOR in inner])
    metrics = json.loads((ROOT / "runs" / PRODUCT / DETECTOR / "metrics.json").read_text())
    one = found["Leather"]
    assert one.values == {name: metrics[name] for name in FIGURES}
    shown = dashboard.evaluation(found.values())
    assert f"{metrics['image_auroc']:.3f} ({one.interval[0]:.3f}-{one.interval[1]:.3f}, n = 60 good" in shown
    assert f"<b>{metrics['confusion']['fn']}</b> of {metrics['n_defect']}" in shown
    assert shown.count('<figure class="radar">') == len(found)


def test_a_roc_curve_needs_defects_and_says_so(shipped):
    rows = shipped.evaluation(ANNA, DETECTOR)
    assert "needs the scores of defective parts" in dashboard.evaluation([replace(row, roc=None) for row in rows])
    assert _roc([1.0, 2.0], []) is None and all(row.roc for row in rows)
    # good 1 2, defects 2 3: at 3 one of two found, at 2 all found for one of two alarms, at 1 all alarmed
    alarms, found = _roc([1.0, 2.0], [2.0, 3.0])
    assert (list(alarms), list(found)) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1])
    with_curve = dashboard.evaluation([replace(rows[0], roc=(alarms, found))])
    assert "ROC of" in with_curve and "H50.00V0.00" in with_curve


def test_no_evaluation_is_said(handlers):
    assert "No product has this detector" in dashboard.evaluation(handlers.evaluation(ANNA, "toy"))


def test_a_distribution_ends_at_one_in_few_steps():
    scores = np.sort(np.random.default_rng(0).gamma(2, 1, 5000))
    across, up = charts.distribution(scores, reach=scores[-1])
    assert len(up) <= 200 and (across[-1], up[-1]) == (1.0, 1.0)
    assert up[len(up) // 2] == pytest.approx(0.5, abs=0.01)


def test_an_unknown_figure_is_a_gap_and_no_zero():
    assert charts.heat_cell(None) == '<td class="none">-</td>'
    assert "F1 unknown" in charts.radar([("F1", None), ("recall", 0.5), ("precision", 1.0)], "x")


# --- on the command line ---


def run(*arguments) -> int:
    return main([str(one) for one in arguments])


def test_record_lists_filters_and_exports(history, add, tmp_path, capsys):
    first, second = add(0), add(100)
    place = ("--record", history.folder)
    assert run("review", first, "defect", "--type", "dent", "--user", "ben", *place) == 0
    assert "ben said defect dent" in capsys.readouterr().out
    assert run("record", *place) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [str(second), str(first)]
    assert run("record", "--verdict", "ANOMALY", "--json", "--csv", tmp_path / "out.csv", *place) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["id"], line["verdict"], line["level"], line["said"]) == (first, "ANOMALY", 2.0, "defect")
    with (tmp_path / "out.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row.keys() == line.keys() and (row["reviewer"], float(row["score"])) == ("ben", 20.0)
    assert json.loads(row["regions"]) == line["regions"]
    assert run("record", "--said", "nothing", *place) == 0
    assert capsys.readouterr().out.split()[0] == str(second)


def test_a_name_is_no_formula_in_the_exported_record(history, inspector, tmp_path, capsys):
    history.add(inspector.inspect(write_plate(tmp_path / "=1+1.png"), category="plate"), user="a")
    assert run("record", "--json", "--csv", tmp_path / "out.csv", "--record", history.folder) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "=1+1.png"
    with (tmp_path / "out.csv").open(newline="") as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == ["./=1+1.png"]


def test_record_gives_daily_figures(history, add, capsys):
    add(0, said="ok")
    add(100, days_ago=3)
    since = str((datetime.now() - timedelta(days=1)).date())
    assert run("record", "--daily", "--json", "--since", since, "--record", history.folder) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["category"], line["failed"], line["false_alarms"], line["alarms_judged"]) == ("plate", 1, 1, 1)
    assert line["failed_interval"] == pytest.approx([0.025, 1])
    assert run("record", "--daily", "--record", history.folder) == 0
    assert "1 of 1 false alarms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("record", "--said", "fine"), "--said fine is not known. Use ok, defect, unsure, nothing."),
        (("record", "--verdict", "FAIL"), "--verdict FAIL is not known"),
        (("record", "--since", "yesterday"), "is no date. Write it like"),
        (("record", "--record", "nowhere"), "There is no inspection record in nowhere"),
        (("review", "9", "ok"), "has no inspection 9"),
        (("review", "1", "fine"), "Use one of ok, defect, unsure"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(history, add, capsys, arguments, words):
    add(0)
    place = () if "--record" in arguments else ("--record", history.folder)
    assert run(*arguments, *place) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
