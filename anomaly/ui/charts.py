"""Charts as HTML and SVG: sharp on a phone, readable in dark mode, and each with its numbers in text."""

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from matplotlib import colormaps

from anomaly.monitor import Share

RADAR = 70  # radius in units of the drawing, which is 300 wide and 230 high


def percent(share: Share) -> str:
    """ "12.5% (1 of 8, 95% interval 0.3-52.7%)"; a share of nothing has no value."""
    if share.value is None:
        return "none of 0"
    low, high = share.interval
    return f"{100 * share.value:.1f}% ({share.k} of {share.n}, 95% interval {100 * low:.1f}-{100 * high:.1f}%)"


def whisker(value: float, low: float, high: float, *, start: float = 0.0, bar: bool = True) -> str:
    """A value with its interval on a horizontal axis from `start` to 1, as fractions."""

    def at(x: float) -> float:
        return 100 * (min(max(x, start), 1) - start) / (1 - start)

    filled = f'<i class="fill" style="width:{at(value):.2f}%"></i>' if bar else ""
    return (
        f'<span class="whisker" aria-hidden="true">{filled}'
        f'<i class="range" style="left:{at(low):.2f}%;width:{at(high) - at(low):.2f}%"></i>'
        f'<i class="dot" style="left:{at(value):.2f}%"></i></span>'
    )


def stacks(columns: Sequence[tuple[str, Sequence[int]]], kinds: Sequence[str], label: str) -> str:
    """One stacked column for each (name, counts); `kinds` name the parts and their style, from the bottom up."""
    top = max((sum(counts) for _, counts in columns), default=0) or 1
    drawn = "".join(
        f'<li title="{escape(" · ".join((name, *(f"{n} {kind}" for n, kind in zip(counts, kinds)))))}">'
        + "".join(
            f'<i class="{kind.lower()}" style="height:{100 * n / top:.2f}%"></i>'
            for n, kind in reversed(list(zip(counts, kinds)))
            if n
        )
        + "</li>"
        for name, counts in columns
    )
    key = "".join(f'<span><i class="{kind.lower()}"></i>{kind}</span>' for kind in kinds)
    return (
        f'<figure class="chart" role="img" aria-label="{escape(label)}"><figcaption>{escape(label)}'
        f'<span class="key">{key}</span></figcaption><div class="axis"><span>{top}</span><span>0</span></div>'
        f'<ol class="stacks">{drawn}</ol>{_ends(columns)}</figure>'
    )


def dots(columns: Sequence[tuple[str, Share]], label: str) -> str:
    """One share with its interval for each column, on an axis that begins at 0; a share of nothing is left out."""
    top = max((share.interval[1] for _, share in columns if share.n), default=1.0)
    top = math.ceil(top * 20) / 20
    drawn = "".join(
        f'<li title="{escape(name)} · {percent(share)}">'
        + (
            f'<i class="range" style="bottom:{100 * share.interval[0] / top:.2f}%;'
            f'height:{100 * (share.interval[1] - share.interval[0]) / top:.2f}%"></i>'
            f'<i class="dot" style="bottom:{100 * share.value / top:.2f}%"></i>'
            if share.n
            else ""
        )
        + "</li>"
        for name, share in columns
    )
    return (
        f'<figure class="chart" role="img" aria-label="{escape(label)}"><figcaption>{escape(label)}</figcaption>'
        f'<div class="axis"><span>{100 * top:.0f}%</span><span>0</span></div>'
        f'<ol class="stacks dots">{drawn}</ol>{_ends(columns)}</figure>'
    )


def _ends(columns: Sequence[tuple[str, object]]) -> str:
    names = [name for name, _ in columns]
    return f'<div class="ends"><span>{escape(names[0])}</span><span>{escape(names[-1])}</span></div>' if names else ""


def steps(curves: Iterable[tuple[str, np.ndarray, np.ndarray]], *, label: str, x: tuple[str, str, str]) -> str:
    """Step curves of (style, x, y) with both axes from 0 to 1; `x` names its start, meaning and end."""
    lines = ""
    for style, across, up in curves:
        path = "".join(f"H{100 * a:.2f}V{100 - 100 * b:.2f}" for a, b in zip(across, up))
        lines += f'<path class="{style}" d="M0 100{path}H100"/>'
    return (
        f'<figure class="steps" role="img" aria-label="{escape(label)}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
        f'<div class="ends">{"".join(f"<span>{escape(word)}</span>" for word in x)}</div></figure>'
    )


def distribution(scores: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of ascending scores at or under each of them; the axis ends at `reach`. At most 200 steps."""
    picked = np.unique(np.linspace(0, len(scores) - 1, min(200, len(scores))).round().astype(int))
    return np.minimum(scores[picked] / reach, 1), (picked + 1) / len(scores)


def radar(values: Sequence[tuple[str, float | None]], title: str) -> str:
    """Values from 0 to 1 on one axis each, 1 at the rim; an axis without a value is drawn as 0 and says so."""
    n = len(values)

    def point(place: int, radius: float) -> tuple[float, float]:
        angle = 2 * math.pi * place / n - math.pi / 2
        return 150 + radius * math.cos(angle), 115 + radius * math.sin(angle)

    def ring(radii: Iterable[float]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*point(place, radius)) for place, radius in enumerate(radii))

    grid = "".join(f'<polygon class="grid" points="{ring([RADAR * level] * n)}"/>' for level in (0.25, 0.5, 0.75, 1))
    words = ""
    for place, (name, value) in enumerate(values):
        across, down = point(place, RADAR + 10)
        anchor = "middle" if abs(across - 150) < 4 else "start" if across > 150 else "end"
        down += 12 * (down - 115) / RADAR - 3  # two lines of text, above the rim or below it
        shown = "-" if value is None else f"{value:.2f}"
        words += (
            f'<text x="{across:.1f}" y="{down:.1f}" text-anchor="{anchor}">{escape(name)}'
            f'<tspan x="{across:.1f}" dy="12" class="value">{shown}</tspan></text>'
        )
    said = " · ".join(f"{name} {'unknown' if value is None else f'{value:.2f}'}" for name, value in values)
    return (
        f'<figure class="radar"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 300 230" role="img" aria-label="{escape(f"{title} · {said}")}">{grid}'
        f'<polygon class="area" points="{ring(RADAR * (value or 0) for _, value in values)}"/>{words}</svg></figure>'
    )


def heat_cell(value: float | None) -> str:
    """A table cell coloured from 0.5 (dark) to 1 (light) by viridis, the number in it."""
    if value is None:
        return '<td class="none">-</td>'
    red, green, blue, _ = colormaps["viridis"](max(0.0, (value - 0.5) / 0.5))
    linear = np.array([red, green, blue]) ** 2.2
    # Where black and white stand out equally, by the relative luminance of WCAG 2.
    ink = "#000" if linear @ [0.2126, 0.7152, 0.0722] > 0.18 else "#fff"
    colour = "rgb({},{},{})".format(*(round(255 * part) for part in (red, green, blue)))
    return f'<td style="background:{colour};color:{ink}">{value:.3f}</td>'
