"""Versions of a trained detector: a new one is made beside the one that judges, and takes its place by a click.

`runs/<category>/.versions/<stamp>/` is a small plant of its own: `<category>/<detector>/` with its weights,
`<category>/product.safetensors` with how its photos look, `threshold.json` with its limit and, as long as it never
judged, `<category>/train/good/` with its photos and `comparison.json`. So a version brings its own limit along, and the
limit of another one never judges it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from anomaly import dataset, evaluation, runs
from anomaly.dataset import Sample
from anomaly.detectors.base import Detector, Progress
from anomaly.errors import AnomalyError, BrokenRun, ThresholdError, UnknownName, UsageError
from anomaly.runs import Run
from anomaly.thresholds import OperatingPoint, Thresholds, ledger

VERSIONS, BOOK, COMPARISON = ".versions", "threshold.json", "comparison.json"
PHOTOS = Path("train") / dataset.GOOD  # in a category's folder: what the app was taught it with
KEPT = 5  # versions of a category beside those that judge; the oldest goes first


@dataclass(frozen=True)
class Side:
    """One version on photos that neither of two versions had learned from.

    Attributes:
        false_alarms: of n_good good photos at or over the version's own limit; caught: of n_defect defective ones.
        median, highest: score of the good ones divided by the limit.
    """

    n_good: int
    false_alarms: int
    median: float
    highest: float
    n_defect: int
    caught: int


@dataclass(frozen=True)
class Version:
    """One version of a detector.

    Attributes:
        stamp: names it in `activate`; "" of the one that stands in runs/ now.
        point: its own limit; None when none was stored.
        old, new: the comparison with the version that it followed, if there was one.
    """

    run: Run
    stamp: str
    point: OperatingPoint | None
    old: Side | None = None
    new: Side | None = None


def listed(root: Path, book: Path, category: str) -> list[Version]:
    """Every version of a category: those in place first, then the others, newest first. Damaged ones are left out."""
    found = _versions(root, Thresholds.load(book), category, "")
    folder = root / category / VERSIONS
    for plant in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        with suppress(ThresholdError):
            found += _versions(plant, Thresholds.load(plant / BOOK), category, plant.name)
    return found


def _versions(root: Path, book: Thresholds, category: str, stamp: str) -> list[Version]:
    """One of each detector, except damaged ones."""
    found = []
    for detector in runs.names(root).get(category, ()):
        try:
            run = runs.open_run(root, category, detector)
            compared = json.loads((root / COMPARISON).read_text()) if stamp and (root / COMPARISON).is_file() else {}
            sides = {name: Side(**values) for name, values in compared.items()}
        except (BrokenRun, ValueError, TypeError):
            continue
        point = book.find(category, detector)
        known = point if point and point.weights_sha256 == run.weights_sha256 else None
        found.append(Version(run, stamp, known, **sides))
    return found


def compare(
    old: tuple[Detector, OperatingPoint],
    new: tuple[Detector, OperatingPoint],
    *,
    good: Sequence[Path],
    defects: Sequence[Path],
    progress: Progress | None = None,
) -> dict[str, Side]:
    """Both versions on the same photos, each by its own limit: {"old": …, "new": …}."""
    samples = [Sample(path, dataset.GOOD) for path in good] + [Sample(path, "defect") for path in defects]
    return {
        name: _side(evaluation.judge(detector, samples, progress=progress), point)
        for name, (detector, point) in {"old": old, "new": new}.items()
    }


def _side(judged: evaluation.Judged, point: OperatingPoint) -> Side:
    levels, defective = judged.scores / point.fail, judged.labels == 1
    good = levels[~defective]
    return Side(
        n_good=len(good),
        false_alarms=int((good >= 1).sum()),
        median=float(np.median(good)) if len(good) else 0.0,
        highest=float(good.max(initial=0.0)),
        n_defect=int(defective.sum()),
        caught=int((levels[defective] >= 1).sum()),
    )


def keep(plant: Path, root: Path, category: str, sides: dict[str, Side]) -> str:
    """Put a trained plant among the versions of a category; gives its stamp."""
    stamp = _stamp()
    with runs.writing(root / category / VERSIONS), runs.alone(root / category):
        (plant / COMPARISON).write_text(json.dumps({name: asdict(side) for name, side in sides.items()}) + "\n")
        (root / category / VERSIONS).mkdir(exist_ok=True)
        plant.rename(root / category / VERSIONS / stamp)
        _prune(root, category)
    return stamp


def activate(root: Path, book: Path, category: str, stamp: str, detector: str, *, by: str) -> None:
    """Let a version judge from now on, with its own limit; the one that judged until now becomes a version.

    One at a time for all processes: a limit must not meet the weights of another version.

    Args:
        by: who signs for it in threshold.json.
    Raises:
        UnknownName: no such version; UsageError: it looks at another region than the category does now.
        MissingThreshold, StaleThreshold: it has no limit of its own; CannotSave: the disk does not take it.
    """
    _plant(root, category, stamp, detector)  # refused before there is anything to wait for
    with runs.alone(root / category):
        plant, current = _plant(root, category, stamp, detector), root / category / detector
        new = runs.open_run(plant, category, detector)
        point = Thresholds.load(plant / BOOK).get(category, detector, weights_sha256=new.weights_sha256)
        if new.region != runs.region(root, category):
            problem = f"The version {stamp} looks at another region of the photos than '{category}' does now"
            raise UsageError(problem, "Refit the product instead")
        retired = root / category / VERSIONS / _stamp()
        try:
            with runs.writing(current):
                _retire(root, book, category, detector, retired)
                _add_photos(plant / category / PHOTOS, root / category / PHOTOS)
            _put(new.folder, current)
        except AnomalyError:
            shutil.rmtree(retired, ignore_errors=True)
            raise
        try:
            _put_product(plant, root, category)
            point = ledger.signed(point, who=by, why=f"version {stamp} was made active")
            ledger.save(book, category, detector, point)
        except AnomalyError:
            _put(retired / category / detector, current)
            _put_product(retired, root, category)
            shutil.rmtree(retired)
            raise
        shutil.rmtree(plant / category / detector)
        if not runs.names(plant):
            shutil.rmtree(plant)
        _prune(root, category)


def _retire(root: Path, book: Path, category: str, detector: str, plant: Path) -> None:
    """Keep the version that judges now, with its limit."""
    shutil.copytree(root / category / detector, plant / category / detector, copy_function=_link)
    runs.write_description(plant, category, runs.describe(root, category))
    _put_product(root, plant, category)
    point = Thresholds.load(book).find(category, detector)
    if point:
        ledger.save(plant / BOOK, category, detector, point)


def _put(folder: Path, place: Path) -> None:
    with runs.replacing(place) as part:
        shutil.copytree(folder, part, copy_function=_link)


def _put_product(source: Path, target: Path, category: str) -> None:
    """What the product looks like goes with the version that learned it, where that did."""
    if (source / category / runs.PRODUCT).is_file():
        with runs.replacing(target / category / runs.PRODUCT) as part:
            _link(source / category / runs.PRODUCT, part)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file that never changes, or a copy where the disk knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _add_photos(source: Path, target: Path) -> None:
    """Add the photos of one folder to another that does not have them."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir() if source.is_dir() else ():
        if not (target / path.name).exists():
            _link(path, target / path.name)


def _plant(root: Path, category: str, stamp: str, detector: str) -> Path:
    known = [one.stamp for one in listed(root, root / BOOK, category) if one.run.detector == detector and one.stamp]
    if stamp not in known:
        problem = f"'{category}' has no version {stamp!r} of {detector}"
        raise UnknownName(problem, f"Choose one of: {', '.join(known)}" if known else "Refit it first")
    return root / category / VERSIONS / stamp


def _stamp() -> str:
    """The time, to the microsecond, as the name of a folder."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")


def _prune(root: Path, category: str) -> None:
    plants = sorted((root / category / VERSIONS).iterdir(), reverse=True)
    for plant in plants[KEPT:]:
        shutil.rmtree(plant, ignore_errors=True)
