"""The inspection record: what it keeps, what it lets go, and what happens to it on a bad day."""

import multiprocessing
import os
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import ToyInspector, toy_site, write_plate

from anomaly import history as room
from anomaly.accounts import OPERATOR, Person
from anomaly.errors import RecordError, UsageError, WrongProduct
from anomaly.handlers.inspect import InspectHandlers
from anomaly.handlers.session import Session
from anomaly.history import History, database
from anomaly.history.database import used_bytes
from anomaly.images import decode_image
from anomaly.monitor import Count, Figures
from anomaly.ui import pieces


@pytest.fixture
def add(inspector, history, tmp_path):
    """Record a plate with a spot of the given gray; each gray is another photo."""

    def add(spot=0, *, user="anna", category="plate") -> int:
        photo = write_plate(tmp_path / f"part_{spot}.png", spot=spot)
        return history.add(inspector.inspect(photo, category=category), user=user)

    return add


def at(history: History, number: int, moment: str) -> None:
    """Make an entry older."""
    with history.database.open(writing=True) as book:
        book.execute("UPDATE inspections SET at = ? WHERE id = ?", [moment, number])


def photos(history: History) -> set[str]:
    return {path.name for path in (history.folder / "photos").iterdir()}


def damage(history: History) -> None:
    content = bytearray(history.path.read_bytes())
    content[:200] = os.urandom(200)
    history.path.write_bytes(content)


def test_an_entry_tells_what_was_judged_and_how(history, add, tmp_path):
    (entry,) = [history.get(add())]
    assert (entry.user, entry.file, entry.category, entry.detector) == ("anna", "part_0.png", "plate", "toy")
    assert (entry.score, entry.threshold, entry.review_threshold, entry.verdict) == (20.0, 10.0, 8.0, "ANOMALY")
    assert entry.regions == ({"box": [20, 10, 10, 5], "area": 50, "peak": 20.0},)
    assert entry.photo.read_bytes() == (tmp_path / "part_0.png").read_bytes()
    defects = decode_image(entry.defects, name="defects")[:, :, 0] > 127
    assert defects[10:15, 20:30].all() and defects.sum() == 50
    assert decode_image(entry.thumbnail, name="thumbnail").shape == (60, 80, 3)
    assert (entry.said, entry.defect_type, entry.reviewer) == (None, "", None)


def test_a_refused_photo_is_kept_apart_from_the_scores(history, inspector, add, tmp_path):
    number = add(0)
    photo = write_plate(tmp_path / "bright.png", gray=200)
    with pytest.raises(WrongProduct) as refused:
        inspector.inspect(photo, category="plate")
    other = history.refuse(photo, refused.value, detector=None, user="anna")
    entry = history.get(other)
    assert (entry.verdict, entry.category, entry.file) == ("REFUSED", "plate", "bright.png")
    assert entry.capture == ("This looks like other_plate, not plate",)
    assert entry.to_json()["score"] is entry.to_json()["level"] is entry.to_json()["threshold"] is None
    assert history.get(number).to_json()["score"] == 20.0
    assert history.scores("plate", "toy", weights_sha256="0" * 64).tolist() == [20.0]
    assert history.objections() == []
    history.review(other, said="ok", user="ben")
    figures = Figures.of(history.counts())
    assert (figures.inspected, figures.refused, figures.objected.k, figures.false_alarms.n) == (1, 1, 0, 0)
    assert decode_image(entry.thumbnail, name="thumbnail").shape == (60, 80, 3)


def test_filters_narrow_and_the_newest_comes_first(history, add):
    first, second, third = add(0), add(100, category="other_plate"), add(55)
    history.review(first, said="defect", user="ben", defect_type="scratch")
    assert history.numbers() == [third, second, first]
    assert [one.verdict for one in history.entries()] == ["REVIEW", "OK", "ANOMALY"]
    assert history.numbers(verdicts=("REVIEW", "ANOMALY"), said=(None,)) == [third]
    assert [one.id for one in history.entries(category="other_plate")] == [second]
    assert [one.id for one in history.entries(said=("defect",))] == [first]
    assert history.entries(since="2999-01-01") == []
    assert history.entries(weights_sha256="1" * 64) == []
    assert len(history.entries(limit=2)) == 2


def test_a_filter_is_a_value_and_never_a_command(history, add):
    add()
    assert history.entries(category="plate' OR '1' = '1") == []
    history.review(1, said="defect", user="x'); DROP TABLE reviews; --", defect_type="' OR 1=1 --")
    assert history.get(1).defect_type == "' OR 1=1 --"


def test_the_last_word_counts_and_an_undone_one_does_not(history, add):
    number = add()
    history.review(number, said="ok", user="anna")
    history.review(number, said="defect", user="ben", defect_type="dent")
    assert (history.get(number).said, history.get(number).reviewer) == ("defect", "ben")
    history.withdraw(number, user="anna")  # ben's word is not hers to take back
    assert history.get(number).said == "defect"
    history.withdraw(number, user="ben")
    assert (history.get(number).said, history.get(number).defect_type) == ("ok", "")
    history.withdraw(number, user="anna")
    assert history.get(number).said is None
    with sqlite3.connect(history.path) as book:  # what was said and taken back stays on record
        assert book.execute("SELECT COUNT(*) FROM reviews WHERE withdrawn != ''").fetchone() == (2,)


@pytest.mark.parametrize("number", [0, 7, -1, 2**70, "1", None, True, 1.0])
def test_a_number_that_does_not_exist_is_refused(history, add, number):
    add()
    with pytest.raises(UsageError, match="has no inspection"):
        history.get(number)


def test_counts_types_objections_and_scores(history, inspector, add):
    first, _, second = add(0), add(0), add(100)
    inspector.capture = ("Too dark",)
    third = add(99)
    history.review(first, said="defect", user="anna", defect_type="dent")
    history.review(third, said="defect", user="anna", defect_type="scratch")
    history.review(second, said="defect", user="anna", defect_type="dent")
    day = history.counts()[0].day
    assert sorted(history.counts(), key=str) == sorted(
        [
            Count("plate", day, "ANOMALY", None, False, 1),
            Count("plate", day, "ANOMALY", "defect", False, 1),
            Count("plate", day, "OK", "defect", False, 1),
            Count("plate", day, "REVIEW", "defect", True, 1),
        ],
        key=str,
    )
    assert sum(one.count for one in history.counts(judged=True)) == 3
    assert history.defect_types() == ["dent", "scratch"]
    assert history.objections() == [("Too dark", 1)]
    # gray 0, 100 and 99 score 20, 0 and 0.2; the photo that was inspected twice counts once
    assert sorted(history.scores("plate", "toy", weights_sha256="0" * 64)) == pytest.approx([0, 0.2, 20])
    assert history.scores("plate", "toy", weights_sha256="1" * 64).size == 0


def test_reading_begins_no_record(history):
    assert (history.entries(), history.numbers(), history.counts(), history.defect_types()) == ([], [], [], [])
    assert not history.folder.exists()


def test_old_entries_go_with_their_photos_whatever_was_said_of_them(history, add):
    old, young = add(0), add(10)
    history.review(old, said="defect", user="anna")
    at(history, old, "2020-01-01T00:00:00+00:00")
    for path in (history.folder / "photos").iterdir():  # long there: not of an inspection that is being added
        os.utime(path, (0, 0))
    history.sweep()
    assert history.numbers() == [young]
    assert photos(history) == {history.get(young).photo.name}
    with sqlite3.connect(history.path) as book:
        assert book.execute("SELECT COUNT(*) FROM reviews").fetchone() == (0,)
        assert book.execute("SELECT COUNT(*) FROM pictures").fetchone() == (1,)


def test_a_photo_whose_entry_is_being_written_stays(history, add):
    add(0)
    (history.folder / "photos" / "young.png").write_bytes(b"x")
    history.sweep()
    assert "young.png" in photos(history)


def test_where_room_is_short_the_photos_of_least_worth_go_and_all_entries_stay(history, add):
    judged, waiting, passed_old, passed = add(0), add(10), add(100), add(99)
    history.review(judged, said="ok", user="anna")
    names = {number: history.get(number).photo.name for number in (judged, waiting, passed_old, passed)}
    sizes = {name: (history.folder / "photos" / name).stat().st_size for name in names.values()}
    with history.database.open() as book:
        used = used_bytes(book)
    left = []
    for keep in (3, 2, 1):  # room for so many photos
        history.keep_bytes = used + sum(sorted(sizes.values())[-keep:])
        history.sweep()
        left.append(photos(history))
    assert left[0] == {names[judged], names[waiting], names[passed]}
    assert left[1] == {names[judged], names[waiting]}
    assert left[2] == {names[judged]}
    assert len(history.entries()) == 4 and not history.get(passed).photo.exists()


def test_a_database_that_is_too_large_loses_its_oldest_entries(history, add):
    numbers = [add(spot) for spot in range(12)]
    with history.database.open() as book:
        history.keep_bytes = used_bytes(book) // 2
    history.sweep()
    assert 0 < len(history.numbers()) < 12 and history.numbers()[0] == numbers[-1]


def test_adding_sweeps_now_and_then(history, add, monkeypatch):
    swept = []
    monkeypatch.setattr(room, "SWEEP", 3)
    monkeypatch.setattr(History, "sweep", lambda self: swept.append(1))
    for spot in range(7):
        add(spot)
    assert len(swept) == 2


def test_a_locked_record_says_so_and_keeps_what_it_has(history, add, monkeypatch):
    add(0)
    monkeypatch.setattr(database, "WAIT", 0.1)
    other = sqlite3.connect(history.path)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(RecordError, match="locked by another program. Try again"):
            add(1)
        with pytest.raises(RecordError, match="locked"):
            history.review(1, said="ok", user="anna")
    finally:
        other.close()
    assert [entry.said for entry in history.entries()] == [None]
    assert add(1) == 2


def test_a_damaged_record_is_refused_and_left_as_it_is(history, add):
    add(0)
    damage(history)
    before = history.path.read_bytes()
    for use in (add, history.entries, history.counts, history.sweep, lambda: history.review(1, said="ok", user="a")):
        with pytest.raises(RecordError, match="is damaged. Move the file away"):
            use()
    assert history.path.read_bytes() == before
    history.path.rename(history.folder / "damaged.sqlite")  # what the remedy says
    assert add(1) == 1 and len(photos(history)) == 2


@pytest.mark.parametrize("version", [0, 3])
def test_a_record_of_another_version_is_refused(history, add, version):
    add(0)
    with sqlite3.connect(history.path) as book:
        book.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(RecordError, match=f"version {version}, version 2 was expected"):
        history.entries()
    with pytest.raises(RecordError, match="move the file away"):
        add(1)


def test_a_record_of_the_first_version_is_brought_up_to_date(history, add):
    """Version 1 had no alarms. Its entries stay, and say nothing of what nobody wrote down."""
    add(0)
    with sqlite3.connect(history.path) as book:
        book.execute("ALTER TABLE inspections DROP COLUMN alarm")
        book.execute("PRAGMA user_version = 1")
    assert [entry.alarm for entry in history.entries()] == [""]
    add(0)
    newest, oldest = history.entries()
    assert (newest.id, oldest.id, oldest.alarm) == (2, 1, "")
    assert newest.alarm.startswith("at x 20, y 10, 10 by 5 pixels · darker")


def test_a_full_disk_is_a_sentence_and_leaves_the_record_whole(history, inspector, add, tmp_path, monkeypatch):
    add(0)
    connect = sqlite3.connect

    def small(*arguments, **names):
        book = connect(*arguments, **names)
        pages = book.execute("PRAGMA page_count").fetchone()[0]
        book.execute(f"PRAGMA max_page_count = {pages}")
        return book

    photo = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 100, (256, 256, 3), dtype=np.uint8)).save(photo)
    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(RecordError, match="disk is full. Make room"):
        for _ in range(9):
            history.add(inspector.inspect(photo, category="plate"), user="anna")
    monkeypatch.undo()
    with connect(history.path) as book:
        assert book.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        inspections, pictures = (
            book.execute(f"SELECT COUNT(*) FROM {t}").fetchone() for t in ("inspections", "pictures")
        )
    assert inspections == pictures
    assert add(1)


def test_a_photo_that_cannot_be_kept_leaves_no_half_of_one(history, add, monkeypatch):
    add(0)
    before = photos(history)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device.*disk has room"):
        add(1)
    assert photos(history) == before and len(history.entries()) == 1


def test_a_folder_that_may_not_be_written_is_a_sentence(inspector, tmp_path):
    (tmp_path / "file").write_text("no folder")
    found = inspector.inspect(inspector.examples[0], category="plate")
    with pytest.raises(RecordError, match="cannot be recorded in"):
        History(tmp_path / "file" / "record").add(found, user="anna")


def _add_many(folder: Path, kind: int, start, said) -> None:
    """In a process of its own: four threads add to one record."""
    inspector = ToyInspector(folder.parent / f"examples_{kind}")
    found = inspector.inspect(write_plate(folder.parent / f"part_{kind}.png", spot=kind), category="plate")
    start.wait()
    errors = []

    def add():
        for _ in range(10):
            try:
                History(folder).add(found, user="anna")
            except RecordError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said.put(errors)


def test_threads_and_processes_begin_and_fill_one_record_together(history):
    fork = multiprocessing.get_context("fork")  # a fresh process would spend its time on importing torch
    start, said = fork.Barrier(3), fork.Queue()
    workers = [fork.Process(target=_add_many, args=(history.folder, kind, start, said)) for kind in range(3)]
    for worker in workers:
        worker.start()
    assert [said.get(timeout=60) for _ in workers] == [[], [], []]
    for worker in workers:
        worker.join()
    assert len(history.numbers()) == 120 and len(photos(history)) == 3
    assert not list(history.folder.glob(".*.part"))


def test_a_hundred_thousand_entries_stay_quick(history, add):
    add(0)
    with history.database.open(writing=True) as book:
        row = dict(book.execute("SELECT * FROM inspections").fetchone())
        del row["id"]
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        many = (
            [*(row | {"category": f"c{i % 8}", "verdict": "OK" if i % 20 else "REVIEW", "photo": f"{i}.png"}).values()]
            for i in range(100_000)
        )
        book.executemany(f"INSERT INTO inspections ({columns}) VALUES ({marks})", many)
        book.execute("INSERT INTO pictures SELECT id, zeroblob(200), zeroblob(20) FROM inspections WHERE id > 1")
    began = time.monotonic()
    assert len(history.numbers(verdicts=("REVIEW",), said=(None,))) == 5000
    assert len(history.entries(category="c3", limit=50)) == 50
    history.review(50_000, said="ok", user="anna")
    assert history.counts(judged=True)[0].count == 1
    assert sum(one.count for one in history.counts()) == 100_001
    add(1)
    assert time.monotonic() - began < 5  # half a second alone on two cores


@pytest.fixture
def operator(inspector, history):
    handlers = InspectHandlers(toy_site(inspector, history))
    session = Session(person=Person("anna", OPERATOR))
    handlers.choose_product(session, "plate")
    return handlers, session


def test_an_operators_inspection_is_recorded_and_a_visitors_is_not(operator, history, tmp_path):
    handlers, session = operator
    handlers.take_photo(session, str(write_plate(tmp_path / "part.png", spot=0)))
    assert handlers.inspect(session).unrecorded == ""
    session.person = Person()
    handlers.take_photo(session, str(tmp_path / "part.png"))
    assert handlers.inspect(session).verdict == "ANOMALY"
    assert [(entry.user, entry.file) for entry in history.entries()] == [("anna", "part.png")]


def test_a_verdict_is_shown_although_it_cannot_be_recorded(operator, history, add, tmp_path):
    handlers, session = operator
    add(0)
    damage(history)
    handlers.take_photo(session, str(write_plate(tmp_path / "part.png", spot=0)))
    report = handlers.inspect(session)
    assert (report.verdict, report.score) == ("ANOMALY", 20.0)
    assert "is damaged. Move the file away" in report.unrecorded
    assert "This inspection is not on record" in pieces.banner(report)
    moved = handlers.move_limit(session, 150)
    assert moved.unrecorded == report.unrecorded  # moving the limit does not hide it
    history.path.unlink()
    handlers.take_photo(session, str(tmp_path / "part.png"))
    again = handlers.inspect(session)
    assert again.unrecorded == "" and "not on record" not in pieces.banner(again)
    assert replace(again, unrecorded="<b>").unrecorded and "&lt;b&gt;" in pieces.banner(
        replace(again, unrecorded="<b>")
    )
