"""The Review tab: one part after the other by keyboard, and who agrees with whom."""

import gradio as gr
import pytest
from served import ToyInspector, launched, toy_site, write_plate

from anomaly.accounts import OPERATOR, Person
from anomaly.errors import CannotSave, Forbidden, RecordError, UsageError
from anomaly.handlers.review import SPOT_CHECK, UNSURE, Desk, Part, ReviewHandlers
from anomaly.handlers.session import Notice, Session
from anomaly.history import History
from anomaly.ui import dashboard, review

ANNA, BEN = (Session(person=Person(name, OPERATOR)) for name in ("anna", "ben"))
VISITOR = Session()


@pytest.fixture
def history(tmp_path):
    """Parts 1 ANOMALY, 2 OK, 3 REVIEW, 4 ANOMALY of another product, 5 ANOMALY."""
    inspector, history = ToyInspector(tmp_path / "examples"), History(tmp_path / "record")
    for number, (spot, category) in enumerate(
        [(0, "plate"), (100, "plate"), (55, "plate"), (20, "other_plate"), (10, "plate")], 1
    ):
        photo = write_plate(tmp_path / f"part_{number}.png", spot=spot)
        history.add(inspector.inspect(photo, category=category), user="anna")
    return history


@pytest.fixture
def handlers(history, tmp_path):
    return ReviewHandlers(toy_site(ToyInspector(tmp_path / "examples"), history))


@pytest.fixture
def desk():
    return Desk()


def test_the_queue_holds_what_the_machine_stopped_and_nobody_judged(handlers, history, desk):
    history.review(5, said="ok", user="ben")
    part = handlers.lay_out(ANNA, desk)
    assert (part.entry.id, part.place, part.total, part.title) == (4, 1, 3, "Other plate")
    assert desk.order == [4, 3, 1]  # not 2, which passed
    assert handlers.lay_out(ANNA, desk, "plate").entry.id == 3


def test_a_word_is_kept_and_the_next_part_follows(handlers, history, desk):
    handlers.lay_out(ANNA, desk)
    part = handlers.say(ANNA, desk, 5, "defect", " dent ")
    assert (part.entry.id, part.place, part.note) == (4, 2, "Part 5: defect, dent.")
    kept = history.get(5)
    assert (kept.said, kept.defect_type, kept.reviewer) == ("defect", "dent", "anna")
    for number, said in ((4, "ok"), (3, "unsure"), (1, "ok")):
        shown = handlers.say(ANNA, desk, number, said)
    assert isinstance(shown, Notice) and shown.title == "End of the queue" and "4 of 4" in shown.text
    assert [history.get(number).said for number in (1, 2, 3, 4)] == ["ok", None, "unsure", "ok"]
    assert handlers.lay_out(ANNA, desk).title == "Nothing waits"
    assert handlers.lay_out(ANNA, desk, queue=UNSURE).entry.id == 3


def test_types_that_were_named_are_offered_for_the_same_product(handlers, history, desk):
    history.review(5, said="defect", user="anna", defect_type="dent")
    history.review(4, said="defect", user="anna", defect_type="crack")
    assert handlers.lay_out(ANNA, desk).types == ("dent",)


def test_the_picture_has_the_outlines_and_the_photo_has_not(handlers, desk):
    part = handlers.lay_out(ANNA, desk, "plate")
    assert part.photo.shape == part.marked.shape == (60, 80, 3)
    assert set(part.photo[10:15, 20:30].ravel()) == {10}
    changed = (part.photo != part.marked).any(2)
    assert changed.any() and not changed[10:15, 20:30].any()  # the outline hides nothing of the defect


def test_a_key_pressed_too_fast_judges_nothing(handlers, history, desk):
    handlers.lay_out(ANNA, desk)
    handlers.say(ANNA, desk, 5, "ok")
    part = handlers.say(ANNA, desk, 5, "defect")  # the page still showed 5
    assert (part.entry.id, history.get(5).said, history.get(4).said) == (4, "ok", None)


def test_what_somebody_else_said_meanwhile_is_not_overruled_unseen(handlers, history, desk):
    handlers.lay_out(ANNA, desk)
    history.review(5, said="defect", user="ben")
    part = handlers.say(ANNA, desk, 5, "ok")
    assert part.entry.id == 5 and "ben judged this part" in part.note
    assert history.get(5).said == "defect"
    handlers.say(ANNA, desk, 5, "ok")  # now she has seen it
    assert history.get(5).reviewer == "anna"


def test_two_people_share_a_queue(handlers, history, desk):
    other = Desk()
    handlers.lay_out(ANNA, desk)
    handlers.lay_out(BEN, other)
    handlers.move(BEN, other, 1)
    handlers.say(BEN, other, 4, "ok")
    assert handlers.say(ANNA, desk, 5, "ok").entry.id == 3  # 4 is done


def test_back_forward_and_undo(handlers, history, desk):
    handlers.lay_out(ANNA, desk)
    handlers.say(ANNA, desk, 5, "ok")
    back = handlers.move(ANNA, desk, -1)
    assert (back.entry.id, back.entry.said) == (5, "ok")
    assert handlers.move(ANNA, desk, -1).entry.id == 5
    assert handlers.say(ANNA, desk, 5, "defect").entry.id == 4
    undone = handlers.undo(ANNA, desk)
    assert (undone.entry.id, undone.entry.said, undone.note) == (5, "ok", "Part 5: taken back.")
    assert handlers.undo(ANNA, desk).entry.said is None
    assert handlers.undo(ANNA, desk).note == "There is nothing to undo."


def test_a_spot_check_shows_passed_parts_and_finds_escapes(handlers, desk):
    assert handlers.agreement(ANNA).share("OK", "defect").n == 0
    part = handlers.lay_out(ANNA, desk, queue=SPOT_CHECK)
    assert (part.entry.id, part.entry.verdict) == (2, "OK")
    handlers.say(ANNA, desk, 2, "defect")
    assert handlers.agreement(ANNA).table["OK"] == {"ok": 0, "defect": 1, "unsure": 0}
    assert handlers.agreement(ANNA, "other_plate").table["OK"]["defect"] == 0


def test_a_deleted_part_is_left_out(handlers, history, desk):
    handlers.lay_out(ANNA, desk)
    with history.database.open(writing=True) as book:
        book.execute("DELETE FROM inspections WHERE id IN (4, 5)")
    part = handlers.say(ANNA, desk, 5, "ok")
    assert part.entry.id == 3 and "deleted" in part.note and part.total == 2


def test_a_lost_photo_is_replaced_by_its_thumbnail(handlers, history, desk):
    history.get(5).photo.unlink()
    part = handlers.lay_out(ANNA, desk)
    assert part.entry.id == 5 and "thumbnail" in part.note and part.marked.shape == (60, 80, 3)


def test_a_locked_record_keeps_the_part_on_the_desk(handlers, history, desk, monkeypatch):
    handlers.lay_out(ANNA, desk)

    def locked(*_, **__):
        raise RecordError("The record is locked", "Try again")

    monkeypatch.setattr(history, "review", locked)
    part = handlers.say(ANNA, desk, 5, "ok")
    assert part.entry.id == 5 and "Not kept. The record is locked. Try again." in part.note


def test_a_desk_that_the_server_has_forgotten_is_laid_out_anew(handlers, desk):
    assert isinstance(handlers.say(ANNA, desk, 5, "ok"), Part)


@pytest.mark.parametrize("said", ["fine", "", "OK", None])
def test_an_unknown_word_is_refused(handlers, history, desk, said):
    handlers.lay_out(ANNA, desk)
    with pytest.raises(UsageError):
        handlers.say(ANNA, desk, 5, said)
    assert history.get(5).said is None


def test_visitors_see_and_judge_nothing(handlers, history, desk):
    desk.order = [5]
    for verb in (
        lambda: handlers.lay_out(VISITOR, desk),
        lambda: handlers.say(VISITOR, desk, 5, "ok"),
        lambda: handlers.move(VISITOR, desk, 1),
        lambda: handlers.undo(VISITOR, desk),
        lambda: handlers.agreement(VISITOR),
    ):
        with pytest.raises(Forbidden, match="role of operator"):
            verb()
    assert history.get(5).said is None


def test_names_from_outside_are_escaped(handlers, history, tmp_path, desk):
    inspector = ToyInspector(tmp_path / "examples")
    inspector.capture = ("<b>dark</b>",)
    photo = write_plate(tmp_path / "<img src=x onerror=1>.png", spot=0)
    history.add(inspector.inspect(photo, category="plate"), user="<i>anna</i>")
    history.review(5, said="defect", user="anna", defect_type='"><script>')
    shown = review.card(handlers.lay_out(ANNA, desk), desk)
    assert "<img src=x" not in shown and "<i>anna" not in shown and "<b>dark" not in shown and "<script>" not in shown


# --- in a browser ---

playwright = pytest.importorskip("playwright.sync_api")


class Nothing:
    """A tab beside those that are tested."""

    TITLE = "Nothing"
    build = staticmethod(lambda *_: gr.Textbox(label="typing", elem_id="typing"))


@pytest.fixture
def page(history, tmp_path, browser):
    """The tabs Review and Dashboard as an operator sees them."""
    app = launched(toy_site(ToyInspector(tmp_path / "examples"), history), ANNA.person, Nothing, review, dashboard)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    page.goto(app.local_url)
    yield page
    page.close()
    app.close(verbose=False)


def expect_place(page, place: int, total: int) -> None:
    playwright.expect(page.locator(".review-place")).to_have_text(f"{place} of {total}", timeout=30_000)


def test_a_person_reviews_by_keyboard_and_the_dashboard_tells_it(page, history):
    page.get_by_role("tab", name="Review").click()
    expect_place(page, 1, 4)
    assert page.locator(".review-photo img.marked").evaluate("image => image.complete && image.naturalWidth === 80")
    playwright.expect(page.locator(".review-verdict b")).to_have_text("ANOMALY")
    page.keyboard.press("d")
    expect_place(page, 2, 4)
    page.keyboard.press("z")
    expect_place(page, 1, 4)
    assert history.get(5).said is None
    page.keyboard.press("t")
    page.keyboard.type("odd dent")  # o and d are letters here and no verdicts
    expect_place(page, 1, 4)
    page.keyboard.press("Enter")
    expect_place(page, 2, 4)
    assert (history.get(5).said, history.get(5).defect_type, history.get(4).said) == ("defect", "odd dent", None)
    page.keyboard.press("ArrowRight")
    expect_place(page, 3, 4)
    page.keyboard.press("1")  # the type named before
    expect_place(page, 4, 4)
    assert history.get(3).defect_type == "odd dent"
    page.keyboard.press("m")
    playwright.expect(page.locator(".review-photo img.marked")).to_be_hidden()
    page.keyboard.press("O")
    playwright.expect(page.locator("#review-part h2")).to_have_text("End of the queue")
    playwright.expect(page.locator("#review-agreement")).to_contain_text("agree on 50.0% (1 of 2")
    assert [history.get(number).said for number in (1, 3, 4, 5)] == ["ok", "defect", None, "defect"]

    page.get_by_role("tab", name="Dashboard").click()
    playwright.expect(page.locator("#dashboard-record .cards")).to_contain_text("1 of 2 of the ANOMALY parts")
    playwright.expect(page.locator("#dashboard-record .cards li").first).to_contain_text("5")
    page.keyboard.press("o")  # another tab is open
    assert history.get(4).said is None


def test_a_part_that_came_in_since_waits_when_the_tab_is_opened_again(page, history, tmp_path):
    page.get_by_role("tab", name="Review").click()
    expect_place(page, 1, 4)
    page.get_by_role("tab", name="Nothing").click()
    photo = write_plate(tmp_path / "late.png", spot=5)
    history.add(ToyInspector(tmp_path / "examples").inspect(photo, category="other_plate"), user="ben")
    page.get_by_role("tab", name="Review").click()
    expect_place(page, 1, 5)
    page.get_by_role("radio", name="Other plate").check()
    expect_place(page, 1, 2)
    page.get_by_role("radio", name="Spot check").check()
    playwright.expect(page.locator("#review-part h2")).to_have_text("No OK parts to check")


def test_a_phone_shows_both_tabs_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for name, wanted in (("Review", ".review-card"), ("Dashboard", "#dashboard-record .cards")):
        page.get_by_role("tab", name=name).click()
        page.locator(wanted).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        box = page.locator(wanted).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_a_type_that_is_said_is_an_example_from_then_on_until_it_is_taken_back(handlers, history, desk):
    labelled, photo = handlers.site.inspector.labelled, history.get(5).photo.name
    part = handlers.lay_out(ANNA, desk)
    assert (part.type, labelled) == ("", {})
    part = handlers.say(ANNA, desk, 5, "defect", "dent")
    assert labelled == {f"record/{photo}": "dent"}
    assert part.type == "Looks like dent, 80% sure"  # of the next part, as the toy says
    assert 'class="kind">Looks like dent, 80% sure' in review.card(part, desk)
    part = handlers.undo(ANNA, desk)
    assert labelled == {} and part.note == "Part 5: taken back."
    handlers.say(ANNA, desk, 5, "defect", "dent")
    handlers.undo(ANNA, desk)
    handlers.say(ANNA, desk, 5, "ok")
    assert labelled == {}


def test_taught_types_are_offered_before_those_that_people_named(handlers, history, desk):
    handlers.site.inspector.labelled = {"validation/broken_thread/0.png": "broken_thread"}
    history.review(1, said="defect", user="ben", defect_type="crack")
    part = handlers.lay_out(ANNA, desk)
    assert part.types == ("broken_thread", "crack")
    shown = review.card(part, desk)
    assert "<kbd>1</kbd>broken thread</button>" in shown and 'data-type="broken_thread"' in shown


def test_a_word_stays_when_its_example_cannot_be_kept(handlers, history, desk, monkeypatch):
    def full(*_):
        raise CannotSave("The examples cannot be written", "Check the disk")

    monkeypatch.setattr(handlers.site.inspector, "label", full)
    handlers.lay_out(ANNA, desk)
    part = handlers.say(ANNA, desk, 5, "defect", "dent")
    assert history.get(5).defect_type == "dent"
    assert "Defects like it will not be recognised. The examples cannot be written. Check the disk." in part.note
