"""A plain weave of coarse linen."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from anomaly.synthetic import marks
from anomaly.synthetic.noise import Tile, fractal, smooth
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, linear, smoothstep, turned

WARP, WEFT, SHADE = (linear(c) for c in ("#c9bfa6", "#a9a48f", "#2e2a22"))
THREADS = 48  # remembered threads in each direction; more than the picture ever shows
FOREIGN = tuple(linear(c) for c in ("#7d2f2a", "#2f4f7d", "#3b3a38", "#d8a93c"))


@dataclass(frozen=True)
class Gap:
    """A thread that is missing, or of another colour, from `start` to `end` in threads."""

    warp: bool
    thread: int
    start: float
    end: float
    colour: np.ndarray | None = None  # None: missing


@dataclass(frozen=True)
class Plan:
    seed: int
    angle: float
    pitch: float  # threads over the picture
    shift: tuple[float, float]
    tone: np.ndarray
    wrong_crossings: tuple[tuple[int, int], ...] = ()
    gaps: tuple[Gap, ...] = ()


def plan(rng: Generator) -> Plan:
    tone = rng.uniform(0.86, 1.1) * (1 + rng.normal(0, 0.008, 3))
    shift = tuple(rng.uniform(4, 6, 2).tolist())
    return Plan(int(rng.integers(2**31)), rng.normal(0, 0.06), rng.uniform(28, 31), shift, tone.astype(np.float32))


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, SHADE, rough=0.95)
    u, v = turned(surface.x - 0.5, surface.y - 0.5, plan.angle)
    u = (u + 0.5) * plan.pitch + plan.shift[0] + 0.13 * smooth(rng, size, 4) + 0.045 * smooth(rng, size, 16)
    v = (v + 0.5) * plan.pitch + plan.shift[1] + 0.13 * smooth(rng, size, 4) + 0.045 * smooth(rng, size, 16)
    warp_over = np.where(np.add.outer(np.arange(THREADS), np.arange(THREADS)) % 2, 1.0, -1.0).astype(np.float32)
    for row, column in plan.wrong_crossings:
        warp_over[row % THREADS, column % THREADS] *= -1
    warp = _threads(plan, rng, u, v, warp_over, warp=True)
    weft = _threads(plan, rng, v, u, -warp_over.T, warp=False)
    ground = -0.9 + 0.1 * fractal(rng, size, 40, octaves=2)
    height = np.maximum(np.maximum(warp[0], weft[0]), ground)
    top = smoothstep(-0.1, 0.1, warp[0] - weft[0])[..., None]
    threads = weft[1] + top * (warp[1] - weft[1])
    bare = smoothstep(-0.75, -0.35, height)
    surface.lay(bare, colour=threads * plan.tone)
    surface.height[...] = height * 0.26 / plan.pitch
    surface.albedo[...] *= (0.62 + 0.38 * smoothstep(-0.6, 0.9, height))[..., None]  # light is lost between fibres
    return surface


def _threads(plan: Plan, rng: Generator, across, along, over: np.ndarray, *, warp: bool):
    """Height (h, w), in half-threads, and colour (h, w, 3) of one of the two thread systems.

    across, along (h, w): coordinates in threads. over (THREADS, THREADS): +1 where a thread [, j] passes over, by row.
    """
    thread = np.floor(across).astype(int) % THREADS
    side = across - np.floor(across) - 0.5
    width = (0.47 + 0.035 * rng.standard_normal(THREADS)).astype(np.float32)[thread]
    width *= 1 + 0.07 * Tile(rng, THREADS, 24)(along / THREADS, (thread + 0.5) / THREADS)
    round_profile = 1 - (side / width) ** 2
    place = along - 0.5
    row = np.floor(place).astype(int)
    t = smoothstep(0, 1, place - row)
    wave = over[row % THREADS, thread] * (1 - t) + over[(row + 1) % THREADS, thread] * t
    height = 0.6 * wave + 0.75 * np.sqrt(np.clip(round_profile, 0, 1)) - 0.35
    height = np.where(round_profile > 0, height, -2.0)
    twist = np.sin(2 * np.pi * (2.6 * along + 1.7 * side / width)) * 0.05
    fuzz = 0.09 * Tile(rng, 420, 160)(along / THREADS, across / THREADS)
    shade = (1 + 0.085 * rng.standard_normal(THREADS)).astype(np.float32)[thread] + twist + fuzz
    colour = (WARP if warp else WEFT) * shade[..., None]
    for gap in plan.gaps:
        if gap.warp == warp:
            height, colour = _with_gap(gap, thread, side, along, height, colour, shade)
    return height + 0.5 * twist, colour


def _with_gap(gap: Gap, thread, side, along, height, colour, shade):
    frayed = 0.35 * np.sin(17 * side) + 0.2 * np.sin(41 * side + 1)
    middle, half = 0.5 * (gap.start + gap.end), 0.5 * (gap.end - gap.start)
    here = (thread == gap.thread) & (np.abs(along - middle) < half + frayed)
    if gap.colour is None:
        return np.where(here, -2.0, height), colour
    return height, np.where(here[..., None], gap.colour * shade[..., None], colour)


def _crossing(plan: Plan, rng: Generator, margin: float = 0.22) -> tuple[int, int]:
    """Column and row of a crossing well inside the picture."""
    x, y = marks.somewhere(rng, margin)
    u, v = turned(np.float64(x - 0.5), np.float64(y - 0.5), plan.angle)
    return int((u + 0.5) * plan.pitch + plan.shift[0]), int((v + 0.5) * plan.pitch + plan.shift[1])


def weave_fault(plan: Plan, rng: Generator) -> Plan:
    """Floats: in a few neighbouring threads some crossings pass on the wrong side."""
    column, row = _crossing(plan, rng)
    length, wide = int(rng.integers(6, 11)), int(rng.integers(3, 6))
    down = rng.random() < 0.5
    wrong = []
    for thread in range(wide):
        for place in range(length):
            i, j = (row + place, column + thread) if down else (row + thread, column + place)
            if (i + j) % 2:
                wrong.append((i, j))
    return replace(plan, wrong_crossings=tuple(wrong))


def broken_thread(plan: Plan, rng: Generator) -> Plan:
    column, row = _crossing(plan, rng)
    warp, length = bool(rng.random() < 0.5), rng.uniform(4, 9)
    thread, middle = (column, row) if warp else (row, column)
    return replace(plan, gaps=(Gap(warp, thread, middle - length / 2, middle + length / 2),))


def wrong_colour(plan: Plan, rng: Generator) -> Plan:
    """A length of yarn from another bobbin."""
    column, row = _crossing(plan, rng)
    warp, length = bool(rng.random() < 0.5), rng.uniform(7, 16)
    thread, middle = (column, row) if warp else (row, column)
    ends = (middle - length / 2, middle + length / 2)
    return replace(plan, gaps=(Gap(warp, thread, *ends, marks.any_of(rng, FOREIGN)),))


def knot(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Two yarn ends tied together: a lump of fibres with loose ends."""
    x, y = marks.somewhere(rng)
    size = surface.height.shape[0]
    radius = rng.uniform(0.024, 0.036)
    yarn = WARP * plan.tone * rng.choice((0.7, 1.3))
    for _ in range(rng.integers(2, 4)):
        points = marks.stroke(rng, x, y, rng.uniform(0.09, 0.16), bend=2.5)
        marks.lay_yarn(surface, points, colour=yarn, width=rng.uniform(0.008, 0.012))
    edge = marks.ragged(rng, surface, x, y, radius, rough=0.25, stretch=rng.uniform(0.8, 1.25))
    cover = surface.inside(edge)
    turns = np.sin(2 * np.pi * (edge / 0.012 + 0.3 * smooth(rng, size, 20)))
    surface.lay(cover, colour=yarn * (0.85 + 0.15 * turns[..., None]))
    surface.height[...] += cover * (1.1 * radius * np.sqrt(np.clip(-edge / radius, 0, 1)) + 0.002 * turns)


def cut(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A slit through to the dark table, its lips apart in the middle, with severed yarn ends."""
    x, y = marks.somewhere(rng, 0.25)
    points = marks.stroke(rng, x, y, rng.uniform(0.14, 0.28), bend=0.3)
    marks.fissure(surface, points, rng, width=rng.uniform(0.024, 0.036), depth=0.012, colour=linear("#171512"))
    for _ in range(rng.integers(5, 10)):
        px, py = points[rng.integers(2, len(points) - 2)]
        end = marks.stroke(rng, px, py, rng.uniform(0.025, 0.05), bend=1.5)
        marks.lay_yarn(surface, end, colour=WARP * plan.tone * 1.1, width=0.006)


def stain(surface: Surface, plan: Plan, rng: Generator) -> None:
    place, radius = marks.somewhere(rng), rng.uniform(0.05, 0.11)
    colour = marks.any_of(rng, marks.LIQUIDS)
    marks.stain(surface, *place, radius, rng, colour=colour, strength=rng.uniform(0.5, 0.85))


WOVEN_FABRIC = Product(
    name="woven_fabric",
    title="Woven fabric",
    kind="texture",
    plan=plan,
    draw=draw,
    assembly={"weave_fault": weave_fault, "broken_thread": broken_thread, "wrong_colour": wrong_colour},
    damage={"knot": knot, "cut": cut, "stain": stain},
)
