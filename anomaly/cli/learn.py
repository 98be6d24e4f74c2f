"""Verbs that make, teach and measure: toy products, backbones, detectors, versions."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomaly.cli.options import BOOK, RUNS, Active, Book, Category, Data, FiguresFile, Progress, Runs, active
from anomaly.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from anomaly.training import Outcome

Detectors = Annotated[list[str] | None, typer.Option("--detector", help="may be repeated; default: all trained")]
Minutes = Annotated[float | None, typer.Option("--minutes", min=0.01, help="at most, for each detector")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="source of all randomness")]


def synth(
    out: Annotated[Path, typer.Argument(help="folder to write into, in MVTec AD layout, with --dagm in that of DAGM")],
    category: Annotated[list[str] | None, typer.Option("--category", help="may be repeated; default: all")] = None,
    dagm: Annotated[
        bool, typer.Option("--dagm", help="ten gray textures in the manner of DAGM, with weak labels, instead")
    ] = False,
    train: Annotated[
        int | None, typer.Option("--train", help="good images to learn from; default: 60, DAGM 500")
    ] = None,
    test: Annotated[
        int | None, typer.Option("--test", help="good test images; default: 40, DAGM 500; as many defective, DAGM 15%")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="side in pixels; default: 256, DAGM 512")] = None,
    seed: Seed = 0,
) -> None:
    """Draw toy products with exact defect masks, or toy textures with weak ones."""
    from anomaly import synthetic

    names, write = (synthetic.TEXTURES, synthetic.write_dagm) if dagm else (synthetic.PRODUCTS, synthetic.write_product)
    wanted = {"train": train, "test": test, "size": size}
    given = {key: value for key, value in wanted.items() if value is not None}
    for name in category or names:
        with Progress(name) as progress:
            write(out, name, **given, seed=seed, progress=lambda i, n: progress("draw", i, n))


def pretrain(
    folder: Annotated[list[Path], typer.Argument(help="folders of images, read recursively; labels are not used")],
    network: Annotated[str, typer.Option("--network", help="backbone, or repair: where unet starts")] = "backbone",
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for the weights; default: in runs/_backbones")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="at most")] = 6000,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="at most")] = 60.0,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="backbone: peak learning rate")] = 3e-2,
    start: Annotated[Path | None, typer.Option("--start", help="backbone: folder of the weights to begin with")] = None,
    seed: Seed = 0,
) -> None:
    """Train what the detectors start from: the backbone of mahalanobis, or the repair network of unet."""
    from anomaly import backbones, pretraining

    settings = pretraining.Settings(steps=steps, minutes=minutes, rate=rate, seed=seed)
    with Progress(f"pretrain {network}") as bar:
        if network == "repair":
            out = out or backbones.SHIPPED / "unet_repair"
            pretraining.pretrain_repair(folder, out, settings=settings, progress=bar)
        elif network == "backbone":
            out = out or backbones.SHIPPED / backbones.DEFAULT
            pretraining.pretrain(
                folder, out, settings=settings, start=start, progress=lambda i, n, loss: bar(f"loss {loss:.3f}", i, n)
            )
        else:
            raise UnknownName(f"There is no network '{network}' to pretrain", "Choose one of: backbone, repair")


def train(
    data: Data,
    category: Category,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", help="may be repeated; default: mahalanobis and unet")
    ] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="features of mahalanobis")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="side of the input in pixels, at most")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="at most, for detectors that have any")] = None,
    minutes: Minutes = None,
    pool: Annotated[
        str | None, typer.Option("--pool", help="score of cae, vae and dae: mean of the map, or topk, its worst 1%")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="X,Y,WIDTH,HEIGHT of what to look at, in shares of the photo")
    ] = None,
    seed: Seed = 0,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Learn a product from good images, set its threshold on held-out ones, evaluate on test images if any."""
    from anomaly import detectors, teaching, training
    from anomaly.images import checked_region

    box = checked_region(region.split(",")) if region else None
    wanted = {"backbone": backbone, "image_size": image_size, "epochs": epochs, "minutes": minutes, "pool": pool}
    for name in detector or detectors.USUAL:
        model = detectors.create(name, seed=seed, **{k: v for k, v in wanted.items() if v is not None})
        with teaching.one_at_a_time(runs), Progress(f"{category} / {name}") as progress:
            done = training.train(data, category, model, root=runs, book=thresholds, region=box, progress=progress)
        _print_outcome(done)


def check(
    path: Annotated[list[Path], typer.Argument(help="photos of good parts, folders of them, or ZIPs")],
) -> None:
    """Look photos through before they teach a product: repeated, blurred, odd and unreadable ones are named."""
    from anomaly import intake

    with tempfile.TemporaryDirectory() as folder, Progress("check") as progress:
        found = list(intake.gather(_photos(path), Path(folder)))
        photos = []
        for name, file, error in found:
            photos.append(intake.look(name, file, error))
            progress("look", len(photos), len(found))
        odd = [photo for photo in intake.judge(photos) if photo.reasons]
    for photo in odd:
        print(f"{photo.name}: {'; '.join(photo.reasons)}")
    print(f"{len(odd)} of {len(found)} photos stand out")


def refit(
    category: Category,
    data: Annotated[Path | None, typer.Option("--data", help="folder of more photos of good parts")] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="inspection record: adds the parts reviewed as OK, compares on defects"),
    ] = None,
    detector: Active = None,
    minutes: Minutes = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Train a new version beside the one in use, on its photos and on more; compare both; `versions` chooses."""
    from anomaly import teaching
    from anomaly.handlers.teach import recorded
    from anomaly.history import History
    from anomaly.runs import open_run

    detector = detector or active(category, runs, thresholds)
    run = open_run(runs, category, detector)
    photos = [(path.name, path) for path in _photos([data])] if data else []
    history = History(record) if record else None
    photos += [(Path(one.file).name, one.photo) for one in recorded(history, category, "ok")]
    defects = [one.photo for one in recorded(history, category, "defect")]
    if not teaching.kept_photos(runs, run):
        problem = f"The photos that taught {category} / {detector} are not kept: only those given now are learned from"
        print(f"Warning: {problem}.", file=sys.stderr)
    model = teaching.successor(run, minutes=minutes)
    with Progress(f"{category} / {detector}") as progress:
        made = teaching.refit(photos, category, model, defects=defects, root=runs, book=thresholds, progress=progress)
    _print_outcome(made.outcome)
    for name, side in (("in use", made.old), ("new", made.new)):
        print(
            f"{name:8} {side.false_alarms} of {side.n_good} good photos over the limit, typical {side.median:.2f} and "
            f"highest {side.highest:.2f} of it"
            + (f"; {side.caught} of {side.n_defect} known defects caught" if side.n_defect else "")
        )
    print(f"Make it active: python -m anomaly versions --category {category} --activate {made.stamp}")


def types(
    category: Category,
    data: Annotated[
        Path | None, typer.Option("--data", help="folder with known defects of the product as validation/<type>")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="inspection record: adds the parts whose type a person named")
    ] = None,
    detector: Active = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Types of defects of a trained product: learns them from known defects or from the record, and lists them."""
    from anomaly import training
    from anomaly.handlers.teach import recorded
    from anomaly.history import History
    from anomaly.inspection import Inspector
    from anomaly.runs import types as labelled

    if data:
        judge = detector or active(category, runs, thresholds)
        with Progress(f"{category} / {judge}") as progress:
            training.learn_types(data, category, judge, root=runs, book=thresholds, progress=progress)
    if record:
        inspector = Inspector(runs=runs, thresholds=thresholds)
        for one in recorded(History(record), category, "defect"):
            if one.defect_type and one.regions:
                inspector.label(category, one.photo, tuple(one.regions[0]["box"]), one.defect_type)
    known = labelled(runs, category)
    if not known.examples:
        problem = f"No defect of '{category}' that {runs} knows was ever labelled"
        raise UsageError(problem, "Give known defects by --data, or parts that people labelled by --record")
    for kind, count in known.counts.items():
        print(f"{count:4} {kind}")
    if known.ready:
        right, of = known.told_apart
        print(f"{right} of {of} regions get their own type from the others")
    else:
        print("Types are named once there are two with two regions each", file=sys.stderr)


def list_versions(
    category: Category,
    activate: Annotated[str | None, typer.Option("--activate", help="version that shall judge from now on")] = None,
    detector: Active = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Versions of a trained product; `--activate` brings one into use, and the one before can be brought back."""
    from anomaly import accounts, versions

    if activate:
        detector = detector or active(category, runs, thresholds)
        versions.activate(runs, thresholds, category, activate, detector, by=accounts.user())
    for one in versions.listed(runs, thresholds, category):
        promise = one.point.promise.split("; ")[0] if one.point else "no limit"
        photos = one.run.manifest["data"]["good_images"]
        print(f"{one.stamp or 'in use':21} {one.run.detector:12} {photos} photos, {promise}")


def evaluate(
    data: Data,
    category: Annotated[list[str] | None, typer.Option("--category", help="may be repeated; default: all")] = None,
    detector: Detectors = None,
    trained_on: Annotated[
        list[str] | None, typer.Option("--trained-on", help="product whose models judge; may be repeated")
    ] = None,
    json_file: FiguresFile = None,
    figures: Annotated[Path | None, typer.Option("--figures", help="draw photos and results into this folder")] = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Measure trained products on labelled test images, without those that chose the threshold.

    With --trained-on the models of other products judge, by their own limits: how far does what they learned carry?
    """
    from anomaly import dataset, training
    from anomaly.report import plates
    from anomaly.runs import names

    trained = names(runs)
    wanted = category or [name for name in dataset.categories(data) if trained_on or name in trained]
    if not wanted:
        raise UnknownName(f"No category of {data} is trained in {runs}", "Train one with `python -m anomaly train`")
    report: dict = {}
    found_of: dict = {}
    for name in wanted:
        for source in trained_on or (name,):
            for one in detector or trained.get(source, ("",)):
                judge = f"{source}/{one}" if trained_on else one
                with Progress(f"{name} / {judge}") as progress:
                    found = training.evaluate(
                        data, name, one, root=runs, book=thresholds, trained_on=source, progress=progress
                    )
                report.setdefault(name, {})[judge] = found.figures
                found_of.setdefault(name, {})[judge] = found
                print(f"{name} / {judge}: {_in_words(found.figures)}")
    if figures:
        with Progress("draw") as progress:
            plates.draw(data, found_of, figures, progress=progress)
        for name in (name for name, one in found_of.items() if not any(each.curves for each in one.values())):
            print(f"Warning: {name} has test images of one kind only, so there is no ROC to draw.", file=sys.stderr)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _photos(paths: list[Path]) -> list[Path]:
    from anomaly.handlers.photos import files

    return [file for path in paths for file in files(path)]


def _print_outcome(done: Outcome) -> None:
    for warning in done.warnings:
        print(f"Warning: {warning}.", file=sys.stderr)
    print(f"{done.run.category} / {done.run.detector}: threshold {done.point.fail:.4g}, {done.point.promise}")
    if done.figures:
        print(_in_words(done.figures))


def _in_words(figures: dict) -> str:
    def said(name: str) -> str:
        value = figures[name]
        if value is None:
            return "not defined"
        low, high = figures["intervals"].get(name, (None, None))
        return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")

    return (
        f"image AUROC {said('image_auroc')}, pixel AUROC {said('pixel_auroc')}, accuracy {said('accuracy')} "
        f"on {figures['n_good']} good and {figures['n_defect']} defective test images"
    )
