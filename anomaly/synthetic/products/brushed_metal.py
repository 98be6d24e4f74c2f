"""A sheet of brushed stainless steel."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from anomaly.synthetic import marks
from anomaly.synthetic.noise import Tile, fractal, smooth
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, linear, smoothstep, turned

STEEL = linear("#d3d2ce")


@dataclass(frozen=True)
class Plan:
    seed: int
    angle: float  # of the brushing, radians
    tone: np.ndarray  # (3,) reflectance of this sheet
    depth: float  # of the brush lines, relative


def plan(rng: Generator) -> Plan:
    tone = STEEL * rng.uniform(0.88, 1.06) * (1 + rng.normal(0, 0.012, 3))
    return Plan(int(rng.integers(2**31)), rng.normal(0, 0.05), tone.astype(np.float32), rng.uniform(0.7, 1.1))


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, plan.tone, rough=0.42, metal=1.0)
    u, v = turned(surface.x - 0.5, surface.y - 0.5, plan.angle)
    v = v + 0.0015 * smooth(rng, size, (2, 2))
    lines = np.zeros((size, size), np.float32)
    for rows, columns, weight in ((380, 4, 0.8), (190, 3, 0.65), (80, 2, 0.25), (16, 1, 0.12)):
        lines += np.float32(weight) * Tile(rng, rows, columns)(u, v)
    deep = np.clip(Tile(rng, 300, 9)(u, v) - 2.0, 0, 1.2)  # the odd coarse grain of the belt leaves a deeper line
    surface.height[...] = plan.depth * (0.00042 * lines - 0.0009 * deep) + 0.0045 * smooth(rng, size, (2, 3))
    surface.albedo[...] *= (1 + 0.045 * lines - 0.14 * deep)[..., None]
    surface.rough[...] += 0.02 * fractal(rng, size, 3)
    return surface


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    across = plan.angle + rng.choice((-1, 1)) * rng.uniform(0.35, 1.45)  # along the brushing nobody could see it
    points = marks.stroke(rng, *marks.somewhere(rng, 0.25), rng.uniform(0.18, 0.5), angle=across)
    bare = linear(rng.choice(["#f4f4f2", "#55585c"]))
    marks.scratch(surface, points, rng, width=rng.uniform(0.006, 0.011), bare=bare, metal=1.0)


def dent(surface: Surface, plan: Plan, rng: Generator) -> None:
    radius = rng.uniform(0.045, 0.085)
    marks.dent(surface, *marks.somewhere(rng), radius, rng, depth=radius * rng.uniform(0.16, 0.3))


def stain(surface: Surface, plan: Plan, rng: Generator) -> None:
    place, radius = marks.somewhere(rng), rng.uniform(0.05, 0.11)
    colour = marks.any_of(rng, marks.LIQUIDS)
    marks.stain(surface, *place, radius, rng, colour=colour, strength=rng.uniform(0.4, 0.75))


def contamination(surface: Surface, plan: Plan, rng: Generator) -> None:
    marks.debris(surface, *marks.somewhere(rng), rng)


def wrong_colour(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Heat tint: an oxide film whose colour runs from straw over purple to blue towards the hottest place."""
    x, y = marks.somewhere(rng, 0.2)
    radius = rng.uniform(0.07, 0.13)
    edge = marks.ragged(rng, surface, x, y, radius, rough=0.15, stretch=rng.uniform(0.8, 1.2)) / radius
    heat = np.clip(-edge + 0.08 * fractal(rng, surface.height.shape[0], 6), 0, 1)
    stops = np.array([linear(c) for c in ("#ffffff", "#e3bd6a", "#a8577a", "#4f6fb0", "#93b4c4")])
    film = np.stack([np.interp(heat, (0, 0.22, 0.45, 0.7, 1), stops[:, c]) for c in range(3)], axis=2)
    surface.albedo[...] *= 1 + rng.uniform(0.65, 0.95) * smoothstep(0, 0.1, heat)[..., None] * (film - 1)


BRUSHED_METAL = Product(
    name="brushed_metal",
    title="Brushed metal",
    kind="texture",
    plan=plan,
    draw=draw,
    assembly={},
    damage={
        "scratch": scratch,
        "dent": dent,
        "stain": stain,
        "contamination": contamination,
        "wrong_colour": wrong_colour,
    },
)
