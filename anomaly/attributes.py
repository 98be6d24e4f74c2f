"""What a photo and the defects on it look like, in plain words: what an alarm says beside place and type.

The published two-stage inspection recovers such attributes with an encoder that was taught by hand-written ones
(`embedding`). Nobody writes them for a product that is taught from good photos, so here they are measured.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from anomaly.images import shrink
from anomaly.regions import Region

SIDE = 256  # longest side in pixels at which a texture is looked at
DARK, LIGHT = 85, 170  # gray values between which a ground is called gray
COLOURED = 0.25  # least saturation of a ground that has a colour
HUES = ((12, "red"), (45, "brown"), (70, "yellow"), (165, "green"), (255, "blue"), (330, "purple"), (360, "red"))
EVEN = 5.0  # deviation in gray values: less is no texture
DIRECTED = 0.5  # coherence of the structure tensor (Bigun & Granlund, ICCV 1987), 0 to 1
PERIODIC = 0.2  # share of the power of a texture in its strongest wave and those beside it
WAVES = 6  # along the photo, at least: two or three are the shape of a part and no pattern
FINE = 14  # pixels of the median wave: a longer one is coarse
SAME = 8  # gray values: less difference from what lies around is the same tone
ENDS = (2, 98)  # percentiles that stand for darkest and lightest
TINY, SMALL = 0.002, 0.02  # shares of the photo
LINE = 0.35  # area by the square of the longer side: a disc has 0.79, a line five times as long as wide 0.2
AROUND = 0.5  # of the box on each side: what a region is compared with
SEVERAL = 4  # places; more are scattered


def ground(image: np.ndarray) -> tuple[str, ...]:
    """Tone or colour, and texture, of a photo (H, W, 3) uint8 RGB: ("gray ground", "directed", "fine")."""
    seen = shrink(image, SIDE)
    red, green, blue = np.median(seen.reshape(-1, 3), axis=0) / 255
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    gray = _gray(seen)
    bright = np.median(gray)
    if saturation < COLOURED:
        said = "dark ground" if bright < DARK else "light ground" if bright > LIGHT else "gray ground"
    else:
        colour = next(name for end, name in HUES if 360 * hue <= end)
        said = f"{colour} ground"
        if not DARK <= bright <= LIGHT:
            said = f"dark {colour} ground" if bright < DARK else f"light {colour} ground"
    return (said, *_texture(gray))


def flaw(image: np.ndarray, regions: Sequence[Region], *, scale: float = 1.0) -> tuple[str, ...]:
    """Tone, shape and size of the strongest of the regions, and how they lie: ("darker", "line", "small", "one place").

    Args:
        image: (H, W, 3) uint8 RGB.
        regions: strongest first; without any there is nothing to say.
        scale: pixels of the image for one pixel of the regions.
    """
    if not regions:
        return ()
    first = regions[0]
    share = first.area * scale**2 / (image.shape[0] * image.shape[1])
    size = "tiny" if share < TINY else "small" if share < SMALL else "large"
    shape = "line" if first.area < LINE * max(first.box[2:]) ** 2 else "patch"
    spread = "one place" if len(regions) == 1 else "several places" if len(regions) <= SEVERAL else "scattered"
    return _tone(image, [scale * length for length in first.box]), shape, size, spread


def _gray(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _texture(gray: np.ndarray) -> tuple[str, ...]:
    """Of (h, w) gray values."""
    fine = gray - ndimage.gaussian_filter(gray, max(gray.shape) / 10)
    if fine.std() < EVEN:
        return ("even",)
    rows, columns = (np.hanning(side) for side in fine.shape)
    power = np.abs(np.fft.rfft2(fine * np.outer(rows, columns))) ** 2
    down, across = np.fft.fftfreq(fine.shape[0])[:, None], np.fft.rfftfreq(fine.shape[1])[None]
    frequencies = np.hypot(down, across)
    found = []
    flows = (down**2 - across**2, 2 * down * across, frequencies**2)
    up, aslant, every_way = (float((power * flow).sum()) for flow in flows)
    if np.hypot(up, aslant) > DIRECTED * every_way:
        found.append("directed")
    waves = np.where(frequencies * max(gray.shape) >= WAVES, power, 0)
    # The window spreads a wave over its neighbours.
    if ndimage.uniform_filter(waves, 5, mode="wrap").max() * 25 > PERIODIC * power.sum():
        found.append("periodic")
    order = np.argsort(frequencies, axis=None)
    risen = np.cumsum(power.ravel()[order])
    median = frequencies.ravel()[order][np.searchsorted(risen, risen[-1] / 2)]
    return (*found, "fine" if median * FINE > 1 else "coarse")


def _tone(image: np.ndarray, box: Sequence[float]) -> str:
    """Of what is in the box (x, y, width, height), beside what lies around it."""
    x, y, width, height = (math.ceil(length) for length in (box[0] - 0.5, box[1] - 0.5, *box[2:]))
    down, across = math.ceil(AROUND * height), math.ceil(AROUND * width)
    top, left = max(0, y - down), max(0, x - across)
    window = image[top : y + height + down, left : x + width + across]
    inside = np.zeros(window.shape[:2], bool)
    inside[y - top : y - top + height, x - left : x - left + width] = True
    if inside.all():  # the region is all of the photo
        return "same tone"
    gray = _gray(window)
    # A scratch fills little of its box: what counts is how far its darkest and lightest parts go beyond the others.
    low, high = np.percentile(gray[~inside], ENDS)
    darkest, lightest = np.percentile(gray[inside], ENDS)
    if max(low - darkest, lightest - high) >= SAME:
        return "darker" if low - darkest >= lightest - high else "lighter"
    tints = (window - gray[..., None])[..., ::2]  # red and blue, beyond the gray
    apart = np.abs(tints[inside].mean(0) - tints[~inside].mean(0)).max()
    return "another colour" if apart >= SAME else "same tone"
