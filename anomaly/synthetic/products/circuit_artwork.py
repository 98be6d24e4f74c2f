"""The layout of the circuit board: which part lies where, and the printed copper and legend."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomaly.synthetic.products.circuit_parts import Part

HALF = 0.445  # of the square board, image widths; all places below are measured from its centre
HOLES = ((-0.395, -0.395), (0.395, -0.395), (-0.395, 0.395), (0.395, 0.395))
_UP = np.pi / 2
_SMALL = {"half_u": 0.028, "half_v": 0.015}

PARTS = (
    Part("chip", -0.07, -0.03, 0.105, 0.105, pins=(11, 11)),
    Part("chip", 0.255, -0.205, 0.085, 0.05, _UP, pins=(8, 0)),
    Part("can", 0.265, 0.165, 0.072, 0.072, colour="#c4c6c8"),
    Part("can", 0.265, 0.005, 0.045, 0.045, _UP, colour="#c4c6c8"),
    Part("crystal", -0.295, 0.145, 0.058, 0.026, _UP, colour="#c9cbcc"),
    Part("header", -0.075, 0.335, 0.21, 0.045, pins=(10, 2)),
    Part("led", 0.30, 0.335, 0.022, 0.015, colour="#b3262b"),
    *(Part("resistor", -0.335, -0.27 + 0.062 * n, **_SMALL, colour="#202124") for n in range(5)),
    *(Part("resistor", -0.12 + 0.062 * n, -0.345, **_SMALL, turn=_UP, colour="#202124") for n in range(4)),
    Part("capacitor", -0.245, -0.215, **_SMALL, turn=_UP, colour="#b0885a"),
    Part("capacitor", -0.10, -0.235, **_SMALL, colour="#b0885a"),
    Part("capacitor", 0.0, -0.235, **_SMALL, colour="#b0885a"),
    Part("capacitor", 0.135, -0.06, **_SMALL, turn=_UP, colour="#b0885a"),
    Part("capacitor", 0.135, 0.03, **_SMALL, turn=_UP, colour="#b0885a"),
    Part("capacitor", -0.12, 0.185, **_SMALL, colour="#b0885a"),
    Part("capacitor", 0.0, 0.185, **_SMALL, colour="#b0885a"),
    Part("resistor", 0.12, 0.185, **_SMALL, turn=_UP, colour="#202124"),
    Part("resistor", 0.25, -0.36, **_SMALL, colour="#202124"),
)

# Copper: runs of straight and 45 degree pieces, as (x, y) corners.
_TRACES = (
    *(
        ((-0.31, -0.27 + 0.062 * n), (-0.26 + 0.02 * n, -0.27 + 0.062 * n), (-0.19, -0.11 + 0.019 * n))
        for n in range(5)
    ),
    *(
        ((-0.12 + 0.062 * n, -0.32), (-0.12 + 0.062 * n, -0.28), (-0.13 + 0.035 * n, -0.25), (-0.13 + 0.035 * n, -0.16))
        for n in range(4)
    ),
    *(
        (
            (-0.25 + 0.042 * n, 0.31),
            (-0.25 + 0.042 * n, 0.25 - 0.006 * n),
            (-0.14 + 0.019 * n, 0.14),
            (-0.14 + 0.019 * n, 0.09),
        )
        for n in range(9)
    ),
    *(
        ((0.06, -0.12 + 0.019 * n), (0.10, -0.12 + 0.019 * n), (0.165, -0.185 + 0.019 * n), (0.19, -0.185 + 0.019 * n))
        for n in range(4)
    ),
    ((0.06, 0.03), (0.11, 0.03), (0.16, 0.08), (0.19, 0.11), (0.19, 0.165)),
    ((0.06, 0.05), (0.10, 0.05), (0.15, 0.10), (0.15, 0.25), (0.23, 0.33), (0.28, 0.33)),
    ((0.32, -0.27), (0.37, -0.22), (0.37, 0.05), (0.34, 0.08), (0.34, 0.165)),
    ((0.32, -0.14), (0.345, -0.115), (0.345, -0.03), (0.31, 0.005)),
    ((0.27, -0.36), (0.34, -0.36), (0.38, -0.32), (0.38, -0.26)),
    ((-0.36, -0.27), (-0.40, -0.23), (-0.40, 0.30), (-0.36, 0.34), (-0.29, 0.34)),
    ((-0.295, 0.09), (-0.295, 0.06), (-0.24, 0.02), (-0.19, 0.02)),
    ((-0.295, 0.20), (-0.295, 0.235), (-0.33, 0.27), (-0.33, 0.36)),
)
_VIAS = (
    *((-0.2, 0.1), (-0.22, 0.18), (0.15, 0.12), (0.09, 0.25), (0.17, -0.30), (0.14, -0.13)),
    *((-0.38, 0.1), (0.37, -0.1), (0.36, 0.25), (-0.2, -0.3), (0.2, 0.26), (-0.36, 0.2)),
)
_LEGEND = (
    ("U1", -0.19, -0.2),
    ("U2", 0.375, -0.3),
    ("C1", 0.385, 0.2),
    ("C2", 0.36, -0.03),
    ("Y1", -0.225, 0.1),
    ("J1", 0.155, 0.31),
    ("R1", -0.40, -0.33),
    ("D1", 0.30, 0.37),
    ("R6", -0.17, -0.40),
    ("TL-208 REV B", 0.02, 0.415),
    ("+", 0.375, 0.10),
)


@lru_cache(maxsize=4)
def artwork(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Films of the board, each (size, size) float32 0..1: copper below the mask, and the white legend."""
    fine = 2 * size
    copper, ink = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    scale = fine / (2 * HALF)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x + HALF) * scale, (y + HALF) * scale

    pen = ImageDraw.Draw(copper)
    for trace in _TRACES:
        pen.line([at(*corner) for corner in trace], fill=255, width=max(round(0.0075 * scale), 1), joint="curve")
    for x, y in _VIAS:
        _disk(pen, at(x, y), 0.011 * scale, 255)
        _disk(pen, at(x, y), 0.005 * scale, 0)
    pen = ImageDraw.Draw(ink)
    font = ImageFont.load_default(size=0.03 * scale)
    for text, x, y in _LEGEND:
        pen.text(at(x, y), text, fill=255, font=font, anchor="mm")
    for part in PARTS:
        if part.kind in ("chip", "can", "crystal"):
            _outline(pen, part, at, scale)
    films = (film.resize((size, size), Image.Resampling.BOX) for film in (copper, ink))
    return tuple(np.asarray(film, np.float32) / 255 for film in films)


def _disk(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, fill: int) -> None:
    x, y = centre
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _outline(pen: ImageDraw.ImageDraw, part: Part, at, scale: float) -> None:
    """The legend's frame around a part."""
    half_u, half_v = (part.half_u, part.half_v) if part.turn == 0 else (part.half_v, part.half_u)
    grow = 0.038 if part.kind == "chip" else 0.02
    corners = (*at(part.x - half_u - grow, part.y - half_v - grow), *at(part.x + half_u + grow, part.y + half_v + grow))
    pen.rectangle(corners, outline=255, width=max(round(0.004 * scale), 1))
