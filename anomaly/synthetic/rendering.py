"""Renders one photo of a toy product, good or defective with its exact mask, the same for the same arguments."""

from zlib import crc32

import numpy as np
from numpy.random import Generator
from scipy.ndimage import binary_closing, gaussian_filter, label

from anomaly.errors import UnknownName, UsageError
from anomaly.synthetic.photo import Camera, Light, expose, photograph
from anomaly.synthetic.product import Product
from anomaly.synthetic.products import PRODUCTS
from anomaly.synthetic.surface import Surface

MIN_SIZE, MAX_SIZE = 64, 1024
OVERSAMPLED_UP_TO = 320  # small photos are drawn twice as fine and averaged, large ones have pixels enough
VISIBLE = 9 / 255  # a change of the displayed photo below this drowns in sensor noise
SMALLEST, LARGEST = 0.0006, 0.12  # share of the picture that a defect may cover
PLAINEST = 30 / 255  # the strongest tenth of a defect differs at least this much, so that an attentive person finds it
_ATTEMPTS = 24


def product(name: str) -> Product:
    """The product of that name, or UnknownName."""
    if name not in PRODUCTS:
        raise UnknownName(f"There is no toy product {name!r}", f"Choose one of {', '.join(PRODUCTS)}")
    return PRODUCTS[name]


def render_good(name: str, *, seed: int, index: int, size: int) -> np.ndarray:
    """Photo (size, size, 3) uint8 RGB of good part number `index`; another index or seed is another part."""
    check_request(size=size, index=index, seed=seed)
    shot = Shot(product(name), "good", seed=seed, index=index, size=size)
    return shot.develop(shot.photo(shot.good))


def render_defect(name: str, defect: str, *, seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Photo (size, size, 3) uint8 RGB of a defective part and the mask (size, size) bool of what the defect changed.

    The part is photographed twice under the same light, without and with the defect, before sensor noise:
    the mask is where the two photos differ visibly.
    """
    check_request(size=size, index=index, seed=seed)
    item = product(name)
    if defect not in item.defects:
        raise UnknownName(f"{name} has no defect {defect!r}", f"Choose one of {', '.join(item.defects)}")
    shot = Shot(item, defect, seed=seed, index=index, size=size)
    without = shot.photo(shot.good)
    plainest, photo, mask = 0.0, without, np.zeros((size, size), bool)
    for attempt in range(_ATTEMPTS):  # a scratch may fall into a shadow, a stain beside the part: draw another one
        candidate = shot.photo(shot.spoilt(defect, attempt))
        changed, plain = _visible_change(without, candidate)
        if plain > plainest and SMALLEST <= changed.mean() <= LARGEST:
            plainest, photo, mask = plain, candidate, changed
        if plainest >= PLAINEST:
            break
    assert mask.any(), f"{name}/{defect} (seed {seed}, index {index}, size {size}) is never visible: fix its drawing"
    return shot.develop(photo), mask


class Shot:
    """One part under one light before one camera; every random number comes from the arguments.

    good: the part without a defect, drawn finer than the photo where the photo is small.
    """

    def __init__(self, item: Product, kind: str, *, seed: int, index: int, size: int):
        self._key = (crc32(item.name.encode()), crc32(kind.encode()), seed, index)
        self._size, self._fine = size, size * (2 if size <= OVERSAMPLED_UP_TO else 1)
        self._item = item
        self._light, self._camera = Light.drawn(self._rng(1)), Camera.drawn(self._rng(2))
        self._plan = item.plan(self._rng(0))
        self.good = item.draw(self._plan, self._fine)

    def _rng(self, *stream: int) -> Generator:
        return np.random.default_rng((*self._key, *stream))

    def spoilt(self, defect: str, attempt: int) -> Surface:
        """The same part with the defect; another attempt draws another one."""
        rng = self._rng(4, attempt)
        if defect in self._item.assembly:
            return self._item.draw(self._item.assembly[defect](self._plan, rng), self._fine)
        surface = self.good.copy()
        self._item.damage[defect](surface, self._plan, rng)
        return surface

    def photo(self, surface: Surface) -> np.ndarray:
        """Noiseless (size, size, 3) float32, 0..1."""
        return photograph(surface, self._light, self._camera, self._size)

    def develop(self, photo: np.ndarray) -> np.ndarray:
        """(size, size, 3) uint8 with the noise of this shot."""
        return expose(photo, self._camera, self._rng(3))


def _visible_change(without: np.ndarray, photo: np.ndarray) -> tuple[np.ndarray, float]:
    """Mask (h, w) bool of the visible difference of two photos, and how strong it is where it is strongest.

    The difference is smoothed by about a pixel, because the eye sees no lone pixel; specks far smaller than the
    defect, where a reflection just passes the limit, are no part of it. Where the difference passes through zero
    between brighter and darker, as in the middle of a dent, the narrow seam is closed.
    """
    difference = np.abs(photo - without).max(axis=2)
    blur = max(0.6, 0.6 * len(photo) / 256)
    difference = gaussian_filter(difference, blur)
    areas, count = label(difference > VISIBLE, structure=np.ones((3, 3)))
    if count == 0:
        return areas > 0, 0.0
    sizes = np.bincount(areas.ravel())
    sizes[0] = 0
    keep = sizes >= max(0.02 * sizes.max(), 0.0001 * areas.size)
    mask = keep[areas]
    mask |= binary_closing(mask, iterations=max(round(len(photo) / 128), 1))
    return mask, float(np.quantile(difference[mask], 0.9)) if mask.any() else 0.0


def check_request(*, size: int, index: int, seed: int) -> None:
    """Refuse with UsageError what cannot be drawn."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"The size is {size} pixels, expected {MIN_SIZE} to {MAX_SIZE}", "Pass a size in that range")
    if index < 0 or seed < 0:
        raise UsageError(f"Index {index} or seed {seed} is negative", "Pass zero or more")
