"""Limits: on trial against known and recorded parts, saved under a name, kept, undone; two people do not collide."""

import contextlib
import json
import multiprocessing
import os
import resource
import sqlite3
import threading

import numpy as np
import pytest
from PIL import Image
from served import launched

from anomaly import runs, training
from anomaly.accounts import OPERATOR, SUPERVISOR, VISITOR, Person
from anomaly.backbones import digest_of
from anomaly.cli import main
from anomaly.detectors.base import MANIFEST, SCHEMA, WEIGHTS
from anomaly.errors import (
    ConflictingSave,
    Forbidden,
    RecordError,
    StaleThreshold,
    ThresholdError,
    UnsupportedPromise,
    UsageError,
)
from anomaly.handlers.desk import figures, ranking
from anomaly.handlers.session import Session, Site
from anomaly.handlers.tune import TuneHandlers
from anomaly.history import History
from anomaly.inspection import Inspection, Inspector
from anomaly.thresholds import BY_HAND, OperatingPoint, Thresholds, by_hand, decide, interval, ledger, standing
from anomaly.ui import limits, plots, tune

NAME = "mahalanobis"
GOOD = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
DEFECT = [8.5, 12.0, 20.0, 30.0]
WEIGHTS_NOW, WEIGHTS_BEFORE = "ab" * 32, "cd" * 32


def point(**changes) -> OperatingPoint:
    values = {
        "fail": 9.0,
        "review": 6.0,
        "pixel": 18.0,
        "rule": "false-alarms",
        "target": 0.1,
        "promise": "on average at most 10.0% false alarms",
        "n_good": 10,
        "n_defect": 0,
        "weights_sha256": WEIGHTS_NOW,
        "set_by": "Grete",
        "set_at": "2026-03-01T08:00:00+00:00",
        "why": "first",
    }
    return OperatingPoint(**values | changes)


def write_run(root, *, good=GOOD, defect=DEFECT, weights=WEIGHTS_NOW, category="plate") -> None:
    """A run as far as Tune reads it: its scores and digests, no network. A peak is twice the score."""
    folder = root / category / NAME
    folder.mkdir(parents=True, exist_ok=True)
    known = {"good": good, "defect": defect}
    entries = {
        kind: [{"file": f"{kind}/{i}.png", "score": s, "peak": 2 * s} for i, s in enumerate(scores)]
        for kind, scores in known.items()
    }
    (folder / runs.CALIBRATION).write_text(json.dumps(entries))
    (folder / runs.METRICS).write_text("{}")
    digests = {name: digest_of(folder / name) for name in (runs.CALIBRATION, runs.METRICS)}
    (folder / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": {WEIGHTS: weights, **digests}}))


def record(history, folder, score, *, capture=(), weights=WEIGHTS_NOW, photo=None, said=None) -> int:
    """Inspect a part of this score under FAIL 9 and REVIEW 6; `photo` makes two entries show one photo."""
    path = folder / f"part_{photo or score}.png"
    Image.fromarray(np.full((8, 8, 3), int((photo or score) * 7 % 256), np.uint8)).save(path)
    found = Inspection(
        path=str(path),
        category="plate",
        detector=NAME,
        weights_sha256=weights,
        score=float(score),
        threshold=9.0,
        review_threshold=6.0,
        pixel_threshold=18.0,
        default_threshold=9.0,
        verdict="REVIEW" if capture else decide(score, threshold=9.0, review=6.0),
        capture=capture,
        percentile=standing(score, GOOD),
        regions=(),
        milliseconds=1.0,
        width=8,
        height=8,
        preview=np.zeros((8, 8, 3), np.uint8),
        map=np.zeros((8, 8), np.float32),
        reconstruction=None,
    )
    number = history.add(found, user="otto")
    if said:
        history.review(number, said=said, user="otto")
    return number


@pytest.fixture
def site(tmp_path):
    write_run(tmp_path / "runs")
    book = tmp_path / "threshold.json"
    ledger.save(book, "plate", NAME, point())
    inspector = Inspector(runs=tmp_path / "runs", thresholds=book)
    return Site(tmp_path / "runs", book, inspector, History(tmp_path / "record"))


@pytest.fixture
def handlers(site):
    return TuneHandlers(site)


def person(role=SUPERVISOR, name="anna") -> Session:
    return Session(person=Person(name, role))


def stored(site) -> OperatingPoint:
    return Thresholds.load(site.thresholds).find("plate", NAME)


def content(site) -> dict:
    return {path.name: path.read_bytes() for path in site.thresholds.parent.glob("*threshold*")}


# --- the ledger


def test_every_save_keeps_who_when_why_before_and_after(tmp_path):
    book = tmp_path / "threshold.json"
    first, second = point(), point(fail=8.0, set_by="Öse", why="line\nbreak")
    ledger.save(book, "plate", NAME, first)
    ledger.save(book, "nut", NAME, point(fail=7.0))
    ledger.save(book, "plate", NAME, second, started_from=first.digest)
    lines = [json.loads(line) for line in (tmp_path / "threshold.history.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["category", "detector", "who", "when", "why", "before", "after"]] * 3
    assert [line["category"] for line in lines] == ["plate", "nut", "plate"]
    assert (lines[0]["before"], lines[0]["after"]) == (None, first.model_dump())
    assert (lines[2]["before"], lines[2]["after"]) == (first.model_dump(), second.model_dump())
    assert (lines[2]["who"], lines[2]["when"], lines[2]["why"]) == ("Öse", second.set_at, "line\nbreak")
    assert ledger.versions(book, "plate", NAME) == [first, second]
    assert set(json.loads(book.read_text())) == {"schema", "categories"}  # scripts outside rely on it


def test_a_limit_that_was_set_before_the_ledger_or_by_hand_is_a_version_too(tmp_path):
    book = tmp_path / "threshold.json"
    shipped, edited = point(why="shipped"), point(fail=7.5, why="edited by hand")
    Thresholds().with_point("plate", NAME, shipped).save(book)
    assert ledger.versions(book, "plate", NAME) == [shipped]
    ledger.save(book, "plate", NAME, point(why="saved"))
    Thresholds.load(book).with_point("plate", NAME, edited).save(book)
    assert [one.why for one in ledger.versions(book, "plate", NAME)] == ["shipped", "saved", "edited by hand"]
    ledger.save(book, "plate", NAME, point(why="again"))
    assert [one.why for one in ledger.versions(book, "plate", NAME)] == ["shipped", "saved", "edited by hand", "again"]


def test_the_second_of_two_savers_is_told_and_overwrites_nothing(site):
    seen = stored(site).digest
    first = point(fail=8.0, set_by="bert", set_at="2026-03-02T09:30:00+00:00", why="new lamp")
    ledger.save(site.thresholds, "plate", NAME, first, started_from=seen)
    before = content(site)
    with pytest.raises(ConflictingSave) as caught:
        ledger.save(site.thresholds, "plate", NAME, point(fail=7.0), started_from=seen)
    for words in ("bert", "2026-03-02T09:30", "FAIL 8", "new lamp", "Nothing was overwritten"):
        assert words in str(caught.value)
    assert content(site) == before
    with pytest.raises(ConflictingSave):  # it began when no limit was stored
        ledger.save(site.thresholds, "plate", NAME, point(), started_from=ledger.NOTHING)
    ledger.save(site.thresholds, "plate", "unet", point(), started_from=ledger.NOTHING)


def _race(book, seen, number, gate, won):
    gate.wait()
    try:
        ledger.save(book, "plate", NAME, point(fail=10.0 + number), started_from=seen)
        won.put(number)
    except ConflictingSave:
        won.put(None)


def test_of_processes_that_save_at_once_exactly_one_wins(site):
    many, context = 6, multiprocessing.get_context("fork")
    gate, won = context.Barrier(many), context.Queue()
    all_of_them = [
        context.Process(target=_race, args=(site.thresholds, stored(site).digest, number, gate, won))
        for number in range(many)
    ]
    for one in all_of_them:
        one.start()
    winners = [number for number in (won.get(timeout=60) for _ in range(many)) if number is not None]
    for one in all_of_them:
        one.join()
    assert len(winners) == 1
    assert stored(site).fail == 10.0 + winners[0]
    assert len(ledger.versions(site.thresholds, "plate", NAME)) == 2


def test_threads_that_save_different_detectors_lose_none(site):
    names = [f"plate_{number}" for number in range(12)]
    threads = [threading.Thread(target=ledger.save, args=(site.thresholds, name, NAME, point())) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Thresholds.load(site.thresholds).categories) == {"plate", *names}
    assert all(len(ledger.versions(site.thresholds, name, NAME)) == 1 for name in names)


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_save_that_fails_leaves_both_files_as_they_were(site, monkeypatch, step):
    before = content(site)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ThresholdError, match="No space left"):
        ledger.save(site.thresholds, "plate", NAME, point(fail=8.0))
    monkeypatch.undo()
    assert content(site) == before
    ledger.save(site.thresholds, "plate", NAME, point(fail=8.0))  # the lock is free again
    assert [one.fail for one in ledger.versions(site.thresholds, "plate", NAME)] == [9.0, 8.0]


def test_a_line_for_which_the_disk_has_no_room_leaves_no_half_of_it(site):
    before = content(site)
    room = len(before["threshold.history.jsonl"]) + 100  # bytes a file of this process may have: the line is longer
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
        with pytest.raises(ThresholdError, match="cannot be written"):
            ledger.save(site.thresholds, "plate", NAME, point(fail=8.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert content(site) == before


def test_half_a_line_that_failing_power_left_is_cut_off(site):
    path = site.thresholds.with_name("threshold.history.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert [one.fail for one in ledger.versions(site.thresholds, "plate", NAME)] == [9.0]
    ledger.save(site.thresholds, "plate", NAME, point(fail=8.0))
    assert [one.fail for one in ledger.versions(site.thresholds, "plate", NAME)] == [9.0, 8.0]


def test_a_damaged_ledger_is_named_and_keeps_nobody_from_working(site, handlers):
    path = site.thresholds.with_name("threshold.history.jsonl")
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ThresholdError, match="line 1 of .*threshold.history.jsonl"):
        ledger.versions(site.thresholds, "plate", NAME)
    desk = handlers.open(person(), "plate")
    assert "line 1" in desk.damage and "line 1" in limits.versions(desk)
    saved = handlers.save(person(), desk.move(fail=8.0), who="anna", why="night shift")
    assert (stored(site).fail, saved.stored.fail) == (8.0, 8.0)


def test_calibrate_does_not_overwrite_a_limit_that_was_saved_meanwhile(site, monkeypatch):
    real = training.thresholds.choose

    def slow(*arguments, **names):
        ledger.save(site.thresholds, "plate", NAME, point(fail=8.0, set_by="bert"))
        return real(*arguments, **names)

    monkeypatch.setattr(training.thresholds, "choose", slow)
    options = {"rule": "percentile", "root": site.runs, "book": site.thresholds}
    with pytest.raises(ConflictingSave, match="bert"):
        training.calibrate("plate", NAME, **options)
    assert stored(site).fail == 8.0
    monkeypatch.undo()
    training.calibrate("plate", NAME, **options)
    assert [one.rule for one in ledger.versions(site.thresholds, "plate", NAME)][-1] == "percentile"


# --- limits on trial


def test_what_limits_by_hand_promise_is_counted_on_known_parts():
    # FAIL 9.5: of 10 good parts the one of 10 is over; of 4 defects the one of 8.5 is under. REVIEW 8: 8 and 9 of good.
    choice = by_hand(9.5, 8.0, GOOD, DEFECT)
    assert (choice.threshold, choice.review, choice.rule, choice.n_good, choice.n_defect) == (9.5, 8.0, BY_HAND, 10, 4)
    assert choice.promise == (
        "1 of 10 good parts raise a false alarm (10.0%, 95% interval 0.3-44.5%); "
        "1 of 4 known defective parts escape (25.0%, 95% interval 0.6-80.6%); "
        "2 of 10 good parts go to REVIEW (20.0%, 95% interval 2.5-55.6%)"
    )
    for wrong in ((5.0, 6.0), (5.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(UsageError, match="FAIL"):
            by_hand(*wrong, GOOD)


def test_figures_at_a_limit_by_hand(handlers):
    desk = handlers.open(person(), "plate").move(fail=9.5, review=8.0)
    found = figures(desk)
    # good: 1..7 OK, 8 and 9 REVIEW, 10 ANOMALY; defects: 8.5 REVIEW, the others ANOMALY
    assert found.counts == {"good": (7, 2, 1), "defect": (0, 1, 3)}
    shares = {one.name: one.estimate for one in found.shares}
    assert {name: (round(one.value, 9), one.n) for name, one in shares.items()} == {
        "False alarms": (0.1, 10),
        "To look at": (0.2, 10),
        "Escapes": (0.25, 4),
        "Unseen escapes": (0.0, 4),
        "Recall": (0.75, 4),
        "Precision": (0.75, 4),  # 3 of the 4 that are judged ANOMALY
        "F1": (0.75, 14),  # 2 * 3 / (2 * 3 + 1 + 1)
        "Accuracy": (round(12 / 14, 9), 14),  # 9 good and 3 defective
    }
    assert (shares["Accuracy"].low, shares["Accuracy"].high) == interval(12, 14)
    assert shares["F1"].low < 0.75 < shares["F1"].high
    assert desk.point().pixel == pytest.approx(2 * 9.5)  # a peak is twice the score, so is its limit


def test_the_curves_pass_through_the_operating_point(handlers):
    desk = handlers.open(person(), "plate").move(fail=9.5)
    curves = ranking(desk).curves
    at = int(np.sum(curves.thresholds >= 9.5)) - 1
    assert (curves.false_alarms[at], curves.recall[at], curves.precision[at]) == (0.1, 0.75, 0.75)
    # of 40 pairs the defect of 8.5 loses two, against 9 and 10
    assert ranking(desk).auroc.value == pytest.approx(38 / 40)
    page = limits.known_parts(desk)
    assert "at FAIL: false alarms 10.0%, recall 75.0%" in page and "at FAIL: recall 75.0%, precision 75.0%" in page
    assert "nothing is judged ANOMALY" in limits.known_parts(desk.move(fail=31.0))


def test_good_photos_that_are_alike_weaken_every_promise(site, handlers):
    days = np.repeat(np.random.default_rng(0).permutation(20) + 1.0, 5)
    scores = (days + np.tile(np.arange(5) / 100, 20)).tolist()
    write_run(site.runs, good=scores, category="days")
    write_run(site.runs, good=np.random.default_rng(1).permutation(scores).tolist(), category="mixed")
    days, mixed = (handlers.open(person(), name) for name in ("days", "mixed"))
    assert days.run.design_effect == pytest.approx(5, rel=0.05) and mixed.run.design_effect == 1
    assert days.fail == mixed.fail, "the limit itself stays"
    for change in (lambda desk: desk, lambda desk: desk.move(fail=15.0), lambda desk: desk.by_rule("f1")):
        said = [change(desk).choice.promise for desk in (days, mixed)]
        worth = "neighbouring photos are alike: 100 good parts tell as much as 20 unrelated ones"
        assert [worth in one for one in said] == [True, False]


def test_the_limit_that_was_not_moved_gives_way(handlers):
    desk = handlers.open(person(), "plate")
    lower, higher = desk.move(fail=4.0), desk.move(review=12.0)
    assert (lower.fail, lower.review) == (4.0, 4.0)
    assert (higher.fail, higher.review) == (12.0, 12.0)
    assert (desk.fail, desk.review) == (9.0, 6.0)


def test_a_rule_sets_both_limits_or_says_what_it_would_take(handlers):
    desk = handlers.open(person(), "plate")
    assert desk.by_rule("f1").choice.rule == "f1"
    # An escape at 10 costs: at 8.25 two alarms cost 2; over 8.5 one escape would cost 10.
    assert desk.by_rule("cost", costs=(1.0, 10.0)).fail == 8.25
    assert desk.by_rule("cost", costs=(10.0, 1.0)).fail == 11.0
    with pytest.raises(UnsupportedPromise, match="need 99 held-out good images, 10 were found"):
        desk.by_rule("false-alarms", target=0.01)


def test_without_defects_the_rest_is_shown_and_the_way_to_them(tmp_path, site, handlers):
    write_run(tmp_path / "runs", defect=[])
    desk = handlers.open(person(), "plate")
    known = {one.name for one in figures(desk).shares if one.estimate}
    assert known == {"False alarms", "To look at"}
    assert ranking(desk) is None
    page = limits.known_parts(desk)
    assert "No known defects" in page and f"calibrate --category plate --detector {NAME} --rule f1 --data DIR" in page


def test_reviewed_parts_count_once_a_photo_and_only_if_asked(site, handlers, tmp_path):
    history = site.history
    record(history, tmp_path, 2.5, said="defect", photo=3)
    record(history, tmp_path, 2.5, said="ok", photo=3)  # the same photo again: the newest word counts
    record(history, tmp_path, 14.0, said="defect")
    record(history, tmp_path, 15.0, said="unsure")
    record(history, tmp_path, 16.0)
    record(history, tmp_path, 17.0, said="defect", capture=("too dark",))
    record(history, tmp_path, 18.0, said="defect", weights=WEIGHTS_BEFORE)
    desk = handlers.open(person(), "plate").move(fail=9.5)
    assert (desk.good.size, desk.defect.size) == (10, 4)
    more = desk.include_reviewed(True)
    assert (sorted({*more.good} - {*GOOD}), sorted({*more.defect} - {*DEFECT})) == ([2.5], [14.0])
    assert "1 good and 1 defective parts come from review" in more.choice.promise
    # What people review is no random sample: a promise of false alarms is made on held-out parts alone.
    assert more.by_rule("false-alarms", target=0.1).choice.n_good == 10
    assert more.by_rule("f1").choice.n_good == 11


def test_a_part_called_good_by_mistake_does_not_stretch_the_axis(site, handlers, tmp_path):
    record(site.history, tmp_path, 900.0, said="ok")
    desk = handlers.open(person(), "plate")
    more = desk.include_reviewed(True)
    assert more.good.max() == 900 and more.end == desk.end
    assert '<span class="good">› 1</span>' in plots.histogram(more)


def test_what_if_flips_are_those_counted_by_hand(site, handlers, tmp_path):
    # On record under FAIL 9 and REVIEW 6; on trial FAIL 5 and REVIEW 3.
    for score in (2.0, 4.0, 7.0, 12.0):  # OK stays OK, OK -> REVIEW, REVIEW -> ANOMALY, ANOMALY stays
        record(site.history, tmp_path, score, said="ok" if score == 4.0 else None)
    record(site.history, tmp_path, 13.0, capture=("too dark",))  # stays REVIEW, whatever the score
    record(site.history, tmp_path, 4.5, weights=WEIGHTS_BEFORE)  # not of this model
    found = handlers.what_if(person(OPERATOR), handlers.open(person(), "plate").move(fail=5.0, review=3.0))
    assert found.total == 5
    assert found.counts == {("REVIEW", "ANOMALY"): 1, ("OK", "REVIEW"): 1}
    assert [(entry.score, entry.verdict, now) for entry, now in found.parts] == [
        (7.0, "REVIEW", "ANOMALY"),  # the newest first
        (4.0, "OK", "REVIEW"),
    ]
    page = limits.what_if(found)
    assert page.count("<img") == 2 and "a person said: <b>ok</b>" in page
    assert found.objected == 1 and "1 of 5 stay in REVIEW at any limit" in page


@pytest.mark.parametrize("trouble", ["locked", "damaged"])
def test_a_record_that_cannot_be_read_keeps_nobody_from_tuning(site, handlers, tmp_path, monkeypatch, trouble):
    record(site.history, tmp_path, 4.0)
    monkeypatch.setattr("anomaly.history.database.WAIT", 0.1)
    with contextlib.closing(sqlite3.connect(site.history.path)) as other:
        if trouble == "locked":
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
        else:
            site.history.path.write_bytes(b"garbage!" * 512)
        desk = handlers.open(person(), "plate").move(fail=9.5)
        with pytest.raises(RecordError, match=trouble):
            handlers.what_if(person(), desk)
        saved = handlers.save(person(), desk, who="anna", why="fewer false alarms")
    assert stored(site).fail == 9.5 and len(saved.versions) == 2


def test_every_recorded_part_is_judged_as_an_inspection_would(site, handlers, tmp_path):
    for score in (2.9, 3.0, 4.9, 5.0, 5.1):
        record(site.history, tmp_path, score)
    desk = handlers.open(person(), "plate").move(fail=5.0, review=3.0)
    now = {entry.score: verdict for entry, verdict in handlers.what_if(person(), desk).parts}
    for score in (2.9, 3.0, 4.9, 5.0, 5.1):
        assert now.get(score, "OK") == decide(score, threshold=5.0, review=3.0)


# --- saving


def test_a_supervisor_saves_under_a_name_and_a_reason(site, handlers):
    desk = handlers.open(person(), "plate").move(fail=9.5, review=8.0)
    for who, why, words in (("", "x", "No name"), ("anna", " ", "No reason")):
        with pytest.raises(UsageError, match=words):
            handlers.save(person(), desk, who=who, why=why)
    assert stored(site) == point()
    saved = handlers.save(person(), desk, who=" Anna ", why="fewer false alarms")
    now = stored(site)
    assert (now.fail, now.review, now.rule, now.set_by, now.why) == (9.5, 8.0, BY_HAND, "Anna", "fewer false alarms")
    assert (now.pixel, now.weights_sha256, now.n_good, now.n_defect) == (pytest.approx(19.0), WEIGHTS_NOW, 10, 4)
    assert (saved.stored, saved.versions, saved.number) == (now, (point(), now), 2)
    with pytest.raises(UsageError, match="are the stored ones"):
        handlers.save(person(), saved, who="Anna", why="again")


def test_rolling_back_is_a_save_of_the_very_same_limits(site, handlers):
    former = handlers.open(person(), "plate").move(fail=9.5)
    desk = handlers.save(person(), former, who="anna", why="try")
    back = handlers.save(person(), desk.restore(1), who="bert", why="too many escapes")
    limits_of = ("fail", "review", "pixel", "rule", "target", "promise", "n_good", "n_defect", "weights_sha256")
    assert all(getattr(stored(site), name) == getattr(point(), name) for name in limits_of)
    assert (stored(site).set_by, stored(site).why) == ("bert", "too many escapes")
    assert [one.why for one in back.versions] == ["first", "try", "too many escapes"]
    for number in (0, 4, None, "1"):
        with pytest.raises(UsageError, match="There is no version"):
            back.restore(number)


def test_limits_of_other_weights_are_neither_saved_nor_restored(tmp_path, site, handlers):
    desk = handlers.open(person(), "plate").move(fail=9.5)
    write_run(tmp_path / "runs", weights=WEIGHTS_BEFORE)  # trained again while the page is open
    with pytest.raises(StaleThreshold, match="trained again"):
        handlers.save(person(), desk, who="anna", why="x")
    assert stored(site) == point()
    fresh = handlers.refresh(person(), desk)
    assert fresh.number is None and fresh.choice.rule == "false-alarms"  # as training would set them
    with pytest.raises(StaleThreshold, match="other weights"):
        fresh.restore(1)
    assert "other weights" in limits.versions(fresh) and "data-index" not in limits.versions(fresh)


def test_who_may_not_is_refused_by_the_server(handlers):
    desk = handlers.open(person(OPERATOR), "plate").move(fail=9.5)
    for verb in (
        lambda: handlers.products(person(VISITOR)),
        lambda: handlers.detectors(person(VISITOR), "plate"),
        lambda: handlers.open(person(VISITOR), "plate"),
        lambda: handlers.refresh(person(VISITOR), desk),
        lambda: handlers.what_if(person(VISITOR), desk),
        lambda: handlers.save(person(OPERATOR), desk, who="otto", why="x"),
    ):
        with pytest.raises(Forbidden):
            verb()


def test_text_from_outside_is_shown_as_text(site, handlers):
    desk = handlers.open(person(), "plate").move(fail=9.5)
    saved = handlers.save(person(), desk, who="<i>anna</i>", why="<script>alert(1)</script>")
    page = limits.versions(saved)
    assert "&lt;script&gt;" in page and "<script>" not in page and "<i>anna" not in page


# --- the command line


def run(site, *words) -> int:
    options = ["--runs", str(site.runs), "--thresholds", str(site.thresholds)]
    return main([*map(str, words), "--category", "plate", *options])


def test_the_same_on_the_command_line(site, capsys, tmp_path):
    for score in (4.0, 7.0):
        record(site.history, tmp_path, score)
    trial = ("tune", "--fail", 9.5, "--review", 3, "--record", site.history.folder, "--json")
    assert run(site, *trial) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["confusion"], shown["saved"]) == ({"good": [2, 7, 1], "defect": [0, 1, 3]}, False)
    assert shown["figures"]["precision"]["value"] == 0.75
    assert shown["record"]["changes"] == [{"from": "OK", "to": "REVIEW", "parts": 1}]
    assert stored(site) == point()

    assert run(site, "tune", "--rule", "f1", "--save") == 2
    assert "No reason" in capsys.readouterr().err
    assert run(site, "tune", "--rule", "f1", "--save", "--why", "balance", "--by", "Zoe") == 0
    assert (stored(site).rule, stored(site).set_by) == ("f1", "Zoe")
    assert run(site, "thresholds", "--roll-back", 1, "--why", "back", "--by", "Zoe") == 0
    assert stored(site).fail == 9.0
    capsys.readouterr()
    assert run(site, "thresholds", "--json") == 0
    assert [(one["version"], one["why"]) for one in json.loads(capsys.readouterr().out)] == [
        (1, "first"),
        (2, "balance"),
        (3, "back"),
    ]
    assert run(site, "tune", "--fail", 2, "--review", 3) == 2
    assert "REVIEW <= FAIL" in capsys.readouterr().err


def test_held_out_parts_that_alone_keep_the_limit_high_are_named(site, handlers, capsys):
    write_run(site.runs, good=[*np.linspace(0.5, 2.5, 49), 9.0])
    said = "1 of 50 held-out good photos scores far above all others (good/49.png 9.00; the others 2.50 at most)"
    high = handlers.open(person(), "plate").move(fail=9.1)
    assert said in limits.on_trial(high) and "⚠" in limits.on_trial(high)
    assert "⚠" not in limits.on_trial(high.move(fail=3.0))  # there it keeps nothing high
    assert run(site, "tune", "--fail", 9.1) == 0
    assert f"Warning: {said}" in capsys.readouterr().err
    assert run(site, "tune", "--fail", 3) == 0
    assert capsys.readouterr().err == ""
    assert run(site, "calibrate", "--rule", "false-alarms", "--target", 0.02) == 0
    assert f"Warning: {said}" in capsys.readouterr().err


# --- the tab in a browser


@pytest.fixture
def page(site, tmp_path, browser):
    """The tab as a supervisor sees it."""
    for score in (4.0, 7.0, 12.0):
        record(site.history, tmp_path, score)
    app = launched(site, person().person, tune)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(30_000)
    page.goto(app.local_url)
    yield page
    page.close()
    app.close(verbose=False)


def line(page, name: str) -> float:
    """Where a line of the histogram stands, as a share of the axis."""
    mark, sheet = (page.locator(f".histogram {one}").bounding_box() for one in (f".mark.{name}", ".sheet"))
    return (mark["x"] + 1.5 - sheet["x"]) / sheet["width"]


def test_the_lines_follow_the_sliders_before_the_server_answers(page, site):
    from playwright.sync_api import expect

    page.locator("#tune-product").get_by_label("Plate").check()
    expect(page.locator("#tune-said h2")).to_contain_text("FAIL 9 · REVIEW 6")
    end = float(page.locator(".histogram").get_attribute("data-end"))
    assert line(page, "fail") == pytest.approx(9 / end, abs=0.003)

    # The line follows the slider before the server has answered.
    page.route("**/gradio_api/**", lambda route: None)
    number = page.locator("#tune-fail input[type=number]")
    number.fill("5")
    assert line(page, "fail") == line(page, "review") == pytest.approx(5 / end, abs=0.003)
    expect(page.locator("#tune-said h2")).to_contain_text("FAIL 9")
    page.unroute("**/gradio_api/**")


def test_a_supervisor_tunes_saves_is_told_of_another_and_rolls_back(page, site):
    from playwright.sync_api import expect

    page.locator("#tune-product").get_by_label("Plate").check()
    page.locator("#tune-review input[type=number]").fill("3")
    page.locator("#tune-fail input[type=number]").fill("5")
    expect(page.locator("#tune-said h2")).to_contain_text("FAIL 5 · REVIEW 3")
    expect(page.locator("#tune-said")).to_contain_text("6 of 10 good parts raise a false alarm (60.0%")
    expect(page.locator(".confusion tbody tr").first).to_contain_text("good parts226")
    expect(page.locator(".what-if")).to_contain_text("2 of 3 recorded parts")
    expect(page.locator(".what-if img")).to_have_count(2)

    record(site.history, site.thresholds.parent, 20.5, said="ok")  # somebody reviews a part meanwhile
    page.get_by_label("Count reviewed parts").check()
    expect(page.locator("#tune-said")).to_contain_text("7 of 11 good parts raise a false alarm")
    page.get_by_label("Count reviewed parts").uncheck()
    page.get_by_role("radio", name="At most so many false alarms").check()
    expect(page.locator("#tune-refused")).to_contain_text("need 49 held-out good images, 10 were found")
    expect(page.locator("#tune-said h2")).to_contain_text("FAIL 5 · REVIEW 3")
    page.get_by_role("button", name="Save these limits").click()
    expect(page.locator("#tune-answer")).to_contain_text("No reason")
    page.get_by_label("Reason").fill("fewer escapes")
    ledger.save(site.thresholds, "plate", NAME, point(fail=8.0, set_by="bert", why="new lamp"))
    page.get_by_role("button", name="Save these limits").click()
    expect(page.locator("#tune-answer")).to_contain_text("bert saved other limits")
    expect(page.locator("#tune-change tbody tr").first).to_contain_text("8→ 5")
    assert stored(site).fail == 8.0
    page.get_by_role("button", name="Save these limits").click()
    expect(page.locator("#tune-answer")).to_contain_text("Version 3 judges from now on")
    assert (stored(site).fail, stored(site).set_by, stored(site).why) == (5.0, "anna", "fewer escapes")

    page.get_by_role("button", name="Roll back to version 1").click()
    expect(page.locator("#tune-said h2")).to_contain_text("FAIL 9 · REVIEW 6")
    page.get_by_label("Reason").fill("back")
    page.get_by_role("button", name="Save these limits").click()
    expect(page.locator("#tune-answer")).to_contain_text("Version 4")
    assert stored(site).fail == 9.0
