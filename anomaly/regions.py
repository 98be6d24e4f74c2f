"""Anomaly map to defects: the connected areas over a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from anomaly.errors import UsageError

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Region:
    """A connected area of the map at or over the threshold.

    Attributes:
        box: (x, y, width, height) in pixels of the original image, (x, y) the upper left corner.
        area: pixels of the original image.
        peak: the highest value of the map inside, in the unit of the map.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float

    def to_json(self) -> dict:
        return {"box": list(self.box), "area": self.area, "peak": self.peak}


def find_regions(
    map: np.ndarray, threshold: float, *, min_area: int = 1, scale: tuple[float, float] = (1.0, 1.0)
) -> list[Region]:
    """The connected areas (8 neighbours) where `map >= threshold`.

    Args:
        map: (H, W) float, higher = more anomalous.
        threshold: in the unit of the map.
        min_area: smaller areas are left out; pixels of the original image.
        scale: (sx, sy), pixels of the original image for one pixel of the map, along x and along y.

    Returns:
        The regions by falling peak; equal peaks by falling area, then from top to bottom. A box covers every original
        pixel that its map pixels touch.

    Raises:
        UsageError: the map is not two-dimensional, a value is not finite, or a scale is not positive.
    """
    map = np.asarray(map)
    _check(map, threshold, scale)
    over = map >= threshold
    rows, columns = np.flatnonzero(over.any(axis=1)), np.flatnonzero(over.any(axis=0))
    if rows.size == 0:
        return []
    # Defects are small: label only the window that holds them all.
    top, left = int(rows[0]), int(columns[0])
    window = (slice(top, int(rows[-1]) + 1), slice(left, int(columns[-1]) + 1))
    labels, count = ndimage.label(over[window], structure=_EIGHT_NEIGHBOURS)
    counts = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    peaks = ndimage.maximum(map[window], labels, index=np.arange(1, count + 1))
    regions = []
    for (ys, xs), pixels, peak in zip(ndimage.find_objects(labels), counts, peaks, strict=True):
        x, width = _to_original(xs.start + left, xs.stop + left, scale[0])
        y, height = _to_original(ys.start + top, ys.stop + top, scale[1])
        area = max(1, round(int(pixels) * scale[0] * scale[1]))
        regions.append(Region(box=(x, y, width, height), area=area, peak=float(peak)))
    kept = [region for region in regions if region.area >= min_area]
    return sorted(kept, key=lambda region: (-region.peak, -region.area, region.box[1], region.box[0]))


def _check(map: np.ndarray, threshold: float, scale: tuple[float, float]) -> None:
    if map.ndim != 2 or map.size == 0:
        raise UsageError(f"an anomaly map has the shape {map.shape}, (height, width) was expected", "Pass one map")
    # NaN spreads to the minimum and the maximum, so that two numbers tell of every pixel.
    if not (math.isfinite(map.min()) and math.isfinite(map.max())):
        raise UsageError(
            "an anomaly map holds NaN or infinite values", "Train the detector again; its weights are broken"
        )
    if not math.isfinite(threshold):
        raise UsageError(f"the pixel threshold is {threshold}, a finite number was expected", "Calibrate the category")
    if not all(math.isfinite(s) and s > 0 for s in scale):
        raise UsageError(
            f"the scale is {scale}, two positive numbers were expected", "Divide original size by map size"
        )


def _to_original(start: int, stop: int, scale: float) -> tuple[int, int]:
    """Origin and length in original pixels of [start, stop) in map pixels."""
    # Rounded first, so that 3 * (1024 / 3) = 1024.0000000000001 does not reach one pixel out of the image.
    low = math.floor(round(start * scale, 6))
    high = math.ceil(round(stop * scale, 6))
    return low, max(1, high - low)
