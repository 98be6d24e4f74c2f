"""What stays of a batch: predict_summary.csv and a picture of each judged part."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anomaly import render
from anomaly.images import write_image
from anomaly.inspection import Inspection

COLUMNS = ("category", "score", "threshold", "prediction", "visualization path", "file", "capture")
GAP = 8  # pixels of white between panels


def write_visualization(inspection: Inspection, folder: Path) -> Path:
    """Photo, reconstruction (if the detector makes one), heatmap with contours and colour bar, side by side as PNG."""
    heat = render.overlay(
        inspection.preview, inspection.map, inspection.pixel_threshold, pixel_threshold=inspection.pixel_threshold
    )
    panels = [inspection.preview, inspection.reconstruction, heat]
    bar = render.colorbar(inspection.pixel_threshold, height=max(64, heat.shape[0]))
    height = bar.shape[0]
    strips = [_padded(panel, height) for panel in (*panels, bar) if panel is not None]
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{inspection.category}_{inspection.detector}_{Path(inspection.path).stem}"
    path, number = folder / f"{stem}.png", 1
    while path.exists():  # photos of one name from two folders
        number += 1
        path = folder / f"{stem}_{number}.png"
    write_image(path, np.concatenate(strips, axis=1))
    return path


def write_summary(rows: Iterable[dict], path: Path) -> None:
    """predict_summary.csv: one row a part, a part that could not be judged with the prediction ERROR.

    Args:
        rows: dicts of `Inspection.to_json`, each with "visualization" added (a path or "").
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            prediction = row["verdict"] or "ERROR"
            place = (row["visualization"], row["path"])
            said = "; ".join(row["capture"])
            writer.writerow((row["category"], row["score"], row["threshold"], prediction, *place, said))


def _padded(panel: np.ndarray, height: int) -> np.ndarray:
    """The panel on white, `height` pixels tall, with a gap at its right."""
    out = np.full((height, panel.shape[1] + GAP, 3), 255, dtype=np.uint8)
    out[: panel.shape[0], : panel.shape[1]] = panel
    return out
