"""What was trained, on disk: runs/<category>/<detector>/, written whole or not at all, checked by digest when read."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from anomaly import __version__, dataset, defects, detectors, gate, thresholds
from anomaly.backbones import digest_of
from anomaly.capture import Profile
from anomaly.detectors.base import MANIFEST, SCHEMA, WEIGHTS, Detector
from anomaly.errors import BrokenRun, CannotSave, UnknownName, UsageError
from anomaly.images import Box, checked_region, list_images
from anomaly.thresholds import Thresholds, ledger

CALIBRATION, METRICS, HISTORY, CATEGORY, EXAMPLES, PRODUCT, DEFECTS = (
    "calibration.json",
    "metrics.json",
    "history.csv",
    "category.json",
    "examples",
    "product.safetensors",
    "defects.safetensors",
)
CAPTURE = "capture"  # key in CALIBRATION
ABANDONED = 600  # seconds after which a hidden sibling belongs to a process that was killed: writing one takes a few


@dataclass(frozen=True)
class Run:
    """One trained detector of one category, as its files say; weights are read by `load_detector`.

    Attributes:
        manifest: arguments, seed, versions, data fingerprint, split lists, digests.
        calibration: {"good": [{"file", "score", "peak"}], "defect": [...]}: scores of images that were held out; and
            "capture", how the good photos were taken, which runs of older versions lack.
        metrics: figures of `evaluation.measure` on the test images at training time, empty if there were none.
    """

    folder: Path
    category: str
    detector: str
    manifest: dict
    calibration: dict
    metrics: dict

    @property
    def weights_sha256(self) -> str:
        return self.manifest["files"][WEIGHTS]

    @property
    def region(self) -> Box | None:
        """The part of each photo that it learned from; None is all of it."""
        return self.manifest.get("region") and tuple(self.manifest["region"])

    @property
    def design_effect(self) -> float:
        """Of the good parts that set limits (`thresholds.design_effect`), by groups of neighbouring file numbers."""
        good = self.calibration["good"]
        groups = dataset.group_labels([Path(entry["file"]) for entry in good])
        return thresholds.design_effect([entry["score"] for entry in good], groups)

    @property
    def profile(self) -> Profile | None:
        """How the good photos were taken; None of a run that did not measure it."""
        content = self.calibration.get(CAPTURE)
        return None if content is None else Profile.from_json(content)

    def load_detector(self) -> Detector:
        """Read the weights. Raises BrokenRun when any file is not the one that the manifest names."""
        self.check(*self.manifest["files"])
        return detectors.get(self.detector).load(self.folder)

    def check(self, *names: str) -> None:
        """Raise BrokenRun when one of these files is not the one that the manifest names."""
        for name in names:
            path = self.folder / name
            if not path.is_file() or digest_of(path) != self.manifest["files"].get(name):
                found = "is missing" if not path.is_file() else "was changed"
                raise BrokenRun(f"{path} {found} since the run was saved", _retrain(self.category, self.detector))


def save(root: Path, category: str, detector: Detector, *, origin: dict, calibration: dict, metrics: dict) -> Run:
    """Write a run; an older one of the same category and detector is replaced once the new one is complete.

    Args:
        origin: for the manifest: data fingerprint, split lists, what else tells where the run comes from.
    """
    check_name(category)
    with replacing(root / category / detector.name) as part:
        detector.save(part)
        _write_json(part / CALIBRATION, calibration)
        _write_json(part / METRICS, metrics)
        if detector.history():
            with (part / HISTORY).open("w", newline="") as stream:
                writer = csv.DictWriter(stream, detector.history()[0].keys(), lineterminator="\n")
                writer.writeheader()
                writer.writerows(detector.history())
        about = json.loads((part / MANIFEST).read_text())
        versions = {"anomaly": __version__, "python": platform.python_version(), "torch": torch.__version__}
        _seal(part, about | {"category": category, "made": ledger.now(), "versions": versions, **origin})
    return _read(root / category / detector.name)


def update(run: Run, *, calibration: dict | None = None, metrics: dict | None = None) -> Run:
    """The same weights with another calibration or other metrics, written whole or not at all."""
    with replacing(run.folder) as part:
        shutil.copytree(run.folder, part)
        if calibration is not None:
            _write_json(part / CALIBRATION, calibration)
        if metrics is not None:
            _write_json(part / METRICS, metrics)
        _seal(part, run.manifest)
    return _read(run.folder)


def open_run(root: Path, category: str, detector: str) -> Run:
    """Read a run's JSON files.

    Raises:
        UnknownName: no such category, or the category has no such detector.
        BrokenRun: half-written, damaged, of another schema, or trained on another region of the photos than the one
            that the category has now.
    """
    found = names(root)
    if category not in found:
        raise UnknownName(
            f"There is no category '{category}' in {root}",
            f"Choose one of: {', '.join(found)}" if found else "Train one with `python -m anomaly train`",
        )
    if detector not in found[category]:
        raise UnknownName(
            f"Category '{category}' has no detector '{detector}'", f"Choose one of: {', '.join(found[category])}"
        )
    run = _read(root / category / detector)
    if run.region != region(root, category):
        problem = (
            f"{run.folder} was trained on {_place(run.region)} of the photos, "
            f"but {root / category / CATEGORY} names {_place(region(root, category))}"
        )
        raise BrokenRun(problem, _retrain(category, detector))
    return run


def _read(folder: Path) -> Run:
    category, detector = folder.parent.name, folder.name
    parts = {name: _read_json(folder / name, category, detector) for name in (MANIFEST, CALIBRATION, METRICS)}
    manifest = parts[MANIFEST]
    if manifest.get("schema") != SCHEMA or WEIGHTS not in (manifest.get("files") or {}):
        problem = f"{folder / MANIFEST} is of schema {manifest.get('schema')} or lists no weights"
        raise BrokenRun(f"{problem}, schema {SCHEMA} was expected", _retrain(category, detector))
    run = Run(folder, category, detector, manifest, parts[CALIBRATION], parts[METRICS])
    run.check(CALIBRATION, METRICS)
    return run


def names(root: Path) -> dict[str, tuple[str, ...]]:
    """{category: its detectors} of every folder that holds a manifest, in alphabetical order."""
    found = {}
    for folder in sorted(Path(root).iterdir()) if Path(root).is_dir() else []:
        if folder.name.startswith((".", "_")) or not folder.is_dir():
            continue
        inner = tuple(d.name for d in sorted(folder.iterdir()) if d.name in detectors.names() and d.is_dir())
        if inner:
            found[folder.name] = inner
    return found


def meant(root: Path, book: Thresholds, category: str) -> str:
    """The detector that judges a category where none is named; "" where nothing is trained."""
    return book.active(category) or next(iter(names(root).get(category, ())), "")


def describe(root: Path, category: str) -> dict:
    """category.json; a title is made from the name where there is none."""
    path = root / category / CATEGORY
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise BrokenRun(f"{path} holds no JSON object", "Restore it, or delete it: a title is then made from the name")
    return {"title": category.replace("_", " ").capitalize(), "kind": "object"} | about


def region(root: Path, category: str) -> Box | None:
    """The region of interest of a category's photos; None is all of them.

    Raises:
        BrokenRun: category.json names one that cannot be.
    """
    found = describe(root, category).get("region")
    try:
        return found and checked_region(found)
    except UsageError as error:
        raise BrokenRun(f"{root / category / CATEGORY}: {error.problem}", error.remedy) from error


def write_description(root: Path, category: str, about: dict) -> None:
    """Write category.json: title, kind of image, region of interest, licence of the data."""
    with replacing(root / check_name(category) / CATEGORY) as part:
        _write_json(part, about)


def save_product(root: Path, category: str, product: gate.Product) -> None:
    """Write how photos of a category look. Raises CannotSave."""
    with replacing(root / check_name(category) / PRODUCT) as part:
        gate.save(product, part)


def types(root: Path, category: str) -> defects.Types:
    """The labelled regions of a category, none where nothing was labelled. Raises BrokenRun."""
    path = root / category / DEFECTS
    return defects.load(path) if path.is_file() else defects.Types()


def save_types(root: Path, category: str, known: defects.Types) -> None:
    """Write the labelled regions of a category. Raises CannotSave."""
    with replacing(root / check_name(category) / DEFECTS) as part:
        defects.save(known, part)


def examples(root: Path, category: str) -> tuple[Path, ...]:
    """Pictures to try, if the category has any."""
    folder = root / category / EXAMPLES
    return tuple(list_images(folder)) if folder.is_dir() else ()


def check_name(category: str) -> str:
    """A category names a folder: letters, digits, '_' and '-' alone. Raises UsageError."""
    if not category.replace("_", "").replace("-", "").isalnum() or category.startswith(("_", "-")):
        raise UsageError(f"'{category}' cannot name a category", "Use letters, digits, '_' and '-'")
    return category


def sweep(root: Path) -> None:
    """Clear away what a killed process left half-written; a run that it had moved aside is put back."""
    for folder in root.glob("*/.*.*.old"):
        target = folder.with_name(folder.name[1:].rsplit(".", 2)[0])
        if not target.exists():
            folder.rename(target)
    for folder in [*root.glob("*/.*.*.part"), *root.glob("*/.*.*.old")]:
        if time.time() - folder.stat().st_mtime > ABANDONED:
            _remove(folder)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A hidden sibling to write into, which takes the target's place if all went well and vanishes if not."""
    part, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex}.{end}") for end in ("part", "old"))
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            if target.exists():
                target.rename(old)
            part.rename(target)
    finally:
        if old.exists() and not target.exists():  # the new one did not take its place
            old.rename(target)
        _remove(part)
        _remove(old)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise CannotSave, when the disk is full or may not be written to."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
        problem = f"{target} cannot be written ({reason}), and nothing was changed"
        raise CannotSave(problem, "Check that the disk has room and the folder may be written to") from error


@contextmanager
def alone(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other threads and processes that ask for the same folder out; ends with the process in whatever way.

    Gives False, and keeps nobody out, where another is in there and this one does not wait.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(place)


def _remove(path: Path) -> None:
    if path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _place(box: Box | None) -> str:
    return "the whole" if box is None else "the region " + ", ".join(f"{share:g}" for share in box)


def _seal(folder: Path, manifest: dict) -> None:
    """Write the manifest last, with the digest of every other file."""
    files = {p.name: digest_of(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    _write_json(folder / MANIFEST, manifest | {"files": files})


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path, category: str, detector: str) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise BrokenRun(f"{path} {what}, so the run is incomplete", _retrain(category, detector)) from error
    if not isinstance(content, dict):
        raise BrokenRun(f"{path} holds no JSON object", _retrain(category, detector))
    return content


def _retrain(category: str, detector: str) -> str:
    return f"Restore it, or run `python -m anomaly train --category {category} --detector {detector} --data DIR`"
