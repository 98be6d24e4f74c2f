"""Scores to pixels: heatmap, overlay and colour bar, all on the fixed scale 0 … limit … 2x limit.

The scale does not stretch to the image: a good part stays dark, and the same colour is the same distance from the
limit on every part. Maps are (H, W) float, higher = more anomalous, in the unit of the threshold.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from anomaly.errors import UsageError

COLORMAP = "inferno"  # perceptually uniform (Smith & van der Walt 2015): equal steps of score look equal

_OPACITY = 0.6
_COLD = 2 / 3  # of the pixel threshold: up to here the photo is left untouched
_LIGHT, _DARK = (255, 255, 255), (12, 12, 16)


def heatmap(map: np.ndarray, threshold: float) -> np.ndarray:
    """Colour a map: black at 0, the middle of the scale at the threshold, the lightest colour from twice it on.

    Args:
        map: (H, W) float.
        threshold: over 0, in the unit of the map.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the map is not two-dimensional or not finite, or the threshold is not a positive number.
    """
    _check(map, threshold)
    return _colours(np.asarray(map), threshold)


def overlay(image: np.ndarray, map: np.ndarray, threshold: float, *, pixel_threshold: float) -> np.ndarray:
    """Lay the heat over the photo and draw the outline of each defect.

    Below two thirds of `pixel_threshold` the photo is left untouched, so that a good part looks like its photo. From
    there to the threshold the heat fades in, over a photo that loses its colour. The outline runs outside of the
    defect, a light line in a dark one, so that it shows on any ground and hides nothing of the defect.

    Args:
        image: (H, W, 3) uint8 RGB.
        map: (H, W) float, in the frame of the image.
        threshold: limit of the image score, the middle of the colour scale; over 0.
        pixel_threshold: limit of the map, where the outline runs; over 0.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        UsageError: as `heatmap`, or the shapes of image and map differ.
    """
    map = np.asarray(map)
    _check(map, threshold)
    _check(map, pixel_threshold)
    if image.shape != (*map.shape, 3):
        problem = (
            f"the photo has the shape {image.shape} and the map {map.shape}, the same height and width were expected"
        )
        raise UsageError(problem, "Scale the map to the photo")
    shown = image.copy()
    warm = map > _COLD * pixel_threshold
    if warm.any():
        values = map[warm]
        ramp = (values / pixel_threshold - _COLD) / (1 - _COLD)
        ramp = np.clip(ramp, 0, 1).astype(np.float32)[:, None]  # (n, 1)
        opacity = _OPACITY * ramp * ramp * (3 - 2 * ramp)  # smoothstep: no visible edge where the heat begins
        photo = image[warm].astype(np.float32)  # (n, 3)
        gray = photo @ np.float32([[0.299], [0.587], [0.114]])  # ITU-R BT.601
        photo += opacity * (gray - photo)
        photo += opacity * (_colours(values, threshold) - photo)
        shown[warm] = photo + 0.5
    _outline(shown, map >= pixel_threshold)
    return shown


def outlined(image: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The photo with the outline of each defect as in `overlay`, and no heat over it.

    Args:
        image: (H, W, 3) uint8 RGB; found: (H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    shown = image.copy()
    _outline(shown, found)
    return shown


def colorbar(threshold: float, *, height: int = 256) -> np.ndarray:
    """The scale of `heatmap`, upright, with the ticks 0, limit and 2x limit and the score of each.

    Args:
        threshold: the limit, over 0.
        height: pixels, at least 64.

    Returns:
        (height, w, 3) uint8 RGB on white; w depends on the height alone.

    Raises:
        UsageError: the threshold is not a positive number, or the height is under 64.
    """
    _check_threshold(threshold)
    if height < 64:
        raise UsageError(f"the colour bar is {height} pixels high, at least 64 were expected", "Use 256")
    size = min(22, max(11, height // 16))
    font = ImageFont.load_default(size)
    small = ImageFont.load_default(max(10, round(0.85 * size)))
    left, right, top, bottom = size // 2, 2 * size, size, height - size
    middle, tick = (top + bottom) // 2, size // 2
    labels_at = right + tick + size // 3
    width = labels_at + round(small.getlength("0.000e-00")) + left  # the widest number, so that no layout jumps
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    canvas[top:bottom, left:right] = _colours(np.linspace(2, 0, bottom - top), 1.0)[:, None]

    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=(90, 90, 90))
    draw.line((left + 1, middle, right - 2, middle), fill="white", width=max(1, size // 8))
    for label, number, y in (("2x limit", 2 * threshold, top), ("limit", threshold, middle), ("0", None, bottom - 1)):
        draw.line((right, y, right + tick, y), fill=(60, 60, 60), width=max(1, size // 8))
        draw.text((labels_at, y), label, font=font, fill=(20, 20, 20), anchor="lm")
        if number is not None:
            draw.text((labels_at, y + size), f"{number:.3g}", font=small, fill=(110, 110, 110), anchor="lm")
    return np.array(picture)


@functools.cache
def _table() -> np.ndarray:
    """(256, 3) uint8; entry 128 is the threshold."""
    return (colormaps[COLORMAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _colours(values: np.ndarray, threshold: float) -> np.ndarray:
    # A Python float leaves a float32 map float32; x / x is 1 exactly, so the threshold itself meets entry 128.
    return _table()[np.clip(values / float(threshold) * 128, 0, 255).astype(np.uint8)]


def _outline(image: np.ndarray, found: np.ndarray) -> None:
    """Draw, in place, a light line round the found pixels and a dark one round that."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if rows.size == 0:
        return
    width = max(2, round(max(image.shape[:2]) / 400))
    # Only the window round the defects: most parts have none, most defects are small.
    window = tuple(slice(max(0, int(i[0]) - 2 * width), int(i[-1]) + 1 + 2 * width) for i in (rows, columns))
    found = found[window]
    inner = _grow(found, width)
    outer = _grow(inner, width)
    image[window][outer & ~inner] = _DARK
    image[window][inner & ~found] = _LIGHT


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate by about a disc: steps to 4 and to 8 neighbours in turn make an octagon."""
    for step in range(radius):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        across = grown if step % 2 else mask
        wide = grown.copy()
        wide[:, 1:] |= across[:, :-1]
        wide[:, :-1] |= across[:, 1:]
        mask = wide
    return mask


def _check(map: np.ndarray, threshold: float) -> None:
    map = np.asarray(map)
    if map.ndim != 2 or map.size == 0:
        raise UsageError(f"an anomaly map has the shape {map.shape}, (height, width) was expected", "Pass one map")
    if not (math.isfinite(map.min()) and math.isfinite(map.max())):
        raise UsageError(
            "an anomaly map holds NaN or infinite values", "Train the detector again; its weights are broken"
        )
    _check_threshold(threshold)


def _check_threshold(threshold: float) -> None:
    if not (math.isfinite(threshold) and threshold > 0):
        raise UsageError(f"the threshold is {threshold}, a positive number was expected", "Calibrate the category")
