"""A blister pack of twelve scored tablets: clear bubbles over embossed aluminium foil, on a dark bench."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from anomaly.synthetic import marks
from anomaly.synthetic.noise import fractal, smooth, wobble
from anomaly.synthetic.product import Product
from anomaly.synthetic.surface import Surface, box, linear, smoothstep, turned

FOIL, BENCH, PILL = (linear(c) for c in ("#cfd0d2", "#39424c", "#f0e6dd"))
WRONG = tuple(linear(c) for c in ("#d9a24a", "#7fa4c4", "#c9788a", "#9aa884", "#b7a58f"))
COLUMNS, ROWS, PITCH_X, PITCH_Y = 4, 3, 0.2, 0.195
HALF_WIDE, HALF_HIGH = 0.435, 0.325  # of the card, image widths
POCKET, TABLET, DOME = 0.082, 0.060, 0.055  # radii, and the bubble's height


@dataclass(frozen=True)
class Tablet:
    x: float  # from the card's centre
    y: float
    turn: float  # of the score line
    colour: np.ndarray
    radius: float = TABLET
    missing: bool = False
    broken: tuple[float, float] | None = None  # direction of the fracture and where it runs, in radii from the centre


@dataclass(frozen=True)
class Plan:
    seed: int
    x: float
    y: float
    angle: float
    foil: np.ndarray
    bench: np.ndarray
    tablets: tuple[Tablet, ...]


def plan(rng: Generator) -> Plan:
    batch = PILL * rng.uniform(0.88, 1.02) * (1 + rng.normal(0, 0.015, 3))
    tablets = []
    for x, y in _pockets():
        loose = (POCKET - TABLET) * 0.55 * np.sqrt(rng.random())
        turn = rng.uniform(0, 2 * np.pi)
        x, y = x + loose * float(np.cos(turn)), y + loose * float(np.sin(turn))
        tablets.append(Tablet(x, y, rng.uniform(0, np.pi), (batch * rng.uniform(0.98, 1.02)).astype(np.float32)))
    x, y = 0.5 + rng.uniform(-0.025, 0.025, 2)
    foil, bench = FOIL * rng.uniform(0.88, 1.06), BENCH * rng.uniform(0.6, 1.5)
    return Plan(int(rng.integers(2**31)), x, y, rng.normal(0, 0.03), foil, bench, tuple(tablets))


def _pockets() -> list[tuple[float, float]]:
    """Centres of the twelve pockets from the card's centre."""
    columns = [(column - (COLUMNS - 1) / 2) * PITCH_X for column in range(COLUMNS)]
    rows = [(row - (ROWS - 1) / 2) * PITCH_Y for row in range(ROWS)]
    return [(x, y) for y in rows for x in columns]


def draw(plan: Plan, size: int) -> Surface:
    rng = np.random.default_rng(plan.seed)
    surface = Surface.flat(size, plan.bench, rough=0.7)
    surface.albedo[...] *= (1 + 0.05 * fractal(rng, size, 6, octaves=6))[..., None]
    surface.height[...] = 0.0004 * smooth(rng, size, 150)
    u, v = turned(surface.x - plan.x, surface.y - plan.y, plan.angle)
    _card(surface, plan, u, v, rng)
    for tablet, grain in zip(plan.tablets, rng.spawn(len(plan.tablets)), strict=True):  # a broken one changes no other
        if not tablet.missing:
            _tablet(surface, plan, tablet, grain)
    for pocket in _pockets():
        _bubble(surface, plan, pocket, rng)
    return surface


def _card(surface: Surface, plan: Plan, u: np.ndarray, v: np.ndarray, rng: Generator) -> None:
    size = surface.height.shape[0]
    card = surface.inside(box(u, v, HALF_WIDE, HALF_HIGH, 0.04))
    pu = np.mod(u + PITCH_X * COLUMNS / 2, PITCH_X) - PITCH_X / 2
    pv = np.mod(v + PITCH_Y * ROWS / 2, PITCH_Y) - PITCH_Y / 2
    sealed = smoothstep(0, 0.006, np.hypot(pu, pv) - POCKET)
    pyramids = np.cos(2 * np.pi * (u + v) / 0.017) + np.cos(2 * np.pi * (u - v) / 0.017)
    surface.lay(card, colour=plan.foil, rough=0.46, metal=1.0, coat=0.35)
    relief = 0.00036 * sealed * pyramids + 0.004 * smooth(rng, size, 3) + 0.0008 * smooth(rng, size, 12)
    surface.level(card, 0.014 + relief)


def _tablet(surface: Surface, plan: Plan, tablet: Tablet, rng: Generator) -> None:
    x, y = _placed(plan, tablet.x, tablet.y)
    view = surface.window(x, y, 1.3 * tablet.radius)
    u, v = turned(view.x - x, view.y - y, plan.angle + tablet.turn)
    r = np.hypot(u, v)
    edge = r - tablet.radius
    crumbly = wobble(rng, 30 * v / tablet.radius, lobes=6)
    if tablet.broken is not None:
        turn, where = tablet.broken
        across, along = turned(u, v, turn)
        edge = np.maximum(edge, across - tablet.radius * (where + 0.05 * wobble(rng, 4 * along / tablet.radius)))
    cover = view.inside(edge)
    bevel = np.clip(-edge / (0.16 * tablet.radius), 0, 1)
    score = np.exp(-((v / 0.0042) ** 2))
    dome = 0.024 * np.sqrt(bevel) + 0.010 * (1 - (r / tablet.radius) ** 2) - 0.005 * score
    powder = 1 + 0.012 * crumbly - 0.10 * score
    view.lay(cover, colour=tablet.colour * powder[..., None], rough=0.75, metal=0.0, coat=0.0)
    view.level(cover, 0.018 + dome)


def _bubble(surface: Surface, plan: Plan, pocket: tuple[float, float], rng: Generator) -> None:
    x, y = _placed(plan, *pocket)
    view = surface.window(x, y, 1.25 * POCKET)
    dx, dy = view.x - x, view.y - y
    r = np.hypot(dx, dy) / POCKET
    dome = DOME * np.clip(1 - r**2.6, 0, 1) ** 0.75
    sag = 0.003 * (rng.normal() * dx + rng.normal() * dy) / POCKET  # no two bubbles are drawn alike
    cover = view.inside((r - 1) * POCKET)
    view.shell[...] += cover * (0.016 + dome + sag - view.shell)
    view.shelled[...] = np.maximum(view.shelled, cover)
    view.lay(cover, coat=0.9)
    rim = np.exp(-(((r - 1.0) / 0.055) ** 2))
    view.tint(0.28 * rim, np.full(3, 0.35, np.float32))  # the steep wall swallows light


def _placed(plan: Plan, u: float, v: float) -> tuple[float, float]:
    """Picture coordinates of a place on the card."""
    x, y = turned(np.float64(u), np.float64(v), -plan.angle)
    return plan.x + float(x), plan.y + float(y)


def _any(plan: Plan, rng: Generator) -> int:
    return int(rng.integers(len(plan.tablets)))


def _changed(plan: Plan, which: int, **fields) -> Plan:
    """The plan with tablet `which` different."""
    tablets = list(plan.tablets)
    tablets[which] = replace(tablets[which], **fields)
    return replace(plan, tablets=tuple(tablets))


def missing_part(plan: Plan, rng: Generator) -> Plan:
    return _changed(plan, _any(plan, rng), missing=True)


def chip(plan: Plan, rng: Generator) -> Plan:
    """A tablet with a piece broken off."""
    return _changed(plan, _any(plan, rng), broken=(rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.55)))


def wrong_colour(plan: Plan, rng: Generator) -> Plan:
    """A tablet of another product."""
    colour = PILL + rng.uniform(0.45, 1.0) * (marks.any_of(rng, WRONG) - PILL)
    return _changed(plan, _any(plan, rng), colour=colour.astype(np.float32))


def misplaced_part(plan: Plan, rng: Generator) -> Plan:
    """A tablet that was sealed in between two pockets."""
    which = _any(plan, rng)
    x, y = _pockets()[which]
    inwards = -1 if x > 0 else 1
    return _changed(plan, which, x=x + inwards * PITCH_X * rng.uniform(0.38, 0.5), y=y + rng.uniform(-0.03, 0.03))


def bent(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A bubble pressed in: its smooth highlight breaks into creases, where the plastic turns milky."""
    x, y = _placed(plan, *_pockets()[rng.integers(COLUMNS * ROWS)])
    turn, off = rng.uniform(0, 2 * np.pi), POCKET * rng.uniform(0.15, 0.45)
    view = surface.window(x, y, 1.1 * POCKET)
    u, v = view.x - x - off * float(np.cos(turn)), view.y - y - off * float(np.sin(turn))
    angle, r = np.arctan2(v, u), np.hypot(u, v) / POCKET
    inside = smoothstep(1.0, 0.85, np.hypot(view.x - x, view.y - y) / POCKET)
    pushed = inside * smoothstep(0.9 + 0.12 * wobble(rng, angle), 0.25, r)
    twist = 0.9 * wobble(rng, angle, lobes=4) + rng.normal(0, 1.5) * r
    rays = np.abs(np.sin(rng.choice((1.0, 1.5, 2.0)) * angle + rng.uniform(0, np.pi) + twist))
    crease = smoothstep(0.35, 0.05, rays) * smoothstep(0.05, 0.3, r)
    view.shell[...] -= pushed * (0.034 - 0.016 * crease)
    view.lay(pushed * (0.12 + 0.6 * crease), colour=linear("#f2f2f0"), rough=0.6, metal=0.0)
    view.tint(0.65 * pushed * smoothstep(0.5, 1.0, rays), np.full(3, 0.25, np.float32))


def contamination(surface: Surface, plan: Plan, rng: Generator) -> None:
    tablet = plan.tablets[rng.integers(len(plan.tablets))]
    x, y = _placed(plan, tablet.x, tablet.y)
    dx, dy = rng.normal(0, 0.03, 2)
    marks.debris(surface, x + float(dx), y + float(dy), rng, scale=0.75)


def cut(surface: Surface, plan: Plan, rng: Generator) -> None:
    """A slit in the foil between the pockets."""
    u, v = rng.choice((-1, 0, 1)) * PITCH_X, rng.choice((-0.5, 0.5)) * PITCH_Y
    x, y = _placed(plan, u + rng.normal(0, 0.02), v)
    points = marks.stroke(rng, x, y, rng.uniform(0.1, 0.2), angle=plan.angle + rng.normal(0, 0.5), bend=0.4)
    marks.scratch(surface, points, rng, width=0.022, bare=plan.foil * 1.1, metal=1.0)
    marks.fissure(surface, points, rng, width=rng.uniform(0.009, 0.014), depth=0.012, colour=plan.bench * 0.1)


BLISTER_PACK = Product(
    name="blister_pack",
    title="Blister pack",
    kind="object",
    plan=plan,
    draw=draw,
    assembly={
        "missing_part": missing_part,
        "misplaced_part": misplaced_part,
        "wrong_colour": wrong_colour,
        "chip": chip,
    },
    damage={"bent": bent, "contamination": contamination, "cut": cut},
)
