"""What the report of a batch says, as plain blocks that `document` writes as HTML or PDF."""

from __future__ import annotations

import hashlib
import heapq
import io
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from anomaly.defects import spoken
from anomaly.errors import AnomalyError
from anomaly.monitor import REFUSED
from anomaly.report import ERROR, VERDICTS, Results
from anomaly.thresholds import Thresholds, interval

WORST = 24  # parts with pictures
LISTED = 200  # lines of a list; the CSV holds all of them
REACH = 4  # the histogram ends at four times the limit: one ruined part must not press all others into one bar
MEANING = {
    "ANOMALY": "at or over the limit",
    "REVIEW": "too near to the limit, or a photo unlike the training photos: for a person to look at",
    "OK": "clearly under the limit",
    REFUSED: "shows another product than the one asked for, or none that is known",
    ERROR: "could not be judged",
}


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    """`shares` are the widths of the columns, as parts of 1."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """A JPEG or PNG file in memory; the caption stands under it, `alt` is for those who do not see it."""

    data: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    pictures: tuple[Picture, ...]
    columns: int


Block = Heading | Text | Table | Gallery


def content(results: Results, *, book: Path, by: str) -> list[Block]:
    """What the report says, whatever it is written as."""
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    blocks: list[Block] = [Text(f"Made {made} by {by}."), _counts(results)]
    scores: dict[tuple, list[float]] = {}
    types: dict[tuple, Counter[str]] = {}
    objections: Counter[str] = Counter()
    errors, objected = [], []
    for row in results.rows():
        if row["error"]:
            errors.append((row["path"], row["error"]))
            continue
        judge = (row["category"], row["detector"], row["threshold"], row["review_threshold"])
        scores.setdefault(judge, []).append(row["score"])
        types.setdefault(judge, Counter()).update(filter(None, [row["defect_type"]]))
        objections.update(row["capture"])
        if row["capture"]:
            objected.append((row["path"], "; ".join(row["capture"])))
    for judge, found in scores.items():
        blocks += _judged(judge, np.array(found), types[judge], results.weights[judge], book)
    blocks += _worst(results)
    if objected:
        told = "; ".join(f"{said} ({count:,})" for said, count in objections.most_common())
        blocks += [Heading("Photos unlike the training photos"), Text(f"{told}."), *_listed("What is unlike", objected)]
    if errors:
        blocks += [Heading("Not judged"), *_listed("Why, and what to do", errors)]
    return blocks


def _counts(results: Results) -> Table:
    total = max(1, len(results))

    def share(count: int) -> str:
        low, high = interval(count, total)
        return f"{100 * count / total:.1f}% (95% interval {100 * low:.1f}-{100 * high:.1f}%)"

    rows = tuple((name, f"{n:,}", share(n), MEANING[name]) for name in VERDICTS for n in [results.counts[name]])
    return Table(("Verdict", "Photos", "Share", "Meaning"), rows, (0.14, 0.1, 0.34, 0.42))


def _judged(
    judge: tuple[str, str, float, float], scores: np.ndarray, types: Counter[str], weights: str, book: Path
) -> list[Block]:
    """One product: what judged it, by whose limit, and where the scores lie."""
    category, detector, threshold, review = judge
    facts = [
        ("Model", f"{detector}, weights sha256 {weights}"),
        ("Limits", f"ANOMALY from {threshold:.4g}, REVIEW from {review:.4g}"),
        *_signature(category, detector, weights, threshold, book),
    ]
    if types:
        facts.append(("Defects look like", ", ".join(f"{spoken(kind)} {n:,}" for kind, n in types.most_common())))
    return [
        Heading(f"{category.replace('_', ' ').capitalize()}: {len(scores):,} judged"),
        Table(("", ""), tuple(facts), (0.18, 0.82)),
        Gallery((_histogram(scores, threshold, review),), columns=1),
    ]


def _signature(category: str, detector: str, weights: str, threshold: float, book: Path) -> list[tuple[str, str]]:
    """Who set the limit, when and why; the digest is that of the file, as `sha256sum` gives it."""
    try:
        point = Thresholds.load(book).get(category, detector, weights_sha256=weights)
        digest = hashlib.sha256(book.read_bytes()).hexdigest()
    except (AnomalyError, OSError):
        point = None
    if point is None or point.fail != threshold:
        return [("Set by", f"not known: {book.name} no longer holds this limit")]
    return [
        ("Promise", f"{point.promise} (rule {point.rule})"),
        ("Set by", f"{point.set_by}, {point.set_at}: {point.why or 'no reason was given'}"),
        ("Digest", f"{book.name} sha256 {digest}"),
    ]


def _histogram(scores: np.ndarray, threshold: float, review: float) -> Picture:
    end = REACH * threshold
    figure = Figure(figsize=(8, 2.6), dpi=144, layout="constrained")
    axes = figure.subplots()
    # The limit is the border of two bars, so that no bar holds parts of both sides.
    axes.hist(np.clip(scores, 0, np.nextafter(end, 0)), bins=np.linspace(0, end, 10 * REACH + 1), color="#3b6ea5")
    axes.axvline(review, color="#15202b", linestyle="--", linewidth=1.2, label=f"review {review:.4g}")
    axes.axvline(threshold, color="#15202b", linewidth=1.6, label=f"limit {threshold:.4g}")
    axes.set(xlabel="score", ylabel="photos", xlim=(0, end))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))  # above, where no bar is
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    beyond = int(np.sum(scores >= end))
    caption = f"The last bar holds {beyond:,} with {REACH} times the limit or more." if beyond else ""
    over = int(np.sum(scores >= threshold))
    return Picture(stream.getvalue(), caption, f"Histogram of {len(scores)} scores, {over} at or over the limit")


def _worst(results: Results) -> list[Block]:
    judged = ((row["level"], number, row) for number, row in enumerate(results.rows()) if not row["error"])
    worst = heapq.nlargest(WORST, judged, key=lambda one: one[:2])
    pictures = []
    for level, number, row in worst:
        kind = f", {spoken(row['defect_type'])}" if row["defect_type"] else ""
        said = f"{row['verdict']}, {level:.2f} × the limit{kind}"
        name = row["path"][-120:]  # its end tells parts apart
        pictures.append(Picture(results.thumbnail(number) or b"", f"{said} · {name}", f"{name}: {said}"))
    return [Heading("Highest scores"), Gallery(tuple(pictures), columns=4)] if pictures else []


def _listed(what: str, rows: list[tuple[str, str]]) -> list[Block]:
    rest = [Text(f"and {len(rows) - LISTED:,} more, which the CSV lists.")] if len(rows) > LISTED else []
    return [Table(("Photo", what), tuple(rows[:LISTED]), (0.4, 0.6)), *rest]
