"""What stays of a batch: its rows and thumbnails, predict_summary.csv, and a picture of each judged part."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from anomaly import render
from anomaly.errors import AnomalyError, WrongProduct
from anomaly.images import encode_jpeg, read_image, shrink, write_image
from anomaly.inspection import Inspection
from anomaly.monitor import REFUSED

PUBLISHED = ("category", "score", "threshold", "prediction", "visualization path", "file")
COLUMNS = (*PUBLISHED, "capture", "defect type", "alarm")
ERROR = "ERROR"  # in place of a verdict, where a photo could not be judged
VERDICTS = ("ANOMALY", "REVIEW", "OK", REFUSED, ERROR)
THUMBNAIL = 320  # longest side in pixels
GAP = 8  # pixels of white between panels


class Results:
    """Rows and thumbnails of a batch, kept in a folder, so that memory does not grow with the number of photos.

    One thread may add while others read.

    Attributes:
        lines: file of one JSON object a line, as of `python -m anomaly inspect --json`.
        counts: photos of each of `VERDICTS`.
        weights: {(category, detector, threshold, review threshold): sha256 of the weights} of all that judged.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder = folder
        self.lines = folder / "inspections.jsonl"
        self.lines.touch()
        self.counts = dict.fromkeys(VERDICTS, 0)
        self.weights: dict[tuple[str, str, float, float], str] = {}
        self._end = 0

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, row: dict, inspection: Inspection | None, *, wrong: Path | None = None) -> None:
        """Keep one row of `Inspection.to_json` or `unjudged`, and of a judged photo the thumbnail.

        Args:
            wrong: the file of a photo that was refused for what it shows, so that a person sees that.

        Raises:
            OSError: the disk is full. What was added before stays readable.
        """
        if inspection is not None:
            self._picture(len(self)).write_bytes(thumbnail(inspection))
            judge = (row["category"], row["detector"], row["threshold"], row["review_threshold"])
            self.weights[judge] = inspection.weights_sha256
        elif wrong is not None:
            self._picture(len(self)).write_bytes(encode_jpeg(shrink(read_image(wrong), THUMBNAIL), quality=80))
        line = json.dumps(row).encode() + b"\n"
        with self.lines.open("r+b") as stream:  # over what a write that failed may have left
            stream.seek(self._end)
            stream.write(line)
            stream.truncate()
        self._end += len(line)
        self.counts[row["verdict"] or ERROR] += 1

    def rows(self) -> Iterator[dict]:
        """All rows in their order, read from the disk one by one."""
        end = self._end
        with self.lines.open("rb") as stream:
            while stream.tell() < end:
                yield json.loads(stream.readline())

    def thumbnail(self, number: int) -> bytes | None:
        """JPEG of row `number`, longest side 320 pixels, with outlined defects; None where nothing could be read."""
        try:
            return self._picture(number).read_bytes()
        except FileNotFoundError:
            return None

    def _picture(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jpg"


def thumbnail(inspection: Inspection) -> bytes:
    """The photo with outlined defects as a JPEG, longest side 320 pixels: so small, heat would hide what it marks."""
    return encode_jpeg(shrink(inspection.outlined(), THUMBNAIL), quality=80)


def unjudged(name: str, category: str | None, detector: str | None, error: AnomalyError | str) -> dict:
    """The row of a photo that could not be judged, with the keys of `Inspection.to_json`."""
    numbers = ("score", "threshold", "review_threshold", "level", "percentile", "milliseconds")
    nothing = dict.fromkeys((*numbers, "verdict", "defect_type", "defect_confidence", "product"))
    known = {"path": name, "category": category, "detector": detector, "error": str(error)}
    return nothing | known | {"regions": [], "capture": [], "attributes": [], "alarm": ""}


def refused(name: str, detector: str | None, error: WrongProduct) -> dict:
    """The row of a photo that shows another product than the one asked for, or none that is known."""
    row = unjudged(name, error.product["expected"], detector, error)
    said = {"capture": list(error.capture), "attributes": list(error.attributes), "alarm": str(error)}
    return row | {"verdict": REFUSED, "product": error.product} | said


def write_visualization(inspection: Inspection, folder: Path) -> Path:
    """Photo, reconstruction (if the detector makes one), heatmap with contours and colour bar, side by side as PNG."""
    heat = inspection.heat()
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
    """predict_summary.csv: one row a part, a part that could not be judged with the prediction ERROR, one of
    another product with REFUSED.

    Args:
        rows: dicts of `Inspection.to_json`, with "visualization" (a path) added where a picture was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            prediction = row["verdict"] or ERROR
            place = (row.get("visualization", ""), no_formula(row["path"]))
            said = ("; ".join(row["capture"]), row["defect_type"] or "", row["alarm"])
            writer.writerow((row["category"], row["score"], row["threshold"], prediction, *place, *said))


def no_formula(name: str) -> str:
    """The same place in a way that no spreadsheet takes for a formula: the sender chose the name."""
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name


def _padded(panel: np.ndarray, height: int) -> np.ndarray:
    """The panel on white, `height` pixels tall, with a gap at its right."""
    out = np.full((height, panel.shape[1] + GAP, 3), 255, dtype=np.uint8)
    out[: panel.shape[0], : panel.shape[1]] = panel
    return out
