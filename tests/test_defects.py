"""Types of defects: right ones are named, others are unknown, and what a person says counts from the next part on."""

import json

import numpy as np
import pytest
from conftest import CATEGORY
from safetensors.numpy import load_file, save_file

from anomaly import backbones, dataset, defects, runs, synthetic, training
from anomaly.defects import SAID, UNKNOWN, Example, Types
from anomaly.errors import BrokenRun, DatasetError, ImageError, UnknownName
from anomaly.images import read_image, write_image
from anomaly.inspection import Inspector
from anomaly.thresholds import Thresholds, ledger

DRAWN = "wood_grain"  # its types look different even at 96 pixels
KINDS = ("crack", "knot", "wormhole")


def region(kind: str, index: int) -> np.ndarray:
    """Features of a drawn defect in the box of its own mask."""
    image, mask = synthetic.render_defect(DRAWN, kind, seed=5, index=index, size=96)
    return defects.describe(image, box_of(mask))


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.fixture(scope="module")
def known() -> Types:
    """Six labelled regions of each of three types."""
    return Types(tuple(Example(f"{kind}/{i}", kind, region(kind, i)) for kind in KINDS for i in range(6)))


def cloud(kind: str, centre: tuple[float, float], count: int, *, spread: float = 1.0) -> list[Example]:
    """Labelled regions of two features around a centre."""
    rng = np.random.default_rng(len(kind))
    return [Example(f"{kind}/{i}", kind, np.array(centre) + spread * rng.normal(size=2)) for i in range(count)]


def test_defects_of_known_types_are_named(known):
    found = [(kind, known.name(region(kind, i))) for kind in KINDS for i in range(50, 55)]
    named = [(kind, one) for kind, one in found if one.kind != UNKNOWN]
    assert len(named) >= 12  # of 15
    assert sum(kind == one.kind for kind, one in named) >= len(named) - 1
    assert all(0.5 <= one.confidence <= 1 for _, one in found)


def test_a_type_that_nobody_showed_is_mostly_unknown():
    others = ("knot", "wormhole", "scratch", "stain")
    types = Types(tuple(Example(f"{kind}/{i}", kind, region(kind, i)) for kind in others for i in range(6)))
    found = [types.name(region("crack", i)).kind for i in range(50, 56)]
    assert found.count(UNKNOWN) >= 4, found


def test_what_is_far_from_all_regions_is_unknown_and_what_lies_among_them_is_not():
    types = Types((*cloud("dent", (0, 0), 12), *cloud("crack", (12, 0), 12), *cloud("stain", (0, 12), 12)))
    assert types.name(np.array([0.3, -0.2])).kind == "dent"
    assert types.name(np.array([11.5, 0.4])).kind == "crack"
    assert types.name(np.array([40.0, 40.0])).kind == UNKNOWN
    near, between = types.name(np.array([0.0, 0.0])), types.name(np.array([5.5, 0.0]))
    assert near.confidence > 0.8 and (between.kind == UNKNOWN or between.confidence < near.confidence)


def test_types_that_look_alike_are_not_told_apart_with_confidence():
    types = Types((*cloud("dent", (0, 0), 10), *cloud("crack", (0, 0), 10), *cloud("stains", (0, 0), 10)))
    right, of = types.told_apart
    assert of == 30 and right < 20
    assert types.name(np.zeros(2)).kind == UNKNOWN


@pytest.mark.parametrize("counts", [{}, {"dent": 9}, {"dent": 9, "crack": 1}, {"dent": 1, "crack": 1, "stain": 1}])
def test_nothing_is_named_before_two_types_have_two_regions_each(counts):
    examples = [one for place, (kind, n) in enumerate(counts.items()) for one in cloud(kind, (9.0 * place, 0), n)]
    assert Types(tuple(examples)).name(np.zeros(2)) is None


def test_two_regions_of_two_types_and_one_alone_are_enough_to_answer():
    types = Types((*cloud("dent", (0, 0), 2), *cloud("crack", (12, 0), 2), *cloud("stain", (0, 12), 1)))
    assert types.name(np.array([0.0, 0.0])).kind in ("dent", UNKNOWN)


def test_the_same_photo_labelled_again_has_the_later_type_and_old_ones_make_room():
    types = Types(tuple(cloud("dent", (0, 0), 3)))
    again = types.with_examples([Example("dent/1", "crack", np.ones(2))])
    assert (types.counts, again.counts) == ({"dent": 3}, {"crack": 1, "dent": 2})
    assert again.without("dent/1").counts == {"dent": 2}
    full = types.with_examples([Example(f"new/{i}", "dent", np.ones(2)) for i in range(defects.MOST)])
    assert full.counts == {"dent": defects.MOST} and not {"dent/0", "dent/1", "dent/2"} & {
        one.name for one in full.examples
    }


def test_labelled_regions_come_back_from_their_file_and_name_the_same(known, tmp_path):
    path = tmp_path / "defects.safetensors"
    defects.save(known, path)
    again = defects.load(path)
    assert [(one.name, one.kind) for one in again.examples] == [(one.name, one.kind) for one in known.examples]
    seen = region("crack", 60)
    assert again.name(seen).kind == known.name(seen).kind
    assert again.name(seen).confidence == pytest.approx(known.name(seen).confidence, abs=0.02)
    assert path.stat().st_size < 10_000


def test_a_file_that_was_changed_or_is_of_another_backbone_is_refused(known, tmp_path, monkeypatch):
    path = tmp_path / "defects.safetensors"
    defects.save(known, path)
    with monkeypatch.context() as patch:
        patch.setattr(backbones.load(), "sha256", "another")
        with pytest.raises(BrokenRun, match="another backbone. Make it again with `python -m anomaly types`"):
            defects.load(path)
    tensors = load_file(path)
    save_file({name: 2 * value for name, value in tensors.items()}, path, metadata={"defects": "{}", "sha256": "0"})
    with pytest.raises(BrokenRun, match="was changed since it was saved"):
        defects.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(BrokenRun, match="is damaged"):
        defects.load(path)


@pytest.fixture
def labelled(site, known):
    """The trained site with labelled regions of three types."""
    runs.save_types(site.runs, CATEGORY, known)
    return site


def inspector(site) -> Inspector:
    return Inspector(runs=site.runs, thresholds=site.book)


def defective(site):
    """An anomaly with a region, and its photo."""
    for sample in dataset.test_samples(site.data, CATEGORY):
        found = inspector(site).inspect(sample.path, category=CATEGORY, detector="mahalanobis", threshold=1e-3)
        if sample.label and found.regions and found.verdict != "OK":
            return sample.path, found
    raise AssertionError("no defect shows a region")


def test_an_inspected_defect_carries_its_type_and_an_ok_part_none(labelled):
    _, found = defective(labelled)
    line = found.to_json()
    assert line["defect_type"] in (*KINDS, UNKNOWN) and 0.5 <= line["defect_confidence"] <= 1
    good = inspector(labelled).inspect(labelled.good_photo, category=CATEGORY, detector="mahalanobis", threshold=1e6)
    if not good.capture:
        assert good.verdict == "OK" and good.to_json()["defect_type"] is None
    assert json.dumps(line)


def test_without_labelled_regions_or_with_damaged_ones_the_verdict_stands_and_no_type_is_named(site):
    path, found = defective(site)
    assert found.verdict != "OK" and found.to_json()["defect_type"] is None
    (site.runs / CATEGORY / runs.DEFECTS).write_bytes(b"damaged")
    again = inspector(site).inspect(path, category=CATEGORY, detector="mahalanobis", threshold=1e-3)
    assert (again.verdict, again.to_json()["defect_type"]) == (found.verdict, None)


def test_what_a_person_labels_counts_at_once_and_can_be_taken_back(labelled):
    path, found = defective(labelled)
    judge, box = inspector(labelled), found.regions[0].box
    before = judge.types(CATEGORY).counts
    judge.label(CATEGORY, path, box, "dent")
    assert judge.types(CATEGORY).counts == before | {"dent": 1}
    assert judge.types(CATEGORY).taught == tuple(sorted(KINDS))  # what a person says is told apart
    judge.label(CATEGORY, path, box, "burr")
    assert judge.types(CATEGORY).counts == before | {"burr": 1}
    judge.label(CATEGORY, path, box, "")
    assert judge.types(CATEGORY).counts == before
    content = labelled.content()
    judge.label(CATEGORY, path, box, "")
    with pytest.raises(UnknownName, match="no category 'nothing'"):
        judge.label("nothing", path, box, "dent")
    with pytest.raises(ImageError):
        judge.label(CATEGORY, path.with_name("gone.png"), box, "dent")
    assert labelled.content() == content


def test_known_defects_become_examples_and_labels_of_people_stay(labelled, tmp_path):
    detector = "mahalanobis"
    runs.save_types(labelled.runs, CATEGORY, Types().with_examples([Example(SAID + "x", "dent", region("crack", 0))]))
    data = tmp_path / "data"
    kinds = ("crack", "burr", "chip")
    for index in range(3):
        for kind in kinds:
            image, _ = synthetic.render_defect(CATEGORY, kind, seed=3, index=90 + index, size=64)
            path = data / CATEGORY / "validation" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image)
    lower = Thresholds.load(labelled.book)
    point = lower.find(CATEGORY, detector).model_copy(update={"pixel": 1e-3})
    ledger.save(labelled.book, CATEGORY, detector, point)
    found = training.learn_types(data, CATEGORY, detector, root=labelled.runs, book=labelled.book)
    assert found.counts == {**dict.fromkeys(kinds, 3), "dent": 1}
    assert runs.types(labelled.runs, CATEGORY).counts == found.counts
    features = {one.name: one.features for one in found.examples}
    assert read_image(data / CATEGORY / "validation" / "crack" / "0.png").shape == (64, 64, 3)
    assert features["validation/crack/0.png"].shape == region("crack", 0).shape
    with pytest.raises(DatasetError, match="no known defects.*Add photos as validation/"):
        training.learn_types(labelled.data, CATEGORY, detector, root=labelled.runs, book=labelled.book)
