"""A surface to be photographed: relief and material of each pixel, and the shapes that are laid on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def linear(colour: str) -> np.ndarray:
    """Linear RGB (3,) float32 in 0..1 of an sRGB colour "#rrggbb"."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True)
class Surface:
    """Relief and material, drawn in place. Unit coordinates: the image is 1 wide and 1 high, y points down.

    x (1, w), y (h, 1): pixel centres. px: width of a pixel.
    height (h, w): in image widths, towards the camera. albedo (h, w, 3): linear colour, 0..1.
    rough (h, w): 0 mirror .. 1 matt. metal (h, w): 0..1, metals reflect in their own colour and do not scatter.
    coat (h, w): 0..1 clear gloss on top. shell (h, w): relief of a clear shell that the coat follows, where it is
    not the surface itself (the bubble of a blister); NaN-free, used where `shelled` is 1.
    """

    x: np.ndarray
    y: np.ndarray
    px: float
    height: np.ndarray
    albedo: np.ndarray
    rough: np.ndarray
    metal: np.ndarray
    coat: np.ndarray
    shell: np.ndarray
    shelled: np.ndarray

    @classmethod
    def flat(cls, size: int, colour: np.ndarray, *, rough: float, metal: float = 0.0, coat: float = 0.0) -> Surface:
        """A plane of one material; `colour` (3,) or (size, size, 3) linear."""
        centres = ((np.arange(size) + 0.5) / size).astype(np.float32)

        def filled(value: float) -> np.ndarray:
            return np.full((size, size), value, np.float32)

        albedo = np.broadcast_to(np.asarray(colour, np.float32), (size, size, 3)).copy()
        layers = [filled(value) for value in (rough, metal, coat, 0.0, 0.0)]
        return cls(centres[None, :], centres[:, None], 1 / size, filled(0.0), albedo, *layers)

    def copy(self) -> Surface:
        """The same surface in arrays of its own."""
        layers = (self.height, self.albedo, self.rough, self.metal, self.coat, self.shell, self.shelled)
        return Surface(self.x, self.y, self.px, *(layer.copy() for layer in layers))

    def window(self, x: float, y: float, reach: float) -> Surface:
        """The square of half-width `reach` around (x, y) as a view: what is laid on it is laid on this surface."""

        def span(centre: float) -> slice:
            size = round(1 / self.px)
            low, high = round((centre - reach) * size), round((centre + reach) * size) + 1
            return slice(min(max(low, 0), size - 1), max(min(high, size), 1))

        rows, columns = span(y), span(x)
        layers = (self.height, self.albedo, self.rough, self.metal, self.coat, self.shell, self.shelled)
        return Surface(self.x[:, columns], self.y[rows], self.px, *(layer[rows, columns] for layer in layers))

    def inside(self, distance: np.ndarray, *, soft: float = 0.0) -> np.ndarray:
        """Coverage (h, w) 0..1 of a shape given by its signed distance (negative inside), with an antialiased edge."""
        return np.clip(0.5 - distance / (self.px + soft), 0, 1)

    def lay(
        self,
        cover: np.ndarray,
        *,
        colour: np.ndarray | None = None,
        rough: float | np.ndarray | None = None,
        metal: float | None = None,
        coat: float | np.ndarray | None = None,
    ) -> None:
        """Lay a material over the surface where `cover` (h, w) is 1; what is None stays as it was."""
        if colour is not None:
            self.albedo[...] += cover[..., None] * (colour - self.albedo)
        for layer, value in ((self.rough, rough), (self.metal, metal), (self.coat, coat)):
            if value is not None:
                layer[...] += cover * (value - layer)

    def level(self, cover: np.ndarray, height: float | np.ndarray) -> None:
        """Bring the relief to `height` where `cover` is 1."""
        self.height[...] += cover * (height - self.height)

    def blend(self, other: Surface, cover: np.ndarray) -> None:
        """Become `other`, a surface of the same size, where `cover` is 1."""
        for name in ("height", "rough", "metal", "coat", "shell", "shelled"):
            layer = getattr(self, name)
            layer[...] += cover * (getattr(other, name) - layer)
        self.albedo[...] += cover[..., None] * (other.albedo - self.albedo)

    def tint(self, cover: np.ndarray, colour: np.ndarray) -> None:
        """Multiply the colour by `colour` (3,) where `cover` is 1: a transparent film."""
        self.albedo[...] *= 1 + cover[..., None] * (colour - 1)


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth S between them."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a frame turned by `angle` radians."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float, corner: float = 0.0) -> np.ndarray:
    """Signed distance to a rectangle with rounded corners, centred at 0."""
    du, dv = np.abs(u) - half_u + corner, np.abs(v) - half_v + corner
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0) - corner


def hexagon(u: np.ndarray, v: np.ndarray, apothem: float) -> np.ndarray:
    """Distance to the sides of a regular hexagon, centred at 0 (sharp outside its corners too)."""
    sides = [np.abs(u * float(np.cos(a)) + v * float(np.sin(a))) for a in (0, np.pi / 3, 2 * np.pi / 3)]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - apothem


def to_path(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to a polyline `points` (n, 2) as x, y, and how far along it the nearest place is, 0..1."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    ends = np.cumsum(lengths) / lengths.sum()
    nearest = np.full(np.broadcast(x, y).shape, np.inf, np.float32)
    along = np.zeros_like(nearest)
    for (ax, ay), (bx, by), end, length in zip(points[:-1].tolist(), points[1:].tolist(), ends, lengths, strict=True):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-12), 0, 1)
        squared = (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2
        closer = squared < nearest
        nearest = np.where(closer, squared, nearest)
        share = float(length / lengths.sum())
        along = np.where(closer, float(end) - share + t * share, along)
    return np.sqrt(nearest), along
