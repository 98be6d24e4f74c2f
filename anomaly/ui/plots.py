"""Plots of scores as HTML and SVG: sharp at any width, coloured by the page, readable by a screen reader."""

from html import escape

import numpy as np

from anomaly.handlers.desk import Desk, Ranking
from anomaly.metrics import Estimate
from anomaly.ui.pieces import number

BINS = 48


def histogram(desk: Desk) -> str:
    """Good parts upwards, defects hatched downwards; the script moves both lines, by `--at-review` and `--at-fail`."""
    end, good, defect = desk.end, desk.good, desk.defect
    edges = np.linspace(0, end, BINS + 1)
    counts = [np.histogram(scores, edges)[0] for scores in (good, defect)]
    beyond = [int(np.sum(scores > end)) for scores in (good, defect)]
    said = (
        f"Histogram of scores from 0 to {number(end)}. {good.size} good parts from {number(good.min())} to "
        f"{number(good.max())}. "
        + (f"{defect.size} defects from {number(defect.min())} to {number(defect.max())}." if defect.size else "")
    )
    return (
        f'<figure class="histogram" data-end="{end}" data-fail="{desk.fail}" data-review="{desk.review}" '
        f'style="--at-fail:{100 * desk.fail / end:.3f}%;--at-review:{100 * desk.review / end:.3f}%">'
        f'<div class="lines">{_line("review", desk.review)}{_line("fail", desk.fail)}</div>'
        f'<div class="sheet" role="img" aria-label="{escape(said)}">'
        f"{_half('good', counts[0])}{_half('defect', counts[1])}"
        '<i class="mark review"></i><i class="mark fail"></i></div>'
        f'<div class="beyond">{_beyond("good", beyond[0])}{_beyond("defect", beyond[1])}</div>'
        '<div class="zones" aria-hidden="true"><b class="ok">OK</b><b class="review">REVIEW</b>'
        '<b class="anomaly">ANOMALY</b></div>'
        f'<div class="ticks" aria-hidden="true"><span>0</span><span>score</span><span>{number(end)}</span></div>'
        f'<figcaption><span><i class="swatch good"></i>good parts, n = {good.size}</span>'
        f'<span><i class="swatch defect"></i>known defects, n = {defect.size}</span>'
        f"<small>tallest bars: {counts[0].max()} and {counts[1].max()} parts; › counts scores past the end</small>"
        "</figcaption></figure>"
    )


def curves(ranking: Ranking, desk: Desk) -> str:
    """ROC and precision-recall, each with the point where FAIL stands."""
    found = ranking.curves
    at = int(np.searchsorted(-found.thresholds, -desk.fail, "right")) - 1  # the last threshold not under FAIL
    roc = _curve(
        f"ROC, area {_estimate(ranking.auroc)}",
        ("false alarms", found.false_alarms),
        ("recall", found.recall),
        at,
    )
    pr = _curve(
        f"Precision-recall, average precision {_estimate(ranking.average_precision)}",
        ("recall", found.recall),
        ("precision", found.precision),
        at,
    )
    return f'<div class="curves">{roc}{pr}</div>'


def span(estimate: Estimate) -> str:
    """An interval as a bar from 0 to 1 with a mark at the value."""
    return (
        f'<i class="span" aria-hidden="true" style="--low:{100 * estimate.low:.1f}%;--high:{100 * estimate.high:.1f}%;'
        f'--value:{100 * estimate.value:.1f}%"></i>'
    )


def _curve(title: str, across: tuple[str, np.ndarray], up: tuple[str, np.ndarray], at: int) -> str:
    drawn = np.isfinite(up[1])  # precision has no value where nothing is judged anomalous
    points = " ".join(f"{100 * x:.2f},{100 - 100 * y:.2f}" for x, y in zip(across[1][drawn], up[1][drawn]))
    point, here = "", "nothing is judged ANOMALY"
    if drawn[at]:
        x, y = 100 * across[1][at], 100 * up[1][at]
        point = f'<i class="point" style="left:{x:.2f}%;bottom:{y:.2f}%"></i>'
        here = f"{across[0]} {x:.1f}%, {up[0]} {y:.1f}%"
    return (
        f'<figure class="curve"><figcaption>{title}</figcaption>'
        f'<div class="sheet" role="img" aria-label="{title}. At FAIL: {here}.">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true"><polyline points="{points}"/></svg>'
        f'{point}<span class="up" aria-hidden="true">{up[0]}</span></div>'
        f'<div class="ticks" aria-hidden="true"><span>0%</span><span>{across[0]}</span><span>100%</span></div>'
        f'<p class="under">at FAIL: {here}</p></figure>'
    )


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} (95% interval {estimate.low:.3f}-{estimate.high:.3f}, n = {estimate.n})"


def _line(name: str, value: float) -> str:
    return f'<b class="{name}">{name.upper()} <span>{number(value)}</span></b>'


def _half(kind: str, counts: np.ndarray) -> str:
    width, tallest = 100 / BINS, max(1, int(counts.max()))
    bars = "".join(
        f'<i style="left:{place * width:.3f}%;width:{width:.3f}%;height:{100 * count / tallest:.2f}%"></i>'
        for place, count in enumerate(counts.tolist())
        if count
    )
    return f'<div class="{kind}">{bars}</div>'


def _beyond(kind: str, count: int) -> str:
    return f'<span class="{kind}">{f"› {count}" if count else ""}</span>'
