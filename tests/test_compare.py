"""The Compare tab: what each detector and each product says of one photo, on scales that they share."""

import json

import gradio as gr
import numpy as np
import pytest
from served import launched, toy_site, write_plate

from anomaly import cli
from anomaly.accounts import OPERATOR, Person
from anomaly.errors import ThresholdError, UnknownName, UsageError
from anomaly.handlers.compare import CompareHandlers, Comparison, nearest, verdicts
from anomaly.handlers.inspect import InspectHandlers
from anomaly.handlers.session import Session
from anomaly.history import History
from anomaly.thresholds import standing
from anomaly.ui import compare

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture
def handlers(inspector):
    return CompareHandlers(toy_site(inspector))


@pytest.fixture
def asked(handlers, tmp_path):
    """A plate with a spot of score 20, twice the limit, to be compared as `plate`."""
    asked = Comparison()
    handlers.take_photo(asked, str(write_plate(tmp_path / "spotted.png", spot=0)))
    handlers.choose_product(asked, "plate")
    return asked


def test_every_detector_speaks_on_the_same_scales(handlers, asked):
    toy, twin, blind = handlers.detectors(asked)
    assert [(side.detector, side.decides) for side in (toy, twin, blind)] == [
        ("toy", True),
        ("twin", False),
        ("blind", False),
    ]
    assert (toy.reading.verdict, toy.reading.level, toy.reading.review) == ("ANOMALY", 2.0, 0.8)
    assert (toy.reading.score, toy.reading.threshold) == (20.0, 10.0)
    assert toy.reading.standing == standing(20.0, range(20))
    assert "Higher than 20 of 20 good parts (95% interval 83-100%)" in compare.column(asked, toy)


def test_a_detector_that_refuses_leaves_the_others(handlers, asked):
    *_, blind = handlers.detectors(asked)
    assert blind.reading is None
    assert "calibrate" in blind.refusal
    assert "Not inspected" in compare.column(asked, blind)


def test_the_pictures_show_heat_and_reconstruction_where_there_is_one(handlers, asked):
    toy, twin, _ = handlers.detectors(asked)
    assert (toy.pictures.regions, toy.pictures.centre) == (1, 25 / 80)  # the spot spans x 20..29
    assert (toy.pictures.overlay[10:15, 20:30] != toy.pictures.photo[10:15, 20:30]).any()
    assert toy.pictures.reconstruction is None
    assert (twin.pictures.reconstruction == np.full((60, 80, 3), 100)).all()
    assert compare.column(asked, toy).count('class="curtain"') == 1
    assert compare.column(asked, twin).count('class="curtain"') == 2
    assert "--at:31%" in compare.column(asked, toy)


def test_agreement_is_said_in_words(handlers, asked, inspector, monkeypatch):
    assert verdicts(list(handlers.detectors(asked))) == "The detectors agree: ANOMALY."
    judge = inspector.inspect

    def split(path, *, category, detector=None):
        inspector.capture = ("Darker than any training photo: check the light",) if detector == "twin" else ()
        return judge(path, category=category, detector=detector)

    monkeypatch.setattr(inspector, "inspect", split)
    sides = list(handlers.detectors(asked))
    assert verdicts(sides) == "The detectors disagree. toy decides: ANOMALY."
    assert "Darker than any training photo" in compare.column(asked, sides[1])
    assert verdicts(sides[:1]) == ""


def test_products_are_ranked_by_level_and_refusals_come_last(handlers, asked, inspector, monkeypatch):
    judge = inspector.inspect
    spotless = write_plate(asked.photo.with_name("spotless.png"))

    def other_is_nearer(path, *, category, detector=None):
        return judge(spotless if category == "other_plate" else path, category=category, detector=detector)

    monkeypatch.setattr(inspector, "inspect", other_is_nearer)
    sides = list(handlers.all_products(asked))
    *_, blind = handlers.detectors(asked)
    assert [side.product for side in sides] == ["Gray plate", "Other plate"]
    ranked = nearest([blind, *sides])
    assert [side.product for side in ranked] == ["Other plate", "Gray plate", "Gray plate"]
    page = compare.ranking(asked, sides, total=2)
    assert "most like <b>Other plate</b>" in page
    assert "A product that the photo does not show judges nothing" in page
    assert page.index('<th scope="row">Other plate') < page.index('<th scope="row">Gray plate')


def test_a_product_that_the_photo_does_not_show_is_named_by_its_title(handlers, asked):
    asked.photo = write_plate(asked.photo.with_name("bright.png"), gray=200)
    plate, other = handlers.all_products(asked)
    assert (plate.heading, plate.refusal) == ("Another product", "This looks like Other plate, not Gray plate.")
    assert other.reading and "<b>Another product</b>" in compare.ranking(asked, [plate, other], total=2)


@pytest.mark.parametrize(
    ("level", "share"), [(0.05, 0.0), (0.1, 0.0), (1, 33.3), (10, 66.7), (100, 100.0), (900, 100.0)]
)
def test_a_bar_of_the_ranking_grows_by_ratio(level, share):
    assert f'style="width:{share:.1f}%"' in compare.ladder(level)


def test_the_photo_of_the_inspect_tab_is_taken_with_its_product(handlers, inspector, tmp_path):
    asked, session = Comparison(), Session()
    with pytest.raises(UsageError, match="Inspect one first"):
        handlers.take_inspected(asked, session)
    bench = InspectHandlers(toy_site(inspector))
    bench.choose_product(session, "other_plate")
    bench.take_photo(session, str(write_plate(tmp_path / "part.png")))
    handlers.take_inspected(asked, session)
    assert (asked.photo, asked.product.name) == (tmp_path / "part.png", "other_plate")


def test_whoever_moves_on_gets_no_late_answer(handlers, asked):
    sides = handlers.detectors(asked)
    assert next(sides).detector == "toy"
    handlers.choose_product(asked, "other_plate")
    assert list(sides) == []


def test_nothing_is_compared_without_photo_or_product(handlers, asked):
    assert list(handlers.detectors(Comparison(photo=asked.photo))) == []
    assert list(handlers.all_products(Comparison())) == []
    with pytest.raises(UnknownName, match="plate, other_plate"):
        handlers.choose_product(asked, "nut")
    assert asked.product.name == "plate"


def test_a_photo_that_is_gone_or_damaged_is_a_sentence(handlers, asked):
    asked.photo.write_bytes(b"nothing")
    assert all("not a JPEG" in side.refusal for side in handlers.all_products(asked))
    assert all(str(asked.photo.parent) not in side.refusal for side in handlers.all_products(asked))
    asked.photo.unlink()
    assert all("Add the photo again" in side.refusal for side in handlers.all_products(asked))


def test_names_from_outside_are_escaped(handlers, asked):
    handlers.take_photo(asked, str(write_plate(asked.photo.with_name("<img onerror=x>.png"), spot=0)))
    page = compare.columns(asked, list(handlers.detectors(asked)))
    assert "<img onerror" not in page
    assert "&lt;img onerror=x&gt;.png" in page


@pytest.fixture
def compared(inspector, tmp_path, monkeypatch, capsys):
    """What `compare` on the command line prints of a spotted plate."""
    monkeypatch.setattr("anomaly.inspection.Inspector", lambda **_: inspector)

    def run(*words: str) -> tuple[int, str, str]:
        photo = write_plate(tmp_path / "spotted.png", spot=0)
        status = cli.main(["compare", str(photo), "--category", "plate", *words])
        return status, *capsys.readouterr()

    return run


def test_the_command_line_compares_as_the_page_does(handlers, asked, compared):
    status, out, _ = compared("--json")
    shown = json.loads(out)
    sides = [side.to_json() for side in handlers.detectors(asked)]
    assert status == 0 and shown["detectors"] == sides
    assert [(side["detector"], side["level"], side["verdict"]) for side in sides] == [
        ("toy", 2.0, "ANOMALY"),
        ("twin", 2.0, "ANOMALY"),
        ("blind", None, None),
    ]
    assert "calibrate" in sides[2]["error"] and sides[0]["error"] is None
    assert sides[0]["percentile"] == standing(20.0, range(20)).to_json()
    assert [side["product"] for side in shown["products"]] == ["Gray plate", "Other plate"]
    words = compared()[1]
    assert "The detectors agree: ANOMALY." in words
    assert "2.00 x the limit. Higher than 20 of 20 good parts (95% interval 83-100%)" in words


def test_what_cannot_be_compared_is_one_line(tmp_path, compared, capsys):
    status, _, err = compared("--category", "plat")
    assert status == 2 and "Give one of: plate, other_plate" in err
    (tmp_path / "notes.png").write_text("no photo")
    assert cli.main(["compare", str(tmp_path / "notes.png"), "--category", "plate"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_comparison_is_not_recorded(inspector, tmp_path, asked):
    """The record counts parts; comparing judges the same part many times."""
    history = History(tmp_path / "record")
    site = toy_site(inspector, history)
    list(CompareHandlers(site).detectors(asked))
    list(CompareHandlers(site).all_products(asked))
    assert history.entries() == []
    bench, session = InspectHandlers(site), Session(person=Person("anna", OPERATOR))
    bench.choose_product(session, "plate")
    bench.take_photo(session, str(asked.photo))
    bench.inspect(session)
    assert len(history.entries()) == 1


def test_a_table_that_cannot_be_made_is_no_wait_without_end(handlers, asked, inspector, monkeypatch):
    with gr.Blocks():
        bench = compare.Bench(handlers)
    monkeypatch.setattr(inspector, "categories", lambda: [])
    (said,) = bench.compare_products(asked)
    assert said[bench.ranking] == ""

    def refuse():
        raise ThresholdError("threshold.json cannot be read as JSON", "Restore it from a backup")

    monkeypatch.setattr(inspector, "categories", refuse)
    (said,) = bench.compare_products(asked)
    assert "Restore it from a backup" in said[bench.ranking]


@pytest.fixture
def page(inspector, browser):
    app = launched(toy_site(inspector), Person(), compare)
    page = browser.new_page()
    page.goto(app.local_url)
    yield page
    page.close()
    app.close(verbose=False)


def test_a_person_compares_a_photo(page, tmp_path):
    page.locator("#compare-photo input[type=file]").set_input_files(write_plate(tmp_path / "spotted.png", spot=0))
    playwright.expect(page.locator("#ranking tbody tr")).to_have_count(2)
    playwright.expect(page.locator("#sides")).to_contain_text("Choose a product to see its detectors")
    page.get_by_role("radio", name="Gray plate").last.check()
    columns = page.locator("#sides article.side")
    playwright.expect(columns).to_have_count(3)
    playwright.expect(columns.nth(0)).to_contain_text("2.00 × the limit")
    playwright.expect(columns.nth(2)).to_contain_text("has no threshold")

    slider = page.get_by_role("slider", name="Original to Heatmap").first
    slider.focus()
    slider.press("End")
    assert slider.evaluate("slider => slider.closest('.pair').style.getPropertyValue('--at')") == "100%"

    # inside of the page itself: none of them lies under an address of the server
    sources = page.locator("#sides img").evaluate_all("images => images.map(image => image.src)")
    assert len(sources) == 6 and all(source.startswith("data:image/jpeg") for source in sources)
