"""Pictures of a folder of photos, before anything is trained: how many, how large, how bright, what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from anomaly import dataset, render
from anomaly.dataset import LazyImages, Sample
from anomaly.images import read_image, shrink
from anomaly.report.figures import SHOWN, WIDTH, grid, one_of_each

LOOKED_AT = 60  # photos of each kind, evenly chosen: more would not move a histogram that one can see


def counts(data: Path, categories: Sequence[str]) -> Figure:
    """Photos of each product: good to learn from, good and defective to test on."""
    bars = {"good, to learn from": [], "good, to test on": [], "defective, to test on": []}
    for name in categories:
        labels = [sample.label for sample in dataset.test_samples(data, name)]
        found = (len(dataset.good_images(data, name)), labels.count(0), labels.count(1))
        for kind, count in zip(bars, found):
            bars[kind].append(count)
    figure = Figure(figsize=(7, 0.45 * len(categories) + 1.2), dpi=110, layout="constrained")
    axes, left = figure.subplots(), np.zeros(len(categories), int)
    for (kind, values), colour in zip(bars.items(), ("#8fb4d9", "#3b6ea5", "#c8553d")):
        drawn = axes.barh(range(len(categories)), values, left=left, color=colour, label=kind)
        axes.bar_label(drawn, [str(value or "") for value in values], label_type="center", fontsize=7)
        left += values
    axes.set_yticks(range(len(categories)), categories, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("photos")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def examples(data: Path, categories: Sequence[str]) -> Figure:
    """A row a product: a good test photo and one of each defect, its mask outlined; six at most."""
    rows = {name: one_of_each(tested(data, name))[:6] for name in categories}
    columns = max(map(len, rows.values()))
    size = (WIDTH, WIDTH / columns * len(rows) * 1.12)
    figure = Figure(figsize=size, dpi=90, layout="constrained")
    for plots, (name, samples) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items()):
        for axes in plots:
            axes.axis("off")
        for axes, sample in zip(plots, samples):
            axes.imshow(_outlined(sample))
            axes.set_title(f"{name}: {sample.kind.replace('_', ' ')}", fontsize=7)
    return figure


def grays(data: Path, categories: Sequence[str]) -> Figure:
    """How often each gray level is met in good and in defective test photos."""
    figure, plots = grid(len(categories), height=2.0)
    for axes, name in zip(plots, categories):
        samples = tested(data, name)
        for label, kind in enumerate(("good", "defective")):
            paths = _evenly([sample.path for sample in samples if sample.label == label])
            if paths:
                share = np.mean([_levels(image) for image in LazyImages(paths)], axis=0)
                axes.plot(np.arange(256), 100 * share, linewidth=1, label=kind)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("gray level", fontsize=7)
        axes.set_ylabel("% of pixels", fontsize=7)
    plots[0].legend(frameon=False, fontsize=7)
    return figure


def sizes(data: Path, categories: Sequence[str]) -> Figure:
    """Width and height of the photos in pixels."""
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name in categories:
        paths = _evenly([*dataset.good_images(data, name), *(s.path for s in dataset.test_samples(data, name))])
        shapes = np.array([image.shape[:2] for image in LazyImages(paths)])
        axes.scatter(shapes[:, 1], shapes[:, 0], s=18, alpha=0.6, label=f"{name} ({len(np.unique(shapes, axis=0))})")
    axes.set(xlabel="width in pixels", ylabel="height in pixels", xlim=(0, None), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False, fontsize=7, title="sizes met", title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return figure


def tested(data: Path, name: str) -> list[Sample]:
    """The test photos, or the good ones of a product that has none."""
    good = [Sample(path, dataset.GOOD) for path in dataset.good_images(data, name)]
    return dataset.test_samples(data, name) or good


def _outlined(sample: Sample) -> np.ndarray:
    photo = shrink(read_image(sample.path), SHOWN)
    return render.outlined(photo, dataset.read_mask(sample.mask, photo.shape[:2])) if sample.mask else photo


def _levels(image: np.ndarray) -> np.ndarray:
    """(256,) share of the pixels at each gray level, the mean of the channels."""
    return np.bincount(image.mean(axis=2).astype(int).ravel(), minlength=256) / (image.shape[0] * image.shape[1])


def _evenly(paths: Sequence[Path]) -> list[Path]:
    return [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).round().astype(int))]
