"""The verb that tells classes of labelled photos apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomaly.cli.options import FiguresFile, Progress
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from anomaly.classify import Classifier, Figures
    from anomaly.dataset import Sample


def classify(
    path: Annotated[list[Path], typer.Argument(help="photos, or a folder that has a folder of photos for each class")],
    model: Annotated[Path, typer.Option("--model", help="file of the classifier")],
    train: Annotated[
        str | None, typer.Option("--train", help="cnn or convnext: learn the folder, write --model")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="at most")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="at most")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="source of all randomness")] = 0,
    json_file: FiguresFile = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for pictures of what answers rest on")] = None,
) -> None:
    """Say the class of photos, by a classifier trained here; of a labelled folder, how often that is right.

    Of the folder that it learned from only the photos count that were kept for the test.
    """
    from anomaly import classify, dataset

    folder = path[0] if len(path) == 1 and path[0].is_dir() else None
    if train and not folder:
        raise UsageError("A classifier learns from one folder", "Name one that has a folder of photos for each class")
    samples = dataset.labelled(folder) if folder else [dataset.Sample(one, "") for one in path]
    if train:
        with Progress(f"classify {train}") as progress:
            found = classify.train(samples, train, seed=seed, epochs=epochs, minutes=minutes, progress=progress)
        classify.save(found, model)
    else:
        found = classify.load(model)
    if folder:
        samples = classify.tested(found, samples)
        figures = found.evaluate(samples)
        _print(figures)
        if json_file:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(figures.to_json() | {"history": found.history}, indent=1) + "\n")
    _say(found, samples, out, one_by_one=not folder)


def _print(figures: Figures) -> None:
    wide = max(map(len, figures.classes))
    for name, row in zip(figures.classes, figures.confusion.tolist()):
        print(f"{name:{wide}} " + " ".join(f"{count:5}" for count in row))
    low, high = figures.to_json()["interval"]
    print(
        f"accuracy {figures.accuracy:.4f} [{low:.4f}, {high:.4f}] on {figures.n} photos; true class down, said across"
    )


def _say(classifier: Classifier, samples: list[Sample], out: Path | None, *, one_by_one: bool) -> None:
    """Print the class of each photo, and draw where the evidence for it lies."""
    from anomaly import render
    from anomaly.images import read_image, write_image

    if not (one_by_one or out):
        return
    for number, sample in enumerate(samples):
        image = read_image(sample.path)
        odds = classifier.probabilities([image])[0]
        said = classifier.classes[int(odds.argmax())]
        if one_by_one:
            print(f"{said} {odds.max():.3f} {sample.path}")
        if out:
            out.mkdir(parents=True, exist_ok=True)
            evidence = classifier.explain(image, said)
            picture = render.overlay(image, evidence, 0.5, pixel_threshold=0.5)
            write_image(out / f"{number:04d}_{said.replace('/', '_')}_{sample.path.stem}.png", picture)
