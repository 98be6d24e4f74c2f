"""Damage and dirt that any surface can carry. Each function draws on a surface in place, in unit coordinates."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from anomaly.synthetic.noise import fractal, wobble
from anomaly.synthetic.surface import Surface, linear, smoothstep, to_path, turned

DIRT = tuple(linear(c) for c in ("#2a2420", "#5b4632", "#7a1f1a", "#d9d2c0", "#1d3a5f"))
LIQUIDS = tuple(linear(c) for c in ("#8a6a3c", "#6b4a2e", "#55606a", "#9c7a52"))


def any_of(rng: Generator, colours: tuple) -> np.ndarray:
    """One of the colours."""
    return colours[rng.integers(len(colours))]


def somewhere(rng: Generator, margin: float = 0.16) -> tuple[float, float]:
    """A place x, y at least `margin` from the image's edge."""
    return tuple(rng.uniform(margin, 1 - margin, 2).tolist())


def stroke(rng: Generator, x: float, y: float, length: float, *, angle: float | None = None, bend: float = 0.5):
    """A hand-drawn line (n, 2) through (x, y): a gentle arc with a little tremor."""
    heading = rng.uniform(0, np.pi) if angle is None else angle
    t = np.linspace(-0.5, 0.5, 14)
    turn = heading + rng.normal(0, bend) * t + 0.12 * np.cumsum(rng.normal(0, 0.4, t.size))
    step = length / (t.size - 1)
    points = np.cumsum(step * np.column_stack([np.cos(turn), np.sin(turn)]), axis=0)
    return points - points.mean(axis=0) + (x, y)


def ragged(rng: Generator, surface: Surface, x: float, y: float, radius: float, *, rough: float, stretch: float = 1.0):
    """Signed distance (h, w) to a blob of uneven outline; `rough` 0 is a disk, 0.5 is torn."""
    u, v = turned(surface.x - x, surface.y - y, rng.uniform(0, np.pi))
    u, v = u / stretch, v * stretch
    return np.hypot(u, v) - radius * (1 + rough * wobble(rng, np.arctan2(v, u)))


def scratch(surface: Surface, points: np.ndarray, rng: Generator, *, width: float, bare: np.ndarray, metal: float):
    """A groove with raised lips that tapers off and skips, and shows the `bare` (3,) material below."""
    distance, along = to_path(surface.x, surface.y, points)
    skips = np.interp(along, np.linspace(0, 1, 9), np.clip(rng.normal(1.0, 0.3, 9), 0.35, 1.4))
    half = 0.5 * width * (skips * np.minimum(1, 8 * np.minimum(along, 1 - along))).astype(np.float32)
    cut = surface.inside(distance - half)
    surface.lay(cut * np.minimum(1, half / (0.25 * width)), colour=bare, metal=metal, rough=0.35, coat=0.0)
    lip = np.exp(-(((distance - 1.3 * half) / (0.5 * width)) ** 2)) * (half > 0.1 * width)
    surface.height[...] += 0.35 * width * lip - 0.7 * width * cut


def dent(surface: Surface, x: float, y: float, radius: float, rng: Generator, *, depth: float):
    """A dimple, longer one way, with a low rim around it. depth in image widths; negative is a bump."""
    u, v = turned(surface.x - x, surface.y - y, rng.uniform(0, np.pi))
    stretch = rng.uniform(0.8, 1.25)
    r = np.hypot(u * stretch, v / stretch) / radius
    fade = np.exp(-((r / 0.62) ** 4) * 0.6 - r * r)
    surface.height[...] -= depth * (fade - 0.22 * np.exp(-(((r - 1.15) / 0.28) ** 2)))


def stain(surface: Surface, x: float, y: float, radius: float, rng: Generator, *, colour: np.ndarray, strength: float):
    """A dried liquid: a transparent film with a cloudy inside and a darker rim where it dried last."""
    cloud = fractal(rng, round(1 / surface.px), 5)
    edge = ragged(rng, surface, x, y, radius, rough=0.3, stretch=rng.uniform(0.8, 1.25)) + 0.13 * radius * cloud
    body = smoothstep(0.12 * radius, -0.12 * radius, edge)
    rim = np.exp(-(((edge + 0.1 * radius) / (0.12 * radius)) ** 2))
    surface.tint(strength * np.clip(body * (0.75 + 0.12 * cloud) + 0.35 * rim, 0, 1.2), colour)
    surface.rough[...] += body * (0.25 * strength) * (1 - surface.rough)


def crack(surface: Surface, x: float, y: float, length: float, rng: Generator, *, width: float, angle=None):
    """A branching fracture: thin, jagged and dark, narrower towards its tip."""
    heading = rng.uniform(0, 2 * np.pi) if angle is None else angle
    start = np.array([x, y]) - 0.5 * length * np.array([np.cos(heading), np.sin(heading)])
    trunk = _jagged(rng, start, heading, length)
    limbs = [(trunk, 1.0)]
    for _ in range(rng.integers(0, 3)):
        fork = trunk[rng.integers(3, len(trunk) - 3)]
        aside = heading + rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
        limbs.append((_jagged(rng, fork, aside, 0.4 * length), 0.7))
    for points, share in limbs:
        distance, along = to_path(surface.x, surface.y, points)
        half = (0.5 * width * share * (0.25 + 0.75 * np.sqrt(np.clip(1 - along, 0, 1)))).astype(np.float32)
        gap = surface.inside(distance - half, soft=0.4 * width)
        surface.tint(gap, np.full(3, 0.12, np.float32))
        surface.lay(gap, rough=1.0, coat=0.0)
        surface.height[...] -= 1.2 * width * gap


def _jagged(rng: Generator, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    """A crack's line (n, 2): straight bits with sudden small turns."""
    steps = 11
    turns = heading + np.clip(rng.normal(0, 0.38, steps), -0.8, 0.8)
    lengths = length / steps * rng.uniform(0.5, 1.5, steps)
    moves = np.column_stack([np.cos(turns), np.sin(turns)]) * lengths[:, None]
    return np.vstack([start, start + np.cumsum(moves, axis=0)])


def crumb(surface: Surface, x: float, y: float, radius: float, rng: Generator, *, colour: np.ndarray):
    """A foreign particle that lies on the surface: irregular, rounded, with its own shadow."""
    edge = ragged(rng, surface, x, y, radius, rough=0.45, stretch=rng.uniform(0.75, 1.3))
    cover = surface.inside(edge)
    lumps = 0.15 * fractal(rng, round(1 / surface.px), 24, octaves=2)
    bulge = radius * np.sqrt(np.clip(-edge / radius, 0, 1)) * (0.9 + lumps)
    surface.lay(cover, colour=colour, rough=0.6, metal=0.0, coat=0.0)
    surface.height[...] += cover * bulge


def fibre(surface: Surface, x: float, y: float, length: float, rng: Generator, *, colour: np.ndarray, width: float):
    """A hair or thread that fell on the surface."""
    points = stroke(rng, x, y, length, bend=1.7)
    distance, _ = to_path(surface.x, surface.y, points)
    cover = surface.inside(distance - width / 2)
    surface.lay(cover, colour=colour, rough=0.6, metal=0.0, coat=0.0)
    surface.height[...] += width * np.sqrt(np.clip(1 - (distance / width) ** 2, 0, 1))


def debris(surface: Surface, x: float, y: float, rng: Generator, *, scale: float = 1.0):
    """Contamination of either kind: a fibre, or a crumb with a few smaller ones. `scale` 1 fits a bare sheet."""
    colour = any_of(rng, DIRT)
    if rng.random() < 0.4:
        length, width = scale * rng.uniform(0.14, 0.3), scale * rng.uniform(0.007, 0.010)
        fibre(surface, x, y, length, rng, colour=colour, width=width)
        return
    crumb(surface, x, y, scale * rng.uniform(0.016, 0.03), rng, colour=colour)
    for _ in range(rng.integers(0, 4)):
        dx, dy = rng.normal(0, 0.04 * scale, 2)
        crumb(surface, x + dx, y + dy, scale * rng.uniform(0.006, 0.012), rng, colour=colour)


def fissure(surface: Surface, points: np.ndarray, rng: Generator, *, width: float, depth: float, colour: np.ndarray):
    """A gaping split along a line: widest in the middle, closed at both ends, dark inside."""
    distance, along = to_path(surface.x, surface.y, points)
    gape = np.interp(along, np.linspace(0, 1, 12), rng.uniform(0.65, 1.15, 12)).astype(np.float32)
    half = 0.5 * width * gape * np.sqrt(np.clip(4 * along * (1 - along), 0, 1))
    gap = surface.inside(distance - half)
    surface.lay(gap, colour=colour, rough=1.0, metal=0.0, coat=0.0)
    surface.level(gap, surface.height - depth)


def lay_yarn(surface: Surface, points: np.ndarray, *, colour: np.ndarray, width: float):
    """A twisted yarn that lies on the surface."""
    distance, along = to_path(surface.x, surface.y, points)
    length = float(np.hypot(*np.diff(points, axis=0).T).sum())
    twist = 0.9 + 0.14 * np.sin(2 * np.pi * along * length / (1.4 * width))
    cover = surface.inside(distance - 0.5 * width)
    surface.lay(cover, colour=colour * twist[..., None], rough=0.95, metal=0.0, coat=0.0)
    surface.height[...] += 0.8 * width * np.sqrt(np.clip(1 - (2 * distance / width) ** 2, 0, 1))


def wire(surface: Surface, points: np.ndarray, *, width: float, colour: np.ndarray):
    """A bright round strand of metal: swarf, a clipped lead."""
    distance, _ = to_path(surface.x, surface.y, points)
    cover = surface.inside(distance - 0.5 * width)
    surface.lay(cover, colour=colour, rough=0.3, metal=1.0, coat=0.0)
    surface.level(cover, surface.height + 0.02 + 0.5 * np.sqrt(np.clip((width / 2) ** 2 - distance**2, 0, None)))
