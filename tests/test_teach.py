"""What would spoil a product while it is taught: bad photos, half a run left, a limit of other weights, no way back."""

import inspect
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from conftest import CATEGORY, SMALL, painted, plate
from PIL import Image, ImageFilter
from served import ROOT

from anomaly import dataset, detectors, intake, runs, teaching, training, versions
from anomaly.accounts import OPERATOR, SUPERVISOR, VISITOR, Person
from anomaly.errors import AnomalyError, BrokenRun, CannotSave, Forbidden, TooFewImages, UnknownName, UsageError
from anomaly.handlers import teach
from anomaly.handlers.session import Session
from anomaly.handlers.session import Site as Place
from anomaly.handlers.teach import TeachHandlers
from anomaly.history import History
from anomaly.images import checked_region, read_image, write_image
from anomaly.inspection import Inspector
from anomaly.lessons import CANCELLED, DONE, FAILED, Cancelled
from anomaly.thresholds import Thresholds, ledger
from anomaly.ui import lesson as look

NAME = "mahalanobis"
BOSS = Session(person=Person("ann", SUPERVISOR))


def write_plates(folder, count, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_image(folder / f"{i:03d}.png", plate(first + i))
    return sorted(folder.iterdir())


def named(paths):
    return [(path.name, path) for path in paths]


def small(name=NAME, **options):
    return detectors.create(name, **SMALL | options)


def silent(stage, done, total):
    return None


def tree(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def seen_by(handlers, paths, **options):
    *_, last = handlers.check(BOSS, paths, **options)
    return last.tray


@pytest.fixture
def photos(tmp_path):
    return write_plates(tmp_path / "photos", 16)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def book(tmp_path):
    return tmp_path / "threshold.json"


@pytest.fixture
def taught(photos, root, book):
    teaching.teach(named(photos), "plate", {"title": "Plate", "kind": "object"}, [small()], **place(root, book))
    return runs.open_run(root, "plate", NAME)


@pytest.fixture
def handlers(root, book, tmp_path, monkeypatch):
    create = detectors.create
    monkeypatch.setattr(teach.detectors, "create", lambda name, **given: create(name, **given | SMALL))
    root.mkdir(exist_ok=True)
    return TeachHandlers(Place(root, book, Inspector(runs=root, thresholds=book), History(tmp_path / "record")))


def place(root, book):
    return {"root": root, "book": book, "progress": silent, "by": "ann"}


# --- photos, before anything is learned


def test_photos_that_stand_out_carry_the_reason_and_ordinary_ones_none(tmp_path, photos):
    odd = tmp_path / "odd"
    odd.mkdir()
    picture = Image.open(photos[3]).convert("RGB")
    shutil.copy(photos[2], odd / "copied.png")
    noise = np.random.default_rng(0).integers(-1, 2, (64, 64, 3))
    Image.fromarray(np.clip(plate(3) + noise, 0, 255).astype(np.uint8)).save(odd / "noisy.png")
    Image.open(photos[5]).filter(ImageFilter.GaussianBlur(3)).save(odd / "blurred.png")
    Image.fromarray(plate(90) // 3).save(odd / "dark.png")
    picture.resize((64, 96)).save(odd / "narrow.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(odd / "other.png")
    (odd / "broken.png").write_bytes(photos[0].read_bytes()[:200])

    found = intake.judge([intake.look(path.name, path) for path in [*photos, *sorted(odd.iterdir())]])

    assert [photo.reasons for photo in found[: len(photos)]] == [()] * len(photos)
    said = {photo.name: " ".join(photo.reasons) for photo in found[len(photos) :]}
    assert "The same file as 002.png" in said["copied.png"]
    assert "Nearly the same photo as 003.png" in said["noisy.png"]
    assert "Blurred" in said["blurred.png"]
    assert "Darker" in said["dark.png"]
    assert "Narrower" in said["narrow.png"]
    assert "something else" in said["other.png"]
    assert "broken.png is truncated" in said["broken.png"] and str(tmp_path) not in said["broken.png"]
    assert [photo.name for photo in found if not photo.readable] == ["broken.png"]


def test_a_person_keeps_or_leaves_out_each_photo_but_an_unreadable_one(handlers, photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    shutil.copy(photos[0], tmp_path / "again.png")
    tray = seen_by(handlers, [*photos, tmp_path / "again.png", tmp_path / "broken.png"])
    assert tray.kept == [True] * 16 + [False, False]
    handlers.choose(BOSS, tray, 16, True)
    handlers.choose(BOSS, tray, 17, True)
    handlers.choose(BOSS, tray, 0, False)
    assert [name for name, _ in tray.chosen()] == [*(path.name for path in photos[1:]), "again.png"]


def test_a_zip_is_unpacked_and_what_it_must_not_hold_is_told(handlers, photos, tmp_path):
    with zipfile.ZipFile(tmp_path / "parts.zip", "w") as packed:
        for path in photos:
            packed.write(path, f"day1/{path.name}")
        packed.writestr("../outside.png", photos[0].read_bytes())
    tray = seen_by(handlers, [tmp_path / "parts.zip"])
    assert sum(tray.kept) == len(photos)
    (bad,) = [photo for photo in tray.photos if not photo.readable]
    assert "outside" in bad.reasons[0]
    assert not (tmp_path.parent / "outside.png").exists()


def test_too_few_and_too_many_photos_are_refused(handlers, photos, monkeypatch):
    monkeypatch.setattr(teach, "MOST", 15)
    with pytest.raises(UsageError, match="16 photos"):
        seen_by(handlers, photos)
    tray = seen_by(handlers, photos[:9])
    with pytest.raises(TooFewImages, match="9 photos"):
        begin(handlers, tray)
    with pytest.raises(TooFewImages, match="No photo"):
        seen_by(handlers, [])


# --- region of interest


@pytest.mark.parametrize("name", detectors.names())
def test_what_lies_outside_of_the_region_changes_nothing_and_maps_are_of_the_whole_photo(name):
    region = (0.25, 0.0, 0.5, 1.0)
    detector = small(name).fit([plate(i) for i in range(12)], region=region)
    good = plate(30)
    spoiled = good.copy()
    spoiled[:, :16] = 255
    before, after = detector.score(good), detector.score(spoiled)
    assert after.score == before.score
    assert after.map.shape == (64, 64)
    assert (after.map[:, :16] == 0).all() and (after.map[:, 48:] == 0).all() and after.map[:, 16:48].max() > 0
    if after.reconstruction is not None:
        assert (after.reconstruction[:, :16] == 255).all()
    assert detector.score(painted(30)[0]).score != before.score


def test_a_region_is_saved_used_at_inspection_and_a_differing_one_refused(photos, root, book):
    about = {"title": "Plate", "kind": "object", "region": (0.5, 0.25, 0.5, 0.75)}
    teaching.teach(named(photos), "plate", about, [small()], **place(root, book))
    image = plate(40)
    image[42:50, 46:54] = (220, 60, 40)
    write_image(root.parent / "plain.png", image)
    image[:, :20] = 0
    write_image(root.parent / "part.png", image)
    inspector = Inspector(runs=root, thresholds=book)
    found = inspector.inspect(root.parent / "part.png", category="plate")
    x, y, width, height = found.regions[0].box
    assert 32 <= x <= 50 <= x + width <= 64 and 16 <= y <= 46 <= y + height <= 64
    plain = inspector.inspect(root.parent / "plain.png", category="plate")
    assert (found.score, found.capture) == (plain.score, plain.capture)  # the stripe is outside of what is looked at
    assert inspector.explain(found).here.size
    written = json.loads((root / "plate" / "category.json").read_text())
    (root / "plate" / "category.json").write_text(json.dumps(written | {"region": [0, 0, 0.5, 0.5]}))
    with pytest.raises(BrokenRun, match="trained on the region 0.5, 0.25, 0.5, 0.75"):
        inspector.inspect(root.parent / "part.png", category="plate")


@pytest.mark.parametrize(
    "region", [(0.5, 0, 0.6, 1), (0, 0, 0.01, 1), (-0.1, 0, 1, 1), (0, 0, 1), "left", (0, 0, "a", 1)]
)
def test_a_region_that_cannot_be_is_refused(region):
    with pytest.raises(UsageError):
        checked_region(region)


def test_training_again_on_a_region_moves_the_category_to_it(site):
    options = {"root": site.runs, "book": site.book}
    training.train(site.data, CATEGORY, small(), region=(0.1, 0.1, 0.8, 0.8), **options)
    assert runs.open_run(site.runs, CATEGORY, NAME).region == (0.1, 0.1, 0.8, 0.8)
    with pytest.raises(BrokenRun, match="the whole of the photos"):
        runs.open_run(site.runs, CATEGORY, "unet")
    training.train(site.data, CATEGORY, small("unet"), **options)  # takes the region that the category has
    assert runs.open_run(site.runs, CATEGORY, "unet").region == (0.1, 0.1, 0.8, 0.8)


# --- a training that ends otherwise


def test_stop_keeps_what_is_learned_and_it_is_calibrated():
    asked = []

    def enough(stage, done, total):
        asked.append(stage)
        return stage == "train" and done == 45

    detector = small("unet", epochs=5).fit([plate(i) for i in range(12)], progress=enough)
    assert asked.count("train") == 45
    assert [one["epoch"] for one in detector.history()] == [1, 2]
    assert sorted(detector.preview().repairs) == [1, 2]
    assert detector.score(painted(20)[0]).score > detector.score(plate(20)).score


def test_a_photo_with_a_long_name_is_learned_like_any_other(photos, root, book):
    long = "x" * 40 + "." + "y" * 55 + ".png"  # its last 60 characters alone would be the name of a hidden file
    given = [(long, photos[0]), *named(photos[1:])]
    teaching.teach(given, "plate", {"title": "Plate", "kind": "object"}, [small()], **place(root, book))
    assert runs.open_run(root, "plate", NAME).manifest["data"]["good_images"] == len(photos)


def test_cancel_leaves_nothing(photos, root, book):
    def cancel(stage, done, total):
        if stage == "score":  # all is learned, the limit is being set
            raise Cancelled

    with pytest.raises(Cancelled):
        teaching.teach(
            named(photos),
            "plate",
            {"title": "Plate", "kind": "object"},
            [small()],
            by="ann",
            root=root,
            book=book,
            progress=cancel,
        )
    assert tree(root) == set() and not book.exists()


@pytest.mark.parametrize("where", ["photos", "weights", "threshold"])
def test_a_full_disk_leaves_everything_as_it_was(photos, root, book, monkeypatch, where):
    save = ledger.save

    def fail(target, *given, **options):
        if where == "threshold" and target != book:  # the workshop has a book of its own
            return save(target, *given, **options)
        raise OSError(28, "No space left on device")

    if where == "photos":
        monkeypatch.setattr(teaching.shutil, "copyfile", fail)
    elif where == "weights":
        monkeypatch.setattr(detectors.base, "save_file", fail)
    else:
        monkeypatch.setattr(teaching.ledger, "save", fail)
    with pytest.raises((CannotSave, OSError), match="No space left"):
        teaching.teach(named(photos), "plate", {"title": "Plate", "kind": "object"}, [small()], **place(root, book))
    assert tree(root) == set() and runs.names(root) == {} and not book.exists()


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from conftest import SMALL
from anomaly import detectors, teaching
def stall(stage, done, total):
    if stage == "leave out":
        print("learning", flush=True)
        time.sleep(60)
folder, root = Path(sys.argv[1]), Path(sys.argv[2])
photos = [(path.name, path) for path in sorted(folder.iterdir())]
model = detectors.create("mahalanobis", **SMALL)
about, book = {"title": "Plate", "kind": "object"}, root.parent / "threshold.json"
teaching.teach(photos, "plate", about, [model], by="ann", root=root, book=book, progress=stall)
"""


def test_a_killed_training_leaves_no_half_run_and_the_next_one_clears_it_away(photos, root, book):
    command = [sys.executable, "-c", KILLED, str(photos[0].parent), str(root)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert process.stdout.readline() == "learning\n"
    with pytest.raises(UsageError, match="Another training is running"):
        teaching.teach(named(photos), "plate", {"title": "Plate", "kind": "object"}, [small()], **place(root, book))
    teaching.sweep(root)
    assert tree(root)  # it lives, and is left alone
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert runs.names(root) == {} and tree(root)
    teaching.sweep(root)
    assert tree(root) == set() and not book.exists()


def test_a_run_that_was_moved_aside_when_its_writer_was_killed_is_put_back(taught, root):
    content = tree(root)
    taught.folder.rename(taught.folder.with_name(f".{NAME}.0123.old"))
    rest = taught.folder.with_name(f".{NAME}.0123.part")
    rest.mkdir()
    os.utime(rest, (0, 0))
    young = taught.folder.with_name(f".{NAME}.4567.part")
    young.mkdir()
    runs.sweep(root)
    assert tree(root) == content
    assert not rest.exists() and young.exists()  # the young one may be of a process that is alive


# --- the background


def begin(handlers, tray, **options):
    given = {"title": "Plate", "kind": "object", "region": None, "names": [NAME], "minutes": 1.0}
    return handlers.teach(BOSS, tray, **given | options)


def test_a_lesson_ends_in_a_product_with_a_limit_and_its_photos(handlers, photos, root, book):
    lesson = begin(handlers, seen_by(handlers, photos), title="M8 Plate", region=(0.0, 0.0, 0.75, 1.0))
    lesson.wait(120)
    assert (lesson.state, lesson.error) == (DONE, "")
    (info,) = handlers.site.inspector.categories()
    assert (info.name, info.title, info.kind, info.active) == ("m8_plate", "M8 Plate", "object", NAME)
    run = runs.open_run(root, "m8_plate", NAME)
    assert run.region == (0.0, 0.0, 0.75, 1.0)
    assert teaching.kept_photos(root, run)
    (learned,) = lesson.result.learned
    assert learned.fail == Thresholds.load(book).get("m8_plate", NAME, weights_sha256=run.weights_sha256).fail
    assert len(learned.scores) == 4 and learned.photos == 16 and "n = 4" in learned.promise
    assert learned.more == (
        "About 36 photos would support a promise of 10%",
        "About 76 photos would support a promise of 5%",
    )
    assert handlers.site.inspector.inspect(photos[0], category="m8_plate").score > 0


def test_a_photo_that_alone_keeps_the_limit_high_is_named_and_shown(handlers, tmp_path):
    photos = write_plates(tmp_path / "many", 96)
    odd = dataset.split_good(photos, held_out=training.HELD_OUT, seed=0).held_out[5]
    dirty = read_image(odd).copy()
    dirty[20:44, 20:44] = 255 - dirty[20:44, 20:44]
    write_image(odd, dirty)
    tray = seen_by(handlers, photos)
    tray.kept = [True] * len(photos)  # the look at the photos had noticed it
    lesson = begin(handlers, tray)
    lesson.wait(240)
    assert (lesson.state, lesson.error) == (DONE, "")
    (learned,) = lesson.result.learned
    ((name, shown),) = learned.apart
    assert name == odd.name and shown.shape == dirty.shape
    assert (shown != dirty).any()  # what stands out is outlined
    assert any("far above all others" in said and name in said for said in learned.warnings)
    page = look.result("Plate", lesson.result)
    assert page.count("<figcaption>" + name + "</figcaption>") == 1


def test_the_highest_good_part_is_drawn_under_its_limit():
    for fail in (1.137, 80.32044219970705):  # twenty times a twentieth of the second is less than it
        scores = np.array([0.1 * fail, np.nextafter(fail, 0)])
        drawn = look.histogram(teach.Learned("plate", NAME, scores, fail, 0.5 * fail, "", 8, (), (), ()))
        limit = float(re.search(r'class="limit" x1="([\d.]+)"', drawn)[1])
        bars = re.findall(r'class="bar" x="([\d.]+)" width="([\d.]+)"', drawn)
        assert len(bars) == 2 and all(float(x) + float(width) <= limit for x, width in bars)


def test_a_comparison_says_how_sure_it_is(taught):
    side = versions.Side(n_good=15, false_alarms=1, median=0.5, highest=1.1, n_defect=4, caught=3)
    shown = look.comparison(versions.Version(taught, "20260101T000000", None, side, side))
    assert shown.count("6.7% (1 of 15, 95% interval 0.2-31.9%)") == 2
    assert shown.count("75.0% (3 of 4, 95% interval 19.4-99.4%)") == 2


def test_one_training_at_a_time_and_a_second_is_told(handlers, photos):
    hold, tray = threading.Event(), seen_by(handlers, photos)
    first = handlers.room.begin("First", lambda lesson: hold.wait(20))
    with pytest.raises(UsageError, match="'First' is running"):
        begin(handlers, tray)
    assert handlers.watch(BOSS) is first
    hold.set()
    first.wait(20)
    second = begin(handlers, tray)
    handlers.cancel(BOSS)
    second.wait(60)
    assert second.state == CANCELLED and handlers.site.inspector.categories() == []


def test_stop_ends_a_lesson_early_and_keeps_it(handlers, photos, monkeypatch, root):
    monkeypatch.setitem(SMALL, "epochs", 200)
    lesson = begin(handlers, seen_by(handlers, photos), names=["unet"])
    while not lesson.history() and lesson.state == "running":
        time.sleep(0.05)
    handlers.stop(BOSS)
    lesson.wait(120)
    assert lesson.state == DONE and len(lesson.history()) < 200
    assert runs.names(root) == {"plate": ("unet",)}


def test_a_lesson_that_fails_says_why_and_leaves_nothing(handlers, photos, root):
    lesson = handlers.room.begin("Odd", lambda lesson: teaching.teach([], "odd", {}, [small()], **place(root, root)))
    lesson.wait(60)
    assert lesson.state == FAILED and "no good images" in lesson.error
    assert tree(root) == set()


@pytest.mark.parametrize(
    "wrong", [{"title": ""}, {"title": "a/b"}, {"title": "x" * 80}, {"minutes": 0}, {"names": []}, {"kind": "thing"}]
)
def test_wrong_settings_begin_nothing(handlers, photos, wrong):
    with pytest.raises(UsageError):
        begin(handlers, seen_by(handlers, photos), **wrong)
    assert handlers.watch(BOSS) is None


def test_a_taken_name_is_refused(handlers, taught, photos):
    with pytest.raises(UsageError, match="already"):
        begin(handlers, seen_by(handlers, photos), title="PLATE")


@pytest.mark.parametrize("role", [VISITOR, OPERATOR])
def test_nobody_under_a_supervisor_reaches_any_verb(handlers, role, root):
    session, called = Session(person=Person("eve", role)), []
    for name, verb in inspect.getmembers(handlers, inspect.ismethod):
        if name.startswith("_") or name == "sweep":
            continue
        given = dict.fromkeys(list(inspect.signature(verb).parameters)[1:])
        with pytest.raises(Forbidden):
            answer = verb(session, **given)
            next(iter(answer))  # a verb that answers bit by bit refuses with the first bit
        called.append(name)
    assert {"check", "teach", "refit", "activate", "watch", "cancel"} <= set(called)
    assert tree(root) == set()


# --- versions


def refit(taught, root, book, photos, **options):
    return teaching.refit(named(photos), "plate", small(seed=1), root=root, book=book, progress=silent, **options)


def test_a_version_is_compared_on_what_neither_has_learned_and_does_not_judge(taught, root, book, tmp_path):
    more = write_plates(tmp_path / "more", 8, first=50)  # named like the photos that are kept, but others
    write_image(tmp_path / "bad.png", painted(70)[0])
    limits = book.read_bytes()
    made = refit(taught, root, book, more, defects=[tmp_path / "bad.png"])

    split, before = made.outcome.run.manifest["split"], taught.manifest["split"]
    assert set(before["held_out"]) < set(split["held_out"]) and set(before["train"]) < set(split["train"])
    assert (made.old.n_good, made.new.n_good) == (len(split["held_out"]),) * 2 == (6, 6)
    assert made.new.n_defect == made.new.caught == 1
    run = made.outcome.run
    scores = np.array([entry["score"] for entry in run.calibration["good"]])
    assert made.new.highest == pytest.approx(scores.max() / made.outcome.point.fail, rel=1e-5)
    assert runs.names(root) == {"plate": (NAME,)} and book.read_bytes() == limits
    assert [one.stamp for one in versions.listed(root, book, "plate")] == ["", made.stamp]


def test_activate_brings_the_limit_along_and_one_more_click_brings_the_old_one_back(taught, root, book, tmp_path):
    made = refit(taught, root, book, write_plates(tmp_path / "more", 8, first=50))
    inspector, part = Inspector(runs=root, thresholds=book), tmp_path / "photos" / "000.png"
    first = inspector.inspect(part, category="plate")
    versions.activate(root, book, "plate", made.stamp, NAME, by="ann")
    second = inspector.inspect(part, category="plate")
    assert second.weights_sha256 == made.outcome.run.weights_sha256 != first.weights_sha256
    assert second.threshold == made.outcome.point.fail
    assert second.product.distance != first.product.distance, "what the product looks like goes with the version"
    signed = Thresholds.load(book).get("plate", NAME, weights_sha256=second.weights_sha256)
    assert signed.set_by == "ann" and made.stamp in signed.why
    assert len(teaching.kept_photos(root, runs.open_run(root, "plate", NAME))) == 24
    (retired,) = [one for one in versions.listed(root, book, "plate") if one.stamp]
    assert retired.run.weights_sha256 == first.weights_sha256
    versions.activate(root, book, "plate", retired.stamp, NAME, by="ann")
    third = inspector.inspect(part, category="plate")
    assert (third.score, third.threshold, third.product) == (first.score, first.threshold, first.product)
    assert len(teaching.kept_photos(root, runs.open_run(root, "plate", NAME))) == 16


def test_a_change_of_version_that_fails_changes_nothing(taught, root, book, tmp_path, monkeypatch):
    made = refit(taught, root, book, write_plates(tmp_path / "more", 8, first=50))
    content, limits = tree(root), book.read_bytes()
    save = ledger.save

    def fail(target, *given, **options):
        if target == book:
            raise CannotSave("The disk is full", "Make room")
        save(target, *given, **options)

    monkeypatch.setattr(versions.ledger, "save", fail)
    with pytest.raises(CannotSave):
        versions.activate(root, book, "plate", made.stamp, NAME, by="ann")
    photos = {name for name in tree(root) if "/train/" in name}
    assert {name for name in tree(root) if "/train/" not in name} == content - photos and book.read_bytes() == limits
    assert runs.open_run(root, "plate", NAME).weights_sha256 == taught.weights_sha256
    with pytest.raises(AnomalyError, match="no version"):
        versions.activate(root, book, "plate", "../../plate", NAME, by="ann")


def test_two_processes_that_activate_at_once_take_turns_and_lose_no_version(taught, root, book, tmp_path, monkeypatch):
    made = [refit(taught, root, book, write_plates(tmp_path / f"more_{i}", 4, first=50 + i)) for i in range(2)]
    save = ledger.save

    def slow(target, *given, **options):
        if target == book:
            time.sleep(0.5)  # the weights are in place and their limit is not: here the other one must not come in
        save(target, *given, **options)

    monkeypatch.setattr(versions.ledger, "save", slow)
    fork = multiprocessing.get_context("fork")  # a fresh process would spend its time on importing torch
    both = [
        fork.Process(target=versions.activate, args=(root, book, "plate", one.stamp, NAME), kwargs={"by": "ann"})
        for one in made
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(20)
    assert [process.exitcode for process in both] == [0, 0]
    known = versions.listed(root, book, "plate")
    expected = {taught.weights_sha256, *(one.outcome.run.weights_sha256 for one in made)}
    assert len(known) == len(expected) == 3 and {one.run.weights_sha256 for one in known} == expected
    assert all(one.point for one in known) and known[0].run.weights_sha256 != taught.weights_sha256


def test_another_version_may_judge_while_a_new_one_learns(taught, root, book, tmp_path):
    more = write_plates(tmp_path / "more", 4, first=50)
    first = refit(taught, root, book, more)

    def activate(stage, done, total):
        if stage == "leave out" and not done:
            versions.activate(root, book, "plate", first.stamp, NAME, by="ann")

    made = teaching.refit(named(more), "plate", small(seed=1), root=root, book=book, progress=activate)
    assert runs.open_run(root, "plate", NAME).weights_sha256 == first.outcome.run.weights_sha256
    assert made.old == first.old  # the version that was in use when it began


def test_a_version_with_a_damaged_limit_is_left_out(taught, root, book, tmp_path):
    made = refit(taught, root, book, write_plates(tmp_path / "more", 4, first=50))
    (root / "plate" / versions.VERSIONS / made.stamp / versions.BOOK).write_text("{")
    assert [one.stamp for one in versions.listed(root, book, "plate")] == [""]
    with pytest.raises(UnknownName, match="no version"):
        versions.activate(root, book, "plate", made.stamp, NAME, by="ann")


def test_old_versions_go_when_there_are_more_than_are_kept(taught, root, book, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "KEPT", 1)
    more = write_plates(tmp_path / "more", 4, first=50)
    first = refit(taught, root, book, more)
    second = refit(taught, root, book, more)
    assert [one.stamp for one in versions.listed(root, book, "plate")] == ["", second.stamp] != ["", first.stamp]


def test_a_refit_from_the_record_takes_reviewed_parts_alone_and_asks_for_photos_that_are_not_kept(
    handlers, taught, tmp_path, root
):
    history = handlers.site.history
    for number, said in ((80, "ok"), (81, "ok"), (82, "unsure"), (83, "defect"), (84, None)):
        path = tmp_path / f"{number}.png"
        write_image(path, painted(number)[0] if said == "defect" else plate(number))
        entry = history.add(handlers.site.inspector.inspect(path, category="plate"), user="bob")
        if said:
            history.review(entry, said=said, user="bob")
    assert handlers.lessons(BOSS, "plate") == teach.Lessons(title="Plate", detectors=(NAME,), kept=16, reviewed=2)
    tray = seen_by(handlers, [], category="plate", reviewed=True)
    assert sorted(photo.name for photo in tray.photos) == ["80.png", "81.png"]
    lesson = handlers.refit(BOSS, tray, detector=NAME, minutes=1.0)
    lesson.wait(120)
    assert (lesson.state, lesson.error) == (DONE, "")
    version = lesson.result.version
    assert version.run.manifest["data"]["good_images"] == 18 and version.new.n_defect == 1
    handlers.activate(BOSS, "plate", version.stamp, NAME)
    assert [one.run.manifest["data"]["good_images"] for one in handlers.versions(BOSS, "plate")] == [18, 16]

    shutil.rmtree(root / "plate" / "train")
    assert handlers.lessons(BOSS, "plate").kept == 0
    with pytest.raises(TooFewImages):
        handlers.refit(BOSS, seen_by(handlers, [tmp_path / "80.png"], category="plate"), detector=NAME, minutes=1.0)
