"""Judge labelled images and say how well that went, with n and 95% intervals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from anomaly import metrics
from anomaly.dataset import LazyImages, Sample, read_mask
from anomaly.detectors.base import Detector, Progress, topk_mean
from anomaly.errors import DatasetError
from anomaly.images import resize_map

MAP_SIZE = 256  # pixel metrics compare maps and masks at this size, so that memory does not grow with the photos
BATCH = 8
# What pictures and tables show of `measure`, in this order; a radar takes those marked True.
FIGURES = {
    "image_auroc": ("image AUROC", True),
    "image_ap": ("average precision", False),
    "f1": ("F1", True),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "accuracy": ("accuracy", False),
    "pixel_auroc": ("pixel AUROC", True),
    "aupro": ("AUPRO", True),
    "dice": ("Dice", False),
}


@dataclass(frozen=True)
class Judged:
    """Scores of samples in their order, peaks of their maps, and the maps themselves at MAP_SIZE (float32)."""

    samples: list[Sample]
    scores: np.ndarray
    peaks: np.ndarray
    maps: list[np.ndarray]
    seconds: float

    @property
    def labels(self) -> np.ndarray:
        return np.array([sample.label for sample in self.samples])


def judge(detector: Detector, samples: Sequence[Sample], *, progress: Progress | None = None) -> Judged:
    """Score every sample. `seconds` is the time for all of it, reading the files included."""
    scores, peaks, maps = [], [], []
    began = time.perf_counter()
    for start in range(0, len(samples), BATCH):
        images = list(LazyImages([s.path for s in samples[start : start + BATCH]]))
        for result in detector.score_batch(images):
            scores.append(result.score)
            peaks.append(float(result.map.max()))
            maps.append(resize_map(result.map, (MAP_SIZE, MAP_SIZE)))
        if progress:
            progress("score", len(scores), len(samples))
    return Judged(list(samples), np.array(scores), np.array(peaks), maps, time.perf_counter() - began)


def measure(judged: Judged, *, threshold: float, pixel: float) -> dict:
    """The figures of `python -m anomaly evaluate --json` for one detector of one category.

    A figure that the samples cannot give (no masks, no good or no defective images) is None. `map_auroc` is the image
    AUROC of the mean of the top 1% of each map: what the places alone say. `intervals` holds [low, high] of the image
    figures.

    Raises:
        DatasetError: not a single sample.
    """
    labels, scores = judged.labels, judged.scores
    if not len(labels):
        raise DatasetError("There are no labelled test images to evaluate on", "Add test/good and test/<defect type>")
    estimates = {"image_auroc": None, "image_ap": None, "map_auroc": None}
    if 0 < labels.sum() < len(labels):
        estimates["image_auroc"] = metrics.bootstrap(metrics.image_auroc, labels, scores)
        estimates["image_ap"] = metrics.bootstrap(metrics.image_ap, labels, scores)
        tops = np.array([float(topk_mean(torch.from_numpy(map)[None])) for map in judged.maps])
        estimates["map_auroc"] = metrics.bootstrap(metrics.image_auroc, labels, tops)
    for name in ("f1", "precision", "recall", "accuracy"):
        at_threshold = partial(_at_threshold, name=name, threshold=threshold)
        estimates[name] = metrics.bootstrap(at_threshold, labels, scores)
    counts = metrics.confusion(labels, scores, threshold)
    return {
        **{name: estimate and estimate.value for name, estimate in estimates.items()},
        "confusion": {"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn},
        **_pixel_figures(judged, pixel),
        "n_good": int((labels == 0).sum()),
        "n_defect": int(labels.sum()),
        "threshold": threshold,
        "seconds": round(judged.seconds, 3),
        "intervals": {name: [e.low, e.high] for name, e in estimates.items() if e},
    }


def _at_threshold(labels: np.ndarray, scores: np.ndarray, *, name: str, threshold: float) -> float:
    return getattr(metrics.confusion(labels, scores, threshold), name)


def _pixel_figures(judged: Judged, pixel: float) -> dict:
    """On good images (all zero) and on defective ones that have a mask."""
    shape = (MAP_SIZE, MAP_SIZE)
    pairs = [
        (read_mask(sample.mask, shape) if sample.mask else np.zeros(shape, dtype=bool), map)
        for sample, map in zip(judged.samples, judged.maps)
        if sample.mask or not sample.label
    ]
    masks, maps = [mask for mask, _ in pairs], [map for _, map in pairs]
    if not any(mask.any() for mask in masks):
        return dict.fromkeys(("pixel_auroc", "aupro", "iou", "dice"))
    return {
        "pixel_auroc": metrics.pixel_auroc(masks, maps),
        "aupro": metrics.aupro(masks, maps),
        "iou": metrics.iou(masks, maps, pixel),
        "dice": metrics.dice(masks, maps, pixel),
    }
