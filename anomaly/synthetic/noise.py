"""Seeded random textures in unit coordinates, so that a picture keeps its look at every size."""

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy.ndimage import map_coordinates

_SPLINE_SPREAD = 2.1  # a cubic B-spline averages its lattice; this gives the noise a standard deviation near 1 again


@lru_cache(maxsize=64)
def _spline_weights(size: int, cells: int) -> np.ndarray:
    """Cubic B-spline weights (size, cells + 3) that turn a lattice into `size` samples of the unit interval."""
    place = (np.arange(size) + 0.5) / size * cells
    cell = np.floor(place).astype(int)
    t = place - cell
    weights = np.zeros((size, cells + 3), np.float32)
    rows = np.arange(size)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, weight in enumerate(basis):
        weights[rows, cell + offset] = weight / 6
    return weights


def smooth(rng: Generator, size: int, cells: int | tuple[int, int]) -> np.ndarray:
    """Smooth noise (size, size) float32, mean 0, deviation about 1; `cells` features down and across the image."""
    down, across = (cells, cells) if isinstance(cells, int) else cells
    lattice = rng.standard_normal((down + 3, across + 3), np.float32)
    return _SPLINE_SPREAD * (_spline_weights(size, down) @ lattice @ _spline_weights(size, across).T)


def fractal(rng: Generator, size: int, cells: int, *, octaves: int = 4, gain: float = 0.55) -> np.ndarray:
    """Cloud-like noise (size, size) float32, mean 0, deviation about 1; each octave doubles the `cells`."""
    total = np.zeros((size, size), np.float32)
    weights = gain ** np.arange(octaves)
    for octave, weight in enumerate(weights / np.sqrt(np.sum(weights**2))):
        total += np.float32(weight) * smooth(rng, size, cells * 2**octave)
    return total


class Tile:
    """An endless random texture: a lattice of normal numbers, repeated, that can be sampled at any coordinates.

    `lattice` is (rows, columns) for one unit square; few columns and many rows give streaks along u.
    """

    def __init__(self, rng: Generator, rows: int, columns: int):
        self.lattice = rng.standard_normal((rows, columns), np.float32)

    def __call__(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Values float32, mean 0, at the broadcast coordinates u (across) and v (down); period 1 in both."""
        rows, columns = self.lattice.shape
        u, v = np.broadcast_arrays(u, v)
        return map_coordinates(self.lattice, (v * rows, u * columns), order=1, mode="grid-wrap")


def wobble(rng: Generator, angle: np.ndarray, *, lobes: int = 7) -> np.ndarray:
    """Smooth periodic noise of an angle in radians, about -1..1: the ragged outline of a blob."""
    total = np.zeros_like(angle)
    for lobe in range(2, lobes + 1):
        total += rng.normal() / lobe**1.3 * np.cos(lobe * angle + rng.uniform(0, 2 * np.pi))
    return total
