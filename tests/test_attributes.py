"""What photos and defects look like in words, against pictures of which it is known."""

import numpy as np
import pytest

from anomaly import attributes, synthetic
from anomaly.gate import Seen
from anomaly.regions import Region, find_regions
from anomaly.synthetic import dagm

PHOTO = (120, 160)  # height, width


def plain(colour=(128, 128, 128)) -> np.ndarray:
    return np.full((*PHOTO, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("colour", "said"),
    [
        ((30, 30, 30), "dark ground"),
        ((128, 130, 126), "gray ground"),
        ((230, 228, 225), "light ground"),
        ((70, 35, 20), "dark brown ground"),
        ((150, 100, 60), "brown ground"),
        ((255, 190, 140), "light brown ground"),
        ((200, 40, 40), "red ground"),
        ((200, 40, 60), "red ground"),  # hues go round
        ((40, 160, 60), "green ground"),
        ((60, 110, 200), "blue ground"),
    ],
)
def test_a_plain_ground_is_named_by_its_colour(colour, said):
    assert attributes.ground(plain(colour)) == (said, "even")


@pytest.mark.parametrize(
    ("texture", "said"),
    [
        ("felt", {"fine"}),
        ("brushed", {"directed", "fine"}),
        ("raster", {"periodic", "fine"}),
    ],
)
def test_textures_are_named_as_they_are_by_hand(texture, said):
    assert said <= set(dagm.TEXTURES[texture].looks)
    for index in range(3):
        gray, _ = dagm.render_texture(texture, defective=False, seed=3, index=index, size=512)
        ground, *found = attributes.ground(np.stack([gray] * 3, axis=2))
        assert (ground, set(found)) == ("gray ground", said)


def test_holes_side_by_side_are_a_pattern():
    photo = synthetic.render_good("perforated_sheet", seed=0, index=0, size=256)
    assert attributes.ground(photo) == ("gray ground", "periodic", "coarse")


def test_a_part_on_a_ground_is_no_pattern():
    photo = synthetic.render_good("hex_nut", seed=0, index=0, size=256)
    assert "periodic" not in attributes.ground(photo)


def painted(rows: slice, columns: slice, colour) -> tuple[np.ndarray, list[Region]]:
    """A gray photo with a spot, and the spot as a region."""
    photo, map = plain(), np.zeros(PHOTO, np.float32)
    photo[rows, columns], map[rows, columns] = colour, 1
    return photo, find_regions(map, 0.5)


@pytest.mark.parametrize(
    ("rows", "columns", "colour", "said"),
    [
        (slice(50, 56), slice(60, 66), (40, 40, 40), ("darker", "patch", "tiny")),
        (slice(50, 53), slice(20, 100), (240, 240, 240), ("lighter", "line", "small")),
        (slice(20, 60), slice(20, 60), (165, 115, 110), ("another colour", "patch", "large")),
        (slice(20, 60), slice(20, 60), (130, 130, 130), ("same tone", "patch", "large")),
        (slice(0, 120), slice(0, 160), (40, 40, 40), ("same tone", "patch", "large")),  # nothing lies around it
        (slice(0, 4), slice(156, 160), (40, 40, 40), ("darker", "patch", "tiny")),  # in a corner
    ],
)
def test_a_defect_is_named_by_what_it_is_beside_its_surroundings(rows, columns, colour, said):
    photo, regions = painted(rows, columns, colour)
    assert attributes.flaw(photo, regions) == (*said, "one place")
    larger = [Region(tuple(4 * length for length in one.box), 16 * one.area, one.peak) for one in regions]
    assert attributes.flaw(photo, larger, scale=0.25) == (*said, "one place")


@pytest.mark.parametrize(("count", "said"), [(1, "one place"), (2, "several places"), (5, "scattered")])
def test_how_defects_lie(count, said):
    region = Region((10, 10, 5, 5), 25, 1.0)
    assert attributes.flaw(plain(), [region] * count)[-1] == said
    assert attributes.flaw(plain(), []) == ()


def test_a_scratch_is_seen_in_a_box_that_it_hardly_fills():
    photo = plain()
    for step in range(40):
        photo[40 + step, 60 + step] = 30
    assert attributes.flaw(photo, [Region((60, 40, 40, 40), 120, 1.0)])[:2] == ("darker", "line")


def test_only_an_unknown_product_is_described():
    seen = Seen("plate", "plate", False, 3.0)
    refusal = seen.refusal(attributes=("gray ground", "even"))
    assert "It looks like this: gray ground · even. Teach the product" in str(refusal)
    named = Seen("plate", "nut", True, 0.5).refusal(attributes=("gray ground", "even"))
    assert named.attributes == () and "It looks like" not in str(named)
