"""Many photos at once: what is kept, told, stopped and served, and to whom."""

import base64
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import threading
import time
import tracemalloc
import zipfile
import zlib
from html import escape, unescape
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from conftest import JSON_KEYS
from gradio.data_classes import FileData, ListFiles
from PIL import Image
from served import ToyInspector, free_port, toy_site, write_plate

from anomaly import cli, ui
from anomaly.accounts import OPERATOR, SUPERVISOR, VISITOR, Desk, Person
from anomaly.errors import ArchiveError, DatasetError, Forbidden, RecordError, UnknownName, UsageError
from anomaly.handlers import batch as rooms
from anomaly.handlers.batch import BatchHandlers
from anomaly.handlers.photos import BY_FOLDER
from anomaly.handlers.session import Session
from anomaly.history import History
from anomaly.images import decode_image
from anomaly.inspection import AUTO
from anomaly.report import COLUMNS, Results
from anomaly.report.document import write_report
from anomaly.thresholds import OperatingPoint, Thresholds
from anomaly.ui import batch as tab
from anomaly.ui.photo import Photos

WAIT = 30_000  # milliseconds
ANNA, BEN, EVE = (Session(person=Person(*who)) for who in (("anna", OPERATOR), ("ben", SUPERVISOR), ("eve", VISITOR)))


@pytest.fixture
def handlers(inspector):
    made = BatchHandlers(toy_site(inspector))
    yield made
    for ticket in list(made._batches):
        made._batches[ticket].stop()
        finish(made, ticket)
        made._batches.pop(ticket).home.cleanup()


@pytest.fixture
def photos(tmp_path) -> list[str]:
    """An anomaly, a review, a good part, and a file that is no photo."""
    folder = tmp_path / "photos"
    spots = {"bad.png": 0, "doubtful.png": 55, "good.png": None}
    made = [write_plate(folder / name, spot=spot) for name, spot in spots.items()]
    (folder / "notes.png").write_text("no photo")
    return [str(path) for path in (*made, folder / "notes.png")]


def delivery(path: Path, names: dict[str, int | None]) -> str:
    """A ZIP of plates, each with a spot of that gray."""
    with zipfile.ZipFile(path, "w") as book:
        for number, (name, spot) in enumerate(names.items()):
            book.write(write_plate(path.parent / "packed" / f"{number}.png", spot=spot), name)
    return str(path)


def finish(handlers: BatchHandlers, ticket: str):
    """Wait for the end of a batch; gives its last progress."""
    batch, late = handlers._batches[ticket], time.monotonic() + 30
    while batch.ended is None:
        assert time.monotonic() < late, "the batch does not end"
        time.sleep(0.01)
    return batch.progress()


class Gate:
    """Lets an inspector through photo by photo."""

    def __init__(self, inspector: ToyInspector):
        self.open, self.reached, self._inspect = threading.Semaphore(0), threading.Semaphore(0), inspector.inspect
        inspector.inspect = self

    def __call__(self, path, **asked):
        self.reached.release()
        assert self.open.acquire(timeout=30)
        return self._inspect(path, **asked)


def test_every_photo_becomes_a_row_and_a_bad_one_stops_nothing(handlers, photos):
    ticket = handlers.start(ANNA, "plate", photos)
    now = finish(handlers, ticket)
    assert (now.state, now.done, now.total, now.said) == ("done", 4, 4, ())
    assert now.counts == {"ANOMALY": 1, "REVIEW": 1, "OK": 1, "REFUSED": 0, "ERROR": 1}
    page = handlers.page(ANNA, ticket, None, "", 0)
    assert [(card.name, card.verdict, card.level) for card in page.cards] == [
        ("bad.png", "ANOMALY", 2.0),
        ("doubtful.png", "REVIEW", 0.9),
        ("good.png", "OK", 0.0),
        ("notes.png", "ERROR", None),
    ]
    assert page.cards[3].said == "notes.png is not a JPEG, PNG, BMP, TIFF or WebP image. Convert it to PNG or JPEG."
    thumbnail = decode_image(page.cards[0].thumbnail, name="thumbnail")
    assert thumbnail.shape == (60, 80, 3)
    assert thumbnail[8:17, 18:32].max() > 200 > thumbnail[40:].max(), "the defect, and it alone, has a light outline"
    assert (thumbnail < 60).all(axis=2).sum() > 20, "the dark spot itself is seen, no colour lies over it"


def test_filters_narrow_and_pages_follow_each_other(handlers, photos, monkeypatch):
    monkeypatch.setattr(rooms, "PAGE", 2)
    ticket = handlers.start(ANNA, "plate", photos)
    finish(handlers, ticket)

    def names(*asked):
        page = handlers.page(ANNA, ticket, *asked)
        return page.first, page.matching, [card.name for card in page.cards]

    assert names(None, "", 2) == (2, 4, ["good.png", "notes.png"])
    assert names(None, "", 99) == (2, 4, ["good.png", "notes.png"])
    assert names(None, "", -2) == (0, 4, ["bad.png", "doubtful.png"])
    assert names("REVIEW", "", 0) == (0, 1, ["doubtful.png"])
    assert names(None, " GOOD ", 0) == (0, 1, ["good.png"])
    assert names(None, "not a jpeg", 0) == (0, 1, ["notes.png"])
    assert names("OK", "bad", 0) == (0, 0, [])


def test_downloads_hold_every_photo(handlers, photos, tmp_path):
    shutil.copy(photos[0], tmp_path / "=1+1.png")
    ticket = handlers.start(ANNA, "plate", [*photos, str(tmp_path / "=1+1.png")])
    finish(handlers, ticket)
    summary, lines, html, pdf = handlers.downloads(ANNA, ticket)
    with summary.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert (summary.name, tuple(header)) == ("predict_summary.csv", COLUMNS)
    alarm = "at x 20, y 10, 10 by 5 pixels · darker · patch · small · one place"
    assert rows[0] == ["plate", "20.0", "10.0", "ANOMALY", "", "bad.png", "", "", alarm]
    assert rows[3] == ["plate", "", "", "ERROR", "", "notes.png", "", "", ""]
    assert rows[4][5] == "./=1+1.png", "a spreadsheet must not take a name for a formula"
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [list(one) for one in found[:1]] == [JSON_KEYS] and {frozenset(one) for one in found} == {
        frozenset(JSON_KEYS)
    }
    assert [one["path"] for one in found] == ["bad.png", "doubtful.png", "good.png", "notes.png", "=1+1.png"]
    assert "bad.png" in html.read_text() and pdf.read_bytes().startswith(b"%PDF")


def test_a_zip_is_read_photo_by_photo_and_nothing_of_it_is_left(handlers, inspector, tmp_path):
    archive = delivery(tmp_path / "lot.zip", {"a/bad.png": 0, "a/good.png": None, "../out.png": 0})
    gate = Gate(inspector)
    ticket = handlers.start(ANNA, "plate", [archive])
    unpacked = Path(handlers._batches[ticket].home.name) / "unpacked"
    for _ in range(2):
        assert gate.reached.acquire(timeout=30)
        assert sum(path.is_file() for path in unpacked.rglob("*")) == 1
        gate.open.release()
    now = finish(handlers, ticket)
    assert now.counts == {"ANOMALY": 1, "REVIEW": 0, "OK": 1, "REFUSED": 0, "ERROR": 1}
    assert [card.name for card in handlers.page(ANNA, ticket, None, "", 0).cards] == [
        "lot.zip/a/bad.png",
        "lot.zip/a/good.png",
        "lot.zip/../out.png",
    ]
    assert not unpacked.exists()


def test_folders_name_the_products_of_a_mixed_batch(handlers, tmp_path):
    names = {"lot/plate/1.png": 0, "lot/other_plate/set/2.png": None, "3.png": 0, "plate/other_plate/4.png": None}
    ticket = handlers.start(ANNA, BY_FOLDER, [delivery(tmp_path / "mixed.zip", names)])
    finish(handlers, ticket)
    cards = {card.name: (card.category, card.verdict) for card in handlers.page(ANNA, ticket, None, "", 0).cards}
    assert cards == {
        "mixed.zip/lot/plate/1.png": ("plate", "ANOMALY"),
        "mixed.zip/lot/other_plate/set/2.png": ("other_plate", "OK"),
        "mixed.zip/3.png": ("", "ERROR"),
        "mixed.zip/plate/other_plate/4.png": ("other_plate", "OK"),
    }


def test_photos_of_other_products_are_refused_counted_apart_and_recorded(inspector, tmp_path):
    history = History(tmp_path / "record")
    made = BatchHandlers(toy_site(inspector, history))
    files = [write_plate(tmp_path / f"{gray}.png", gray=gray) for gray in (100, 200, 255)]
    ticket = made.start(ANNA, "plate", list(map(str, files)))
    done = finish(made, ticket)
    assert done.counts == {"ANOMALY": 0, "REVIEW": 0, "OK": 1, "REFUSED": 2, "ERROR": 0}
    cards = {card.name: card for card in made.page(ANNA, ticket, "REFUSED", "", 0).cards}
    assert cards["200.png"].said.startswith("This looks like other_plate, not plate. Choose other_plate")
    assert cards["255.png"].said.startswith("This shows none of the known products; the nearest is other_plate")
    assert {card.level for card in cards.values()} == {None}
    assert decode_image(cards["200.png"].thumbnail, name="what was refused").mean() == 200
    csv_file, *_, html, _ = made.downloads(ANNA, ticket)
    assert [row["prediction"] for row in csv.DictReader(csv_file.open())] == ["OK", "REFUSED", "REFUSED"]
    assert "shows another product than the one asked for" in unescape(html.read_text())
    assert [entry.verdict for entry in history.entries()] == ["REFUSED", "REFUSED", "OK"]
    made._batches.pop(ticket).home.cleanup()


def test_each_photo_of_a_batch_can_say_its_product_itself(handlers, tmp_path):
    files = [write_plate(tmp_path / f"{gray}.png", gray=gray) for gray in (100, 200, 255)]
    ticket = handlers.start(ANNA, AUTO, list(map(str, files)))
    finish(handlers, ticket)
    cards = {card.name: (card.category, card.verdict) for card in handlers.page(ANNA, ticket, None, "", 0).cards}
    assert cards == {"100.png": ("plate", "OK"), "200.png": ("other_plate", "OK"), "255.png": ("", "REFUSED")}


def test_what_cannot_begin_is_refused_in_one_sentence_and_leaves_nothing(handlers, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    for refusal, words, category, files in (
        (UnknownName, "Choose a product", None, photos),
        (UnknownName, "Choose a product", "moon", photos),
        (UsageError, "Add photos or a ZIP", "plate", []),
        (ArchiveError, "no ZIP file", "plate", [str(tmp_path / "broken.zip")]),
    ):
        with pytest.raises(refusal, match=words):
            handlers.start(ANNA, category, files)
    assert not handlers._batches and not list((tmp_path / "temporary").iterdir())


def test_stopping_ends_the_work_and_keeps_what_is_done(handlers, inspector, photos):
    gate = Gate(inspector)
    ticket = handlers.start(ANNA, "plate", photos[:3])
    assert gate.reached.acquire(timeout=30)
    running = handlers.progress(ANNA, ticket)
    assert (running.state, running.done, running.over) == ("running", 0, False)
    handlers.stop(ANNA, ticket)
    gate.open.release(3)
    now = finish(handlers, ticket)
    assert (now.state, now.done, inspector.calls) == ("stopped", 1, 1)
    assert [card.name for card in handlers.page(ANNA, ticket, None, "", 0).cards] == ["bad.png"]
    assert len(handlers.downloads(ANNA, ticket)) == 4


def test_batches_wait_for_each_other(handlers, inspector, photos):
    gate = Gate(inspector)
    first = handlers.start(ANNA, "plate", photos[:1])
    assert gate.reached.acquire(timeout=30)
    second = handlers.start(BEN, "plate", photos[:1])
    with pytest.raises(UsageError, match="still at work"):
        handlers.start(BEN, "plate", photos, now=second)
    assert handlers.progress(BEN, second).state == "waiting"
    handlers.stop(BEN, second)
    assert finish(handlers, second).state == "stopped"
    gate.open.release()
    assert finish(handlers, first).state == "done"
    assert inspector.calls == 1


def test_time_left_comes_from_what_was_done():
    def at(done, seconds):
        return rooms.Progress("running", done, 100, seconds, {}, ())

    assert at(2, 4.0).seconds_left is None
    assert at(20, 10.0).rate == 2.0 and at(20, 10.0).seconds_left == 40.0


def test_each_part_is_recorded_under_the_name_of_the_person(inspector, photos, tmp_path):
    handlers = BatchHandlers(toy_site(inspector, History(tmp_path / "record")))
    finish(handlers, handlers.start(ANNA, "plate", photos))
    entries = handlers.site.history.entries()
    assert [(one.user, one.file, one.verdict) for one in reversed(entries)] == [
        ("anna", "bad.png", "ANOMALY"),
        ("anna", "doubtful.png", "REVIEW"),
        ("anna", "good.png", "OK"),
    ]


def test_a_record_that_fails_is_told_and_stops_nothing(inspector, photos, tmp_path, monkeypatch):
    handlers = BatchHandlers(toy_site(inspector, History(tmp_path / "record")))

    def locked(*_, **__):
        raise RecordError("The record is locked", "Try again")

    monkeypatch.setattr(History, "add", locked)
    now = finish(handlers, handlers.start(ANNA, "plate", photos))
    assert (now.state, now.counts["ANOMALY"]) == ("done", 1)
    assert now.said == ("3 inspections are not in the record. The record is locked. Try again.",)


def test_a_full_disk_ends_the_batch_and_keeps_what_was_done(handlers, photos, monkeypatch):
    add = Results.add

    def full(results, row, inspection, **more):
        if len(results) == 2:
            with results.lines.open("ab") as stream:
                stream.write(b'{"half a li')
            raise OSError(errno.ENOSPC, "No space left on device")
        add(results, row, inspection, **more)

    monkeypatch.setattr(Results, "add", full)
    ticket = handlers.start(ANNA, "plate", photos)
    now = finish(handlers, ticket)
    assert (now.state, now.done) == ("failed", 2)
    assert now.said == ("The batch ended early (No space left on device). Make room on the disk of this server.",)
    assert [card.name for card in handlers.page(ANNA, ticket, None, "", 0).cards] == ["bad.png", "doubtful.png"]


def test_a_crash_is_told_and_does_not_leave_a_batch_running(handlers, inspector, photos, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    inspector.inspect = lambda *_, **__: 1 / 0
    ticket = handlers.start(ANNA, "plate", photos)
    now = finish(handlers, ticket)
    assert now.state == "failed" and now.said == ("The program failed on this batch. What was done before is kept.",)
    del inspector.inspect
    assert finish(handlers, handlers.start(ANNA, "plate", photos)).state == "done", "the turn was given back"


def test_only_operators_may_and_only_their_own(handlers, photos, tmp_path):
    ticket = handlers.start(ANNA, "plate", photos)
    finish(handlers, ticket)
    for verb in (
        lambda: handlers.start(EVE, "plate", photos),
        lambda: handlers.start_folder(EVE, "plate", str(tmp_path)),
        lambda: handlers.stop(EVE, ticket),
        lambda: handlers.page(EVE, ticket, None, "", 0),
        lambda: handlers.downloads(EVE, ticket),
        lambda: handlers.start_folder(ANNA, "plate", str(tmp_path / "photos")),
    ):
        with pytest.raises(Forbidden):
            verb()
    assert handlers.progress(EVE, ticket) is None
    assert handlers.progress(BEN, ticket) is None, "a ticket alone does not show the batch of another person"
    for verb in (handlers.stop, handlers.downloads):
        with pytest.raises(UsageError, match="no longer kept"):
            verb(BEN, ticket)
    assert handlers.progress(ANNA, "guessed") is None and len(ticket) >= 32


def test_a_supervisor_names_a_folder_of_the_server(handlers, photos, tmp_path):
    ticket = handlers.start_folder(BEN, "plate", f" {tmp_path / 'photos'} ")
    assert finish(handlers, ticket).counts["ANOMALY"] == 1
    assert handlers.page(BEN, ticket, None, "", 0).cards[0].name == "photos/bad.png"
    for wrong in ("", "  ", str(tmp_path / "gone"), photos[0]):
        with pytest.raises(DatasetError):
            handlers.start_folder(BEN, "plate", wrong)


def test_old_batches_go_and_their_files_with_them(handlers, photos, monkeypatch):
    monkeypatch.setattr(rooms, "MOST", 2)
    tickets = [handlers.start(ANNA, "plate", photos[:1])]
    home = Path(handlers._batches[tickets[0]].home.name)
    for _ in range(2):
        finish(handlers, tickets[-1])
        tickets.append(handlers.start(ANNA, "plate", photos[:1]))
    assert handlers.progress(ANNA, tickets[0]) is None and not home.exists()
    assert handlers.progress(ANNA, tickets[1]).state == "done"
    finish(handlers, tickets[2])
    monkeypatch.setattr(rooms, "KEPT", -1)
    handlers.start(ANNA, "plate", photos[:1])
    assert len(handlers._batches) == 1


def test_supervisors_alone_are_offered_a_folder_of_the_server(handlers):
    with gr.Blocks(), gr.Tab(tab.TITLE):
        room = tab.Room(handlers, gr.State(EVE))
    assert [room.arrive(person)[room.server]["visible"] for person in (EVE, ANNA, BEN)] == [False, False, True]


def test_folders_of_a_killed_server_are_swept(inspector, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms.tempfile, "tempdir", str(tmp_path))
    for name in ("old", "new"):
        (tmp_path / f"{rooms.PREFIX}{name}" / "results").mkdir(parents=True)
    long_ago = time.time() - 2 * rooms.ABANDONED
    os.utime(tmp_path / f"{rooms.PREFIX}old", (long_ago, long_ago))
    BatchHandlers(toy_site(inspector))
    assert [path.name for path in tmp_path.glob(f"{rooms.PREFIX}*")] == [f"{rooms.PREFIX}new"]


def test_memory_does_not_grow_with_the_number_of_photos(handlers, tmp_path):
    """Each photo, its preview and its map are 2.5 MB here: ten times as many of them must not be seen."""
    large = tmp_path / "large.png"
    Image.fromarray(np.full((500, 500, 3), 100, dtype=np.uint8)).save(large)
    peaks = []
    for count in (20, 200):
        tracemalloc.start()
        finish(handlers, handlers.start(ANNA, "plate", [str(large)] * count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2.5e6


@pytest.fixture
def toy_cli(inspector, tmp_path, monkeypatch):
    """The command line around the toy inspector."""
    monkeypatch.setattr("anomaly.inspection.Inspector", lambda **_: inspector)
    (tmp_path / "runs" / "plate" / "unet").mkdir(parents=True)
    return lambda *words: cli.main(["inspect", *map(str, words), "--runs", str(tmp_path / "runs")])


def drawn_text(pdf: Path) -> str:
    """What the pages of a PDF of reportlab say, in Latin letters, without the blanks, which are where lines end."""
    streams = re.findall(rb"/ASCII85Decode /FlateDecode.*?stream\s*(.*?)~>", pdf.read_bytes(), re.DOTALL)
    pages = b" ".join(zlib.decompress(base64.a85decode(stream)) for stream in streams).decode("latin-1")
    text = "".join(re.findall(r"\(((?:[^()\\]|\\.)*)\) Tj", pages))
    return "".join(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), text).replace("\\", "").split())


def test_the_report_says_what_was_found_by_which_model_and_limit(toy_cli, photos, tmp_path, capsys):
    """The same words in HTML and PDF."""
    why, book = "less scrap <i>", tmp_path / "threshold.json"
    point = OperatingPoint(
        fail=10.0,
        review=8.0,
        pixel=10.0,
        rule="f1",
        promise="0 of 20 good parts raise a false alarm",
        n_good=20,
        n_defect=0,
        weights_sha256="0" * 64,
        set_by="berta",
        set_at="2025-01-02T03:04:05+00:00",
        why=why,
    )
    Thresholds().with_point("plate", "toy", point).save(book)
    (tmp_path / "<b>empty.png").write_bytes(b"")
    for name in ("report.html", "report.pdf"):
        command = (*photos, tmp_path / "<b>empty.png", "--category", "plate", "--thresholds", book)
        assert toy_cli(*command, "--report", tmp_path / "r" / name) == 1
    html, pdf = (tmp_path / "r" / name for name in ("report.html", "report.pdf"))
    said, drawn = re.sub(r"<[^>]+>", " ", html.read_text()), drawn_text(pdf)
    for words in (
        "Inspection of 5 photos",
        "ANOMALY 1 20.0% (95% interval 0.5-71.6%) at or over the limit",
        "ERROR 2 40.0%",
        "Plate: 3 judged",
        "toy, weights sha256 " + "0" * 64,
        "ANOMALY from 10, REVIEW from 8",
        point.promise,
        "berta, 2025-01-02T03:04:05+00:00: less scrap <i>",
        f"threshold.json sha256 {hashlib.sha256(book.read_bytes()).hexdigest()}",
        "ANOMALY, 2.00 × the limit",
        "empty.png is empty, an image was expected",
    ):
        assert "".join(words.split()) in drawn
        assert escape(words) in re.sub(r"\s+", " ", said)
    page = html.read_text()
    assert page.count("data:image/jpeg") == 3 and page.count("data:image/png") == 1
    assert "<b>empty" not in page and not re.search(r"<script|https?://|<i>", page)
    assert "default-src 'none'" in unescape(page)
    assert pdf.read_bytes().count(b"/DCTDecode") == 3, "the thumbnails"


def test_the_report_tells_photos_unlike_the_training_photos(handlers, inspector, photos):
    inspector.capture = ("Darker than any training photo: check the light",)
    ticket = handlers.start(ANNA, "plate", photos)
    finish(handlers, ticket)
    html = handlers.downloads(ANNA, ticket)[2].read_text()
    assert "Darker than any training photo: check the light (3)." in html


def test_the_report_does_not_sign_a_limit_that_was_changed_since(handlers, photos, tmp_path):
    ticket = handlers.start(ANNA, "plate", photos)
    finish(handlers, ticket)
    html = handlers.downloads(ANNA, ticket)[2].read_text()
    assert "not known: threshold.json no longer holds this limit" in html


def test_a_report_of_nothing_judged_and_of_strange_names_is_written(tmp_path):
    results = Results(tmp_path / "results")
    for name in ("零件.png", "деталь.png", "a" * 3000, "&amp;<i>"):
        results.add(dict.fromkeys(JSON_KEYS) | {"path": name, "capture": [], "error": f"{name} is no photo"}, None)
    for suffix in (".html", ".pdf"):
        write_report(results, tmp_path / f"report{suffix}", book=tmp_path / "none.json", by="anna")
    assert "零件.png" in (tmp_path / "report.html").read_text()
    with pytest.raises(UsageError, match="report.html or report.pdf"):
        write_report(results, tmp_path / "report.doc", book=tmp_path / "none.json", by="anna")


def test_the_command_line_reads_zips(toy_cli, tmp_path, capsys):
    archive = delivery(tmp_path / "lot.zip", {"plate/bad.png": 0, "good.png": None})
    assert toy_cli(archive, "--category", "plate", "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["path"], line["verdict"]) for line in lines] == [
        (f"{archive}/plate/bad.png", "ANOMALY"),
        (f"{archive}/good.png", "OK"),
    ]
    assert toy_cli(archive, "--category", "by-folder", "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["category"] for line in lines] == ["plate", None]
    assert "named as a product" in lines[1]["error"]


@pytest.mark.parametrize(
    "words, remedy",
    [
        (("x.png", "--category", "plate", "--report", "r.doc"), "report.pdf"),
        (("x.zip", "--category", "plate"), "Pack it"),
    ],
)
def test_the_command_line_refuses_before_it_begins(toy_cli, inspector, tmp_path, capsys, monkeypatch, words, remedy):
    monkeypatch.chdir(tmp_path)
    Path("x.zip").write_text("no zip")
    assert toy_cli(*words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and remedy in err and inspector.calls == 0


@pytest.fixture
def served(inspector, tmp_path):
    """The whole page around the toy inspector; gives the address that signs in."""
    token = "t" * 32
    app = ui.build_app(toy_site(inspector, History(tmp_path / "record")), Desk(token=token))
    ui._launch(app, "127.0.0.1", free_port(), [])
    yield f"{app.local_url}?token={token}"
    app.close(verbose=False)


@pytest.mark.parametrize("place", ["/etc/hostname", "https://example.org/a.png"])
def test_the_drop_zone_takes_uploads_alone(place):
    """No path of the server, and no address that the server would then fetch."""
    zone = Photos(file_count="multiple", render=False)
    with pytest.raises(gr.Error, match="Upload the image"):
        zone.preprocess(ListFiles(root=[FileData(path=place)]))


def test_a_person_walks_the_tab(served, inspector, photos, tmp_path, browser):
    expect = pytest.importorskip("playwright.sync_api").expect
    expect.set_options(timeout=WAIT)
    archive = delivery(tmp_path / "lot.zip", {f"part_{i}.png": 3 * i for i in range(70)})
    gate = Gate(inspector)
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(served)
    page.get_by_role("tab", name="Batch").click()
    page.get_by_role("button", name="Inspect all").click()
    expect(page.locator("#batch-refusal")).to_contain_text("Add photos or a ZIP first")
    page.locator("#batch-product").get_by_label("Gray plate", exact=True).check()
    page.locator("#batch-files input[type=file]").set_input_files([archive, *photos])
    expect(page.locator("#batch-files")).to_contain_text("lot")
    page.get_by_role("button", name="Inspect all").click()
    bar = page.get_by_role("progressbar", name="Photos inspected")
    expect(bar).to_have_attribute("aria-valuemax", "74")
    expect(page.locator("#batch-refusal section")).to_have_count(0)
    gate.open.release(5)
    expect(bar).to_have_attribute("aria-valuenow", "5")
    expect(page.locator(".progress")).to_contain_text("left")

    page.reload()  # the work goes on, and the page finds it again
    page.get_by_role("tab", name="Batch").click()
    expect(bar).to_have_attribute("aria-valuenow", "5")
    stranger = browser.new_context().new_page()
    stranger.goto(served)
    stranger.get_by_role("tab", name="Batch").click()
    stranger.wait_for_timeout(2500)
    expect(stranger.locator("#batch-progress")).to_contain_text("Add photos or a ZIP")
    gate.open.release(100)
    expect(page.locator(".progress h2")).to_have_text("Done")

    tiles = page.locator(".tiles li")
    expect(tiles).to_have_count(60)
    expect(tiles.first).to_contain_text("2.00 × the limit")
    assert tiles.locator("img").evaluate_all("all => all.every(one => one.complete && one.naturalWidth == 80)")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#batch-place")).to_contain_text("61 to 74 of 74")
    page.get_by_role("radio", name="ERROR 1").check()
    expect(tiles).to_have_count(1)
    expect(tiles).to_contain_text("notes.png is not a JPEG")
    page.get_by_role("radio", name="All 74").check()
    page.get_by_role("radio", name="Table").check()
    page.get_by_label("Name, product or remark contains").fill("doubt")
    rows = page.locator("table.rows tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("REVIEW")
    for label, name in zip(tab.LABELS, ("predict_summary.csv", "inspections.jsonl", "report.html", "report.pdf")):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        assert download.value.suggested_filename == name
        assert Path(download.value.path()).stat().st_size > 500
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
