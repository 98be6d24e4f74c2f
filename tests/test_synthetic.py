"""Toy products: what they promise to a detector, to a person and to a test that uses them."""

import hashlib
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, label
from scipy.stats import rankdata

from anomaly.errors import UnknownName, UsageError
from anomaly.synthetic import PRODUCTS, render_defect, render_good, write_product
from anomaly.synthetic.folders import APART
from anomaly.synthetic.rendering import LARGEST, SMALLEST, VISIBLE, Shot

EXPECTED = {
    "brushed_metal",
    "woven_fabric",
    "wood_grain",
    "glazed_tile",
    "perforated_sheet",
    "hex_nut",
    "blister_pack",
    "circuit_board",
    "leather",
}
EVERY_DEFECT = [(name, defect) for name, item in PRODUCTS.items() for defect in item.defects]


def auroc(good: np.ndarray, defect: np.ndarray) -> float:
    """Share of pairs in which the defective image scores higher (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([good, defect]))
    won = ranks[len(good) :].sum() - len(defect) * (len(defect) + 1) / 2
    return won / (len(good) * len(defect))


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def test_the_registry_names_each_product_and_its_defects():
    assert set(PRODUCTS) >= EXPECTED
    for name, item in PRODUCTS.items():
        assert item.name == name and item.title and item.kind in ("texture", "object")
        assert 4 <= len(item.defects) <= 7 and len(set(item.defects)) == len(item.defects)
        with pytest.raises(FrozenInstanceError):
            item.name = "other"


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_same_arguments_give_the_same_picture_whatever_was_drawn_before(name):
    defect = PRODUCTS[name].defects[0]
    good = render_good(name, seed=3, index=5, size=64)
    spoilt, mask = render_defect(name, defect, seed=3, index=5, size=64)
    assert good.shape == spoilt.shape == (64, 64, 3) and good.dtype == spoilt.dtype == np.uint8
    assert mask.shape == (64, 64) and mask.dtype == bool
    again, mask_again = render_defect(name, defect, seed=3, index=5, size=64)
    np.testing.assert_array_equal(again, spoilt)
    np.testing.assert_array_equal(mask_again, mask)
    np.testing.assert_array_equal(render_good(name, seed=3, index=5, size=64), good)


def test_another_process_draws_the_same_picture():
    program = (
        "import hashlib; from anomaly.synthetic import render_defect; "
        "image, mask = render_defect('hex_nut', 'chip', seed=1, index=2, size=64); "
        "print(hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    image, mask = render_defect("hex_nut", "chip", seed=1, index=2, size=64)
    assert printed.strip() == hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


def test_another_index_or_seed_is_another_part():
    drawn = {
        digest(render_good("blister_pack", seed=seed, index=index, size=64)) for seed in (0, 1) for index in (0, 1)
    }
    assert len(drawn) == 4


@pytest.mark.parametrize(("name", "defect"), EVERY_DEFECT)
def test_the_mask_is_what_the_defect_changed(name, defect):
    for index in range(2):
        size = 128
        image, mask = render_defect(name, defect, seed=7, index=index, size=size)
        shot = Shot(PRODUCTS[name], defect, seed=7, index=index, size=size)
        without = shot.develop(shot.photo(shot.good))  # the same noise, so what differs is the defect
        change = np.abs(image.astype(int) - without).max(axis=2) / 255
        assert SMALLEST <= mask.mean() <= LARGEST
        assert np.median(change[mask]) > VISIBLE / 2  # a seam between brighter and darker may not differ
        assert np.quantile(change[mask], 0.9) > 3 * VISIBLE  # an attentive person finds it
        beyond = change[~binary_dilation(mask, iterations=2)]
        assert (beyond > 2 * VISIBLE).mean() < 0.001, "a change that the mask does not show"
        parts, count = label(mask, structure=np.ones((3, 3)))
        assert np.bincount(parts.ravel())[1:].min() >= 2, "a stray pixel"
        assert count <= 24


@pytest.mark.parametrize("name", PRODUCTS)
def test_no_product_is_solved_by_brightness_or_by_distance_to_the_mean_image(name):
    size, train, each, seed = 96, 40, 48, 0
    defects = PRODUCTS[name].defects
    normal = np.stack([render_good(name, seed=seed, index=i, size=size) for i in range(train)]).astype(np.float32)
    good = [render_good(name, seed=seed, index=APART + i, size=size) for i in range(each)]
    bad = [
        render_defect(name, defects[i % len(defects)], seed=seed, index=i // len(defects), size=size)[0]
        for i in range(each)
    ]
    mean = normal.mean(axis=0)
    far, bright = (
        auroc(*(np.array([score(image) for image in images]) for images in (good, bad)))
        for score in (lambda image: np.mean((image - mean) ** 2), np.mean)
    )
    assert max(far, 1 - far) < 0.75
    assert max(bright, 1 - bright) < 0.75


def test_the_naive_scorer_of_that_test_would_notice_a_trivial_product():
    assert auroc(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])) == 1.0
    assert auroc(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == 0.5  # two of four pairs won


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_larger_picture_shows_the_same_part(name):
    small = render_good(name, seed=2, index=0, size=128).astype(np.float32).mean(axis=2)
    large = render_good(name, seed=2, index=0, size=512).astype(np.float32).mean(axis=2)
    shrunk = large.reshape(128, 4, 128, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.85
    assert abs(small.mean() - shrunk.mean()) < 6


def test_write_product_writes_the_mvtec_layout(tmp_path):
    told = []
    numbers = {"train": 5, "test": 9, "known": 3}
    folder = write_product(tmp_path, "hex_nut", **numbers, size=64, seed=4, progress=lambda *at: told.append(at))
    assert folder == tmp_path / "hex_nut"
    assert told == [(done, 26) for done in range(1, 27)]
    assert len(list(folder.glob("validation/*/*.png"))) == 3
    assert [p.name for p in sorted(folder.glob("train/good/*"))] == [f"{i:03d}.png" for i in range(5)]
    assert len(list(folder.glob("test/good/*"))) == 9
    defects = PRODUCTS["hex_nut"].defects
    dealt = [len(list((folder / "test" / defect).glob("*.png"))) for defect in defects]
    assert sum(dealt) == 9 and max(dealt) - min(dealt) <= 1
    for defect in defects:
        image, mask = render_defect("hex_nut", defect, seed=4, index=0, size=64)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "test" / defect / "000.png")), image)
        stored = np.asarray(Image.open(folder / "ground_truth" / defect / "000_mask.png"))
        np.testing.assert_array_equal(stored, mask * np.uint8(255))
    pictures = [path for part in ("train", "test", "validation") for path in folder.glob(f"{part}/*/*.png")]
    assert len({digest(np.asarray(Image.open(path))) for path in pictures}) == len(pictures) == 26


def test_writing_nothing_is_allowed(tmp_path):
    write_product(tmp_path, "hex_nut", train=1, test=0, size=64)
    assert [p.name for p in tmp_path.rglob("*.png")] == ["000.png"]


def test_an_unknown_name_is_refused_with_the_valid_ones(tmp_path):
    with pytest.raises(UnknownName, match="hex_nut"):
        render_good("hexnut", seed=0, index=0, size=64)
    with pytest.raises(UnknownName, match="burr"):
        render_defect("hex_nut", "weave_fault", seed=0, index=0, size=64)
    with pytest.raises(UnknownName, match="wood_grain"):
        write_product(tmp_path, "wood", train=1, test=1)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 63}, {"size": 1025}, {"train": -1}, {"test": -1}, {"known": -1}, {"seed": -1}, {"train": APART + 1}],
)
def test_a_number_out_of_range_is_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(UsageError):
        write_product(tmp_path, "hex_nut", **{"train": 1, "test": 1, "size": 64, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"size": 0}, {"index": -1}, {"seed": -5}])
def test_a_picture_out_of_range_is_refused(wrong):
    arguments = {"seed": 0, "index": 0, "size": 64, **wrong}
    with pytest.raises(UsageError):
        render_good("hex_nut", **arguments)
    with pytest.raises(UsageError):
        render_defect("hex_nut", "burr", **arguments)
