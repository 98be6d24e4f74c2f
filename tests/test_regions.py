"""What would let a defect be lost, doubled, or marked in the wrong place."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from anomaly.errors import UsageError
from anomaly.regions import Region, find_regions


def test_two_defects_by_falling_peak():
    map = np.zeros((6, 8), dtype=np.float32)
    map[1, 1:4] = (2, 3, 2)  # x 1..3, y 1: box (1, 1, 3, 1), area 3, peak 3
    map[3:5, 6] = (5, 4)  # x 6, y 3..4: box (6, 3, 1, 2), area 2, peak 5
    assert find_regions(map, 2.0) == [
        Region(box=(6, 3, 1, 2), area=2, peak=5.0),
        Region(box=(1, 1, 3, 1), area=3, peak=3.0),
    ]


def test_the_threshold_itself_belongs_to_the_defect():
    map = np.array([[1.0, 2.0, np.nextafter(2.0, 0)]])
    assert find_regions(map, 2.0) == [Region(box=(1, 0, 1, 1), area=1, peak=2.0)]
    assert find_regions(map, 2.5) == []


def test_a_diagonal_scratch_is_one_defect():
    assert find_regions(np.eye(5), 1.0) == [Region(box=(0, 0, 5, 5), area=5, peak=1.0)]


def test_box_and_area_are_in_pixels_of_the_original():
    map = np.zeros((4, 4))
    map[1:3, 2] = 7
    # sx = 2.5: x from 5 to 7.5, so 5..8; sy = 3: y from 3 to 9; area 2 * 2.5 * 3 = 15
    assert find_regions(map, 5, scale=(2.5, 3.0)) == [Region(box=(5, 3, 3, 6), area=15, peak=7.0)]


def test_small_areas_are_counted_in_pixels_of_the_original():
    map = np.zeros((4, 4))
    map[0, 0] = map[2, 2:] = 1
    assert [r.area for r in find_regions(map, 1, min_area=2)] == [2]
    assert [r.area for r in find_regions(map, 1, min_area=4, scale=(2.0, 2.0))] == [8, 4]
    assert find_regions(map, 1, min_area=9, scale=(2.0, 2.0)) == []


# 49 * (53 / 49) and 7 * (58 / 7) are a hair over 53 and 58 in floats
@pytest.mark.parametrize(("original", "size"), [(53, 49), (58, 7), (1024, 341), (77, 255), (5000, 3)])
def test_rounding_never_reaches_out_of_the_photo(original, size):
    region = find_regions(np.ones((size, size)), 1, scale=(original / size, original / size))[0]
    assert region.box == (0, 0, original, original)
    assert region.area == original**2


def test_rounding_never_reaches_one_pixel_too_far_left():
    map = np.zeros((49, 49))
    map[0, 21] = 1
    # 21 * 119 / 49 = 51, in floats 50.99999999999999; to 22 * 119 / 49 = 53.4
    assert find_regions(map, 1, scale=(119 / 49, 1.0))[0].box == (51, 0, 3, 1)


def test_equal_peaks_come_in_one_fixed_order():
    map = np.zeros((5, 5))
    map[0, 4] = map[0, 0] = map[4, 0:2] = 1
    assert [r.box for r in find_regions(map, 1)] == [(0, 4, 2, 1), (0, 0, 1, 1), (4, 0, 1, 1)]


def test_json_holds_plain_numbers():
    region = find_regions(np.float32([[0, 3]]), 1)[0]
    assert json.loads(json.dumps(region.to_json())) == {"box": [1, 0, 1, 1], "area": 1, "peak": 3.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_map_never_passes_as_free_of_defects(bad):
    map = np.zeros((3, 3))
    map[1, 1] = bad
    with pytest.raises(UsageError, match="NaN or infinite"):
        find_regions(map, 1)


def test_arguments_that_would_hide_defects_are_refused():
    with pytest.raises(UsageError, match="finite"):
        find_regions(np.ones((3, 3)), float("nan"))
    with pytest.raises(UsageError, match="shape"):
        find_regions(np.ones((3, 3, 1)), 1)
    with pytest.raises(UsageError, match="scale"):
        find_regions(np.ones((3, 3)), 1, scale=(0.0, 1.0))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4)))
def test_every_pixel_over_the_threshold_lies_in_exactly_one_region(map):
    regions = find_regions(map, 3)
    labels, count = ndimage.label(map >= 3, structure=np.ones((3, 3)))
    assert len(regions) == count
    assert sum(r.area for r in regions) == np.sum(map >= 3)
    expected = sorted((float(map[labels == i].max()) for i in range(1, count + 1)), reverse=True)
    assert [r.peak for r in regions] == expected
    for r in regions:
        x, y, w, h = r.box
        assert map[y : y + h, x : x + w].max() >= r.peak
