"""Pictures of results: how well products were told from their defects, by which detector, and where it looked."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from anomaly import render, runs
from anomaly.dataset import Sample
from anomaly.detectors.base import Detector
from anomaly.evaluation import FIGURES
from anomaly.images import read_image, shrink
from anomaly.metrics import Curves

SHOWN = 320  # longest side in pixels of a photo in a grid
COLUMNS = 4  # small plots beside each other
WIDTH = 10.0  # inches


@dataclass(frozen=True)
class View:
    """One test photo as a detector sees it; images are (h, w, 3) uint8 RGB of one size.

    Attributes:
        reconstruction: None where the detector makes none.
        level: score divided by limit.
    """

    sample: Sample
    photo: np.ndarray
    heat: np.ndarray
    reconstruction: np.ndarray | None
    level: float


def view(detector: Detector, samples: Sequence[Sample], *, threshold: float, pixel: float) -> list[View]:
    """Score a few photos for `heatmaps` and `reconstructions`.

    Args:
        threshold, pixel: limits of score and map, in the unit of the detector.
    """
    found = []
    for sample in samples:
        photo = read_image(sample.path)
        result = detector.score(photo)
        heat = render.overlay(photo, result.map, pixel, pixel_threshold=pixel)
        made = None if result.reconstruction is None else shrink(result.reconstruction, SHOWN)
        found.append(View(sample, shrink(photo, SHOWN), shrink(heat, SHOWN), made, result.score / threshold))
    return found


def one_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample of each kind, in their order."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.kind, sample)
    return [*first.values()]


def roc(curves: Mapping[str, Curves], *, title: str) -> Figure:
    """One curve for each name, which is shown with the area under it."""
    figure = Figure(figsize=(6, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, one in curves.items():
        area = np.trapezoid(one.recall, one.false_alarms)
        axes.plot(one.false_alarms, one.recall, linewidth=1.6, label=f"{name}: AUROC {area:.3f}")
    axes.plot((0, 1), (0, 1), color="0.7", linestyle=":", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false alarms", ylabel="defects found", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


def losses(trained: Sequence[runs.Run]) -> Figure | None:
    """Loss curves of the runs that have any, from `history.csv`; None where none has."""
    histories = {f"{run.category}, {run.detector}": _history(run) for run in trained}
    histories = {name: rows for name, rows in histories.items() if rows}
    if not histories:
        return None
    figure, plots = grid(len(histories), height=2.3)
    for axes, (name, rows) in zip(plots, histories.items()):
        for key in (key for key in rows[0] if key.endswith("loss")):
            axes.plot(
                [row["epoch"] for row in rows],
                [row[key] for row in rows],
                marker=".",
                markersize=3,
                label=key.replace("_", " "),
            )
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("epoch", fontsize=8)
    plots[0].legend(frameon=False, fontsize=7)
    return figure


def bars(report: Mapping[str, Mapping[str, dict]], *, names: Sequence[str] = ("image_auroc", "pixel_auroc")) -> Figure:
    """Figures of `evaluate --json` for each product and detector, with their 95% intervals where they have any."""
    judges = list(dict.fromkeys(judge for one in report.values() for judge in one))
    width = max(5.0, min(WIDTH, 1.5 * len(report) + 2))
    figure = Figure(figsize=(width, 2.6 * len(names)), dpi=110, layout="constrained")
    wide = 0.8 / len(judges)
    for axes, name in zip(figure.subplots(len(names), squeeze=False).flat, names):
        for place, judge in enumerate(judges):
            offset = (place - (len(judges) - 1) / 2) * wide
            for i, found in enumerate(one.get(judge, {}) for one in report.values()):
                if (value := found.get(name)) is None:
                    continue
                ends = found["intervals"].get(name)
                reach = ends and [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]
                axes.bar(i + offset, value, 0.92 * wide, yerr=reach, capsize=2, color=f"C{place}")
        axes.set_xticks(range(len(report)), [one.replace("_", "\n") for one in report], fontsize=8)
        axes.set(ylim=(0, 1.02), ylabel=FIGURES[name][0])
        axes.axhline(0.5, color="0.4", linestyle=":", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    swatches = [Patch(color=f"C{place}") for place in range(len(judges))]
    figure.legend(swatches, judges, frameon=False, fontsize=8, loc="outside upper center", ncols=len(judges))
    return figure


def radar(report: Mapping[str, Mapping[str, dict]]) -> Figure:
    """The profile of each product: the chief figures of `evaluate --json`, a line for each detector."""
    names = [name for name, (_, chief) in FIGURES.items() if chief]
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    figure, plots = grid(len(report), height=2.6, polar=True)
    for axes, (category, one) in zip(plots, report.items()):
        for judge, found in one.items():
            values = [np.nan if found.get(name) is None else found[name] for name in names]
            axes.plot(np.append(angles, angles[0]), [*values, values[0]], linewidth=1.2, label=judge)
        axes.set_xticks(angles, [FIGURES[name][0] for name in names], fontsize=6)
        axes.tick_params(axis="x", pad=5)
        axes.set_yticks((0.5, 1), ("0.5", "1"), fontsize=6)
        axes.set_ylim(0, 1)
        axes.set_title(category, fontsize=8)
    figure.legend(*plots[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return figure


def heatmaps(views: Mapping[str, Sequence[View]], *, title: str) -> Figure:
    """A row a photo, a column a detector: where each saw a defect, all of them with their limits in mid scale."""
    rows = [
        [(one[0].sample.kind, one[0].photo), *((f"{each.level:.2f} × limit", each.heat) for each in one)]
        for one in zip(*views.values())
    ]
    return _pictures(rows, ["photo", *views], title)


def reconstructions(views: Mapping[str, Sequence[View]], *, title: str) -> Figure | None:
    """Each photo beside what the detectors gave back; None where none of them makes a reconstruction."""
    views = {name: seen for name, seen in views.items() if seen and seen[0].reconstruction is not None}
    rows = [
        [(f"{one[0].sample.kind}", one[0].photo), *(("", v.reconstruction) for v in one)]
        for one in zip(*views.values())
    ]
    return _pictures(rows, ["photo", *views], title) if views else None


def _pictures(rows: list[list[tuple[str, np.ndarray]]], heads: list[str], title: str) -> Figure:
    across = min(WIDTH / len(heads), 2.2)
    figure = Figure(figsize=(across * len(heads), across * len(rows) + 0.5), dpi=72, layout="constrained")
    for line, plots in zip(rows, figure.subplots(len(rows), len(heads), squeeze=False)):
        for axes, (said, image) in zip(plots, line):
            axes.imshow(image)
            axes.set_xlabel(said.replace("_", " "), fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    for axes, head in zip(figure.axes, heads):
        axes.set_title(head, fontsize=8)
    figure.suptitle(title, fontsize=9)
    return figure


def grid(count: int, *, height: float, polar: bool = False) -> tuple[Figure, list]:
    """A sheet with as many small plots."""
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(WIDTH / COLUMNS * columns, height * lines), dpi=110, layout="constrained")
    plots = figure.subplots(lines, columns, squeeze=False, subplot_kw={"polar": polar} if polar else None)
    kept, spare = plots.ravel()[:count].tolist(), plots.ravel()[count:].tolist()
    for axes in spare:
        axes.remove()
    for axes in kept:
        axes.tick_params(labelsize=7)
    return figure, kept


def _history(run: runs.Run) -> list[dict[str, float]]:
    path = run.folder / runs.HISTORY
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
