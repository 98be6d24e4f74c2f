"""A satin steel sheet with round holes punched in staggered rows."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from anomaly.synthetic import marks
from anomaly.synthetic.noise import Tile, fractal, smooth, wobble
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, linear, smoothstep, turned

SHEET, BEHIND = linear("#b9bcbd"), linear("#1b1d20")
DEEP = 0.03  # thickness of the sheet, image widths


@dataclass(frozen=True)
class Plan:
    seed: int
    angle: float
    shift: tuple[float, float]  # of the hole pattern, in pitches
    pitch: float
    radius: float
    tone: np.ndarray
    moved: tuple[float, float, float, float] | None = None  # a hole's x, y and by how much it was punched beside it


def plan(rng: Generator) -> Plan:
    tone = SHEET * rng.uniform(0.85, 1.1) * (1 + rng.normal(0, 0.012, 3))
    return Plan(
        seed=int(rng.integers(2**31)),
        angle=rng.uniform(0, np.pi),
        shift=tuple(rng.uniform(0, 1, 2).tolist()),
        pitch=rng.uniform(0.148, 0.155),
        radius=rng.uniform(0.0455, 0.0475),
        tone=tone.astype(np.float32),
    )


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, plan.tone, rough=0.5, metal=1.0)
    u, v = turned(surface.x, surface.y, plan.angle)
    lines = Tile(rng, 260, 12)(u, v) + 0.6 * Tile(rng, 70, 5)(u, v)
    surface.height[...] = 0.00022 * lines + 0.0035 * smooth(rng, size, 2)
    surface.albedo[...] *= (1 + 0.035 * lines + 0.03 * fractal(rng, size, 5))[..., None]
    distance = _hole_distance(plan, surface.x, surface.y)
    surface.height[...] -= 0.006 * smoothstep(0.007, -0.003, distance)  # the punch draws the edge down
    hole = surface.inside(distance + 0.001)
    backdrop = BEHIND * (1 + 0.5 * smooth(rng, size, 3) + 0.3 * smooth(rng, size, 2))[..., None]
    surface.lay(hole, colour=np.clip(backdrop, 0.002, 1), rough=0.9, metal=0.0)
    surface.level(hole, -DEEP)
    return surface


def _hole_distance(plan: Plan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (h, w) to the nearest hole of the staggered pattern."""
    u, v = turned(x, y, plan.angle)
    rows = plan.pitch * float(np.sqrt(3))
    nearest = np.full(np.broadcast(x, y).shape, np.inf, np.float32)
    for offset in (0.0, 0.5):  # a staggered pattern is two square ones, half a pitch apart
        du = np.mod(u / plan.pitch + plan.shift[0] + offset, 1) - 0.5
        dv = np.mod(v / rows + plan.shift[1] + offset, 1) - 0.5
        nearest = np.minimum(nearest, np.hypot(du * plan.pitch, dv * rows))
    if plan.moved is not None:
        hx, hy, dx, dy = plan.moved
        filled = np.hypot(x - hx, y - hy) < 0.5 * plan.pitch
        nearest = np.where(filled, np.inf, nearest)
        nearest = np.minimum(nearest, np.hypot(x - hx - dx, y - hy - dy))
    return nearest - plan.radius


def _some_hole(plan: Plan, rng: Generator) -> tuple[float, float]:
    """Centre x, y of a hole that lies wholly in the picture."""
    span = np.arange(-30, 31)
    i, j = (axis.ravel() for axis in np.meshgrid(span, span))
    centres = []
    for offset in (0.0, 0.5):
        u = (i + 0.5 - plan.shift[0] - offset) * plan.pitch
        v = (j + 0.5 - plan.shift[1] - offset) * plan.pitch * np.sqrt(3)
        x, y = turned(u, v, -plan.angle)
        centres.append(np.column_stack([x, y]))
    centres = np.concatenate(centres)
    centres = centres[np.all(np.abs(centres - 0.5) < 0.38, axis=1)]
    return tuple(centres[rng.integers(len(centres))].tolist())


def misplaced_part(plan: Plan, rng: Generator) -> Plan:
    """A hole punched beside its place."""
    turn, by = rng.uniform(0, 2 * np.pi), plan.pitch * rng.uniform(0.16, 0.25)
    return replace(plan, moved=(*_some_hole(plan, rng), float(by * np.cos(turn)), float(by * np.sin(turn))))


def blocked_hole(surface: Surface, plan: Plan, rng: Generator) -> None:
    """The slug was not pushed out, or grease fills the hole."""
    x, y = _some_hole(plan, rng)
    size = surface.height.shape[0]
    r = np.hypot(surface.x - x, surface.y - y)
    plug = surface.inside(r - 0.96 * plan.radius)
    if rng.random() < 0.5:
        tilt_x, tilt_y = rng.normal(0, 0.12, 2)
        surface.lay(plug, colour=plan.tone * 0.85, rough=0.5, metal=1.0)
        surface.level(plug, -0.010 + tilt_x * (surface.x - x) + tilt_y * (surface.y - y))
        return
    part = plug * smoothstep(-0.5, 0.1, smooth(rng, size, 9) + rng.uniform(0.3, 1.2))
    surface.lay(part, colour=linear("#4a3a22") * rng.uniform(0.5, 1.3), rough=0.45, metal=0.0, coat=0.6)
    surface.level(part, -0.006 - 0.25 * r + 0.002 * fractal(rng, size, 14, octaves=2))


def burr(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A torn lip of bright metal on part of a hole's edge."""
    x, y = _some_hole(plan, rng)
    angle = np.arctan2(surface.y - y, surface.x - x)
    r = np.hypot(surface.x - x, surface.y - y) - plan.radius
    away = np.abs(np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi)))))
    share = smoothstep(rng.uniform(0.8, 1.5), 0.3, away)
    wide = 0.018 * share * (1 + 0.5 * wobble(rng, angle, lobes=16))
    lip = surface.inside(np.abs(r + 0.003) - wide) * (wide > 0.0015)
    surface.lay(lip, colour=linear("#eceae4"), rough=0.25, metal=1.0)
    surface.level(lip, 0.004 + 0.7 * (wide - np.abs(r + 0.003)))


def bent(surface: Surface, plan: Plan, rng: Generator) -> None:
    radius = rng.uniform(0.07, 0.11)
    marks.dent(
        surface, *marks.somewhere(rng, 0.2), radius, rng, depth=radius * rng.choice((-1, 1)) * rng.uniform(0.2, 0.32)
    )


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    points = marks.stroke(rng, *marks.somewhere(rng, 0.25), rng.uniform(0.25, 0.5))
    before = surface.copy()
    bare = linear(rng.choice(["#f6f5f2", "#3d3f42"]))
    marks.scratch(surface, points, rng, width=rng.uniform(0.007, 0.012), bare=bare, metal=1.0)
    _keep_holes(surface, before, plan)


def stain(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Rust that spreads over the sheet but not over its holes."""
    before = surface.copy()
    colour = linear(rng.choice(["#9a5a2c", "#7a4526", "#6b6f5a"]))
    strength = rng.uniform(0.6, 0.9)
    marks.stain(surface, *marks.somewhere(rng), rng.uniform(0.06, 0.11), rng, colour=colour, strength=strength)
    _keep_holes(surface, before, plan)


def _keep_holes(surface: Surface, before: Surface, plan: Plan) -> None:
    """Undo what was drawn where there is no sheet."""
    surface.blend(before, surface.inside(_hole_distance(plan, surface.x, surface.y)))


PERFORATED_SHEET = Product(
    name="perforated_sheet",
    title="Perforated sheet",
    kind="texture",
    plan=plan,
    draw=draw,
    assembly={"misplaced_part": misplaced_part},
    damage={"blocked_hole": blocked_hole, "burr": burr, "bent": bent, "scratch": scratch, "stain": stain},
)
