"""A planed and lightly oiled oak board."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from anomaly.synthetic import marks
from anomaly.synthetic.noise import Tile, fractal, smooth
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, linear, smoothstep, turned

EARLY, LATE, PORE, HEART = (linear(c) for c in ("#c9a97f", "#96693f", "#5a3f28", "#3a2415"))


@dataclass(frozen=True)
class Plan:
    seed: int
    angle: float
    rings: float  # year rings over the picture's height
    arch: float  # curvature of the cathedral pattern
    tone: np.ndarray  # (3,) this board's own tint
    knot: tuple[float, float, float] | None = None  # x, y, radius


def plan(rng: Generator) -> Plan:
    tone = rng.uniform(0.86, 1.08) * (1 + rng.normal(0, 0.012, 3))
    return Plan(int(rng.integers(2**31)), rng.normal(0, 0.05), rng.uniform(10, 15), rng.normal(0, 0.22), tone)


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, EARLY, rough=0.55, coat=0.22)
    u, v = turned(surface.x - 0.5, surface.y - 0.5, plan.angle)
    drift, cut = rng.uniform(-0.6, 0.6, 2)
    core = np.zeros_like(surface.height)
    if plan.knot is not None:
        v, core = _around(u, v, plan)
    v = v + 0.022 * smooth(rng, size, (3, 2)) + 0.003 * smooth(rng, size, (16, 4))
    age = plan.rings * (v + plan.arch * (u - drift) ** 2 + 0.05 * cut) + 0.28 * smooth(rng, size, (9, 1))
    ring = age - np.floor(age)
    vigour = rng.uniform(0.35, 1.0, 64).astype(np.float32)[np.floor(age).astype(int) % 64]  # dry years, wet years
    late = vigour * smoothstep(0.1, 0.9, ring) * smoothstep(1.0, 0.9, ring)
    fibres = Tile(rng, 380, 8)(u, v) + 0.8 * Tile(rng, 130, 4)(u, v)
    pores = smoothstep(1.3, 2.2, Tile(rng, 340, 24)(u, v) + 0.9 * smoothstep(0.4, 0.0, ring))
    flecks = smoothstep(1.9, 2.6, Tile(rng, 34, 26)(u, v))  # medullary rays, lighter than the wood around
    surface.lay(np.clip(0.8 * late * (1 + 0.15 * fibres), 0, 1), colour=LATE)
    surface.albedo[...] *= (plan.tone * (1 + 0.065 * fibres + 0.06 * fractal(rng, size, 3))[..., None]).astype(
        np.float32
    )
    surface.lay(0.20 * flecks, colour=linear("#dcc39c"))
    surface.lay(0.62 * pores, colour=PORE, coat=0.05)
    surface.height[...] = 0.00028 * fibres - 0.0015 * pores
    if plan.knot is not None:
        _heartwood(surface, core, rng)
    return surface


def _around(u: np.ndarray, v: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Grain that flows around a knot like water around a post; returns the new v and the radius in knot radii."""
    x, y, radius = plan.knot
    ku, kv = turned(np.float32(x - 0.5), np.float32(y - 0.5), plan.angle)
    du, dv = (u - ku) * 0.8, v - kv
    r = np.hypot(du, dv) / radius
    outside = np.maximum(r, 1)
    return v - dv / outside**2 * np.exp(-((np.maximum(r - 1, 0) / 1.3) ** 2)), r


def _heartwood(surface: Surface, r: np.ndarray, rng: Generator) -> None:
    size = surface.height.shape[0]
    r = r * (1 + 0.07 * smooth(rng, size, 9) + 0.03 * smooth(rng, size, 26))
    cover = smoothstep(1.12, 0.8, r)
    rings = 0.5 + 0.5 * np.cos(2 * np.pi * (3.2 * r + 0.2 * smooth(rng, size, 12)))
    wood = HEART + (0.42 * rings * np.clip(r, 0.2, 1))[..., None] * (LATE - HEART)
    surface.lay(cover, colour=wood.astype(np.float32))
    surface.lay(0.85 * np.exp(-(((r - 1.0) / 0.09) ** 2)), colour=HEART * 0.5, coat=0.0)  # bark ring
    surface.height[...] -= 0.002 * cover


def knot(plan: Plan, rng: Generator) -> Plan:
    return replace(plan, knot=(*marks.somewhere(rng, 0.2), rng.uniform(0.03, 0.06)))


def crack(surface: Surface, plan: Plan, rng: Generator) -> None:
    place, along = marks.somewhere(rng, 0.25), plan.angle + rng.normal(0, 0.05)
    points = marks.stroke(rng, *place, rng.uniform(0.2, 0.42), angle=along, bend=0.15)
    marks.fissure(surface, points, rng, width=rng.uniform(0.008, 0.014), depth=0.02, colour=HEART * 0.3)


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    across = plan.angle + rng.choice((-1, 1)) * rng.uniform(0.4, 1.4)
    points = marks.stroke(rng, *marks.somewhere(rng, 0.25), rng.uniform(0.2, 0.45), angle=across)
    bare = linear(rng.choice(["#f1e2c6", "#4f3621"]))  # fresh fibres, or old dirt in the groove
    marks.scratch(surface, points, rng, width=rng.uniform(0.009, 0.013), bare=bare, metal=0.0)


def stain(surface: Surface, plan: Plan, rng: Generator) -> None:
    place, radius = marks.somewhere(rng), rng.uniform(0.05, 0.1)
    colour = linear(rng.choice(["#4d5560", "#4a3326", "#7c3b3f"]))  # iron on tannin, coffee, wine
    marks.stain(surface, *place, radius, rng, colour=colour, strength=rng.uniform(0.5, 0.85))


def dent(surface: Surface, plan: Plan, rng: Generator) -> None:
    radius = rng.uniform(0.035, 0.06)
    marks.dent(surface, *marks.somewhere(rng), radius, rng, depth=radius * rng.uniform(0.45, 0.65))


def wormhole(surface: Surface, plan: Plan, rng: Generator) -> None:
    """One to three round holes of a beetle, with a lighter rim of frass."""
    x, y = marks.somewhere(rng, 0.2)
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(0.012, 0.02)
        edge = marks.ragged(rng, surface, x, y, radius, rough=0.08)
        surface.lay(0.5 * smoothstep(0.8 * radius, 0, edge), colour=linear("#dcc296"))
        hole = surface.inside(edge)
        surface.lay(hole, colour=HEART * 0.3, rough=1.0, coat=0.0)
        surface.level(hole, -0.03)
        x, y = x + rng.normal(0, 0.06), y + rng.normal(0, 0.06)


WOOD_GRAIN = Product(
    name="wood_grain",
    title="Wood grain",
    kind="texture",
    plan=plan,
    draw=draw,
    assembly={"knot": knot},
    damage={"crack": crack, "scratch": scratch, "stain": stain, "dent": dent, "wormhole": wormhole},
)
