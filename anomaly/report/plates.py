"""All pictures of an evaluation in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from anomaly.detectors.base import Progress
from anomaly.errors import CannotSave
from anomaly.report import figures, photos
from anomaly.training import Examination

KINDS = 6  # a good photo and five types of defect: more rows would fit on no screen


def draw(
    data: Path, found: Mapping[str, Mapping[str, Examination]], folder: Path, *, progress: Progress | None = None
) -> None:
    """Write the pictures of the photos and of the results, as PNG.

    `counts`, `sizes`, `grays`, `examples`, `bars`, `radar` and `losses` show all products; `<product>_roc`,
    `<product>_heatmaps` and `<product>_reconstructions` one. What there is nothing for is left out.

    Args:
        found: {product: {detector: its examination}}.
    Raises:
        CannotSave: the disk does not take them.
    """
    names = list(found)
    report = {name: {judge: each.figures for judge, each in one.items()} for name, one in found.items()}
    trained = {each.run.folder: each.run for one in found.values() for each in one.values()}
    sheets = {
        "counts": photos.counts(data, names),
        "sizes": photos.sizes(data, names),
        "grays": photos.grays(data, names),
        "examples": photos.examples(data, names),
        "bars": figures.bars(report),
        "radar": figures.radar(report),
        "losses": figures.losses([*trained.values()]),
    }
    _write(sheets, folder)
    for done, (name, one) in enumerate(found.items(), 1):
        curves = {judge: each.curves for judge, each in one.items() if each.curves}
        views = {judge: seen(each) for judge, each in one.items()}
        sheets = {
            f"{name}_roc": figures.roc(curves, title=f"Tested on {name}") if curves else None,
            f"{name}_heatmaps": figures.heatmaps(views, title=name),
            f"{name}_reconstructions": figures.reconstructions(views, title=name),
        }
        _write(sheets, folder)
        if progress:
            progress("draw", done, len(found))


def seen(found: Examination) -> list[figures.View]:
    """A test photo of each of the first kinds as the run of the examination sees it."""
    samples = figures.one_of_each(found.samples)[:KINDS]
    return figures.view(found.run.load_detector(), samples, threshold=found.figures["threshold"], pixel=found.pixel)


def _write(sheets: Mapping[str, Figure | None], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, sheet in sheets.items():
            if sheet is not None:
                sheet.savefig(folder / f"{name}.png", format="png")
    except OSError as error:
        problem = f"The pictures cannot be written to {folder} ({error.strerror})"
        raise CannotSave(problem, "Make room, or name another folder") from error
