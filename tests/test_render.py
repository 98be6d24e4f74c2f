"""What would make a person see a defect where none is, or miss one that is there."""

import numpy as np
import pytest
from matplotlib import colormaps

from anomaly.errors import UsageError
from anomaly.render import COLORMAP, colorbar, heatmap, overlay


def colour(entry):
    return [round(float(c) * 255) for c in colormaps[COLORMAP](entry)[:3]]


def luminance(image):
    return np.asarray(image, dtype=float) @ (0.2126, 0.7152, 0.0722)


def spot(shape=(60, 80), box=(slice(20, 30), slice(30, 45)), value=1.5, ground=0.1):
    map = np.full(shape, ground, dtype=np.float32)
    map[box] = value
    return map


def test_the_scale_is_anchored_at_the_threshold():
    # entry = floor(map / threshold * 128), clipped to 0..255: 0, 64.6, 128, 192.6, 256, 1152
    for threshold in (0.003, 1.0, 7.1, 1e6):
        map = np.array([[0, 0.505, 1, 1.505, 2, 9]]) * threshold
        expected = [colour(i) for i in (0, 64, 128, 192, 255, 255)]
        assert heatmap(map, threshold).tolist() == [expected]


def test_a_good_part_is_not_stretched_to_look_bad():
    alone = heatmap(np.float32([[0.0, 0.2]]), 1.0)
    beside = heatmap(np.float32([[0.0, 0.2, 5.0]]), 1.0)
    np.testing.assert_array_equal(alone, beside[:, :2])


def test_more_anomalous_is_lighter():
    steps = luminance(heatmap(np.linspace(0, 2, 256, dtype=np.float32)[None], 1.0))[0]
    assert (np.diff(steps) >= -0.5).all()
    assert steps[0] < 5
    assert steps[-1] > 230


def test_the_photo_of_a_good_part_is_untouched():
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    shown = overlay(photo, np.full((40, 50), 0.66, dtype=np.float32), 1.0, pixel_threshold=1.0)
    np.testing.assert_array_equal(shown, photo)
    shown[:] = 0
    assert photo.any()  # the photo itself was not painted on


def test_heat_fades_in_without_an_edge():
    photo = np.full((1, 400, 3), 200, dtype=np.uint8)
    ramp = np.linspace(0.5, 0.999, 400, dtype=np.float32)[None]
    steps = np.abs(np.diff(overlay(photo, ramp, 1.0, pixel_threshold=1.0).astype(int), axis=1))
    assert 0 < steps.max() <= 4


def test_inside_a_defect_the_photo_shines_through_the_heat():
    photo = np.zeros((60, 80, 3), dtype=np.uint8)
    photo[:, 38:] = 255
    shown = overlay(photo, spot(), 1.0, pixel_threshold=1.0).astype(int)
    # opacity 0.6 over black and over white: 0.6 * heat and 0.6 * heat + 0.4 * 255
    heat = np.array(colour(192))
    assert np.abs(shown[25, 33] - 0.6 * heat).max() <= 1
    assert np.abs(shown[25, 42] - (0.6 * heat + 102)).max() <= 1


def test_under_the_heat_the_photo_loses_its_colour():
    photo = np.full((60, 80, 3), (250, 0, 0), dtype=np.uint8)
    # gray of (250, 0, 0) is 0.299 * 250 = 75; opacity 0.6: 0.4 * 250 + 0.6 * 75 = 145 red, 0.6 * 75 = 45 green
    # then 0.4 * (145, 45, 45) + 0.6 * heat
    expected = 0.4 * np.array([144.85, 44.85, 44.85]) + 0.6 * np.array(colour(192))
    shown = overlay(photo, spot(), 1.0, pixel_threshold=1.0)[25, 37]
    assert np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize("ground", [0, 40, 128, 215, 255])
def test_the_outline_shows_on_any_ground(ground):
    photo = np.full((60, 80, 3), ground, dtype=np.uint8)
    map = spot()
    shown = overlay(photo, map, 1.0, pixel_threshold=1.0)
    column = luminance(shown[:, 37])  # down through the middle of the defect, rows 20..29
    np.testing.assert_allclose(column[18:20], 255, atol=1)  # the light line, 2 pixels
    assert (column[16:18] < 20).all()  # the dark line round it
    assert (shown[:16, 37] == ground).all()
    assert np.ptp(column[14:20]) > 230


def test_the_outline_hides_nothing_of_the_defect():
    photo = np.full((60, 80, 3), 90, dtype=np.uint8)
    map = spot()
    inside = overlay(photo, map, 1.0, pixel_threshold=1.0)[map >= 1]
    assert len(np.unique(inside, axis=0)) == 1


def test_the_outline_follows_the_pixel_threshold_and_the_colour_the_threshold():
    photo = np.full((60, 80, 3), 90, dtype=np.uint8)
    low = overlay(photo, spot(), 1.0, pixel_threshold=1.0)
    assert (low[18:20, 37] == 255).all()
    high = overlay(photo, spot(), 1.0, pixel_threshold=1.6)
    assert not (high == 255).any()
    assert (overlay(photo, spot(), 3.0, pixel_threshold=1.0)[25, 37] != low[25, 37]).any()


def test_a_defect_at_the_border_or_over_everything_is_drawn():
    photo = np.full((30, 40, 3), 90, dtype=np.uint8)
    corner = overlay(photo, spot((30, 40), (slice(0, 5), slice(0, 5))), 1.0, pixel_threshold=1.0)
    assert (corner[5:7, 0] == 255).all()
    assert (corner[0, 5:7] == 255).all()
    everywhere = overlay(photo, np.full((30, 40), 2.0), 1.0, pixel_threshold=1.0)
    assert (everywhere != 90).any(axis=2).all()


def test_one_pixel_images_are_drawn():
    photo = np.full((1, 1, 3), 90, dtype=np.uint8)
    assert overlay(photo, np.ones((1, 1)), 1.0, pixel_threshold=1.0).shape == (1, 1, 3)
    assert heatmap(np.ones((1, 7)), 1.0).shape == (1, 7, 3)


def test_the_colour_bar_shows_the_scale_of_the_heatmap():
    bar = colorbar(3.5, height=256)
    assert bar.shape[0] == 256
    assert bar.dtype == np.uint8
    column = bar[:, 20]  # size 16: the bar spans x 8..31, y 16..239
    assert np.abs(column[17].astype(int) - colour(254)).max() <= 8
    assert np.abs(column[72].astype(int) - colour(192)).max() <= 4  # a quarter down: 1.5 times the limit
    assert np.abs(column[238].astype(int) - colour(1)).max() <= 8
    assert (column[128] == 255).all()  # the limit is marked in the bar


def test_each_tick_has_a_label_in_strong_contrast():
    bar = colorbar(3.5, height=256)
    beside = luminance(bar[:, 46:])  # right of the ticks
    for y in (16, 128, 239):
        assert beside[y - 8 : y + 8].min() < 60
    assert (beside[45:115] > 250).all()
    assert (beside[160:225] > 250).all()


def test_the_colour_bar_names_the_score_but_keeps_its_size():
    bars = [colorbar(t) for t in (0.0000123, 3.4, 3.5, 98765.0)]
    assert len({bar.shape for bar in bars}) == 1
    assert (bars[1] != bars[2]).any()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_without_a_scale_is_refused(bad):
    photo = np.zeros((2, 2, 3), dtype=np.uint8)
    for draw in (
        lambda: heatmap(np.ones((2, 2)), bad),
        lambda: overlay(photo, np.ones((2, 2)), bad, pixel_threshold=1.0),
        lambda: overlay(photo, np.ones((2, 2)), 1.0, pixel_threshold=bad),
        lambda: colorbar(bad),
    ):
        with pytest.raises(UsageError, match="positive"):
            draw()


def test_a_broken_or_foreign_map_is_refused():
    with pytest.raises(UsageError, match="NaN"):
        heatmap(np.array([[np.nan, 1.0]]), 1.0)
    with pytest.raises(UsageError, match="Scale the map"):
        overlay(np.zeros((4, 5, 3), dtype=np.uint8), np.zeros((5, 4)), 1.0, pixel_threshold=1.0)
    with pytest.raises(UsageError, match="at least 64"):
        colorbar(1.0, height=20)
