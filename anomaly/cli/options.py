"""What several verbs share: their options, the bar that shows how far they are, the detector that is meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tqdm import tqdm

Runs = Annotated[Path, typer.Option("--runs", help="folder of trained categories")]
Book = Annotated[Path, typer.Option("--thresholds", help="file of operating points")]
Record = Annotated[Path, typer.Option("--record", help="folder of the inspection record")]
Data = Annotated[Path, typer.Option("--data", help="folder of categories, or one category's folder")]
Category = Annotated[str, typer.Option("--category", help="name of the product")]
Active = Annotated[str | None, typer.Option("--detector", help="default: the active one")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
FiguresFile = Annotated[Path | None, typer.Option("--json", help="write the figures here")]
JsonLines = Annotated[bool, typer.Option("--json", help="one JSON object a line")]
RUNS, BOOK, RECORD = Path("runs"), Path("threshold.json"), Path("record")


class Progress:
    """A bar on a terminal, nothing in a pipe."""

    def __init__(self, title: str):
        self._title = title
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, leave=False, disable=None)
        if self._bar.total != total:
            self._bar.reset(total)
        self._bar.set_description(f"{self._title}: {stage}", refresh=False)
        self._bar.update(done - self._bar.n)


def active(category: str, runs: Path, thresholds: Path) -> str:
    """The detector that judges a category unless another is named; "" where nothing is trained."""
    from anomaly.runs import meant
    from anomaly.thresholds import Thresholds

    return meant(runs, Thresholds.load(thresholds), category)
