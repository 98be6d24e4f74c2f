"""A hand-painted glazed tile in its bed of mortar: cobalt on white."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy.ndimage import map_coordinates

from anomaly.synthetic import marks
from anomaly.synthetic.noise import fractal, smooth
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, box, linear, smoothstep, turned

GLAZE, COBALT, MORTAR, CLAY = (linear(c) for c in ("#d6d4c9", "#1f3f8f", "#8d8880", "#a4582f"))
_FILM = 640  # resolution of the motif; distances are smooth, so it serves every picture size
OCHRE, OLIVE, ROSE = (linear(c) for c in ("#c8922e", "#6a7a3a", "#a8454f"))


@dataclass(frozen=True)
class Plan:
    seed: int
    x: float
    y: float
    angle: float
    half: float  # half the tile's width
    cobalt: np.ndarray
    glaze: np.ndarray
    load: float  # how much paint was on the brush
    petals: tuple[np.ndarray | None, ...] = (None,) * 8  # colour of each petal; None: the cobalt
    bare: tuple[float, float, float] | None = None  # x, y, radius where the print failed
    slipped: tuple[float, float, float, float, float] | None = None  # x, y, radius and by how much the print slid


def plan(rng: Generator) -> Plan:
    x, y = 0.5 + rng.uniform(-0.022, 0.022, 2)
    return Plan(
        seed=int(rng.integers(2**31)),
        x=x,
        y=y,
        angle=rng.normal(0, 0.025),
        half=rng.uniform(0.425, 0.44),
        cobalt=(COBALT * rng.uniform(0.8, 1.35) * (1 + rng.normal(0, 0.05, 3))).astype(np.float32),
        glaze=(GLAZE * rng.uniform(0.88, 1.04) * (1 + rng.normal(0, 0.008, 3))).astype(np.float32),
        load=rng.uniform(0.86, 1.0),
    )


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, MORTAR, rough=1.0)
    sand = smooth(rng, size, 170) + 0.8 * smooth(rng, size, 80)
    surface.albedo[...] *= (1 + 0.09 * sand + 0.07 * fractal(rng, size, 4))[..., None]
    surface.height[...] = 0.0011 * sand
    u, v = _on_tile(plan, surface)
    edge = box(u, v, plan.half, plan.half, 0.02) + 0.0012 * smooth(rng, size, 9)
    tile = surface.inside(edge)
    surface.lay(tile, colour=plan.glaze * (1 + 0.018 * fractal(rng, size, 5))[..., None], rough=0.4, coat=1.0)
    pillow = 0.034 * np.sqrt(np.clip(-edge / 0.03, 0, 1)) - 0.014
    waves = 0.0036 * smooth(rng, size, 4) + 0.0008 * smooth(rng, size, 11)
    surface.level(tile, pillow + 0.02 + waves)
    paint, hue = _motif(plan, u, v, rng, size)
    wash = np.clip(plan.load * (0.92 + 0.10 * fractal(rng, size, 14)), 0, 1)
    surface.lay(tile * paint * wash, colour=hue)
    speck = smoothstep(3.0, 3.4, smooth(rng, size, 60))  # ash specks belong to a hand-made tile
    surface.lay(0.35 * tile * speck, colour=linear("#a08f78"))
    return surface


def _on_tile(plan: Plan, surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    return turned(surface.x - plan.x, surface.y - plan.y, plan.angle)


def _motif(plan: Plan, u, v, rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (h, w) and colour (h, w, 3) of the painting; u, v are tile coordinates, centre 0."""
    keep, spare = np.ones(np.broadcast(u, v).shape, np.float32), np.random.default_rng((plan.seed, 1))
    if plan.bare is not None:
        bx, by, radius = plan.bare
        keep = smoothstep(-0.2, 0.15, np.hypot(u - bx, v - by) / radius - 1 + 0.15 * fractal(spare, size, 12))
    if plan.slipped is not None:
        sx, sy, radius, du, dv = plan.slipped
        there = (np.hypot(u - sx, v - sy) < radius).astype(np.float32)
        u, v = u - there * du, v - there * dv
    u = (u + 0.0016 * smooth(rng, size, 12)) / plan.half
    v = (v + 0.0016 * smooth(rng, size, 12)) / plan.half
    place = [(axis + 1) * (_FILM / 2) - 0.5 for axis in (v, u)]
    lines, petals = (map_coordinates(film, place, order=1, mode="nearest") for film in _film())
    brush = 0.008
    paint = np.maximum(smoothstep(brush, -brush, lines), 0.9 * smoothstep(brush, -brush, petals))
    which = (np.floor((np.arctan2(v, u) / np.pi + 1) * 4 + 0.5).astype(int)) % 8
    colours = np.stack([plan.cobalt if colour is None else colour for colour in plan.petals]).astype(np.float32)
    inner = np.hypot(u, v) < 0.52
    return paint * keep, np.where(inner[..., None], colours[which], plan.cobalt)


@lru_cache(maxsize=1)
def _film() -> tuple[np.ndarray, np.ndarray]:
    """The motif's signed distances, each (_FILM, _FILM) float32, over the whole tile: drawn once, sampled often."""
    axis = ((np.arange(_FILM, dtype=np.float32) + 0.5) * 2 / _FILM - 1)[None, :]
    return _drawing(axis, axis.T)


def _drawing(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances to the lines and to the filled petals of the motif, on a tile from -1 to 1."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    eighth = np.abs(np.mod(angle + np.pi / 8, np.pi / 4) - np.pi / 8)  # 0 on a petal's axis
    pu, pv = r * np.cos(eighth), r * np.sin(eighth)
    petal = np.hypot((pu - 0.31) / 1.75, pv + 0.0) - 0.082 - 0.02 * (pu - 0.31)
    heart = np.abs(r - 0.10) - 0.022
    ring = np.abs(r - 0.56) - 0.018
    wreath = np.abs(r - 0.64) - 0.008
    cu, cv = 1 - np.abs(u), 1 - np.abs(v)
    rc = np.hypot(cu, cv)
    arcs = np.minimum(np.abs(rc - 0.42) - 0.020, np.abs(rc - 0.50) - 0.008)
    quarter = np.abs(np.arctan2(cv, cu) - np.pi / 4)
    leaf = np.hypot((rc * np.cos(quarter) - 0.24) / 1.6, rc * np.sin(quarter)) - 0.065
    side = np.hypot((np.minimum(cu, cv) - 0.15) * 1.0, np.minimum(np.abs(u), np.abs(v))) - 0.055
    frame = np.abs(np.minimum(cu, cv) - 0.055) - 0.012
    lines = np.minimum.reduce([heart, ring, wreath, np.where(rc < 0.6, arcs, 1), frame])
    return lines, np.minimum.reduce([petal, leaf, side, np.hypot(pu - 0.46, pv - 0.1) - 0.022])


def _in_tile(plan: Plan, rng: Generator, share: float = 0.75) -> tuple[float, float]:
    """A place in the picture that lies on the tile."""
    u, v = rng.uniform(-share, share, 2) * plan.half
    x, y = turned(np.float64(u), np.float64(v), -plan.angle)
    return plan.x + float(x), plan.y + float(y)


def _clip(surface: Surface, plan: Plan) -> np.ndarray:
    return surface.inside(box(*_on_tile(plan, surface), plan.half, plan.half, 0.02))


def print_error(plan: Plan, rng: Generator) -> Plan:
    """Part of the painting is missing, or the transfer slid while it was wet."""
    where = (*(rng.uniform(-0.65, 0.65, 2) * plan.half).tolist(), rng.uniform(0.06, 0.1))
    if rng.random() < 0.5:
        return replace(plan, bare=where)
    turn, by = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.035)
    return replace(plan, slipped=(*where, float(by * np.cos(turn)), float(by * np.sin(turn))))


def wrong_colour(plan: Plan, rng: Generator) -> Plan:
    """One or two petals painted from the wrong pot."""
    petals = list(plan.petals)
    for petal in rng.choice(8, rng.integers(1, 3), replace=False):
        petals[petal] = marks.any_of(rng, (OCHRE, OLIVE, ROSE))
    return replace(plan, petals=tuple(petals))


def crack(surface: Surface, plan: Plan, rng: Generator) -> None:
    spare = surface.copy()
    marks.crack(spare, *_in_tile(plan, rng, 0.6), rng.uniform(0.2, 0.42), rng, width=rng.uniform(0.006, 0.009))
    surface.blend(spare, _clip(surface, plan))


def chip(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Glaze and body broken off at an edge: a shell-shaped wound of bare clay."""
    side, along = rng.integers(4) * np.pi / 2, rng.uniform(-0.9, 0.9) * plan.half
    u, v = turned(np.float64(plan.half), np.float64(along), float(side))
    x, y = turned(u, v, -plan.angle)
    radius = rng.uniform(0.035, 0.06)
    edge = marks.ragged(rng, surface, plan.x + float(x), plan.y + float(y), radius, rough=0.25)
    size = surface.height.shape[0]
    wound = surface.inside(edge) * _clip(surface, plan)
    clay = CLAY * (1 + 0.14 * fractal(rng, size, 26))[..., None]
    surface.lay(wound, colour=clay, rough=1.0, coat=0.0)
    shell = 0.5 * np.maximum(-edge, 0) + 0.0012 * np.sin(edge / 0.0035) + 0.0015 * fractal(rng, size, 24)
    surface.height[...] -= wound * np.minimum(shell, 0.025)


def contamination(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Iron specks that bled into the glaze while it was molten."""
    x, y = _in_tile(plan, rng)
    for number in range(rng.integers(2, 6)):
        radius = rng.uniform(0.007, 0.014) * (1 if number else 1.3)
        edge = marks.ragged(rng, surface, x, y, radius, rough=0.25)
        halo = np.exp(-((np.maximum(edge, 0) / (0.6 * radius)) ** 2))
        surface.tint(0.5 * halo * _clip(surface, plan), linear("#b08a5a"))
        surface.lay(surface.inside(edge, soft=0.004), colour=linear("#2b1d14"), rough=0.6, coat=0.4)
        x, y = x + rng.normal(0, 0.035), y + rng.normal(0, 0.035)


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    spare = surface.copy()
    points = marks.stroke(rng, *_in_tile(plan, rng, 0.6), rng.uniform(0.16, 0.36))
    colour = linear(rng.choice(["#5e5c58", "#7a7670"]))  # metal that a passing tool left behind
    marks.scratch(spare, points, rng, width=rng.uniform(0.007, 0.011), bare=colour, metal=0.3)
    surface.blend(spare, _clip(surface, plan))


GLAZED_TILE = Product(
    name="glazed_tile",
    title="Glazed tile",
    kind="object",
    plan=plan,
    draw=draw,
    assembly={"print_error": print_error, "wrong_colour": wrong_colour},
    damage={"crack": crack, "chip": chip, "contamination": contamination, "scratch": scratch},
)
