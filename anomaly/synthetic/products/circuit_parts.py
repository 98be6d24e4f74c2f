"""The components of the circuit board, each drawn in a window around its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly.synthetic.surface import Surface, box, linear, smoothstep, turned

BOARD_TOP = 0.02
TIN, GOLD, PLASTIC = (linear(c) for c in ("#c9cbcc", "#d9b45f", "#1d1e20"))


@dataclass(frozen=True)
class Part:
    """kind: chip, resistor, capacitor, can, crystal, led, header or pads. Lengths in image widths, on the board."""

    kind: str
    x: float
    y: float
    half_u: float
    half_v: float
    turn: float = 0.0
    colour: str = "#1d1e20"
    pins: tuple[int, int] = (0, 0)  # of a chip: on each long and on each short side; of a header: columns, rows
    shade: float = 1.0
    missing: bool = False


def draw_part(surface: Surface, part: Part, x: float, y: float, angle: float) -> None:
    """Draw `part` with its centre at picture coordinates x, y; `angle` is the board's."""
    view = surface.window(x, y, 1.6 * max(part.half_u, part.half_v) + 0.02)
    u, v = turned(view.x - x, view.y - y, angle + part.turn)
    _DRAWN[part.kind](view, part, u, v)


def _solder(view: Surface, distance: np.ndarray, *, rise: float = 0.004) -> None:
    cover = view.inside(distance)
    view.lay(cover, colour=TIN, rough=0.32, metal=1.0, coat=0.0)
    view.level(cover, BOARD_TOP + rise * np.clip(-distance / 0.006, 0, 1) + 0.001)


def _body(view: Surface, distance: np.ndarray, top: float, *, colour, rough: float, bevel: float, metal: float = 0.0):
    cover = view.inside(distance)
    view.lay(cover, colour=colour, rough=rough, metal=metal, coat=0.0)
    slope = smoothstep(0, bevel, -distance)
    view.level(cover, BOARD_TOP + top * (0.55 + 0.45 * slope))


def _chip(view: Surface, part: Part, u, v) -> None:
    sides = ((u, v, part.half_u, part.half_v, part.pins[0]), (v, u, part.half_v, part.half_u, part.pins[1]))
    for along, across, half_along, half_across, count in sides:
        if count == 0:
            continue
        pitch = 2 * half_along * 0.9 / count
        near = np.mod(along + pitch * count / 2, pitch) - pitch / 2
        row = np.abs(along) - pitch * count / 2
        out = np.abs(across) - half_across
        pin = np.maximum(np.maximum(np.abs(near) - 0.28 * pitch, row), np.maximum(out - 0.024, -out - 0.002))
        _solder(view, np.maximum(np.maximum(np.abs(near) - 0.36 * pitch, row), np.abs(out - 0.02) - 0.010), rise=0.001)
        cover = view.inside(pin)
        view.lay(cover, colour=TIN, rough=0.3, metal=1.0, coat=0.0)
        view.level(cover, BOARD_TOP + 0.004 + 0.012 * smoothstep(0.018, 0.004, out))
    edge = box(u, v, part.half_u, part.half_v, 0.004)
    _body(view, edge, 0.026, colour=linear(part.colour) * part.shade, rough=0.62, bevel=0.006)
    dot = np.hypot(u + part.half_u - 0.022, v + part.half_v - 0.022) - 0.008
    view.height[...] -= 0.0025 * view.inside(dot)
    _marking(view, part, u, v)


def _marking(view: Surface, part: Part, u, v) -> None:
    """Laser-engraved lettering: at this scale, rows of short strokes."""
    small = min(part.half_u, part.half_v)
    rows = np.array((-0.3, 0.05, 0.4)) * small
    long = np.array((0.62, 0.45, 0.55)) * part.half_u
    for row, half in zip(rows, long, strict=True):
        letter = np.maximum(np.abs(v - row) - 0.10 * small, np.abs(u) - half)
        broken = np.sin(u / 0.0023 + 40 * row) + np.sin(u / 0.0041 + 90 * row) > -0.35
        view.lay(0.32 * view.inside(letter) * broken, colour=linear("#a9a9a5"), rough=0.8)


def _ended(view: Surface, part: Part, u, v, *, colour, tall: float, rough: float) -> None:
    """A chip resistor or capacitor: solder fillets, tinned ends, a body between."""
    pads = box(np.abs(u) - part.half_u, v, 0.35 * part.half_u, 1.2 * part.half_v, 0.004)
    _solder(view, pads, rise=0.009)
    edge = box(u, v, part.half_u, part.half_v, 0.0025)
    _body(view, edge, tall, colour=TIN, rough=0.4, bevel=0.004, metal=1.0)
    middle = box(u, v, 0.62 * part.half_u, part.half_v, 0.001)
    view.lay(view.inside(middle), colour=colour * part.shade, rough=rough, metal=0.0, coat=0.25)


def _resistor(view: Surface, part: Part, u, v) -> None:
    _ended(view, part, u, v, colour=linear(part.colour), tall=0.012, rough=0.6)
    digits = (np.sin(u / 0.0022) > -0.1) * view.inside(box(u, v, 0.4 * part.half_u, 0.45 * part.half_v))
    view.lay(0.6 * digits, colour=linear("#d6d6d2"))


def _capacitor(view: Surface, part: Part, u, v) -> None:
    _ended(view, part, u, v, colour=linear(part.colour), tall=0.018, rough=0.5)


def _can(view: Surface, part: Part, u, v) -> None:
    """An aluminium electrolytic capacitor on its black foot."""
    foot = box(u, v, 1.04 * part.half_u, 1.04 * part.half_u, 0.012)
    _solder(view, box(np.abs(u) - 1.1 * part.half_u, v, 0.016, 0.014, 0.004))
    _body(view, foot, 0.014, colour=PLASTIC, rough=0.6, bevel=0.004)
    r = np.hypot(u, v)
    cover = view.inside(r - part.half_u)
    view.lay(cover, colour=linear(part.colour) * part.shade, rough=0.38, metal=1.0, coat=0.0)
    rim = smoothstep(0.0, 0.012, part.half_u - r) - 0.25 * smoothstep(0.012, 0.018, part.half_u - r)
    view.level(cover, BOARD_TOP + 0.05 + 0.012 * rim)
    polarity = cover * view.inside(0.45 * part.half_u + u) * view.inside(r - 0.86 * part.half_u)
    view.lay(polarity, colour=PLASTIC, rough=0.85, metal=0.0)


def _crystal(view: Surface, part: Part, u, v) -> None:
    edge = box(u, v, part.half_u, part.half_v, 0.98 * part.half_v)
    _solder(view, box(np.abs(u) - 1.05 * part.half_u, v, 0.018, 0.010, 0.004))
    _body(view, edge, 0.018, colour=TIN * 0.9, rough=0.3, bevel=0.003, metal=1.0)
    _body(view, edge + 0.007, 0.034, colour=TIN * part.shade, rough=0.28, bevel=0.008, metal=1.0)
    letters = (np.sin(u / 0.0026) > -0.3) * view.inside(box(u, v, 0.5 * part.half_u, 0.2 * part.half_v))
    view.lay(0.5 * letters, colour=linear("#4a4a4a"), rough=0.8)


def _led(view: Surface, part: Part, u, v) -> None:
    _solder(view, box(np.abs(u) - part.half_u, v, 0.4 * part.half_u, 1.0 * part.half_v, 0.003), rise=0.006)
    _body(view, box(u, v, part.half_u, part.half_v, 0.003), 0.012, colour=linear("#e8e6dd"), rough=0.5, bevel=0.003)
    lens = np.hypot(u, v) - 0.75 * part.half_v
    cover = view.inside(lens)
    view.lay(cover, colour=linear(part.colour) * part.shade, rough=0.2, coat=1.0)
    view.level(cover, BOARD_TOP + 0.014 + 0.6 * np.sqrt(np.clip(-lens * part.half_v, 0, None)))


def _header(view: Surface, part: Part, u, v) -> None:
    """Two rows of gilded pins in a black strip."""
    columns, rows = part.pins
    _body(view, box(u, v, part.half_u, part.half_v, 0.004), 0.022, colour=PLASTIC, rough=0.6, bevel=0.004)
    pitch = 2 * part.half_u / columns
    du = np.mod(u + part.half_u, pitch) - pitch / 2
    dv = np.mod(v + pitch * rows / 2, pitch) - pitch / 2
    inside = np.maximum(np.abs(u) - part.half_u, np.abs(v) - pitch * rows / 2)
    view.height[...] -= 0.006 * view.inside(np.abs(np.abs(u) - part.half_u) - 0.003) * view.inside(inside)
    pin = np.maximum(box(du, dv, 0.24 * pitch, 0.24 * pitch, 0.001), inside)
    cover = view.inside(pin)
    view.lay(cover, colour=GOLD * part.shade, rough=0.28, metal=1.0, coat=0.0)
    view.level(cover, BOARD_TOP + 0.045 + 0.003 * smoothstep(0, 0.005, -pin))


def _pads(view: Surface, part: Part, u, v) -> None:
    """What is left where a part is missing: its two tinned pads."""
    wide = min(1.1 * part.half_v, 0.02)
    _solder(view, box(np.abs(u) - part.half_u, v, min(0.35 * part.half_u, 0.016), wide, 0.004), rise=0.003)


_DRAWN = {
    "chip": _chip,
    "resistor": _resistor,
    "capacitor": _capacitor,
    "can": _can,
    "crystal": _crystal,
    "led": _led,
    "header": _header,
    "pads": _pads,
}
