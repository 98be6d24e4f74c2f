"""What would let a photo of another camera be judged as if nothing had changed, or stop a line over nothing."""

import io
import json

import numpy as np
import pytest
from conftest import plate
from PIL import Image, ImageFilter

from anomaly.capture import MEASURES, Profile, measure
from anomaly.errors import UsageError

GOOD = [plate(i) for i in range(40)]


@pytest.fixture(scope="module")
def profile():
    return Profile.of(GOOD)


def blur(image, sigma=2.0):
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def scaled(image, width, height):
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST))


def tinted(image, *factors):
    return np.clip(image * np.array(factors), 0, 255).astype(np.uint8)


def compressed(image, quality=30):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


def noisy(image):
    return np.clip(image + np.random.default_rng(0).normal(0, 25, image.shape), 0, 255).astype(np.uint8)


# --- measures


def test_measures_of_a_plain_photo_by_hand():
    photo = np.full((50, 100, 3), (120, 90, 60), dtype=np.uint8)
    found = measure(photo)
    assert list(found) == list(MEASURES)
    assert found["brightness"] == 90
    assert found["red_green"] == pytest.approx(100 * 30 / 271)  # 30 of 120 + 90 + 60 + 1
    assert found["yellow_blue"] == pytest.approx(100 * 45 / 271)  # 105 - 60
    assert found["aspect"] == 1  # twice as wide as high
    assert found["size"] == pytest.approx(np.log2(100))
    assert found["sharpness"] == pytest.approx(np.log2(0.01))  # no detail at all
    assert found["blocks"] == found["clipped"] == 0
    photo[:5, :, 0] = 255  # a tenth of the rows, one channel of three
    assert measure(photo)["clipped"] == pytest.approx(100 / 30)


def test_steps_between_blocks_by_hand():
    photo = np.full((16, 16, 3), 100, dtype=np.uint8)
    photo[:, 8:] = 102  # a step of 2 between the left blocks and the right ones, none between upper and lower
    assert measure(photo)["blocks"] == pytest.approx(np.log2((1 + 0.1) / 0.1))
    assert measure(photo[:, 1:])["blocks"] < 0  # one column cut off: the same step is no longer between blocks


def test_compression_is_seen_in_the_middle_of_a_large_photo():
    photo = np.full((3000, 2000, 3), 100, dtype=np.uint8)
    photo[1000:2000, 500:1500] = compressed(np.kron(plate(1), np.ones((20, 20, 1), dtype=np.uint8))[:1000, :1000], 5)
    assert measure(photo)["blocks"] > 1


def test_a_black_and_a_one_pixel_photo_are_measured():
    for shape in ((1, 1), (1, 300), (480, 640)):
        assert np.isfinite(list(measure(np.zeros((*shape, 3), dtype=np.uint8)).values())).all()


def test_light_does_not_change_colour_and_size_does_not_change_sharpness():
    rng = np.random.default_rng(1)
    photo = blur(rng.integers(40, 120, (900, 900, 3)).astype(np.uint8), 3)
    dim, small = measure((photo * 0.5).astype(np.uint8)), measure(scaled(photo, 450, 450))
    whole = measure(photo)
    assert dim["red_green"] == pytest.approx(whole["red_green"], abs=0.3)
    assert dim["yellow_blue"] == pytest.approx(whole["yellow_blue"], abs=0.3)
    assert small["sharpness"] == pytest.approx(whole["sharpness"], abs=0.5)
    assert measure(blur(photo, 6))["sharpness"] < whole["sharpness"] - 1


# --- objections


def test_no_photo_that_the_profile_was_made_from_is_objected_to(profile):
    assert [profile.objections(image) for image in GOOD] == [()] * len(GOOD)


def test_new_photos_of_the_same_camera_pass(profile):
    objected = sum(bool(profile.objections(plate(1000 + i))) for i in range(200))
    assert objected <= 10  # 2 in 41 a measure at most, far fewer when no value lies apart


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        (lambda image: (image * 0.7).astype(np.uint8), "Darker than any training photo: check the light"),
        (lambda image: np.clip(image * 1.4, 0, 255).astype(np.uint8), "Brighter than any training photo"),
        (lambda image: np.where(image > 150, 255, image), "More burnt-out places than in any training photo"),
        (blur, "Blurred beside the training photos: check focus and motion"),
        (compressed, "More compressed than any training photo: check the JPEG quality"),
        (noisy, "Harsher or noisier than any training photo"),
        (lambda image: tinted(image, 1.1, 1, 1), "Redder than any training photo: check white balance"),
        (lambda image: tinted(image, 1, 1.1, 1), "Greener than any training photo"),
        (lambda image: tinted(image, 1, 1, 1.1), "Bluer than any training photo"),
        (lambda image: tinted(image, 1, 1, 0.85), "Yellower than any training photo"),
        (lambda image: scaled(image, 32, 64), "Narrower than any training photo: check camera and crop"),
        (lambda image: scaled(image, 64, 32), "Wider than any training photo"),
        (lambda image: scaled(image, 32, 32), "Fewer pixels than any training photo"),
        (lambda image: scaled(image, 256, 256), "More pixels than any training photo"),
    ],
)
def test_another_camera_is_told_by_name(profile, change, begins):
    said = profile.objections(change(plate(7)))
    assert any(sentence.startswith(begins) for sentence in said), said


def test_photos_all_alike_do_not_make_the_check_shrill():
    photo = plate(0)
    studio = Profile.of([photo] * 30)
    assert studio.objections(np.clip(photo.astype(int) + 3, 0, 255).astype(np.uint8)) == ()
    assert studio.objections(scaled(photo, 66, 64)) == ()
    assert any("Brighter" in said for said in studio.objections(photo + 12))


def test_photos_of_many_sizes_and_shapes_are_all_welcome():
    rng = np.random.default_rng(4)
    shapes = rng.integers(40, 400, (60, 2))
    profile = Profile.of(scaled(plate(i), *shape) for i, shape in enumerate(shapes))
    for shape in rng.integers(40, 400, (20, 2)):
        assert not any("crop" in said for said in profile.objections(scaled(plate(3), *shape)))


def test_fences_by_hand():
    # quartiles 20 and 30: 1.5 times 10 under and over them; 55 lies outside and moves its fence
    summary = {"brightness": (10.0, 20.0, 25.0, 30.0, 55.0)}
    assert Profile(50, summary).fences("brightness") == (5.0, 55.0)
    # quartiles all alike: the least difference of brightness, 5
    assert Profile(50, {"brightness": (100.0,) * 5}).fences("brightness") == (95.0, 105.0)


# --- stored


def test_a_profile_is_plain_json_and_comes_back(profile):
    content = json.loads(json.dumps(profile.to_json()))
    assert content["photos"] == 40 and set(content) == {"photos", *MEASURES}
    assert Profile.from_json(content) == profile


def test_a_measure_that_was_not_stored_is_not_checked(profile):
    content = profile.to_json()
    del content["brightness"]
    assert Profile.from_json(content).objections((plate(7) * 0.9).astype(np.uint8)) == ()


def test_no_photos_make_no_profile():
    with pytest.raises(UsageError, match="No photos were given"):
        Profile.of([])
