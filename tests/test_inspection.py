"""What would make a verdict wrong: another model's limit, a stale model, a limit that does not move with the slider."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import CATEGORY, JSON_KEYS, SMALL

from anomaly import dataset, detectors, gate, inspection, runs, synthetic, training
from anomaly.errors import (
    BrokenRun,
    ImageError,
    MissingThreshold,
    NotAnImage,
    StaleThreshold,
    ThresholdError,
    UnknownName,
    UsageError,
    WrongProduct,
)
from anomaly.images import read_image, stretch, write_image
from anomaly.inspection import Inspector, redecide
from anomaly.runs import CALIBRATION, PRODUCT
from anomaly.thresholds import Thresholds, decide, standing

NAME = "mahalanobis"


def inspector(site):
    return Inspector(runs=site.runs, thresholds=site.book)


@pytest.fixture(scope="module")
def shared(trained):
    """One inspector for all tests that change nothing."""
    return inspector(trained)


@pytest.fixture(scope="module")
def worst(trained, shared):
    """The inspection of the defective test image with the highest score."""
    samples = [s for s in dataset.test_samples(trained.data, CATEGORY) if s.label]
    found = [shared.inspect(s.path, category=CATEGORY, detector=NAME) for s in samples]
    return max(found, key=lambda one: one.score)


def move_limits(site, factor, **changed):
    """Rewrite the stored limits of every detector, as an engineer would."""
    book = json.loads(site.book.read_text())
    for point in book["categories"][CATEGORY]["detectors"].values():
        for key in ("fail", "review", "pixel"):
            point[key] *= factor
        point.update(changed)
    site.book.write_text(json.dumps(book))


# --- the verdict


@pytest.mark.parametrize("name", detectors.names())
def test_score_and_map_are_those_of_the_detector(trained, shared, name):
    found = shared.inspect(trained.good_photo, category=CATEGORY, detector=name)
    run = runs.open_run(trained.runs, CATEGORY, name)
    result = run.load_detector().score(read_image(trained.good_photo))
    point = Thresholds.load(trained.book).get(CATEGORY, name, weights_sha256=run.weights_sha256)
    assert found.score == pytest.approx(result.score, rel=1e-6, abs=1e-6)
    assert found.map == pytest.approx(result.map, abs=1e-5)
    assert (found.threshold, found.review_threshold, found.pixel_threshold) == (point.fail, point.review, point.pixel)
    assert found.default_threshold == point.fail
    assert found.capture == ()
    assert found.verdict == decide(found.score, threshold=point.fail, review=point.review)
    assert found.level == found.score / point.fail
    assert (found.category, found.detector, found.path) == (CATEGORY, name, str(trained.good_photo))
    assert (found.width, found.height) == (64, 64)
    assert (found.reconstruction is None) == (result.reconstruction is None)
    assert found.milliseconds > 0


def test_the_active_detector_is_the_default(trained, shared, site):
    assert shared.inspect(trained.good_photo, category=CATEGORY).detector == Thresholds.load(trained.book).active(
        CATEGORY
    )
    book = json.loads(site.book.read_text())
    book["categories"][CATEGORY]["active"] = "unet"
    site.book.write_text(json.dumps(book))
    assert inspector(site).inspect(site.good_photo, category=CATEGORY).detector == "unet"


def test_limits_decide_between_ok_review_and_anomaly(site):
    score = inspector(site).inspect(site.good_photo, category=CATEGORY, detector=NAME).score
    for fail, review, verdict in (
        (score, score, "ANOMALY"),  # at the limit counts as over it
        (score * 1.5, score, "REVIEW"),
        (score * 1.5, score * 1.4, "OK"),
        (score * 0.5, score * 0.4, "ANOMALY"),
    ):
        move_limits(site, 1, fail=fail, review=review)
        assert inspector(site).inspect(site.good_photo, category=CATEGORY, detector=NAME).verdict == verdict


def test_a_threshold_of_the_caller_decides_and_the_stored_one_is_remembered(trained, shared):
    plain = shared.inspect(trained.good_photo, category=CATEGORY, detector=NAME)
    strict = shared.inspect(trained.good_photo, category=CATEGORY, detector=NAME, threshold=plain.score / 2)
    assert (strict.verdict, strict.threshold, strict.default_threshold) == (
        "ANOMALY",
        plain.score / 2,
        plain.threshold,
    )


# --- doubt


def test_a_score_is_told_among_those_of_held_out_parts(trained, shared, worst):
    scores = [entry["score"] for entry in runs.open_run(trained.runs, CATEGORY, NAME).calibration["good"]]
    assert worst.percentile == standing(worst.score, scores)
    assert worst.percentile.below == sum(score < worst.score for score in scores) and worst.percentile.n == 6
    assert worst.to_json()["percentile"] == worst.percentile.to_json()
    assert redecide(worst, worst.threshold * 2).percentile == worst.percentile


@pytest.fixture
def dark_photo(trained, tmp_path):
    write_image(tmp_path / "dark.png", (read_image(trained.good_photo) * 0.3).astype(np.uint8))
    return tmp_path / "dark.png"


def test_a_photo_of_another_camera_is_for_a_person_whatever_its_score(site, dark_photo):
    dark = "Darker than any training photo: check the light"
    for factor in (1e6, 1.0, 1e-6):  # alone, the score would say OK at the first and ANOMALY at the last
        move_limits(site, factor)
        found = inspector(site).inspect(dark_photo, category=CATEGORY, detector=NAME)
        move_limits(site, 1 / factor)
        assert dark in found.capture
        assert found.verdict == "REVIEW" and found.to_json()["capture"] == list(found.capture)
        assert redecide(found, found.score * 2).verdict == redecide(found, found.score / 2).verdict == "REVIEW"


def test_a_photo_of_the_same_camera_is_judged_by_its_score(site):
    for factor, verdict in ((1e6, "OK"), (1e-6, "ANOMALY")):
        move_limits(site, factor)
        found = inspector(site).inspect(site.good_photo, category=CATEGORY, detector=NAME)
        move_limits(site, 1 / factor)
        assert (found.capture, found.verdict) == ((), verdict)


def test_a_run_of_an_older_version_says_nothing_about_the_camera(site, dark_photo):
    run = runs.open_run(site.runs, CATEGORY, NAME)
    calibration = {key: value for key, value in run.calibration.items() if key != runs.CAPTURE}
    assert runs.update(run, calibration=calibration).profile is None
    assert "capture" not in json.loads((run.folder / CALIBRATION).read_text())
    move_limits(site, 1e6)
    found = inspector(site).inspect(dark_photo, category=CATEGORY, detector=NAME)
    assert (found.verdict, found.capture) == ("OK", ())


# --- redecide


def test_redecide_moves_all_three_limits_in_proportion(worst):
    moved = redecide(worst, worst.threshold * 3)
    assert moved.threshold == worst.threshold * 3
    assert moved.review_threshold == pytest.approx(worst.review_threshold * 3)
    assert moved.pixel_threshold == pytest.approx(worst.pixel_threshold * 3)
    assert (moved.score, moved.default_threshold) == (worst.score, worst.default_threshold)
    assert moved.map is worst.map and moved.preview is worst.preview
    assert moved.level == pytest.approx(worst.level / 3)


def test_redecide_changes_verdict_and_regions(worst):
    band = worst.threshold / worst.review_threshold
    limits = (worst.score * 0.5, worst.score * 1.001, worst.score * 1.001 * band)
    assert [redecide(worst, limit).verdict for limit in limits] == ["ANOMALY", "REVIEW", "OK"]
    at = redecide(worst, worst.score)
    assert at.verdict == "ANOMALY"
    tight = redecide(worst, worst.threshold * 0.5 * float(worst.map.max()) / worst.pixel_threshold)
    loose = redecide(worst, worst.threshold * 1.01 * float(worst.map.max()) / worst.pixel_threshold)
    assert len(tight.regions) >= 1 and loose.regions == ()
    assert max(region.peak for region in tight.regions) == pytest.approx(float(worst.map.max()), rel=1e-5)


def test_redecide_forth_and_back_is_where_it_began(worst):
    back = redecide(redecide(worst, worst.threshold * 7), worst.threshold)
    assert back.verdict == worst.verdict and back.regions == worst.regions
    assert back.pixel_threshold == pytest.approx(worst.pixel_threshold, rel=1e-12)


def test_redecide_does_not_run_the_network(worst, monkeypatch):
    monkeypatch.setattr(detectors.base.Detector, "score_batch", lambda *_: pytest.fail("the network ran"))
    redecide(worst, worst.threshold * 2)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_positive_number_is_refused(worst, threshold):
    with pytest.raises(UsageError, match="a positive number was expected"):
        redecide(worst, threshold)


def test_a_review_band_moves_along(worst):
    banded = replace(worst, review_threshold=worst.threshold / 2)
    assert redecide(banded, worst.score * 1.5).verdict == "REVIEW"
    assert redecide(banded, worst.score * 2.5).verdict == "OK"


# --- photos of any size


def test_a_large_photo_is_kept_small_and_its_regions_are_in_its_own_pixels(trained, shared, tmp_path, worst):
    big = stretch(read_image(worst.path), (2048, 1792))
    write_image(tmp_path / "big.png", big)
    found = shared.inspect(tmp_path / "big.png", category=CATEGORY, detector=NAME)
    assert (found.width, found.height) == (1792, 2048)
    assert found.preview.shape == (1024, 896, 3) and found.map.shape == (1024, 896)
    tight = redecide(found, found.threshold * 0.6 * float(found.map.max()) / found.pixel_threshold)
    assert tight.regions
    peak = np.unravel_index(found.map.argmax(), found.map.shape)
    row, column = peak[0] * 2, peak[1] * 2
    boxes = [region.box for region in tight.regions]
    assert any(x <= column <= x + w and y <= row <= y + h for x, y, w, h in boxes), "the hottest place is in no region"


@pytest.mark.parametrize("shape", [(30, 90), (1, 64), (64, 1), (1, 1)])
def test_other_shapes_are_judged_where_products_are_not_told_apart(site, tmp_path, shape):
    (site.runs / CATEGORY / PRODUCT).unlink()
    write_image(tmp_path / "odd.png", np.full((*shape, 3), 90, dtype=np.uint8))
    found = inspector(site).inspect(tmp_path / "odd.png", category=CATEGORY, detector=NAME)
    assert found.product is None and found.to_json()["product"] is None
    assert found.map.shape == shape and np.isfinite(found.score)
    assert (found.height, found.width) == shape


def test_json_holds_the_keys_that_scripts_rely_on(worst):
    entry = json.loads(json.dumps(worst.to_json()))
    assert list(entry) == JSON_KEYS
    assert entry["score"] == worst.score and entry["error"] is None
    for region in entry["regions"]:
        assert set(region) == {"box", "area", "peak"} and len(region["box"]) == 4


# --- another product


@pytest.fixture(scope="module")
def leather(tmp_path_factory):
    """A photo of another product."""
    path = tmp_path_factory.mktemp("leather") / "leather.png"
    write_image(path, synthetic.render_good("leather", seed=3, index=100, size=64))
    return path


@pytest.fixture
def two(site):
    """A plant that knows leather, too."""
    shutil.copytree(site.runs / CATEGORY, site.runs / "leather")
    photos = [synthetic.render_good("leather", seed=3, index=i, size=64) for i in range(6)]
    runs.save_product(site.runs, "leather", gate.learn(photos))
    return site


def test_a_photo_of_no_known_product_is_refused(shared, leather):
    with pytest.raises(WrongProduct, match="none of the known products; the nearest is hex_nut") as refused:
        shared.inspect(leather, category=CATEGORY)
    assert refused.value.product["known"] is False and refused.value.product["distance"] > 1


def test_a_photo_that_is_too_dark_to_be_known_says_so(shared, site, tmp_path):
    dark = tmp_path / "dark.png"
    write_image(dark, (read_image(site.good_photo) * 0.05).astype(np.uint8))
    with pytest.raises(WrongProduct, match="Darker than any training photo: check the light") as refused:
        shared.inspect(dark, category=CATEGORY)
    assert refused.value.capture[0].startswith("Darker")


def test_a_photo_of_another_known_product_is_refused_by_its_name(two, leather):
    with pytest.raises(WrongProduct, match="looks like leather, not hex_nut"):
        inspector(two).inspect(leather, category=CATEGORY)
    assert inspector(two).inspect(two.good_photo, category=CATEGORY).product.seen == CATEGORY


def test_auto_takes_the_product_that_the_photo_shows(two, leather):
    one = inspector(two)
    found, asked = (one.inspect(two.good_photo, category=category) for category in ("auto", CATEGORY))
    assert (found.category, found.detector, found.score) == (CATEGORY, asked.detector, asked.score)
    assert (found.product.expected, asked.product.expected) == (None, CATEGORY)
    with pytest.raises(MissingThreshold):  # leather is seen, and has no limit here
        one.inspect(leather, category="auto")
    for name in (CATEGORY, "leather"):
        (two.runs / name / PRODUCT).unlink()
    with pytest.raises(UsageError, match="can be recognised"):
        one.inspect(two.good_photo, category="auto")


def test_a_product_that_is_learned_anew_is_read_anew(two, leather):
    one = inspector(two)
    with pytest.raises(WrongProduct):
        one.inspect(leather, category=CATEGORY)
    shutil.copy(two.runs / "leather" / PRODUCT, two.runs / CATEGORY / PRODUCT)
    assert one.inspect(leather, category=CATEGORY).product.seen == CATEGORY


def test_a_damaged_file_stops_its_own_product_alone(two):
    (two.runs / "leather" / PRODUCT).write_bytes(b"damaged")
    one = inspector(two)
    assert one.inspect(two.good_photo, category=CATEGORY).product.seen == CATEGORY
    for category in ("leather", "auto"):
        with pytest.raises((BrokenRun, MissingThreshold)):
            one.inspect(two.good_photo, category=category)
    with pytest.raises(BrokenRun, match="Train or refit"):
        one.inspect(two.good_photo, category="auto")


# --- refused


def test_a_photo_that_cannot_be_read_is_refused(shared, tmp_path):
    (tmp_path / "text.png").write_text("no image at all")
    with pytest.raises(NotAnImage):
        shared.inspect(tmp_path / "text.png", category=CATEGORY)
    with pytest.raises(ImageError, match="does not exist"):
        shared.inspect(tmp_path / "none.png", category=CATEGORY)


def test_unknown_category_or_detector_is_never_ok(trained, shared):
    with pytest.raises(UnknownName, match=f"no category 'bolt'.*Choose one of: {CATEGORY}"):
        shared.inspect(trained.good_photo, category="bolt")
    with pytest.raises(UnknownName, match="no detector 'magic'"):
        shared.inspect(trained.good_photo, category=CATEGORY, detector="magic")


def test_a_missing_threshold_is_never_ok(site):
    site.book.unlink()
    with pytest.raises(MissingThreshold, match="python -m anomaly calibrate"):
        inspector(site).inspect(site.good_photo, category=CATEGORY)
    with pytest.raises(MissingThreshold):  # not even when the caller brings one
        inspector(site).inspect(site.good_photo, category=CATEGORY, threshold=1.0)


def test_a_threshold_of_other_weights_is_never_used(site):
    move_limits(site, 1, weights_sha256="0" * 64)
    with pytest.raises(StaleThreshold, match="other weights"):
        inspector(site).inspect(site.good_photo, category=CATEGORY)


def test_a_damaged_book_is_refused(site):
    site.book.write_text("{")
    with pytest.raises(ThresholdError):
        inspector(site).inspect(site.good_photo, category=CATEGORY)
    with pytest.raises(ThresholdError):
        inspector(site).categories()


def test_weights_that_were_changed_are_refused_before_they_judge(site):
    weights = site.runs / CATEGORY / NAME / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BrokenRun, match="was changed"):
        inspector(site).inspect(site.good_photo, category=CATEGORY, detector=NAME)


# --- files that change while the program runs


def test_a_run_that_was_trained_anew_is_read_anew(site):
    one = inspector(site)
    before = one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    model = detectors.create(NAME, **SMALL | {"image_size": 96})
    training.train(site.data, CATEGORY, model, root=site.runs, book=site.book)
    after = one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    assert after.score != before.score and after.threshold != before.threshold
    assert after.score == inspector(site).inspect(site.good_photo, category=CATEGORY, detector=NAME).score


def test_a_threshold_that_was_moved_is_read_anew(site):
    one = inspector(site)
    before = one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    move_limits(site, 2)
    after = one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    assert (after.score, after.threshold) == (before.score, before.threshold * 2)


def count_loads(monkeypatch):
    loads = []
    original = runs.Run.load_detector
    monkeypatch.setattr(runs.Run, "load_detector", lambda run: loads.append(run.category) or original(run))
    return loads


def test_models_load_once_and_when_first_used(site, monkeypatch):
    loads = count_loads(monkeypatch)
    one = inspector(site)
    one.categories()
    assert loads == []
    for _ in range(3):
        one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    assert loads == [CATEGORY]


def test_the_model_unused_for_longest_goes_first(site, monkeypatch):
    book = json.loads(site.book.read_text())
    for name in ("b", "c"):
        shutil.copytree(site.runs / CATEGORY, site.runs / name)
        book["categories"][name] = book["categories"][CATEGORY]
    site.book.write_text(json.dumps(book))
    monkeypatch.setattr(inspection, "LOADED", 2)
    loads = count_loads(monkeypatch)
    one = inspector(site)
    for name in (CATEGORY, "b", CATEGORY, "c", CATEGORY, "b"):  # c pushes b out, which was unused for longest
        one.inspect(site.good_photo, category=name, detector=NAME)
    assert loads == [CATEGORY, "b", "c", "b"]


def test_a_retrained_model_does_not_stay_in_memory_twice(site):
    one = inspector(site)
    one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    training.calibrate(CATEGORY, NAME, rule="f1", data=site.data, root=site.runs, book=site.book)
    one.inspect(site.good_photo, category=CATEGORY, detector=NAME)
    assert len(one._loaded) == 1


def test_two_threads_get_the_same_answer(trained):
    one = inspector(trained)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda name: one.inspect(trained.good_photo, category=CATEGORY, detector=name).score, [NAME] * 8)
        )
    assert len(set(found)) == 1


# --- what the page shows first


def test_categories_tell_what_is_trained(site):
    folder = site.runs / CATEGORY / "examples"
    folder.mkdir()
    shutil.copy(site.good_photo, folder / "good.png")
    runs.write_description(site.runs, CATEGORY, {"title": "Hexagon nut", "kind": "object"})
    (info,) = inspector(site).categories()
    assert (info.name, info.title, info.kind) == (CATEGORY, "Hexagon nut", "object")
    assert info.detectors == detectors.names()
    assert info.active == Thresholds.load(site.book).active(CATEGORY)
    assert info.examples == (folder / "good.png",)


def test_an_active_detector_that_is_gone_is_replaced_by_one_that_is_there(site):
    active = Thresholds.load(site.book).active(CATEGORY)
    shutil.rmtree(site.runs / CATEGORY / active)
    (info,) = inspector(site).categories()
    assert info.active in info.detectors and info.active != active


def test_no_runs_no_categories(tmp_path):
    assert Inspector(runs=tmp_path, thresholds=tmp_path / "t.json").categories() == []


@pytest.mark.parametrize("percent", [101, 105, 333, 2425])
def test_equal_limits_stay_equal_wherever_the_slider_stops(worst, percent):
    """100 * 24.25 and the like round: the review limit must never land over the other, which is refused."""
    even = replace(worst, review_threshold=worst.threshold)
    moved = redecide(redecide(even, even.default_threshold * 1.05), even.default_threshold * percent / 100)
    assert moved.review_threshold <= moved.threshold
    assert moved.review_threshold == pytest.approx(moved.threshold)


# --- why


@pytest.mark.parametrize("name", detectors.names())
def test_the_strongest_region_is_explained(trained, name):
    looked = inspector(trained)
    bad = next(sample.path for sample in dataset.test_samples(trained.data, CATEGORY) if sample.label)
    found = looked.inspect(bad, category=CATEGORY, detector=name, threshold=1e-3)
    why = looked.explain(found)
    assert why.here.shape == why.good.shape and sum(why.shares.values()) == pytest.approx(1)
    assert looked.explain(replace(found, regions=())).here.size  # the worst place stands in for a region


def test_a_photo_that_is_gone_is_not_explained(site):
    looked = inspector(site)
    found = looked.inspect(site.good_photo, category=CATEGORY)
    with pytest.raises(ImageError):
        looked.explain(replace(found, path=str(site.runs / "gone.png")))
