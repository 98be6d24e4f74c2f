"""Which product a photo shows: right ones pass in whatever state they are, all others are named or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torchvision.transforms.v2 import functional as TF

from anomaly import gate, runs, synthetic
from anomaly.errors import BrokenRun, TooFewImages, WrongProduct
from anomaly.images import read_image

ROOT = Path(__file__).parent.parent
SIZE = 96
NAMES = ("hex_nut", "leather")


def photos(name: str, first: int, count: int) -> list[np.ndarray]:
    return [synthetic.render_good(name, seed=7, index=first + i, size=SIZE) for i in range(count)]


@pytest.fixture(scope="module")
def products() -> dict[str, gate.Product]:
    """Two products, learned from eight photos each."""
    return {name: gate.learn(photos(name, 0, 8)) for name in NAMES}


def changed(photo: np.ndarray, how: str) -> np.ndarray:
    image = torch.from_numpy(photo).permute(2, 0, 1)
    if how == "darker":
        image = (image * 0.8).byte()
    elif how == "blurred":
        image = TF.gaussian_blur(image, [5, 5], [0.6, 0.6])
    elif how == "turned":
        image = TF.rotate(TF.pad(image, [24] * 4, padding_mode="reflect"), 8)[:, 24:-24, 24:-24]
    return image.permute(1, 2, 0).contiguous().numpy()


@pytest.mark.parametrize("how", ["as it is", "darker", "blurred", "turned"])
@pytest.mark.parametrize("name", NAMES)
def test_another_photo_of_the_product_is_known(products, name, how):
    for photo in photos(name, 100, 3):
        seen = gate.look(changed(photo, how), products, expected=name)
        assert (seen.seen, seen.known, seen.refused) == (name, True, False), seen


@pytest.mark.parametrize("name", NAMES)
def test_a_defective_part_is_still_the_product(products, name):
    for defect in synthetic.PRODUCTS[name].defects:
        photo, _ = synthetic.render_defect(name, defect, seed=7, index=0, size=SIZE)
        assert gate.look(photo, products).seen == name, defect
        assert not gate.look(photo, products, expected=name).refused, defect


def test_a_photo_of_another_product_is_named(products):
    (photo,) = photos("leather", 100, 1)
    seen = gate.look(photo, products, expected="hex_nut")
    assert seen.to_json() == {"expected": "hex_nut", "seen": "leather", "known": True, "distance": seen.distance}
    assert 0 < seen.distance < 1
    with pytest.raises(WrongProduct, match="^This looks like leather, not hex_nut. Choose leather, or") as told:
        seen.require()
    assert told.value.product == seen.to_json()


def test_a_photo_of_none_of_the_products_is_refused_with_and_without_a_name(products):
    (photo,) = photos("circuit_board", 0, 1)
    for expected in (None, *NAMES):
        seen = gate.look(photo, products, expected=expected)
        assert not seen.known and seen.distance > 1 and seen.refused
        with pytest.raises(WrongProduct, match="none of the known products; the nearest is"):
            seen.require()


def test_the_light_is_named_where_the_nearest_product_is_the_one_that_was_asked_for():
    dark = "Darker than any training photo: check the light"
    with pytest.raises(WrongProduct, match=f"{dark}. Teach the product") as told:
        gate.Seen("hex_nut", "hex_nut", False, 3.0).require((dark,))
    assert told.value.capture == (dark,)
    for seen in (gate.Seen("hex_nut", "leather", False, 3.0), gate.Seen("hex_nut", "leather", True, 0.3)):
        with pytest.raises(WrongProduct) as told:
            seen.require((dark,))
        assert dark not in str(told.value) and told.value.capture == ()
    with pytest.raises(WrongProduct) as told:  # a photo of a bird is darker, greener and sharper than wood: no matter
        gate.Seen("hex_nut", "hex_nut", False, 3.0).require((dark, "Greener", "Sharper"))
    assert told.value.capture == ()


def test_one_product_is_enough_to_refuse_the_others(products):
    alone = {"leather": products["leather"]}
    assert not gate.look(photos("leather", 100, 1)[0], alone, expected="leather").refused
    assert gate.look(photos("hex_nut", 100, 1)[0], alone, expected="leather").refused


def test_four_photos_are_enough_and_three_are_not():
    few = gate.learn(photos("hex_nut", 0, 4))
    assert few.photos == 4
    assert not any(gate.look(photo, {"hex_nut": few}).refused for photo in photos("hex_nut", 100, 3))
    assert gate.look(photos("leather", 0, 1)[0], {"hex_nut": few}).refused
    with pytest.raises(TooFewImages, match="3 good photos"):
        gate.learn(photos("hex_nut", 0, 3))


def test_the_same_photos_make_the_same_product(products):
    again = gate.learn(photos("leather", 0, 8))
    assert again.limit == products["leather"].limit
    assert np.array_equal(again.directions, products["leather"].directions)


def test_only_the_region_counts():
    """A different product outside of the region changes nothing."""
    box = (0.25, 0.25, 0.5, 0.5)

    def framed(photo: np.ndarray, around: int) -> np.ndarray:
        out = np.full((2 * SIZE, 2 * SIZE, 3), around, np.uint8)
        out[SIZE // 2 : -SIZE // 2, SIZE // 2 : -SIZE // 2] = photo
        return out

    product = gate.learn([framed(photo, 0) for photo in photos("hex_nut", 0, 4)], region=box)
    (photo,) = photos("hex_nut", 100, 1)
    known = {"hex_nut": product}
    distance = gate.look(framed(photo, 0), known).distance
    assert gate.look(framed(photo, 255), known).distance == distance < 1
    assert gate.look(framed(255 - photo, 0), known).distance > distance


# Distances to products, the one expected, then which is seen, whether it is known, whether the photo is refused.
JUDGED = [
    ({"a": 0.5, "b": 3.0}, None, ("a", True, False)),
    ({"a": 0.5, "b": 3.0}, "a", ("a", True, False)),
    ({"a": 0.5, "b": 3.0}, "b", ("a", True, True)),
    ({"a": 1.0, "b": 3.0}, "a", ("a", True, False)),  # the limit itself passes
    ({"a": 1.01, "b": 3.0}, "a", ("a", False, True)),
    ({"a": 4.0, "b": 3.0}, None, ("b", False, True)),
    ({"a": 0.6, "b": 0.5}, "a", ("a", True, False)),  # two of a kind: the expected one has the benefit of the doubt
    ({"a": 0.9, "b": 0.4}, "a", ("b", True, True)),  # clearly the other one
    ({"a": 1.2, "b": 0.9}, "a", ("b", True, True)),
    ({"a": 0.2}, "a", ("a", True, False)),
]


@pytest.mark.parametrize(("apart", "expected", "wanted"), JUDGED)
def test_what_is_seen_follows_from_the_distances(apart, expected, wanted):
    seen = gate.judge(apart, expected=expected)
    assert (seen.seen, seen.known, seen.refused) == wanted
    assert seen.distance == apart[seen.seen]


def test_the_distance_is_that_of_mahalanobis():
    """Against the plain inverse of the covariance: variance 9 + 1 along (1, 0), and 1 across. Of 4 photos, the limit 2
    is widened to 1.25 x (1 + 4 / 4) x 2 = 5."""
    product = gate.Product(
        region=None, photos=4, limit=2.0, mean=np.zeros(2), directions=np.array([[3.0, 0.0]]), rest=1.0
    )
    covariance = np.array([[10.0, 0.0], [0.0, 1.0]])
    for point in ([1.0, 0.0], [0.0, 1.0], [2.0, -3.0]):
        wanted = np.sqrt(np.array(point) @ np.linalg.inv(covariance) @ np.array(point) / 2) / 5
        assert product.distance(np.array(point)) == pytest.approx(wanted)


def test_a_product_comes_back_from_its_file_and_is_small(products, tmp_path):
    path = tmp_path / "product.safetensors"
    (photo,) = photos("leather", 100, 1)
    gate.save(products["leather"], path)
    again = gate.load(path)
    features = gate.describe(photo)
    assert again.distance(features) == pytest.approx(products["leather"].distance(features), rel=1e-9)
    assert (again.region, again.photos, again.limit) == (None, 8, products["leather"].limit)
    assert path.stat().st_size <= 25_000


def tampered(path, *, tensors=lambda found: None, header=lambda said: said):
    with safe_open(path, "np") as file:
        about = file.metadata()
    found = load_file(path)
    tensors(found)
    save_file(found, path, metadata=about | {"product": header(about["product"])})


DAMAGE = {
    "was changed": lambda path: tampered(path, tensors=lambda found: found["mean"].__setitem__(0, 1.0)),
    "changed since": lambda path: tampered(path, header=lambda said: said.replace('"photos": 8', '"photos": 9')),
    "is damaged": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "damaged .*Safetensor": lambda path: path.write_bytes(b"nothing"),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_file_is_refused_with_the_remedy(products, tmp_path, said):
    path = tmp_path / "product.safetensors"
    gate.save(products["leather"], path)
    DAMAGE[said](path)
    with pytest.raises(BrokenRun, match=f"{said}.* Train or refit the product again"):
        gate.load(path)


def test_a_product_of_another_backbone_is_refused(products, tmp_path, monkeypatch):
    path = tmp_path / "product.safetensors"
    gate.save(products["leather"], path)
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["product"])["backbone_sha256"] == gate.backbones.load().sha256
    monkeypatch.setattr(gate.backbones, "load", lambda: type("Other", (), {"sha256": "0" * 64}))
    with pytest.raises(BrokenRun, match="another backbone"):
        gate.load(path)


@pytest.mark.parametrize("category", sorted(runs.names(ROOT / "runs")))
def test_every_shipped_example_is_seen_as_its_product(category):
    known = {name: gate.load(ROOT / "runs" / name / runs.PRODUCT) for name in runs.names(ROOT / "runs")}
    for path in runs.examples(ROOT / "runs", category):
        seen = gate.look(read_image(path), known)
        assert (seen.seen, seen.known) == (category, True), f"{path.name}: {seen}"


def test_learning_can_be_stopped():
    with pytest.raises(KeyboardInterrupt):
        gate.learn(
            photos("hex_nut", 0, 4), progress=lambda stage, done, total: (_ for _ in ()).throw(KeyboardInterrupt)
        )
