"""Load a trained category once, see whether a photo shows it, score the photo, decide, and say where."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from anomaly import attributes, defects, gate, render, runs
from anomaly.detectors.base import MANIFEST, Detector, Explanation
from anomaly.errors import BrokenRun, UnknownName, UsageError
from anomaly.images import crop, read_image, resize_map, shrink, stretch
from anomaly.regions import Region, find_regions
from anomaly.thresholds import OperatingPoint, Standing, Thresholds, decide, standing

log = logging.getLogger(__name__)
T = TypeVar("T")
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the original

AUTO = "auto"  # in place of a category: the one that the photo shows
PREVIEW = 1024  # longest side in pixels of what is kept of a photo: bounds memory, whatever the camera
LOADED = 12  # detectors held in memory; the one unused for longest goes first
MIN_AREA = 9  # pixels of the preview: less is a speck of the map, not a region


@dataclass(frozen=True)
class CategoryInfo:
    """What the page shows of a category before a photo is given."""

    name: str
    title: str
    kind: str
    examples: tuple[Path, ...]
    detectors: tuple[str, ...]
    active: str


@dataclass(frozen=True)
class Inspection:
    """One judged photo.

    Attributes:
        weights_sha256: of the weights that judged.
        score, threshold, review_threshold, pixel_threshold: in the unit of the detector.
        default_threshold: the stored limit, whatever `redecide` made of it.
        capture: what is unlike the good photos in how this one was taken, a sentence each; then it is for a person to
            judge, and the verdict is "REVIEW" whatever the score.
        product: which product the photo shows; None where the category was trained before that was learned.
        defect: the type of the strongest region; None of an OK part, and where too few regions are labelled.
        percentile: where the score lies among those of held-out good parts.
        regions: connected areas of the map at or over `pixel_threshold`, in pixels of the original.
        width, height: of the original in pixels.
        preview: (h, w, 3) uint8 RGB, no side over 1024; map: (h, w) float32; reconstruction: like preview, or None.
    """

    path: str
    category: str
    detector: str
    weights_sha256: str
    score: float
    threshold: float
    review_threshold: float
    pixel_threshold: float
    default_threshold: float
    verdict: str
    capture: tuple[str, ...]
    percentile: Standing
    regions: tuple[Region, ...]
    milliseconds: float
    width: int
    height: int
    preview: np.ndarray
    map: np.ndarray
    reconstruction: np.ndarray | None
    product: gate.Seen | None = None
    defect: defects.Named | None = None

    @property
    def level(self) -> float:
        return self.score / self.threshold

    @property
    def named(self) -> defects.Named | None:
        """The type of the defect; None of a part that is OK by the limit of this inspection."""
        return None if self.verdict == "OK" else self.defect

    @property
    def attributes(self) -> tuple[str, ...]:
        """What the defect looks like, in words; none of a part that is OK."""
        if self.verdict == "OK":
            return ()
        return attributes.flaw(self.preview, self.regions, scale=self.preview.shape[1] / self.width)

    @property
    def alarm(self) -> str:
        """Type, place and looks of the strongest defect in one line; "" of a part that is OK."""
        if self.verdict == "OK":
            return ""
        if not self.regions:
            return "No region is over the limit"
        x, y, width, height = self.regions[0].box
        place = f"at x {x}, y {y}, {width} by {height} pixels"
        return " · ".join(filter(None, (str(self.named or ""), place, *self.attributes)))

    def heat(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB: the preview under its map, with the outlines of the defects."""
        return render.overlay(self.preview, self.map, self.pixel_threshold, pixel_threshold=self.pixel_threshold)

    def outlined(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB: the preview with the outlines of the defects and nothing over them."""
        return render.outlined(self.preview, self.map >= self.pixel_threshold)

    def to_json(self) -> dict:
        """One line of `python -m anomaly inspect --json`."""
        named = self.named
        return {
            "path": self.path,
            "category": self.category,
            "detector": self.detector,
            "score": self.score,
            "threshold": self.threshold,
            "review_threshold": self.review_threshold,
            "level": self.level,
            "verdict": self.verdict,
            "regions": [region.to_json() for region in self.regions],
            "defect_type": named and named.kind,
            "defect_confidence": named and named.confidence,
            "attributes": list(self.attributes),
            "alarm": self.alarm,
            "product": self.product and self.product.to_json(),
            "capture": list(self.capture),
            "percentile": self.percentile.to_json(),
            "milliseconds": round(self.milliseconds, 3),
            "error": None,
        }


def redecide(inspection: Inspection, threshold: float) -> Inspection:
    """The same photo under another limit, from the stored score and map; review and pixel limits move in proportion.

    Raises:
        UsageError: a limit that is not a positive number.
    """
    if not (np.isfinite(threshold) and threshold > 0):
        raise UsageError(f"The threshold is {threshold}, a positive number was expected", "Use the stored one")
    ratio = threshold / inspection.threshold
    return _decided(
        replace(
            inspection,
            threshold=threshold,
            # rounding must not lift the review limit over the other
            review_threshold=min(threshold, inspection.review_threshold * ratio),
            pixel_threshold=inspection.pixel_threshold * ratio,
        )
    )


class Inspector:
    """Judges photos by the runs of one folder; shared by all sessions and threads.

    Args:
        runs: folder of trained categories; thresholds: threshold.json. Both may change while the object lives.
    """

    def __init__(self, *, runs: Path, thresholds: Path):
        self._root = Path(runs)
        self._book = Path(thresholds)
        self._loaded: OrderedDict[tuple[str, str], tuple[int, Detector]] = OrderedDict()
        self._files: dict[Path, tuple[int, object]] = {}
        self._lock = threading.Lock()

    def categories(self) -> list[CategoryInfo]:
        """Every category that has a run, by name. Raises ThresholdError when threshold.json cannot be read."""
        book = Thresholds.load(self._book)
        found = []
        for name, detectors in runs.names(self._root).items():
            about = runs.describe(self._root, name)
            active = book.active(name)
            found.append(
                CategoryInfo(
                    name=name,
                    title=about["title"],
                    kind=about["kind"],
                    examples=runs.examples(self._root, name),
                    detectors=detectors,
                    active=active if active in detectors else detectors[0],
                )
            )
        return found

    def loaded(self) -> list[str]:
        """category/detector of each one in memory. Does not wait for an inspection that is under way."""
        return ["/".join(key) for key in tuple(self._loaded)]

    def inspect(
        self, path: str | Path, *, category: str, detector: str | None = None, threshold: float | None = None
    ) -> Inspection:
        """Score a photo and decide by the stored operating point.

        Args:
            category: AUTO takes the one that the photo shows.
            detector: None takes the category's active one.
            threshold: decides by another limit than the stored one, which must exist all the same.
        Raises:
            WrongProduct: it shows another product than `category`, or none that is known.
            ImageError: the file is no readable photo; UnknownName: no such category or detector;
            BrokenRun: the run is damaged; MissingThreshold, StaleThreshold: it has no limit of its own.
        """
        ready = None if category == AUTO else self._ready(category, detector)
        began = time.perf_counter()
        image = read_image(path)
        unlike = _objections(image, ready[1]) if ready else ()
        product = self._seen(image, None if category == AUTO else category, unlike)
        model, run, point = ready or self._ready(product.seen, detector)
        with self._lock:  # one forward pass at a time: more would share the same cores and multiply memory
            result = model.score(image)
        preview = shrink(image, PREVIEW)
        shape = preview.shape[:2]
        made = result.reconstruction
        found = Inspection(
            path=str(path),
            category=run.category,
            detector=run.detector,
            weights_sha256=run.weights_sha256,
            score=result.score,
            threshold=point.fail,
            review_threshold=point.review,
            pixel_threshold=point.pixel,
            default_threshold=point.fail,
            verdict="",
            capture=unlike if ready else _objections(image, run),
            product=product,
            percentile=standing(result.score, [entry["score"] for entry in run.calibration["good"]]),
            regions=(),
            milliseconds=0.0,
            width=image.shape[1],
            height=image.shape[0],
            preview=preview,
            map=resize_map(result.map, shape),
            reconstruction=None if made is None else stretch(made, shape),
        )
        found = _decided(found) if threshold is None else redecide(found, threshold)
        if found.verdict != "OK" and found.regions:
            found = replace(found, defect=self._named(run.category, image, found.regions[0].box))
        return replace(found, milliseconds=1000 * (time.perf_counter() - began))

    def types(self, category: str) -> defects.Types:
        """The labelled regions of a category; none where the file is damaged, since a verdict needs no type."""
        path = self._root / category / runs.DEFECTS
        try:
            return self._read(path, defects.load) if path.is_file() else defects.Types()
        except BrokenRun as error:
            log.warning("defects of %s are not named: %s", category, error)
            return defects.Types()

    def name(self, category: str, photo: Path, box: Box) -> defects.Named | None:
        """The type of the defect in a place of a photo, (x, y, width, height) in pixels; None where none is known.

        Raises:
            ImageError: the photo cannot be read.
        """
        return self._named(category, read_image(photo), box) if self.types(category).ready else None

    def label(self, category: str, photo: Path, box: Box, kind: str) -> None:
        """Make a place of a photo an example of a type of defect; "" takes the example of this photo back.

        Raises:
            UnknownName: no such category; ImageError: the photo cannot be read; BrokenRun: the examples are damaged;
            CannotSave: the disk does not take them.
        """
        if category not in runs.names(self._root):
            raise UnknownName(f"There is no category '{category}'", "Teach it first")
        name = defects.SAID + photo.name
        features = self._describe(read_image(photo), box) if kind else None
        with runs.alone(self._root / category):
            known = runs.types(self._root, category)
            if kind:
                known = known.with_examples([defects.Example(name, kind, features)])
            elif any(one.name == name for one in known.examples):
                known = known.without(name)
            else:
                return
            runs.save_types(self._root, category, known)

    def explain(self, inspection: Inspection) -> Explanation:
        """Why the strongest region of an inspected photo, or its worst place where no region is, differs.

        Raises:
            ImageError: the photo is no longer there; StaleThreshold, BrokenRun: the run has changed since.
        """
        model, _, _ = self._ready(inspection.category, inspection.detector)
        image = read_image(inspection.path)
        box = inspection.regions[0].box if inspection.regions else _worst_place(inspection)
        with self._lock:
            return model.explain(image, box)

    def _named(self, category: str, image: np.ndarray, box: Box) -> defects.Named | None:
        known = self.types(category)
        return known.name(self._describe(image, box)) if known.ready else None

    def _describe(self, image: np.ndarray, box: Box) -> np.ndarray:
        with self._lock:
            return defects.describe(image, box)

    def _read(self, path: Path, load: Callable[[Path], T]) -> T:
        """A file of a category, read once as long as it stays the same."""
        stamp = path.stat().st_mtime_ns
        if self._files.get(path, (None,))[0] != stamp:
            self._files[path] = (stamp, load(path))
        return self._files[path][1]

    def _seen(self, image: np.ndarray, expected: str | None, unlike: tuple[str, ...]) -> gate.Seen | None:
        """Which product a photo shows, None where it cannot be told whether it is the expected one.

        Args:
            unlike: how it was taken otherwise than the good photos of the expected product.

        Raises:
            WrongProduct: another product than the expected one, or none that is known.
            UsageError: none is expected, and none can be recognised; BrokenRun: a file that is needed is damaged.
        """
        products = self._known(expected)
        if expected is None and not products:
            problem = f"No product in {self._root} can be recognised by its photos"
            raise UsageError(problem, "Name the product, or train it again")
        if expected is not None and expected not in products:
            return None
        with self._lock:
            seen = gate.look(image, products, expected=expected)
        seen.require(unlike, () if seen.known else attributes.ground(image))
        return seen

    def _known(self, expected: str | None) -> dict[str, gate.Product]:
        """Every product that can be recognised; a damaged file is only an error where its product is asked for."""
        found = {}
        for name in runs.names(self._root):
            path = self._root / name / runs.PRODUCT
            if not path.is_file():
                continue
            try:
                found[name] = self._read(path, gate.load)
            except BrokenRun as error:
                if expected in (None, name):
                    raise
                log.warning("photos of %s are not recognised: %s", name, error)
        return found

    def _ready(self, category: str, detector: str | None) -> tuple[Detector, runs.Run, OperatingPoint]:
        """Detector, its run and operating point, checked to belong together."""
        book = Thresholds.load(self._book)
        if detector is None:
            detector = runs.meant(self._root, book, category)
        run = runs.open_run(self._root, category, detector)
        point = book.get(category, detector, weights_sha256=run.weights_sha256)
        stamp = (run.folder / MANIFEST).stat().st_mtime_ns  # a run that was trained anew is read anew
        key = (category, detector)
        with self._lock:
            if key not in self._loaded or self._loaded[key][0] != stamp:
                self._loaded[key] = (stamp, run.load_detector())
            self._loaded.move_to_end(key)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[key][1], run, point


def _objections(image: np.ndarray, run: runs.Run) -> tuple[str, ...]:
    """How a photo was taken otherwise than the good ones of a run."""
    return run.profile.objections(crop(image, run.region)) if run.profile else ()


def _worst_place(inspection: Inspection) -> Box:
    """A box of one pixel of the map around its peak, in pixels of the original."""
    height, width = inspection.map.shape
    row, column = np.unravel_index(int(inspection.map.argmax()), inspection.map.shape)
    across, down = inspection.width / width, inspection.height / height
    x, y = int(column * across), int(row * down)
    return x, y, min(max(1, int(across)), inspection.width - x), min(max(1, int(down)), inspection.height - y)


def _decided(inspection: Inspection) -> Inspection:
    """Verdict and regions by the limits of the inspection.

    A photo that was taken otherwise than the good ones is neither OK nor ANOMALY: the limit says nothing about another
    camera, and the part is not to blame for the light.
    """
    height, width = inspection.map.shape
    scale = (inspection.width / width, inspection.height / height)
    regions = find_regions(
        inspection.map,
        inspection.pixel_threshold,
        min_area=max(1, round(MIN_AREA * scale[0] * scale[1])),
        scale=scale,
    )
    verdict = decide(inspection.score, threshold=inspection.threshold, review=inspection.review_threshold)
    if inspection.capture:
        verdict = "REVIEW"
    return replace(inspection, verdict=verdict, regions=tuple(regions))
