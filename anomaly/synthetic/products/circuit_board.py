"""A small assembled circuit board; every board has the same layout, no two are placed and lit alike."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from scipy.ndimage import map_coordinates

from anomaly.synthetic import marks
from anomaly.synthetic.noise import fractal, smooth
from anomaly.synthetic.product import Product
from anomaly.synthetic.products.circuit_artwork import HALF, HOLES, PARTS, artwork
from anomaly.synthetic.products.circuit_parts import Part, draw_part
from anomaly.synthetic.surface import Surface, box, linear, smoothstep, turned

MASK, COPPER, INK, BENCH = (linear(c) for c in ("#1c5c3a", "#c98a4b", "#e9ebe4", "#6d6f72"))


@dataclass(frozen=True)
class Plan:
    seed: int
    x: float
    y: float
    angle: float
    green: np.ndarray
    bench: np.ndarray
    parts: tuple[Part, ...]


def plan(rng: Generator) -> Plan:
    parts = []
    for part in PARTS:
        dx, dy = rng.normal(0, 0.0016, 2).tolist()
        shade = rng.uniform(0.9, 1.1)
        parts.append(replace(part, x=part.x + dx, y=part.y + dy, turn=part.turn + rng.normal(0, 0.015), shade=shade))
    x, y = 0.5 + rng.uniform(-0.02, 0.02, 2)
    green = MASK * rng.uniform(0.8, 1.3) * (1 + rng.normal(0, 0.04, 3))
    bench = BENCH * rng.uniform(0.6, 1.4)
    return Plan(int(rng.integers(2**31)), x, y, rng.normal(0, 0.025), green.astype(np.float32), bench, tuple(parts))


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, plan.bench, rough=0.9)
    surface.albedo[...] *= (1 + 0.06 * smooth(rng, size, 140) + 0.04 * fractal(rng, size, 3))[..., None]
    _board(surface, plan, rng)
    for part in plan.parts:
        drawn = replace(part, kind="pads") if part.missing else part
        draw_part(surface, drawn, *_placed(plan, part.x, part.y), plan.angle)
    return surface


def _board(surface: Surface, plan: Plan, rng: Generator) -> None:
    size = surface.height.shape[0]
    u, v = turned(surface.x - plan.x, surface.y - plan.y, plan.angle)
    board = surface.inside(box(u, v, HALF, HALF, 0.025))
    copper, ink = _printed(u, v, size)
    surface.lay(board, colour=plan.green * (1 + 0.03 * fractal(rng, size, 5))[..., None], rough=0.5, coat=0.6)
    surface.lay(0.45 * board * copper, colour=plan.green * 2.0 + COPPER * 0.14)
    surface.level(board, 0.02 + 0.0016 * copper + 0.0009 * smooth(rng, size, 3) + 0.00005 * smooth(rng, size, 130))
    surface.lay(board * ink * 0.92, colour=INK, rough=0.8, coat=0.1)
    for hole in HOLES:
        _mounting_hole(surface, plan, *_placed(plan, *hole))


def _mounting_hole(surface: Surface, plan: Plan, x: float, y: float) -> None:
    """A plated hole for a screw, through to the bench."""
    view = surface.window(x, y, 0.04)
    r = np.hypot(view.x - x, view.y - y)
    view.lay(view.inside(r - 0.030), colour=linear("#d8b46a"), rough=0.35, metal=1.0, coat=0.0)
    hole = view.inside(r - 0.019)
    view.lay(hole, colour=plan.bench * 0.2, rough=1.0, metal=0.0, coat=0.0)
    view.level(hole, 0.0)


def _printed(u: np.ndarray, v: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (h, w) of copper below the solder mask and of the white legend, from the board's artwork."""
    film = artwork(size)
    place = [axis * size / (2 * HALF) - 0.5 for axis in np.broadcast_arrays(v + HALF, u + HALF)]
    return tuple(map_coordinates(layer, place, order=1, mode="constant") for layer in film)


def _placed(plan: Plan, u: float, v: float) -> tuple[float, float]:
    """Picture coordinates of a place on the board."""
    x, y = turned(np.float64(u), np.float64(v), -plan.angle)
    return plan.x + float(x), plan.y + float(y)


def _one_of(plan: Plan, rng: Generator, *kinds: str) -> int:
    return int(rng.choice([number for number, part in enumerate(plan.parts) if part.kind in kinds]))


def _changed(plan: Plan, which: int, **fields) -> Plan:
    parts = list(plan.parts)
    parts[which] = replace(parts[which], **fields)
    return replace(plan, parts=tuple(parts))


def missing_part(plan: Plan, rng: Generator) -> Plan:
    return _changed(plan, _one_of(plan, rng, "resistor", "capacitor", "can", "crystal", "led"), missing=True)


def misplaced_part(plan: Plan, rng: Generator) -> Plan:
    """A part that swam aside or turned on its solder."""
    which = _one_of(plan, rng, "resistor", "capacitor", "chip", "crystal")
    part = plan.parts[which]
    turn = rng.choice((-1, 1)) * rng.uniform(0.3, 0.7) * (0.45 if part.kind == "chip" else 1)
    dx, dy = rng.normal(0, 0.009, 2).tolist()
    return _changed(plan, which, x=part.x + dx, y=part.y + dy, turn=part.turn + turn)


def wrong_colour(plan: Plan, rng: Generator) -> Plan:
    """A part of another value: another body colour."""
    which = _one_of(plan, rng, "resistor", "capacitor", "led", "can")
    other = {
        "resistor": ("#2f5f9a", "#c8b58a", "#7c3a2c"),
        "capacitor": ("#5b5b60", "#e3d9c0", "#7d4a66"),
        "led": ("#3f7f4a", "#d2a63a"),
        "can": ("#b08a4a", "#4a6fa5", "#3b3b3f"),
    }[plan.parts[which].kind]
    return _changed(plan, which, colour=str(rng.choice(other)))


def _on_board(plan: Plan, rng: Generator, share: float = 0.8) -> tuple[float, float]:
    return _placed(plan, *(rng.uniform(-share, share, 2) * HALF).tolist())


def scratch(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Through the solder mask, down to copper."""
    points = marks.stroke(rng, *_on_board(plan, rng, 0.6), rng.uniform(0.16, 0.36))
    bare = linear(rng.choice(["#d9a05c", "#cfd6b4"]))
    marks.scratch(surface, points, rng, width=rng.uniform(0.008, 0.012), bare=bare, metal=0.5)


def contamination(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Solder balls, dirt or a fibre."""
    if rng.random() < 0.4:
        x, y = _on_board(plan, rng)
        for _ in range(rng.integers(2, 6)):
            radius = rng.uniform(0.008, 0.014)
            view = surface.window(x, y, 2 * radius)
            r = np.hypot(view.x - x, view.y - y)
            cover = view.inside(r - radius)
            view.lay(cover, colour=linear("#d6d6d4"), rough=0.25, metal=1.0, coat=0.0)
            view.height[...] += cover * 1.6 * np.sqrt(np.clip(radius**2 - r**2, 0, None))
            x, y = x + rng.normal(0, 0.03), y + rng.normal(0, 0.03)
        return
    marks.debris(surface, *_on_board(plan, rng), rng, scale=0.9)


def stain(surface: Surface, plan: Plan, rng: Generator) -> None:
    """Flux that was not washed off: a whitish to amber crust."""
    place, radius = _on_board(plan, rng, 0.7), rng.uniform(0.045, 0.08)
    size = surface.height.shape[0]
    cloud = fractal(rng, size, 8)
    edge = marks.ragged(rng, surface, *place, radius, rough=0.4) + 0.24 * radius * cloud
    cover = smoothstep(0.15 * radius, -0.5 * radius, edge) * np.clip(0.45 + 0.3 * cloud, 0.08, 0.85)
    cover += 0.5 * np.exp(-(((edge + 0.06 * radius) / (0.07 * radius)) ** 2))
    colour = linear(rng.choice(["#c9c3a8", "#b08f4e", "#8a6a38"]))
    surface.lay(np.clip(cover, 0, 0.9) * rng.uniform(0.65, 0.95), colour=colour, rough=0.8, coat=0.15)


CIRCUIT_BOARD = Product(
    name="circuit_board",
    title="Circuit board",
    kind="object",
    plan=plan,
    draw=draw,
    assembly={"missing_part": missing_part, "misplaced_part": misplaced_part, "wrong_colour": wrong_colour},
    damage={"scratch": scratch, "contamination": contamination, "stain": stain},
)
