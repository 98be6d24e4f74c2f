"""A product learned in one go: photos kept, detectors trained in a hidden workshop, all of it put in place at once.

As long as anything is missing, nothing of it can be seen; what a killed training leaves is swept away by the next one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from anomaly import dataset, detectors, runs, training, versions
from anomaly.archives import harmless
from anomaly.detectors.base import Detector, Progress
from anomaly.errors import TooFewImages, UsageError
from anomaly.images import SUFFIXES
from anomaly.runs import Run
from anomaly.thresholds import Thresholds, ledger
from anomaly.training import Outcome
from anomaly.versions import PHOTOS, Side

WORKSHOP = ".teach"
LONGEST_NAME = 60


@dataclass(frozen=True)
class Refit:
    """A new version, not yet active, and both versions on the same photos."""

    stamp: str
    outcome: Outcome
    old: Side
    new: Side


def name_of(title: str) -> str:
    """The folder name of a product that a person calls `title`. Raises UsageError when none can be made of it."""
    name = re.sub(r"\s+", "_", title.strip().lower())
    if not name:
        raise UsageError("The product has no name", "Give it one")
    if len(name) > LONGEST_NAME:
        raise UsageError(f"The name has {len(name)} characters, at most {LONGEST_NAME} are taken", "Shorten it")
    return runs.check_name(name)


def free_name(root: Path, title: str) -> str:
    """The folder name of a new product. Raises UsageError when it is taken."""
    name = name_of(title)
    if (root / name).exists():
        raise UsageError(f"There is a product '{name}' already", "Choose another name, or add the photos to that one")
    return name


def teach(
    photos: Sequence[tuple[str, Path]],
    category: str,
    about: dict,
    models: Iterable[Detector],
    *,
    by: str,
    root: Path,
    book: Path,
    progress: Progress,
) -> list[Outcome]:
    """Train a new category on photos, which are kept with it; it appears whole or not at all.

    Args:
        photos: (name, file) of good parts; about: category.json; models: trained in this order, the first one judges.
        by: who signs for the limits; progress: as in `Detector.fit`; whatever it raises leaves nothing behind.
    Raises:
        UsageError: the category exists, or another training runs; CannotSave: the disk does not take it.
    """
    free_name(root, category)
    with _workshop(root) as shop:
        _take(photos, shop / category / PHOTOS)
        runs.write_description(shop, category, about)
        inner = shop / versions.BOOK
        done = [training.train(shop, category, model, root=shop, book=inner, progress=progress) for model in models]
        progress("save", 1, 1)
        free_name(root, category)
        with runs.writing(root / category):
            (shop / category).rename(root / category)
        try:
            for outcome in done:
                point = outcome.point.model_copy(update={"set_by": by})
                ledger.save(book, category, outcome.run.detector, point)
        except BaseException:
            (root / category).rename(shop / category)
            raise
    return [replace(one, run=runs.open_run(root, category, one.run.detector)) for one in done]


def refit(
    photos: Sequence[tuple[str, Path]],
    category: str,
    model: Detector,
    *,
    defects: Sequence[Path] = (),
    root: Path,
    book: Path,
    progress: Progress,
) -> Refit:
    """Train a version on the photos of the one in place and on more; it does not judge before `versions.activate`.

    Args:
        model: a fresh detector, as `successor` makes it; defects: photos of known defective parts, to compare on.
    Raises:
        TooFewImages: no photo is new; CannotSave: the disk does not take it.
        UsageError: another training runs, or the version in place learned from defects that are not kept.
        MissingThreshold, StaleThreshold: the version in place has no limit to compare with.
    """
    old = runs.open_run(root, category, model.name)
    point = Thresholds.load(book).get(category, model.name, weights_sha256=old.weights_sha256)
    if not photos:
        raise TooFewImages(f"No new photo of '{category}' was given", "Add photos of good parts")
    if old.manifest.get("defects", {}).get("train"):
        problem = f"'{category}' was taught by known defects, which are not kept with it"
        raise UsageError(problem, f"Train it again with `python -m anomaly train --detector {model.name}`")
    with _workshop(root) as shop:
        before = old.load_detector()  # now: when the training is done, another version may stand in its place
        folder = shop / category / PHOTOS
        _take([(path.name, path) for path in kept_photos(root, old)], folder)
        _take(photos, folder)
        runs.write_description(shop, category, runs.describe(root, category))
        inner = shop / versions.BOOK
        outcome = training.train(shop, category, model, root=shop, book=inner, before=old, progress=progress)
        sides = versions.compare(
            (before, point),
            (outcome.run.load_detector(), outcome.point),
            good=_unseen(shop / category, old, outcome.run),
            defects=defects,
            progress=lambda stage, done, total: progress("compare", done, total),
        )
        progress("save", 1, 1)
        stamp = versions.keep(shop, root, category, sides)
    return Refit(stamp, replace(outcome, run=_kept(root, category, stamp, model.name)), **sides)


def _kept(root: Path, category: str, stamp: str, detector: str) -> Run:
    return runs.open_run(root / category / versions.VERSIONS / stamp, category, detector)


def _unseen(folder: Path, old: Run, new: Run) -> list[Path]:
    learned = set(old.manifest["split"]["train"])
    return [folder / name for name in new.manifest["split"]["held_out"] if name not in learned]


def successor(run: Run, *, minutes: float | None) -> Detector:
    """A fresh detector built as the one of a run was."""
    arguments = dict(run.manifest["arguments"])
    if "minutes" in arguments:
        arguments["minutes"] = minutes
    return detectors.create(run.detector, **arguments)


def kept_photos(root: Path, run: Run) -> list[Path]:
    """The photos that a run was trained on, if they are kept with the category; else none."""
    named = [name for side in ("train", "held_out") for name in run.manifest["split"][side]]
    paths = [root / run.category / name for name in named]
    if not all(path.is_file() for path in paths):
        return []
    return paths if dataset.fingerprint(paths) == run.manifest["data"]["sha256"] else []


def sweep(root: Path) -> None:
    """Clear away what killed trainings left, unless another process trains right now."""
    if root.is_dir():
        runs.sweep(root)
        with runs.alone(root, wait=False) as held:
            if held:
                shutil.rmtree(root / WORKSHOP, ignore_errors=True)


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Train in a folder of runs while no other process does. Raises UsageError where one is at it."""
    with ExitStack() as stack:
        with runs.writing(root):
            root.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(runs.alone(root, wait=False))
        if not held:
            raise UsageError("Another training is running on this server", "Wait until it is done, or stop it")
        yield


@contextmanager
def _workshop(root: Path) -> Iterator[Path]:
    """A hidden folder to train in, one at a time for all processes; it vanishes in the end with what is left in it."""
    shop = root / WORKSHOP
    with one_at_a_time(root):
        try:
            shutil.rmtree(shop, ignore_errors=True)
            yield shop
        finally:
            shutil.rmtree(shop, ignore_errors=True)


def _take(photos: Iterable[tuple[str, Path]], folder: Path) -> None:
    """Copy photos into a folder, each under its own name as far as that is free and harmless."""
    with runs.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in photos:
            plain = harmless(name.replace("/", "-"))
            if not plain.lower().endswith(SUFFIXES):
                plain += ".jpg"  # photos are read by content; the suffix only makes the file one of them
            # In front: neighbouring photos are known by the number at the end of the name.
            free = (plain, *(f"{count}-{plain}" for count in range(2, 10000)))
            target = next(folder / one for one in free if not (folder / one).exists())
            if not path.is_file():
                raise UsageError(f"The photo {name} is no longer kept by this server", "Add the photos again")
            shutil.copyfile(path, target)
