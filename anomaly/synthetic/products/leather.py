"""A hide of pebbled leather, dyed brown."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.spatial import cKDTree

from anomaly.synthetic import marks
from anomaly.synthetic.noise import Tile, fractal, smooth
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, linear, smoothstep, to_path, turned

HIDE, RAW, THREAD = linear("#8a5233"), linear("#c9a583"), linear("#1a1512")
DYES = tuple(linear(c) for c in ("#3d4f8a", "#2f6b4a", "#b98a2f", "#23201e", "#a33a2c"))


@dataclass(frozen=True)
class Plan:
    seed: int
    angle: float
    grain: float  # pebbles over the picture
    stretch: float  # how much longer than wide they are
    tone: np.ndarray  # (3,) reflectance of this hide


def plan(rng: Generator) -> Plan:
    tone = HIDE * rng.uniform(0.85, 1.12) * (1 + rng.normal(0, 0.02, 3))
    angle, grain, stretch = rng.normal(0, 0.25), rng.uniform(30, 36), rng.uniform(1.0, 1.25)
    return Plan(int(rng.integers(2**31)), angle, grain, stretch, tone.astype(np.float32))


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, plan.tone, rough=0.5, coat=0.12)
    u, v = turned(surface.x - 0.5, surface.y - 0.5, plan.angle)
    u = (u + 0.012 * smooth(rng, size, 5)) * plan.grain / plan.stretch
    v = (v + 0.012 * smooth(rng, size, 5)) * plan.grain
    near, cell = _pebbles(rng, u, v, reach=plan.grain)
    groove = np.exp(-((near / 0.16) ** 2))
    pore = np.clip(Tile(rng, 210, 210)(surface.x, surface.y) - 2.6, 0, 1)
    surface.height[...] = (0.16 * np.sqrt(np.clip(near, 0, 0.7)) - 0.05 * pore) / plan.grain
    surface.height[...] += 0.0045 * smooth(rng, size, 3)
    shade = 1 - 0.42 * groove - 0.3 * pore + 0.05 * cell + 0.04 * fractal(rng, size, 5)
    surface.albedo[...] *= np.clip(shade, 0.2, 1.4)[..., None]
    surface.rough[...] += 0.2 * groove + 0.04 * fractal(rng, size, 6)
    return surface


def _pebbles(rng: Generator, u: np.ndarray, v: np.ndarray, *, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """How far (h, w) each place is from the next groove, in pebbles, and a random number of its pebble.

    The pebbles are the cells of a jittered grid of points (Worley, SIGGRAPH 1996).
    """
    steps = np.arange(-int(reach), int(reach) + 1)
    points = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2) + rng.uniform(-0.42, 0.42, (len(steps) ** 2, 2))
    places = np.stack(np.broadcast_arrays(u, v), -1)
    distance, nearest = cKDTree(points).query(places, k=2)
    tones = rng.standard_normal(len(points)).astype(np.float32)
    return (distance[..., 1] - distance[..., 0]).astype(np.float32), tones[nearest[..., 0]]


def cut(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A slit by a knife: dark inside, pale raw hide along its lips."""
    points = marks.stroke(rng, *marks.somewhere(rng, 0.25), rng.uniform(0.14, 0.3), bend=0.3)
    width = rng.uniform(0.014, 0.024)
    marks.scratch(surface, points, rng, width=2.2 * width, bare=RAW, metal=0.0)
    marks.fissure(surface, points, rng, width=width, depth=0.012, colour=THREAD)


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    """The finish is scraped off and the raw hide shows."""
    for _ in range(rng.integers(1, 3)):
        points = marks.stroke(rng, *marks.somewhere(rng, 0.25), rng.uniform(0.18, 0.4))
        marks.scratch(surface, points, rng, width=rng.uniform(0.009, 0.016), bare=RAW, metal=0.0)


def fold(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A crease pressed in: a long soft valley between two ridges, its grain flattened and worn lighter."""
    points = marks.stroke(rng, *marks.somewhere(rng, 0.3), rng.uniform(0.3, 0.55), bend=0.9)
    half = rng.uniform(0.012, 0.02)
    from_line, along = to_path(surface.x, surface.y, points)
    ends = smoothstep(0, 0.2, np.minimum(along, 1 - along))
    valley = np.exp(-((from_line / half) ** 2)) * ends
    ridges = np.exp(-(((from_line - 1.9 * half) / half) ** 2)) * ends
    surface.height[...] += half * (0.55 * ridges - 0.8 * valley)
    surface.albedo[...] += (0.35 * ridges * ends)[..., None] * (RAW * 0.9 - surface.albedo)
    surface.tint(0.6 * valley, np.full(3, 0.35, np.float32))


def hole(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Punched or bitten through to the dark table."""
    for _ in range(rng.integers(1, 4)):
        x, y = marks.somewhere(rng, 0.2)
        edge = marks.ragged(rng, surface, x, y, rng.uniform(0.014, 0.028), rough=0.22)
        surface.lay(surface.inside(edge - 0.006), colour=RAW * 0.8, rough=0.9, coat=0.0)
        inside = surface.inside(edge)
        surface.lay(inside, colour=THREAD, rough=1.0, coat=0.0)
        surface.level(inside, surface.height - 0.02)


def stain(surface: Surface, plan: Plan, rng: Generator) -> None:
    place, radius = marks.somewhere(rng), rng.uniform(0.05, 0.11)
    colour = marks.any_of(rng, marks.LIQUIDS)
    marks.stain(surface, *place, radius, rng, colour=colour * 0.6, strength=rng.uniform(0.6, 0.9))


def wrong_colour(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Dye of another batch dripped on and soaked in: the grain shows through."""
    x, y = marks.somewhere(rng)
    radius = rng.uniform(0.045, 0.09)
    edge = marks.ragged(rng, surface, x, y, radius, rough=0.25, stretch=rng.uniform(0.8, 1.25))
    soaked = smoothstep(0.1 * radius, -0.2 * radius, edge) * rng.uniform(0.55, 0.85)
    light = surface.albedo.mean(axis=2, keepdims=True) / plan.tone.mean()
    surface.albedo[...] += soaked[..., None] * (marks.any_of(rng, DYES) * light - surface.albedo)


LEATHER = Product(
    name="leather",
    title="Leather",
    kind="texture",
    plan=plan,
    draw=draw,
    assembly={},
    damage={
        "cut": cut,
        "scratch": scratch,
        "fold": fold,
        "hole": hole,
        "stain": stain,
        "wrong_colour": wrong_colour,
    },
)
