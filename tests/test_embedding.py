"""The published form of the product check: known products recognised, unknown ones put into words."""

import numpy as np
import pytest

from anomaly import embedding
from anomaly.errors import BrokenRun, TooFewImages, UsageError

WORDS = ("fine", "coarse", "dark", "light", "scratched")
LOOKS = {
    "felt": ("fine", "dark"),
    "steel": ("fine", "light", "scratched"),
    "gravel": ("coarse", "dark"),
    "chalk": ("coarse", "light"),
}
# Each word is a direction in the space of features, as it should be in good features.
AXES = np.random.default_rng(0).normal(size=(len(WORDS), 24))


def photos(looks, count: int, seed: int) -> np.ndarray:
    has = np.array([word in looks for word in WORDS], float)
    return (has @ AXES + 0.15 * np.random.default_rng(seed).normal(size=(count, 24))).astype(np.float32)


KNOWN = ("felt", "steel", "gravel")
TAUGHT = {name: photos(LOOKS[name], 200, i) for i, name in enumerate(KNOWN)}


@pytest.fixture(scope="module")
def learned():
    return embedding.learn(TAUGHT, LOOKS, words=WORDS)


def test_known_products_are_recognised_and_another_one_is_not(learned):
    for i, name in enumerate(KNOWN):
        seen = learned.look(photos(LOOKS[name], 100, 100 + i))
        assert np.mean([one.known and one.nearest == name for one in seen]) >= 0.93
    assert np.mean([one.known for one in learned.look(photos(LOOKS["chalk"], 100, 200))]) <= 0.1


def test_an_unknown_product_is_put_into_words(learned):
    foreign = learned.look(photos(LOOKS["chalk"], 100, 200))
    said = {word: np.mean([word in one.attributes for one in foreign]) for word in WORDS}
    assert said["coarse"] > said["fine"]
    one = next(one for one in foreign if not one.known)
    assert one.alarm() == (
        f"This shows none of the known products; it looks like: {', '.join(one.attributes)}; "
        f"the nearest is {one.nearest}"
    )
    assert "none of the known attributes" in embedding.Seen("felt", 2.0, ()).alarm()
    assert embedding.Seen("felt", 1.0, ()).known and not embedding.Seen("felt", 1.01, ()).known


def test_learned_embeddings_stay_near_the_hand_written_attributes(learned):
    written = np.array([[float(word in LOOKS[name]) for word in WORDS] for name in KNOWN])
    apart = np.linalg.norm(learned.places.numpy()[:, None] - written, axis=2)
    assert (apart.argmin(1) == np.arange(3)).all() and (np.diag(apart) > 1e-3).all()
    by_hand = embedding.learn(TAUGHT, LOOKS, words=WORDS, learned=False)
    np.testing.assert_array_equal(by_hand.places, written)


def test_the_loss_and_the_seed_are_used_and_the_same_seed_gives_the_same(learned):
    photo = photos(LOOKS["chalk"], 1, 5)

    def distance(**arguments):
        return embedding.learn(TAUGHT, LOOKS, words=WORDS, **arguments).look(photo)[0].distance

    same = learned.look(photo)[0].distance
    assert distance() == same and len({same, distance(loss="absolute"), distance(seed=1)}) == 3


def test_what_was_saved_says_the_very_same(learned, tmp_path):
    embedding.save(learned, tmp_path / "e.safetensors")
    some = np.concatenate([photos(LOOKS[name], 5, 7) for name in LOOKS])
    assert embedding.load(tmp_path / "e.safetensors").look(some) == learned.look(some)


def test_a_file_that_is_missing_or_damaged_is_refused(learned, tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(BrokenRun, match="embeddings of the known products, .*, are missing. Learn the embedding again"):
        embedding.load(path)
    embedding.save(learned, path)
    content = path.read_bytes()
    for wrong in (content[:-200], b"", content.replace(b'schema\\": 1', b'schema\\": 7')):
        path.write_bytes(wrong)
        with pytest.raises(BrokenRun, match="Learn the embedding again"):
            embedding.load(path)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(UsageError, match="'steel' has no attributes. Describe it by some of: fine, coarse"):
        embedding.learn(TAUGHT, {"felt": ("fine",)}, words=WORDS)
    with pytest.raises(UsageError, match="'felt' has the attribute 'wet', which is unknown"):
        embedding.learn(TAUGHT, LOOKS | {"felt": ("wet",)}, words=WORDS)
    with pytest.raises(TooFewImages, match="9 photos of 'felt' were given, it takes 10"):
        embedding.learn(TAUGHT | {"felt": TAUGHT["felt"][:9]}, LOOKS, words=WORDS)
