"""From a folder of photos to a run that judges: split, fit, calibrate on held-out images, evaluate, save.

With each run goes what its product looks like, for the check of `gate`, and what known defects of it look like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly import dataset, defects, evaluation, gate, metrics, runs, thresholds
from anomaly.accounts import user
from anomaly.capture import Profile
from anomaly.detectors.base import Detector, Progress
from anomaly.errors import BrokenRun, DatasetError, TooFewImages, UsageError
from anomaly.images import Box, checked_region, crop, natural_key, read_image
from anomaly.regions import find_regions
from anomaly.thresholds import NEEDS_DEFECTS, OperatingPoint, Thresholds, ledger

HELD_OUT = 0.25  # of the good images: they learn nothing, they set the threshold
FEW = 64  # good images under which the person is warned: with 64, castings lose 0.04 of image AUROC against 415
LEARNED = 0.75  # of the known defects, by a detector that is taught by them; the others are kept to try limits on
FEW_DEFECTS = 10  # known defects under which the person is warned
DEFAULT_TARGET = 0.02
APART = 2.0  # times as far over the median as all others: held-out images that score so are looked at, and
APART_SHARE = 0.05  # of the held-out images at most are such, out of
APART_AMONG = 20  # at least: among fewer the highest one is often that far away by chance
APART_LEAST = 1.0  # deviations over the median: among photos that are all one and the same a trifle would do
LEAST = 1e-6  # a limit lies over 0, so that a score can be divided by it


@dataclass(frozen=True)
class Outcome:
    """A finished training.

    Attributes:
        figures: on the test images, None without any; warnings: sentences without a full stop.
        apart: held-out images that alone keep the limit high, the highest first: name as in the manifest, and (h, w)
            bool, True where the map is in the upper half of its range.
    """

    run: runs.Run
    point: OperatingPoint
    figures: dict | None
    warnings: tuple[str, ...]
    apart: tuple[tuple[str, np.ndarray], ...] = ()


@dataclass(frozen=True)
class Examination:
    """A run on test images.

    Attributes:
        figures: as `evaluation.measure` gives them; curves: None where all images are of one kind.
        samples: the test images.
        pixel: limit of the map.
    """

    figures: dict
    curves: metrics.Curves | None
    run: runs.Run
    samples: list[dataset.Sample]
    pixel: float


def train(
    data: Path,
    category: str,
    detector: Detector,
    *,
    root: Path,
    book: Path,
    region: Box | None = None,
    before: runs.Run | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Fit a detector on the good images of a category and store run and threshold.

    A quarter of the good images, whole groups of neighbouring file numbers, is held out and sets the threshold by the
    rule `false-alarms`: at most 2%, or the least that so few images can promise. Known defects (`dataset`)
    are scored and kept, to show what a limit does to them. A supervised detector learns from three quarters of those of
    each type, with their masks where there are any, and only the others are kept: test images never teach. Where the
    detector that judges sees them, known defects are examples of their type.

    Args:
        data: folder of categories, or the category's own folder.
        root: runs folder; book: threshold.json.
        region: the part of each image to look at, kept with the category; None takes the one that it has.
        before: the version that this one follows; what it held out stays held out, so that both can be compared.
    Raises:
        DatasetError, TooFewImages: no or too few good images, or labels that do not fit; ImageError: one is unreadable.
        CannotSave: the disk does not take the run.
    """
    runs.check_name(category)
    runs.sweep(root)
    region = checked_region(region) if region else runs.region(root, category)
    Thresholds.load(book)  # a damaged book must be known before an hour of training, not after
    good = dataset.good_images(data, category)
    held_out = max(2, round(HELD_OUT * len(good)))
    if len(good) - held_out < detector.least:
        raise TooFewImages(
            f"{len(good)} good images of '{category}' were found; {detector.name} needs at least {detector.least} to "
            f"learn from and {held_out} to set its threshold",
            "Add good images",
        )
    folder = dataset.category_folder(data, category)
    split = _split(good, folder, detector.seed, before)
    known, learned = dataset.known_defects(data, category), []
    samples = dataset.test_samples(data, category)
    dataset.check_masks([*known, *samples])
    if detector.supervised:
        learned, known = dataset.split_labelled(known, share=LEARNED, seed=detector.seed)
    taught = {"defects": dataset.LabelledImages(learned)} if learned else {}
    detector.fit(dataset.LazyImages(split.train), **taught, region=region, progress=progress)
    good_ones = [dataset.Sample(path, dataset.GOOD) for path in split.held_out]
    judged = evaluation.judge(detector, good_ones + known, progress=progress)
    product = gate.learn(dataset.LazyImages(good), region=region, progress=progress)
    profile = Profile.of(crop(image, region) for image in dataset.LazyImages(good))
    calibration = _entries(judged, folder) | {runs.CAPTURE: profile.to_json()}
    origin = {
        "data": {"layout_root": folder.name, "sha256": dataset.fingerprint(good), "good_images": len(good)},
        "split": {name: [_relative(p, folder) for p in getattr(split, name)] for name in ("train", "held_out")},
    }
    if detector.supervised:
        origin["defects"] = {
            "train": [_relative(sample.path, folder) for sample in learned],
            "masks": sum(sample.mask is not None for sample in learned),
        }
    run = runs.save(root, category, detector, origin=origin, calibration=calibration, metrics={})
    runs.save_product(root, category, product)
    if not (root / category / runs.CATEGORY).is_file() or runs.region(root, category) != region:
        about = runs.describe(root, category) | {"region": region}
        runs.write_description(root, category, {key: value for key, value in about.items() if value is not None})
    target = supported_target(len(split.held_out))
    point = _operate(run, "false-alarms", target, book, why="set by training")
    if any(judged.labels) and runs.meant(root, Thresholds.load(book), category) == detector.name:
        _keep_types(judged, point, folder, root, category)
    figures = _report(detector, samples, point, progress) if samples else None
    run = runs.update(run, metrics=figures) if figures else run
    warnings = _warnings(good, point)
    if said := far_above(calibration["good"], point.fail):
        warnings += (said,)
    warnings += _taught_by(learned) if detector.supervised else ()
    maps = {_relative(sample.path, folder): map for sample, map in zip(judged.samples, judged.maps)}
    apart = _apart(calibration["good"], point.fail)
    shown = tuple((entry["file"], _upper(maps[entry["file"]])) for entry in apart)
    return Outcome(run, point, figures, warnings, shown)


def _split(good: Sequence[Path], folder: Path, seed: int, before: runs.Run | None) -> dataset.Split:
    """By groups of file numbers; images that an earlier version knows stay on the side where it had them."""
    known = before.manifest["split"] if before else {"train": [], "held_out": []}
    sides = {name: [path for path in good if _relative(path, folder) in set(known[name])] for name in known}
    fresh = sorted({*good} - {*sides["train"], *sides["held_out"]})
    if len(fresh) > 1:
        drawn = dataset.split_good(fresh, held_out=HELD_OUT, seed=seed)
        sides = {name: [*sides[name], *getattr(drawn, name)] for name in sides}
    else:
        sides["train"] += fresh
    return dataset.Split(*(tuple(sorted(sides[name], key=natural_key)) for name in ("train", "held_out")))


def learn_types(
    data: Path, category: str, detector: str, *, root: Path, book: Path, progress: Progress | None = None
) -> defects.Types:
    """Known defects (`validation/<type>`) as examples of their types, where a stored run sees them.

    Those that people labelled stay; all other examples that were there are replaced.

    Raises:
        DatasetError: no known defects; MissingThreshold, StaleThreshold: the run has no limit of its own.
    """
    run = runs.open_run(root, category, detector)
    point = Thresholds.load(book).get(category, detector, weights_sha256=run.weights_sha256)
    samples = dataset.known_defects(data, category)
    folder = dataset.category_folder(data, category)
    if not samples:
        problem = f"There are no known defects of '{category}' in {folder}"
        raise DatasetError(problem, "Add photos as validation/<defect type>")
    judged = evaluation.judge(run.load_detector(), samples, progress=progress)
    return _keep_types(judged, point, folder, root, category)


def _keep_types(
    judged: evaluation.Judged, point: OperatingPoint, folder: Path, root: Path, category: str
) -> defects.Types:
    """The strongest region of each known defect is an example of its type; one that shows none is not."""
    seen = []
    for sample, map in zip(judged.samples, judged.maps):
        if not sample.label:
            continue
        image = read_image(sample.path)
        scale = (image.shape[1] / map.shape[1], image.shape[0] / map.shape[0])
        regions = find_regions(map, point.pixel, scale=scale)
        if regions:
            features = defects.describe(image, regions[0].box)
            seen.append(defects.Example(_relative(sample.path, folder), sample.kind, features))
    with runs.alone(root / category):
        try:
            before = runs.types(root, category)
        except BrokenRun:  # of another backbone, or damaged: it is of no use to anybody
            before = defects.Types()
        said = [one for one in before.examples if one.name.startswith(defects.SAID)]
        known = defects.Types().with_examples([*seen, *said])
        runs.save_types(root, category, known)
    return known


def photos_for(target: float) -> int:
    """About how many good photos it takes to promise so few false alarms: the inverse of `supported_target`."""
    return math.ceil(thresholds.needed_for(target) / HELD_OUT)


def supported_target(held_out: int) -> float:
    """The share of false alarms that `train` promises: 2%, or the least that so many held-out images support."""
    return max(DEFAULT_TARGET, thresholds.strongest_target(held_out))


def calibrate(
    category: str,
    detector: str,
    *,
    rule: str,
    root: Path,
    book: Path,
    target: float | None = None,
    data: Path | None = None,
    costs: tuple[float, float] = (1.0, 10.0),
    why: str = "",
) -> OperatingPoint:
    """Choose a new threshold for a trained run and store it.

    Rules on good images alone work from the stored held-out scores. `f1`, `accuracy` and `cost` also need labelled
    defects: half of the test images in `data` are then scored and remembered; `evaluate` leaves them out ever after.

    Raises:
        UsageError: a rule that needs defects, without `data` and without defects from an earlier calibration.
        ConflictingSave: somebody else saved a limit while these were scored.
    """
    started_from = ledger.digest(Thresholds.load(book).find(category, detector))
    run = runs.open_run(root, category, detector)
    if rule in NEEDS_DEFECTS and not run.calibration["defect"] and data is None:
        problem = f"The rule {rule} needs labelled defects, and none are stored for {category} / {detector}"
        raise UsageError(problem, "Give a folder with test images by --data DIR, or use --rule false-alarms")
    if rule in NEEDS_DEFECTS and data is not None:
        samples, _ = dataset.split_labelled(
            dataset.test_samples(data, category), seed=run.manifest["arguments"]["seed"]
        )
        if not any(sample.label for sample in samples):
            problem = f"{data} holds no test images of defects for '{category}'"
            raise DatasetError(problem, "Add test/<defect type>, or use --rule false-alarms")
        judged = evaluation.judge(run.load_detector(), samples)
        entries = _entries(judged, dataset.category_folder(data, category))
        found = {
            kind: [entry for entry in run.calibration[kind] if not entry["file"].lower().startswith("test/")] + more
            for kind, more in entries.items()
        }
        # The old figures counted images that now choose.
        run = runs.update(run, calibration=run.calibration | found, metrics={})
    why = why or f"calibrate --rule {rule}"
    return _operate(run, rule, target, book, costs=costs, why=why, started_from=started_from)


def evaluate(
    data: Path,
    category: str,
    detector: str,
    *,
    root: Path,
    book: Path,
    trained_on: str | None = None,
    progress: Progress | None = None,
) -> Examination:
    """A stored run on the test images of `data`, without those that chose its threshold.

    Args:
        trained_on: the product whose run judges, with its limit and its region; None is the category itself.
    Raises:
        MissingThreshold, StaleThreshold: the run has no operating point of its own.
        DatasetError: no test images, or none are left, or labels that do not fit.
    """
    source = trained_on or category
    run = runs.open_run(root, source, detector)
    point = Thresholds.load(book).get(source, detector, weights_sha256=run.weights_sha256)
    folder = dataset.category_folder(data, category)
    own = run.calibration if source == category else {"good": [], "defect": []}  # equal names say nothing elsewhere
    used = {entry["file"] for kind in ("good", "defect") for entry in own[kind]}
    samples = [s for s in dataset.test_samples(data, category) if _relative(s.path, folder) not in used]
    if not samples:
        problem = f"There are no test images of '{category}' in {folder} besides those that chose the threshold"
        raise DatasetError(problem, "Add test/good and test/<defect type>")
    dataset.check_masks(samples)
    judged = evaluation.judge(run.load_detector(), samples, progress=progress)
    both = 0 < judged.labels.sum() < len(samples)
    return Examination(
        evaluation.measure(judged, threshold=point.fail, pixel=point.pixel),
        metrics.curves(judged.labels, judged.scores) if both else None,
        run,
        samples,
        point.pixel,
    )


def operating_point(run: runs.Run, choice: thresholds.Choice, *, why: str) -> OperatingPoint:
    """A choice of threshold, signed, with the pixel limit that belongs to it.

    The pixel limit lies as far over the peaks of good maps as the threshold lies over good scores.
    """
    scores = np.sort([entry["score"] for entry in run.calibration["good"]])
    peaks = np.sort([entry["peak"] for entry in run.calibration["good"]])
    k = max(1, int(np.searchsorted(scores, choice.threshold, "left")))
    fail = max(float(choice.threshold), LEAST)
    return OperatingPoint(
        fail=fail,
        review=max(choice.review, LEAST),
        pixel=float(peaks[k - 1] * fail / scores[k - 1]),
        rule=choice.rule,
        target=choice.target,
        promise=choice.promise,
        n_good=choice.n_good,
        n_defect=choice.n_defect,
        weights_sha256=run.weights_sha256,
        set_by=user(),
        set_at=ledger.now(),
        why=why,
    )


def _operate(
    run: runs.Run,
    rule: str,
    target: float | None,
    book: Path,
    *,
    costs: tuple[float, float] = (1.0, 10.0),
    why: str,
    started_from: str | None = None,
) -> OperatingPoint:
    good, defect = ([entry["score"] for entry in run.calibration[kind]] for kind in ("good", "defect"))
    choice = thresholds.choose(
        rule,
        good,
        defect,
        target=target,
        false_alarm_cost=costs[0],
        escape_cost=costs[1],
        effect=run.design_effect,
    )
    point = operating_point(run, choice, why=why)
    ledger.save(book, run.category, run.detector, point, started_from=started_from)
    return point


def _report(
    detector: Detector, samples: Sequence[dataset.Sample], point: OperatingPoint, progress: Progress | None
) -> dict:
    judged = evaluation.judge(detector, samples, progress=progress)
    return evaluation.measure(judged, threshold=point.fail, pixel=point.pixel)


def _entries(judged: evaluation.Judged, folder: Path) -> dict[str, list[dict]]:
    """{"good": [{"file", "score", "peak"}], "defect": [...]}"""
    found = {"good": [], "defect": []}
    for sample, score, peak in zip(judged.samples, judged.scores, judged.peaks):
        entry = {"file": _relative(sample.path, folder), "score": float(score), "peak": float(peak)}
        found["defect" if sample.label else "good"].append(entry)
    return found


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _warnings(good: Sequence[Path], point: OperatingPoint) -> tuple[str, ...]:
    found = []
    if len(good) < FEW:
        found.append(f"Only {len(good)} good images: scores will be rough, {FEW} or more are advised")
    if point.target > DEFAULT_TARGET:
        found.append(f"So few held-out images support no promise under {100 * point.target:.1f}% false alarms")
    if point.review == LEAST:
        found.append("So few held-out images leave every part under the limit to REVIEW")
    return tuple(found)


def _apart(held_out: Sequence[dict], fail: float) -> list[dict]:
    """Those of the held-out images, entries of a calibration, that alone keep the limit high, the highest first.

    A hair beside a part, or a part of another kind among the good ones, lets every defect pass that scores less.
    """
    ranked = sorted(held_out, key=lambda entry: -entry["score"])
    median = float(np.median([entry["score"] for entry in ranked]))
    for few in range(int(APART_SHARE * len(ranked)) if len(ranked) >= APART_AMONG else 0, 0, -1):
        lowest, following = ranked[few - 1]["score"], ranked[few]["score"]
        if lowest < fail and lowest - median >= max(APART * (following - median), APART_LEAST):
            return ranked[:few]
    return []


def _upper(map: np.ndarray) -> np.ndarray:
    return map >= (map.min() + map.max()) / 2


def far_above(held_out: Sequence[dict], fail: float) -> str:
    """What is to be said of held-out good images that alone keep the limit `fail` high; "" where none do.

    Args:
        held_out: entries of a calibration, {"file", "score", ...}.
    """
    apart = _apart(held_out, fail)
    if not apart:
        return ""
    names = ", ".join(f"{entry['file']} {entry['score']:.2f}" for entry in apart)
    highest = max(entry["score"] for entry in held_out if entry not in apart)
    score, them = ("scores", "it") if len(apart) == 1 else ("score", "them")
    return (
        f"{len(apart)} of {len(held_out)} held-out good photos {score} far above all others ({names}; the others "
        f"{highest:.2f} at most), and nothing under {them} is refused. Look at {them}: where a part is not good, or "
        "hair or dirt lies beside it, leave the photo out and train again"
    )


def _taught_by(learned: Sequence[dataset.Sample]) -> tuple[str, ...]:
    """What is to be said of the known defects that a supervised detector learned from."""
    if not learned:
        return ("No known defects were found, so it learned from simulated damage alone",)
    if len(learned) < FEW_DEFECTS:
        return (f"It learned from only {len(learned)} known defects, {FEW_DEFECTS} or more are advised",)
    return ()
