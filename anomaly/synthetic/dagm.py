"""Ten textures in the manner of DAGM 2007: gray statistical surfaces, one kind of subtle flaw each, weak labels.

The data set that they imitate (Wieler & Hahn, "Weakly supervised learning for industrial optical inspection", DAGM
symposium 2007) has for each class photos of 512 px with 8 bits, about 1,000 good and 150 defective, half of each to
learn from, and labels a flaw by an ellipse around it. All textures here are drawn by this file from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import fft
from scipy.ndimage import distance_transform_edt

from anomaly.errors import UnknownName, UsageError
from anomaly.synthetic.noise import smooth
from anomaly.synthetic.rendering import check_request
from anomaly.synthetic.surface import smoothstep

SIZE, GOOD, DEFECTIVE = 512, 500, 75  # published, in each half of a class
GRAINS = 34  # pebbles in a row
ATTRIBUTES = "attributes.json"
WORDS = (  # by which surfaces and their flaws are described, by hand
    *("dark ground", "gray ground", "light ground"),
    *("darker flaw", "lighter flaw", "flaw of the same tone"),
    *("fine", "coarse", "directed", "periodic", "winding", "grainy", "in relief"),
    *("tiny flaw", "small flaw", "large flaw"),
    *("thin line", "round patch", "ragged patch"),
    *("single flaw", "clustered flaw", "across the texture", "within the texture"),
    *("soiled", "scratched", "slipped", "broken out", "distorted", "worn"),
)
EDGE = 0.06  # of the picture: flaws stay so far from its border


@dataclass(frozen=True)
class Flaw:
    """Where a texture is disturbed.

    Attributes:
        u, v: (h, w) coordinates along and across the ellipse that labels the flaw; its border is u² + v² = 1.
        rng: what else is random about it.
        size: half the length of the ellipse, in shares of the picture; across: half its width.
    """

    u: np.ndarray
    v: np.ndarray
    rng: Generator
    size: float
    across: float

    def blob(self, soft: float = 0.35) -> np.ndarray:
        """(h, w) 0..1: an uneven patch that fills most of the ellipse."""
        angle = np.arctan2(self.v, self.u)
        edge = 0.78 + sum(
            self.rng.uniform(-0.1, 0.1) * np.cos(k * angle + self.rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
        )
        return smoothstep(0, soft, edge - np.hypot(self.u, self.v)).astype(np.float32)

    def line(self, width: float, *, jagged: float) -> np.ndarray:
        """(h, w) 0..1: a line along the ellipse, `width` shares of the picture wide, that bends or is jagged."""
        knots = np.linspace(-0.92, 0.92, 12)
        bend = self.rng.uniform(-0.5, 0.5) * knots**2 + jagged * self.rng.normal(0, 0.4, 12) * (1 - knots**2)
        middle = np.interp(self.u, knots, np.clip(bend - bend.mean(), -0.75, 0.75))
        apart = np.abs(self.v - middle) * self.across
        return (smoothstep(width, 0.4 * width, apart) * smoothstep(0.92, 0.8, np.abs(self.u))).astype(np.float32)


Draw = Callable[[Generator, int, "Flaw | None"], np.ndarray]  # (h, w) float, about 0 on average, about -1..1


@dataclass(frozen=True)
class Texture:
    """A class of surfaces, with those of the WORDS that describe it.

    Its flaws are `long`, half an ellipse's length, and `wide`, half its width, in shares of the picture.
    """

    name: str
    draw: Draw
    looks: tuple[str, ...]
    long: tuple[float, float] = (0.07, 0.14)
    wide: tuple[float, float] = (0.05, 0.09)


def felt(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Fine even noise; the flaw is a faint soft smudge."""
    gray = 0.42 * _noise(rng, size, 60, 150) + 0.12 * smooth(rng, size, 5)
    if flaw:
        gray += flaw.rng.choice((-1, 1)) * flaw.rng.uniform(0.45, 0.65) * flaw.blob(0.6)
    return gray


def brushed(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Streaks along one direction; the flaw is a thin scratch across them."""
    gray = 0.45 * _noise(rng, size, 20, 130, along=rng.normal(0, 3), narrow=0.05)
    if flaw:
        gray += flaw.rng.choice((-1, 1)) * flaw.rng.uniform(0.8, 1.1) * flaw.line(0.004, jagged=0.15)
    return gray


def twill(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Crossing threads; the flaw is a patch in which they have slipped by half a thread."""
    x, y = _coordinates(size)
    drift = [0.5 * smooth(rng, size, 4) for _ in range(2)]
    slip = np.pi * flaw.blob(0.2) if flaw else 0
    angle = np.deg2rad(rng.normal(45, 2))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    phases = rng.uniform(0, 2 * np.pi, 2)
    one = np.sin(2 * np.pi * 26 * along + drift[0] + phases[0] + slip)
    two = np.sin(2 * np.pi * 26 * across + drift[1] + phases[1])
    over = np.where(one * two > 0, np.abs(one), -np.abs(two))
    return 0.5 * over + 0.12 * _noise(rng, size, 60, 150)


def pebbles(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Rounded grains, close together; the flaw is a nest from which some of them have broken out."""
    rows, columns = np.divmod(np.arange(GRAINS**2), GRAINS)
    seeds = np.column_stack([rows, columns]) + 0.5 + rng.uniform(-0.42, 0.42, (GRAINS**2, 2))
    seeds = (seeds * size / GRAINS).astype(int)
    if flaw:
        inside = np.hypot(flaw.u, flaw.v)[seeds[:, 0], seeds[:, 1]] < 0.8
        seeds = seeds[~inside | (flaw.rng.random(len(seeds)) < 0.45)]
    empty = np.ones((size, size), bool)
    empty[seeds[:, 0], seeds[:, 1]] = False
    apart = distance_transform_edt(empty).astype(np.float32) * (SIZE / size)
    return 0.75 - 0.11 * np.minimum(apart, 19) + 0.15 * _noise(rng, size, 50, 150)


def ripples(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Winding stripes as of a fingerprint; the flaw is a swirl in which they run astray."""
    x, y = _coordinates(size)
    angle = rng.uniform(0, np.pi)
    phase = 2 * np.pi * 17 * (x * np.cos(angle) + y * np.sin(angle)) + 3.2 * smooth(rng, size, 4)
    if flaw:
        phase = phase + flaw.rng.choice((-1, 1)) * 5.5 * flaw.blob(0.7)
    return 0.55 * np.sin(phase) + 0.15 * _noise(rng, size, 40, 150)


def raster(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Embossed dots in rows; the flaw is a patch in which they are flat."""
    x, y = _coordinates(size)
    angle = rng.normal(0, 0.06)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    shifts = rng.uniform(0, 1, 2)
    dots = np.cos(2 * np.pi * (30 * u + shifts[0])) + np.cos(2 * np.pi * (30 * v + shifts[1]))
    dots = smoothstep(0.2, 1.6, dots) * (1 + 0.15 * smooth(rng, size, 30))
    if flaw:
        dots *= 1 - 0.85 * flaw.blob(0.25)
    return 1.1 * dots - 0.35 + 0.14 * _noise(rng, size, 40, 150)


def granite(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Dark and light flakes on gray; the flaw is a place where light ones crowd."""
    light, dark, ground = (_noise(rng, size, *band) for band in ((18, 45), (12, 30), (40, 150)))
    crowd = 1.3 * flaw.blob(0.5) if flaw else 0
    return 0.18 * ground + 0.8 * smoothstep(1.25, 1.7, light + crowd) - 0.7 * smoothstep(1.1, 1.6, dark)


def fibres(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Fibres that lie in all directions; the flaw is a tuft in which they lie in one."""
    turns = rng.uniform(0, 180) + np.arange(0, 180, 30)
    layers = [_noise(rng, size, 15, 80, along=turn, narrow=0.05) for turn in turns]
    gray = 0.33 * np.max(layers, axis=0) - 0.35
    if flaw:
        layer = layers[int(flaw.rng.integers(len(layers)))]
        spot = flaw.blob(0.4)
        gray = gray * (1 - spot) + spot * 0.42 * layer
    return gray + 0.06 * _noise(rng, size, 60, 150)


def labyrinth(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Two tones that wind around each other; the flaw is a dark jagged crack."""
    gray = 0.38 * np.tanh(2.2 * _noise(rng, size, 14, 22)) + 0.1 * _noise(rng, size, 50, 150)
    if flaw:
        crack = flaw.line(0.0055, jagged=0.55)
        gray = gray * (1 - crack) - 0.85 * crack
    return gray


def hammered(rng: Generator, size: int, flaw: Flaw | None) -> np.ndarray:
    """Dimples under slanting light; the flaw is a patch that has been polished flat."""
    relief = _noise(rng, size, 5, 16) + 0.25 * _noise(rng, size, 20, 60)
    light = rng.normal(-0.8, 0.15)
    slope = np.cos(light) * np.gradient(relief, axis=1) + np.sin(light) * np.gradient(relief, axis=0)
    slope *= 0.028 * size
    if flaw:
        slope *= 1 - 0.85 * flaw.blob(0.45)
    return 0.75 * np.tanh(slope) + 0.1 * _noise(rng, size, 60, 150)


TEXTURES: dict[str, Texture] = {
    item.name: item
    for item in (
        Texture(
            *("felt", felt),
            (
                "gray ground",
                "darker flaw",
                "lighter flaw",
                "fine",
                "small flaw",
                "round patch",
                "single flaw",
                "soiled",
            ),
        ),
        Texture(
            *("brushed", brushed),
            ("gray ground", "darker flaw", "lighter flaw", "fine", "directed", "tiny flaw", "thin line", "single flaw")
            + ("across the texture", "scratched"),
            *((0.08, 0.16), (0.02, 0.035)),
        ),
        Texture(
            *("twill", twill),
            ("gray ground", "flaw of the same tone", "fine", "periodic", "directed", "small flaw", "ragged patch")
            + ("single flaw", "within the texture", "slipped"),
        ),
        Texture(
            *("pebbles", pebbles),
            ("light ground", "darker flaw", "coarse", "grainy", "in relief", "small flaw", "ragged patch")
            + ("clustered flaw", "broken out"),
        ),
        Texture(
            *("ripples", ripples),
            ("light ground", "flaw of the same tone", "coarse", "periodic", "directed", "winding", "small flaw")
            + ("ragged patch", "single flaw", "within the texture", "distorted"),
        ),
        Texture(
            *("raster", raster),
            ("dark ground", "darker flaw", "fine", "periodic", "in relief", "small flaw", "round patch", "single flaw")
            + ("worn",),
        ),
        Texture(
            *("granite", granite),
            ("gray ground", "lighter flaw", "coarse", "grainy", "small flaw", "ragged patch", "clustered flaw")
            + ("within the texture", "soiled"),
        ),
        Texture(
            *("fibres", fibres),
            ("light ground", "flaw of the same tone", "fine", "winding", "small flaw", "round patch", "single flaw")
            + ("across the texture", "slipped"),
        ),
        Texture(
            *("labyrinth", labyrinth),
            ("gray ground", "darker flaw", "coarse", "winding", "tiny flaw", "thin line", "single flaw")
            + ("across the texture", "broken out"),
            *((0.08, 0.16), (0.025, 0.045)),
        ),
        Texture(
            *("hammered", hammered),
            ("dark ground", "flaw of the same tone", "coarse", "directed", "in relief", "large flaw", "round patch")
            + ("single flaw", "worn"),
            *((0.09, 0.15), (0.07, 0.11)),
        ),
    )
}


def render_texture(name: str, *, defective: bool, seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Photo (size, size) uint8 gray of a texture, and the label (size, size) bool: an ellipse around the flaw, or none.

    The same arguments give the same photo; a good one and a defective one of one index have nothing in common.
    """
    check_request(size=size, index=index, seed=seed)
    if name not in TEXTURES:
        raise UnknownName(f"There is no toy texture {name!r}", f"Choose one of {', '.join(TEXTURES)}")
    item = TEXTURES[name]
    key = (1 + list(TEXTURES).index(name), int(defective), seed, index)
    rng = np.random.default_rng(key)
    flaw = _flaw(item, np.random.default_rng((*key, 1)), size) if defective else None
    label = flaw.u**2 + flaw.v**2 <= 1 if flaw else np.zeros((size, size), bool)
    gray = item.draw(rng, size, flaw)
    x, y = _coordinates(size)
    lamp = rng.normal(0, 0.08, 2)
    light = (1 + lamp[0] * (x - 0.5) + lamp[1] * (y - 0.5)) * rng.uniform(0.94, 1.06)
    gray = (122 + 62 * rng.uniform(0.92, 1.08) * gray) * light + rng.normal(0, 2.0, (size, size))
    return np.clip(gray.round(), 0, 255).astype(np.uint8), label


def write_dagm(
    out: Path,
    name: str,
    *,
    train: int = GOOD,
    test: int = GOOD,
    size: int = SIZE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `out`/`name` in DAGM's layout and return it: Train and Test with *.PNG, in each Label/Labels.txt and masks.

    Beside it goes `out`/attributes.json, {"words": WORDS, "products": {name: those that describe it}}, of all textures.

    train, test: so many good photos in either, and 15% as many defective ones, as published. Good and defective photos
    are numbered in turn. progress(done, total) is called after each photo. Files of the same name are replaced.
    """
    if name not in TEXTURES:
        raise UnknownName(f"There is no toy texture {name!r}", f"Choose one of {', '.join(TEXTURES)}")
    check_request(size=size, index=0, seed=seed)
    if min(train, test) < 0:
        raise UsageError(f"{train} training and {test} test photos were asked for", "Ask for zero or more of each")
    folder, done = Path(out) / name, 0
    total = sum(good + _defective(good) for good in (train, test))
    for part, good, first, first_defect in (
        ("Train", train, 0, 0),
        ("Test", test, train, _defective(train)),
    ):
        (folder / part / "Label").mkdir(parents=True, exist_ok=True)
        lines = ["1"]
        for number, (defective, index) in enumerate(_dealt(good, _defective(good)), 1):
            index += first_defect if defective else first
            image, label = render_texture(name, defective=defective, seed=seed, index=index, size=size)
            stem = f"{number:04d}"
            Image.fromarray(image).save(folder / part / f"{stem}.PNG", compress_level=1)
            mask = f"{stem}_label.PNG" if defective else "0"
            if defective:
                Image.fromarray(label.astype(np.uint8) * 255).save(folder / part / "Label" / mask)
            lines.append(f"{number}\t{int(defective)}\t{stem}.PNG\t0\t{mask}")
            done += 1
            if progress:
                progress(done, total)
        (folder / part / "Label" / "Labels.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    looks = {"words": WORDS, "products": {item.name: item.looks for item in TEXTURES.values()}}
    (Path(out) / ATTRIBUTES).write_text(json.dumps(looks, indent=1) + "\n", encoding="utf-8")
    return folder


def _defective(good: int) -> int:
    """How many defective photos go with so many good ones, as published; never none."""
    return -(-good * DEFECTIVE // GOOD)


def _dealt(good: int, defective: int) -> Iterator[tuple[bool, int]]:
    """(whether defective, number among its kind), defective ones spread evenly over the others."""
    shown = 0
    for number in range(good + defective):
        due = (number + 1) * defective // max(1, good + defective)
        if due > shown:
            yield True, shown
            shown += 1
        else:
            yield False, number - shown


def _flaw(item: Texture, rng: Generator, size: int) -> Flaw:
    """A flaw somewhere, turned anyhow; one of a brushed surface lies across the brushing."""
    long, wide = rng.uniform(*item.long), rng.uniform(*item.wide)
    turn = rng.uniform(0, np.pi) if item.draw is not brushed else rng.uniform(0.25, 0.75) * np.pi
    place = rng.uniform(EDGE + long, 1 - EDGE - long, 2)
    x, y = _coordinates(size)
    x, y = x - np.float32(place[0]), y - np.float32(place[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return Flaw((x * cos + y * sin) / np.float32(long), (y * cos - x * sin) / np.float32(wide), rng, long, wide)


@lru_cache(maxsize=4)
def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, w) and y (h, 1) of the pixel centres, 0..1."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, :], centres[:, None]


@lru_cache(maxsize=4)
def _frequencies(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cycles in the picture, down (h, 1) and across (1, w // 2 + 1), as of `rfft2`."""
    down, across = fft.fftfreq(size, 1 / size), fft.rfftfreq(size, 1 / size)
    return down[:, None].astype(np.float32), across[None, :].astype(np.float32)


def _noise(
    rng: Generator, size: int, low: float, high: float, *, along: float | None = None, narrow: float = 0.0
) -> np.ndarray:
    """(size, size) float32 noise of deviation 1 with features of `low` to `high` cycles in the picture.

    along: direction in degrees in which it is drawn out, by the factor 1 / narrow; None is all directions alike.
    """
    down, across = _frequencies(size)
    if along is None:
        square = down**2 + across**2
    else:
        cos, sin = np.float32(np.cos(np.deg2rad(along))), np.float32(np.sin(np.deg2rad(along)))
        square = (down * cos - across * sin) ** 2 + ((across * cos + down * sin) / np.float32(narrow)) ** 2
    passed = np.exp(-square / high**2) * (1 - np.exp(-square / low**2))
    noise = fft.irfft2(fft.rfft2(rng.standard_normal((size, size), np.float32)) * passed, (size, size))
    return noise / max(float(noise.std()), 1e-6)
