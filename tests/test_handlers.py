"""What a click does, without a browser and without a network."""

from dataclasses import replace

import numpy as np
import pytest
from served import toy_site, write_plate

from anomaly.defects import Named
from anomaly.errors import UnknownName, UsageError
from anomaly.handlers.inspect import InspectHandlers, Report, slider_range
from anomaly.handlers.session import Notice, Session
from anomaly.ui import pieces


@pytest.fixture
def handlers(inspector):
    return InspectHandlers(toy_site(inspector))


@pytest.fixture
def session(handlers):
    """A session in which the product is chosen."""
    session = Session()
    handlers.choose_product(session, "plate")
    return session


def inspect(handlers, session, path) -> Report | Notice | None:
    handlers.take_photo(session, str(path))
    return handlers.inspect(session)


def test_a_photo_before_a_product_is_refused(handlers, tmp_path):
    session = Session()
    with pytest.raises(UsageError, match="Choose a product first"):
        handlers.take_photo(session, str(write_plate(tmp_path / "part.png")))
    assert session.photo is None
    assert handlers.inspect(session) is None


def test_choosing_a_product_offers_its_active_detector_and_examples(handlers, session):
    product = handlers.choose_product(session, "plate")
    assert (product.detectors, product.active) == (("toy", "twin", "blind"), "toy")
    assert [(one.kind, one.name) for one in product.examples] == [
        ("dark spot", "dark_spot_000.png"),
        ("good", "good_000.png"),
    ]
    assert product.examples[0].thumbnail.shape == (60, 80, 3)


def test_a_photo_of_another_product_is_refused_and_the_right_one_is_offered(handlers, session, tmp_path):
    said = inspect(handlers, session, write_plate(tmp_path / "part.png", gray=200))
    assert isinstance(said, Notice) and (said.kind, said.title) == ("refused", "Another product")
    assert said.name == "part.png" and (said.photo == 200).all()
    assert 'alt="Photo part.png"' in pieces.notice(said)
    assert said.text.startswith("This looks like Other plate, not Gray plate. Choose Other plate, or")
    assert (said.switch, session.shown, session.inspection) == ("Other plate", "other_plate", None)
    handlers.choose_product(session, session.shown)  # what the button does: the photo stays
    assert handlers.inspect(session).title == "Other plate"


def test_a_photo_of_no_product_offers_none(handlers, session, tmp_path):
    said = inspect(handlers, session, write_plate(tmp_path / "part.png", gray=255))
    assert said.text.startswith("This shows none of the known products; the nearest is Other plate.")
    assert (said.title, said.switch) == ("Unknown product", "")


def test_it_is_said_where_nobody_knows_what_the_photo_shows(handlers, session, inspector, tmp_path, monkeypatch):
    photo = write_plate(tmp_path / "part.png")
    assert "was not checked" not in pieces.regions(inspect(handlers, session, photo))
    judge = inspector.inspect
    monkeypatch.setattr(inspector, "inspect", lambda path, **asked: replace(judge(path, **asked), product=None))
    assert "was not checked: train it again." in pieces.regions(inspect(handlers, session, photo))


def test_the_report_says_verdict_limits_and_regions(handlers, session, tmp_path):
    report = inspect(handlers, session, write_plate(tmp_path / "part.png", spot=0))
    assert (report.verdict, report.score, report.threshold, report.level) == ("ANOMALY", 20.0, 10.0, 2.0)
    assert (report.title, report.name, report.detector) == ("Gray plate", "part.png", "toy")
    (spot,) = report.regions
    assert (spot.x, spot.y, spot.width, spot.height, spot.area, spot.level) == (20, 10, 10, 5, 50, 2.0)
    assert report.note == "One region is over the limit."
    assert report.reconstruction is None


def test_a_good_part_looks_like_its_photo(handlers, session, tmp_path):
    report = inspect(handlers, session, write_plate(tmp_path / "part.png"))
    assert report.verdict == "OK"
    assert np.array_equal(report.overlay, report.photo)


def test_moving_the_limit_decides_again_without_the_network(handlers, inspector, session, tmp_path):
    inspect(handlers, session, write_plate(tmp_path / "part.png", spot=0))
    verdicts = {percent: handlers.move_limit(session, percent).verdict for percent in (150, 200, 201, 240, 251, 300)}
    # score 20; limit = percent / 10; review limit 0.8 of it
    assert verdicts == {150: "ANOMALY", 200: "ANOMALY", 201: "REVIEW", 240: "REVIEW", 251: "OK", 300: "OK"}
    assert inspector.calls == 1


def test_moving_the_limit_and_back_changes_nothing(handlers, session, tmp_path):
    first = inspect(handlers, session, write_plate(tmp_path / "part.png", spot=0))
    moved = handlers.move_limit(session, 300)
    assert (moved.verdict, moved.stored_verdict, moved.regions) == ("OK", "ANOMALY", ())
    assert not np.array_equal(moved.overlay, first.overlay)
    back = handlers.move_limit(session, 100)
    assert (back.verdict, back.threshold, back.regions) == (first.verdict, first.threshold, first.regions)
    assert np.array_equal(back.overlay, first.overlay)


def test_a_photo_of_another_camera_stays_in_review_wherever_the_limit_is_moved(handlers, inspector, session, tmp_path):
    inspector.capture = ("Darker <b>than any</b> training photo: check the light",)
    report = inspect(handlers, session, write_plate(tmp_path / "part.png", spot=0))
    assert report.capture == inspector.capture
    for percent in (50, 201, 300):
        assert handlers.move_limit(session, percent).verdict == "REVIEW"
    shown = pieces.banner(report)
    assert "Darker &lt;b&gt;than any&lt;/b&gt; training photo: check the light." in shown and 'role="alert"' in shown


def test_the_page_says_what_a_defect_looks_like_and_nothing_of_a_good_part(handlers, inspector, session, tmp_path):
    judge = inspector.inspect
    named = {"kind": "broken_thread", "confidence": 0.914}
    inspector.inspect = lambda path, **asked: replace(judge(path, **asked), defect=Named(**named))
    spotted = write_plate(tmp_path / "part.png", spot=0)
    report = inspect(handlers, session, spotted)
    assert report.type == "Looks like broken thread, 91% sure" and report.type in pieces.banner(report)
    assert handlers.inspect_json("plate", str(spotted), None)["defect_confidence"] == 0.914
    assert report.attributes == ("darker", "patch", "small", "one place")
    assert "darker · patch · small · one place" in pieces.banner(report)
    moved = handlers.move_limit(session, 300)  # OK by this limit
    assert (moved.type, moved.attributes) == ("", ())
    answer = handlers.inspect_json("plate", str(spotted), None)
    place = "at x 20, y 10, 10 by 5 pixels"
    assert answer["alarm"] == f"{report.type} · {place} · darker · patch · small · one place"
    assert answer["attributes"] == list(report.attributes)
    named["kind"] = "unknown"
    assert inspect(handlers, session, spotted).type == "Defect of an unknown type, 91% sure"
    assert inspect(handlers, session, write_plate(tmp_path / "good.png")).type == ""


def test_the_page_says_how_unusual_a_score_is(handlers, session, tmp_path):
    # 16 of the scores 0 to 19 are under 16; Clopper & Pearson of 16 in 20: 56.3% to 94.3%
    report = inspect(handlers, session, write_plate(tmp_path / "part.png", spot=20))
    assert report.doubt == "Higher than 16 of 20 good parts (95% interval 56-95%)"
    shown = pieces.banner(report)
    assert report.doubt in shown and 'role="alert"' not in shown


def test_a_review_band_without_an_end_leaves_the_slider_of_use(handlers, inspector, session, tmp_path, monkeypatch):
    found = inspector.inspect(write_plate(tmp_path / "part.png", spot=0), category="plate")
    monkeypatch.setattr(inspector, "inspect", lambda *_, **__: replace(found, review_threshold=1e-6))
    assert inspect(handlers, session, tmp_path / "part.png").slider.maximum == 2400  # 1.2 * 20 / (10 / 10)


def test_the_colour_scale_stands_still_when_the_limit_moves(handlers, session, tmp_path):
    first = inspect(handlers, session, write_plate(tmp_path / "part.png", spot=0))
    assert np.array_equal(handlers.move_limit(session, 170).scale, first.scale)


def test_an_anomaly_without_a_region_says_so(handlers, inspector, session, tmp_path, monkeypatch):
    found = inspector.inspect(write_plate(tmp_path / "part.png", spot=0), category="plate")
    monkeypatch.setattr(inspector, "inspect", lambda *_, **__: _without_regions(found))
    report = inspect(handlers, session, tmp_path / "part.png")
    assert report.note == "No single region stands out: the part as a whole differs from the good ones."


def _without_regions(found):
    return replace(found, regions=())


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "part.png"), (b"not an image", "part.png"), (b"\x89PNG\r\n\x1a\n\0\0", "part.png")]
)
def test_a_damaged_photo_is_not_inspected_and_takes_the_old_verdict_away(handlers, session, tmp_path, content, words):
    inspect(handlers, session, write_plate(tmp_path / "before.png"))
    path = tmp_path / "part.png"
    path.write_bytes(content)
    said = inspect(handlers, session, path)
    assert (said.kind, said.title) == ("refused", "Not inspected")
    assert words in said.text
    assert str(tmp_path) not in said.text  # the folder is the server's business
    assert session.inspection is None
    assert handlers.move_limit(session, 300) is None


def test_a_slider_of_a_session_that_was_swept_away_says_so(handlers):
    said = handlers.move_limit(Session(), 120)
    assert (said.kind, said.text) == ("refused", "The photo is no longer kept by this server. Add the photo again.")


def test_a_missing_threshold_is_refused_with_its_remedy(handlers, session, tmp_path):
    handlers.choose_detector(session, "blind")
    said = inspect(handlers, session, write_plate(tmp_path / "part.png"))
    assert said.kind == "refused"
    assert "python -m anomaly calibrate" in said.text


def test_a_fault_of_the_program_is_never_a_verdict(handlers, inspector, session, tmp_path, monkeypatch):
    monkeypatch.setattr(inspector, "inspect", lambda *_, **__: 1 / 0)
    said = inspect(handlers, session, write_plate(tmp_path / "part.png"))
    assert said.kind == "refused"
    assert "ZeroDivisionError" not in said.text


def test_a_result_of_a_product_that_was_left_meanwhile_is_thrown_away(
    handlers, inspector, session, tmp_path, monkeypatch
):
    scored = inspector.inspect

    def slow(path, **names):
        found = scored(path, **names)
        handlers.choose_product(session, "other_plate")  # the person clicks while the network runs
        return found

    monkeypatch.setattr(inspector, "inspect", slow)
    assert inspect(handlers, session, write_plate(tmp_path / "part.png")) is None
    assert session.inspection is None


def test_changing_product_or_detector_inspects_the_same_photo_again(handlers, session, tmp_path):
    inspect(handlers, session, write_plate(tmp_path / "part.png"))
    handlers.choose_product(session, "other_plate")
    assert session.inspection is None
    assert handlers.inspect(session).title == "Other plate"
    handlers.choose_detector(session, "twin")
    report = handlers.inspect(session)
    assert (report.detector, report.reconstruction.shape) == ("twin", (60, 80, 3))


@pytest.mark.parametrize("index", [-1, 2, None, "0", 0.0, "../../etc/passwd"])
def test_an_example_is_chosen_by_a_valid_index_only(handlers, session, index):
    with pytest.raises(UsageError):
        handlers.take_example(session, index)
    assert session.photo is None


def test_an_example_that_cannot_be_read_does_not_take_the_product_away(handlers, inspector):
    inspector.examples[0].write_bytes(b"damaged")
    session = Session()
    assert [one.name for one in handlers.choose_product(session, "plate").examples] == ["good_000.png"]
    handlers.take_example(session, 0)
    assert handlers.inspect(session).name == "good_000.png"


def test_a_product_that_does_not_exist_leaves_none_chosen(handlers, session, tmp_path):
    inspect(handlers, session, write_plate(tmp_path / "part.png"))
    with pytest.raises(UnknownName, match="plate, other_plate"):
        handlers.choose_product(session, "shoe")
    assert (session.product, session.inspection) == (None, None)
    assert handlers.inspect(session) is None


def test_an_example_is_inspected_like_an_upload(handlers, session):
    handlers.take_example(session, 0)
    assert handlers.inspect(session).verdict == "ANOMALY"


def test_why_sets_the_place_beside_a_good_one(handlers, session, tmp_path):
    inspect(handlers, session, write_plate(tmp_path / "part.png", spot=0))
    why = handlers.explain(session)
    assert (why.here.min(), why.good.min(), why.source) == (0, 100, "plain plate")
    assert why.shares == (("b", 0.75), ("a", 0.25))


def test_why_without_a_verdict_is_nothing_and_without_the_photo_a_refusal(handlers, session, tmp_path):
    assert handlers.explain(session) is None
    photo = write_plate(tmp_path / "part.png", spot=0)
    inspect(handlers, session, photo)
    photo.unlink()
    said = handlers.explain(session)
    assert said.kind == "refused" and "part.png" in said.text and str(tmp_path) not in said.text


def test_json_for_scripts_tells_the_file_name_and_not_the_folder(handlers, tmp_path):
    found = handlers.inspect_json("plate", str(write_plate(tmp_path / "part.png", spot=0)), None)
    assert (found["path"], found["verdict"], found["score"], found["error"]) == ("part.png", "ANOMALY", 20.0, None)


@pytest.mark.parametrize(("category", "words"), [(None, "No category was given"), ("shoe", "does not exist")])
def test_json_for_scripts_refuses_an_unknown_category(handlers, tmp_path, category, words):
    found = handlers.inspect_json(category, str(write_plate(tmp_path / "part.png")), None)
    assert found["verdict"] is None
    assert words in found["error"]


def test_the_slider_always_reaches_ok_and_always_holds_the_stored_limit():
    for level in (0.0, 0.5, 1.0, 2.5, 7.0, 40.0, 1000.0):
        span = slider_range(level)
        assert span.maximum >= 100 * level * 1.2 - 1e-9
        assert (100 - span.minimum) % span.step == 0
        assert (span.maximum - span.minimum) % span.step == 0
        assert span.maximum >= 300
