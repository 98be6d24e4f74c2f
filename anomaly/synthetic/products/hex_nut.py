"""A zinc-plated hexagon nut on a rubber mat, turned any way."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from anomaly.synthetic import marks
from anomaly.synthetic.noise import Tile, fractal, smooth, wobble
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, hexagon, linear, smoothstep, turned

ZINC, MAT = linear("#c9c9c4"), linear("#4d5a63")
TALL = 0.16  # of the nut, image widths


@dataclass(frozen=True)
class Plan:
    seed: int
    x: float
    y: float
    angle: float
    apothem: float  # half the width across flats
    thread: float  # where the helix starts, radians
    tone: np.ndarray
    mat: np.ndarray
    chips: tuple[tuple[float, float, float], ...] = ()  # x, y, radius of lumps that broke off

    @property
    def bore(self) -> float:
        return 0.56 * self.apothem


def plan(rng: Generator) -> Plan:
    tone = ZINC * rng.uniform(0.88, 1.08) * (1 + rng.normal(0, 0.015, 3))
    mat = MAT * rng.uniform(0.75, 1.35) * (1 + rng.normal(0, 0.03, 3))
    x, y = 0.5 + rng.uniform(-0.05, 0.05, 2)
    turn, thread = rng.uniform(0, 2 * np.pi, 2)
    apothem = rng.uniform(0.282, 0.298)
    return Plan(int(rng.integers(2**31)), x, y, turn, apothem, thread, tone.astype(np.float32), mat.astype(np.float32))


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = _mat(plan, size, rng)
    dx, dy = surface.x - plan.x, surface.y - plan.y
    r = np.hypot(dx, dy)
    sides = hexagon(*turned(dx, dy, plan.angle), plan.apothem)
    outline = sides + _bites(plan, surface)
    body = surface.inside(outline)
    top = TALL - np.maximum(0.50 * (r - 0.955 * plan.apothem), 0)  # the chamfer is a cone around the bore
    top = top - 0.6 * np.maximum(sides + 0.012, 0) - 0.9 * np.maximum(plan.bore + 0.025 - r, 0)
    turning = Tile(rng, 420, 9)(np.arctan2(dy, dx) / (2 * np.pi), r)  # the lathe's circular lines
    face = smoothstep(0.95, 0.93, r / plan.apothem)
    surface.lay(body, colour=plan.tone * (1 + 0.03 * fractal(rng, size, 6))[..., None], rough=0.36, metal=1.0)
    surface.level(body, top + 0.0003 * turning * face + 0.0010 * smooth(rng, size, 5))
    _bore(surface, plan, r, np.arctan2(dy, dx), rng)
    return surface


def _mat(plan: Plan, size: int, rng: Generator) -> Surface:
    surface = Surface.flat(size, plan.mat, rough=0.85)
    speckle = smooth(rng, size, 120) + 0.7 * smooth(rng, size, 230)
    surface.height[...] = 0.0007 * speckle
    surface.albedo[...] *= (1 + 0.07 * speckle + 0.06 * fractal(rng, size, 3))[..., None]
    return surface


def _bites(plan: Plan, surface: Surface) -> np.ndarray | float:
    """How far inwards the outline moved where a lump is missing."""
    deep, rng = 0.0, np.random.default_rng((plan.seed, 1))  # of its own: a chip must not change the mat
    for x, y, radius in plan.chips:
        edge = marks.ragged(rng, surface, x, y, radius, rough=0.2)
        deep = np.maximum(deep, np.maximum(-edge, 0) * 3)
    return deep


def _bore(surface: Surface, plan: Plan, r: np.ndarray, angle: np.ndarray, rng: Generator) -> None:
    """The threaded hole: three turns of the helix, seen from above, around the mat that shows through."""
    wall = surface.inside(r - plan.bore)
    inward = (plan.bore - r) / (0.22 * plan.bore)  # 0 at the edge .. 1 at the crest of the thread
    helix = np.cos(2 * np.pi * (3.0 * inward) + angle + plan.thread)
    dark = (0.95 - 0.55 * np.clip(inward, 0, 1)) * (0.72 + 0.28 * helix)
    surface.lay(wall, colour=plan.tone * dark[..., None], rough=0.38, metal=1.0)
    surface.level(wall, TALL - 0.025 - 0.035 * np.clip(inward, 0, 1) + 0.0038 * helix)
    through = surface.inside(r - 0.78 * plan.bore)
    floor = plan.mat * (0.5 + 0.05 * smooth(rng, surface.height.shape[0], 150))[..., None]
    surface.lay(through, colour=floor, rough=0.9, metal=0.0)
    surface.level(through, 0.045)  # not at the mat's depth: the lamp is large and reaches into the hole


def _on_face(plan: Plan, rng: Generator, low: float = 0.68, high: float = 0.92) -> tuple[float, float]:
    """A place on the flat ring around the bore."""
    turn, r = rng.uniform(0, 2 * np.pi), plan.apothem * rng.uniform(low, high)
    return plan.x + r * float(np.cos(turn)), plan.y + r * float(np.sin(turn))


def _corner(plan: Plan, rng: Generator) -> tuple[float, float, float]:
    """x, y of one of the six corners and the direction that it points to."""
    out = plan.angle + np.pi / 6 + rng.integers(6) * np.pi / 3
    reach = plan.apothem / np.cos(np.pi / 6)
    return plan.x + reach * float(np.cos(out)), plan.y + reach * float(np.sin(out)), float(out)


def _on_metal(surface: Surface, plan: Plan) -> np.ndarray:
    """Coverage (h, w) of the nut's upper side."""
    dx, dy = surface.x - plan.x, surface.y - plan.y
    sides = hexagon(*turned(dx, dy, plan.angle), plan.apothem)
    return surface.inside(sides) * surface.inside(plan.bore - np.hypot(dx, dy))


def chip(plan: Plan, rng: Generator) -> Plan:
    """A corner that broke off."""
    x, y, _ = _corner(plan, rng)
    return replace(plan, chips=((x, y, rng.uniform(0.05, 0.085)),))


def burr(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A bright sliver that sticks out of an edge near a corner."""
    x, y, out = _corner(plan, rng)
    side = rng.choice((-1, 1))
    along = out + side * (np.pi / 2 + np.pi / 6)
    back = rng.uniform(0.02, 0.12)
    x, y = x + back * np.cos(along), y + back * np.sin(along)
    u, v = turned(surface.x - x, surface.y - y, float(out + side * np.pi / 6))
    half, wide = rng.uniform(0.018, 0.034), rng.uniform(0.04, 0.07)
    torn = 1 + 0.35 * wobble(rng, 40 * v, lobes=5)
    tip = half * torn * np.sqrt(np.clip(1 - (v / wide) ** 2, 0, 1))
    cover = surface.inside(np.maximum(u - tip, -0.012 - u)) * (np.abs(v) < wide)
    surface.lay(cover, colour=plan.tone * 1.05, rough=0.22, metal=1.0)
    surface.level(cover, TALL - 0.03 + 0.4 * np.abs(u))


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    points = marks.stroke(rng, *_on_face(plan, rng), rng.uniform(0.12, 0.26))
    spare = surface.copy()
    bare = linear(rng.choice(["#fbfaf6", "#4a4a4a"]))
    marks.scratch(spare, points, rng, width=rng.uniform(0.007, 0.011), bare=bare, metal=1.0)
    surface.blend(spare, _on_metal(surface, plan))


def crack(surface: Surface, plan: Plan, rng: Generator) -> None:
    """From the bore outwards, the way a nut bursts."""
    turn = rng.uniform(0, 2 * np.pi)
    r = plan.apothem * 0.8
    x, y = plan.x + r * np.cos(turn), plan.y + r * np.sin(turn)
    spare = surface.copy()
    length = plan.apothem * rng.uniform(0.42, 0.6)
    marks.crack(spare, x, y, length, rng, width=rng.uniform(0.008, 0.012), angle=turn + rng.normal(0, 0.25))
    surface.blend(spare, _on_metal(surface, plan))


def contamination(surface: Surface, plan: Plan, rng: Generator) -> None:
    marks.debris(surface, *_on_face(plan, rng), rng)


def wrong_colour(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Rust where the zinc is gone: a rough orange-brown patch."""
    x, y = _on_face(plan, rng)
    size = surface.height.shape[0]
    cloud = fractal(rng, size, 16)
    edge = marks.ragged(rng, surface, x, y, rng.uniform(0.035, 0.07), rough=0.4) + 0.012 * cloud
    cover = smoothstep(0.008, -0.012, edge) * _on_metal(surface, plan)
    rust = linear("#8a4a20") * (1 + 0.35 * cloud)[..., None]
    surface.lay(0.9 * cover, colour=np.clip(rust, 0.01, 1), rough=0.9, metal=0.0)
    surface.height[...] += 0.0012 * cover * cloud


def blocked_hole(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A coil of swarf, or a lump of paint, left in the bore."""
    turn = rng.uniform(0, 2 * np.pi)
    r = plan.bore * rng.uniform(0.3, 0.75)
    x, y = plan.x + r * float(np.cos(turn)), plan.y + r * float(np.sin(turn))
    if rng.random() < 0.5:
        marks.crumb(surface, x, y, rng.uniform(0.035, 0.06), rng, colour=linear("#3b2f26"))
        return
    t = np.linspace(0, rng.uniform(2.5, 4) * np.pi, 40)
    coil = 0.022 * np.column_stack([np.cos(t), np.sin(t)]) + np.outer(t - t.mean(), [0.008, 0.004])
    marks.wire(surface, coil + (x, y), width=0.011, colour=linear("#e4ded0"))


HEX_NUT = Product(
    name="hex_nut",
    title="Hex nut",
    kind="object",
    plan=plan,
    draw=draw,
    assembly={"chip": chip},
    damage={
        "burr": burr,
        "scratch": scratch,
        "crack": crack,
        "contamination": contamination,
        "wrong_colour": wrong_colour,
        "blocked_hole": blocked_hole,
    },
)
