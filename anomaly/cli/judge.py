"""Verbs that judge photos, show the inspection record and put a person's word on it."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomaly.cli.options import BOOK, RECORD, RUNS, Active, Book, Category, Json, JsonLines, Progress, Record, Runs
from anomaly.errors import ArchiveError, ImageError, RecordError, UsageError, WrongProduct

if TYPE_CHECKING:
    from anomaly.handlers.compare import Side
    from anomaly.history import History


UNCHECKED = "{} was trained before products were recognised, so photos of others are not refused; train it again."


def inspect(
    path: Annotated[list[Path], typer.Argument(help="photos, folders of photos, or ZIPs of photos")],
    category: Annotated[
        str,
        typer.Option(
            "--category", help="name of the product; auto: the photo shows it; by-folder: its folder names it"
        ),
    ],
    detector: Active = None,
    json_lines: JsonLines = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write predict_summary.csv here")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for pictures and predict_summary.csv")] = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="write a report here, .html or .pdf")] = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Judge photos. One that cannot be read or shows another product is reported, and the rest go on."""
    from anomaly.handlers.photos import BY_FOLDER, gather, judge, refused
    from anomaly.inspection import Inspector
    from anomaly.monitor import REFUSED
    from anomaly.report import ERROR, Results, write_summary, write_visualization
    from anomaly.report.document import check_suffix, write_report
    from anomaly.runs import names

    if report_file:
        check_suffix(report_file)
    inspector, known, unchecked = Inspector(runs=runs, thresholds=thresholds), names(runs), set()
    with tempfile.TemporaryDirectory(prefix="anomaly-") as scratch, Progress("inspect") as progress:
        results = Results(Path(scratch) / "results")
        total, photos = gather(path, Path(scratch) / "unpacked", deep=category == BY_FOLDER)
        for photo in photos:
            name = str(photo.given.parent / photo.name)
            try:
                row, found = judge(inspector, photo, category, detector, known=known, name=name)
            except (ImageError, ArchiveError, WrongProduct) as error:
                row, found = refused(error, photo, category, detector, name=name), None
            if found and found.product is None:
                unchecked.add(found.category)
            # A picture that cannot be written is no fault of the photo.
            picture = str(write_visualization(found, out)) if out and found else ""
            results.add(row | {"visualization": picture}, found if report_file else None)
            print(json.dumps(row) if json_lines else _line(row), flush=True)
            progress("inspect", len(results), total)
        for target in filter(None, (csv_file, out and out / "predict_summary.csv")):
            write_summary(results.rows(), target)
        if report_file:
            write_report(results, report_file, book=thresholds, by="the command line")
    if failed := results.counts[ERROR]:
        print(
            f"{failed} of {len(results)} files could not be judged; their lines say why and what to do.",
            file=sys.stderr,
        )
    if wrong := results.counts[REFUSED]:
        print(f"{wrong} of {len(results)} photos were refused: they show another product, or none.", file=sys.stderr)
    for name in sorted(unchecked):
        print(f"Note: {UNCHECKED.format(name)}", file=sys.stderr)
    raise typer.Exit(1 if results.counts["ANOMALY"] else 2 if failed or wrong else 0)


def compare(
    path: Annotated[Path, typer.Argument(help="a photo")],
    category: Category,
    as_json: Json = False,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """One photo by every detector of a product, and by the deciding one of every product, on scales that they share."""
    from anomaly.handlers.compare import CompareHandlers, Comparison, nearest, verdicts
    from anomaly.handlers.session import Site
    from anomaly.images import read_image
    from anomaly.inspection import Inspector

    read_image(path)  # refused once, and not by each detector
    handlers = CompareHandlers(Site(runs, thresholds, Inspector(runs=runs, thresholds=thresholds), None))
    asked = Comparison()
    handlers.take_photo(asked, str(path))
    handlers.choose_product(asked, category)
    sides = list(handlers.detectors(asked))
    others = nearest(list(handlers.all_products(asked)))
    if as_json:
        detectors, products = ([side.to_json() for side in found] for found in (sides, others))
        print(json.dumps({"path": str(path), "detectors": detectors, "products": products}, indent=1))
        return
    print(*map(_side, sides), sep="\n")
    print(*filter(None, [verdicts(sides)]), "", "Against every product:", sep="\n")
    print(*map(_side, others), sep="\n")


def _side(side: Side) -> str:
    name = f"{side.product} / {side.detector}"
    if side.reading is None:
        return f"{name:32} {side.refusal}"
    return f"{name:32} {side.reading.verdict:8} {side.reading.level:7.2f} x the limit. {side.reading.doubt}"


def show_record(
    category: Annotated[str | None, typer.Option("--category", help="of this product only")] = None,
    verdict: Annotated[
        list[str] | None, typer.Option("--verdict", help="OK, REVIEW, ANOMALY, REFUSED; may be repeated")
    ] = None,
    said: Annotated[
        list[str] | None, typer.Option("--said", help="by a person: ok, defect, unsure, nothing; may be repeated")
    ] = None,
    since: Annotated[str, typer.Option("--since", help="day or time, like 2026-11-22, in local time")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="entries at most, the newest")] = 1000,
    daily: Annotated[bool, typer.Option("--daily", help="figures of each product and day instead of entries")] = False,
    json_lines: JsonLines = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write the lines here as CSV")] = None,
    record: Record = RECORD,
) -> None:
    """What was inspected, and what people said of it: the newest entries, or daily figures."""
    from anomaly.history import SAID
    from anomaly.monitor import daily as by_day

    _one_of("--verdict", verdict, ("OK", "REVIEW", "ANOMALY", "REFUSED"))
    _one_of("--said", said, (*SAID, "nothing"))
    history, since = _existing(record), _in_utc(since)
    if daily:
        lines = by_day(history.counts(category=category, since=since))
    else:
        words = [None if word == "nothing" else word for word in said or ()]
        found = history.entries(category=category, verdicts=verdict or (), said=words, since=since, limit=limit)
        lines = [one.to_json() for one in found]
    if csv_file:
        _write_csv(lines, csv_file)
    for line in lines:
        print(json.dumps(line) if json_lines else _daily_line(line) if daily else _entry_line(line))


def review(
    number: Annotated[int, typer.Argument(help="of the entry, as `record` shows it")],
    said: Annotated[str, typer.Argument(help="ok, defect or unsure")],
    defect_type: Annotated[str, typer.Option("--type", help="of the defect")] = "",
    user: Annotated[str | None, typer.Option("--user", help="who says so; default: who is logged in")] = None,
    record: Record = RECORD,
) -> None:
    """Put on record what a person says of an inspected part."""
    from anomaly import accounts

    history = _existing(record)
    history.review(number, said=said, user=user or accounts.user(), defect_type=defect_type)
    print(_entry_line(history.get(number).to_json()))


def _line(row: dict) -> str:
    if row["error"]:
        return f"{row['verdict'] or 'ERROR':8} {row['path']}: {row['error']}"
    facts = (
        f"{row['verdict']:8} {row['path']}: score {row['score']:.4g}, {row['level']:.2f} of the limit, "
        f"{len(row['regions'])} region(s), {row['milliseconds']:.0f} ms"
    )
    return ". ".join(filter(None, (facts, row["alarm"], *row["capture"])))


def _existing(folder: Path) -> History:
    from anomaly.history import History

    history = History(folder)
    if not history.path.exists():
        raise RecordError(f"There is no inspection record in {folder}", "Name the folder that the app was started with")
    return history


def _one_of(option: str, given: list[str] | None, known: tuple[str, ...]) -> None:
    for word in given or ():
        if word not in known:
            raise UsageError(f"{option} {word} is not known", f"Use {', '.join(known)}")


def _in_utc(text: str) -> str:
    """A day or time of this place as ISO 8601 in UTC; "" stays "", the beginning."""
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc).isoformat(timespec="seconds") if text else ""
    except ValueError:
        raise UsageError(f"--since {text} is no date", "Write it like 2026-11-22 or 2026-11-22T14:30") from None


def _write_csv(lines: list[dict], path: Path) -> None:
    """One row a line; lists stay JSON, and no name of a file a formula."""
    from anomaly.report import no_formula

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(lines[0] if lines else ())
        for line in lines:
            if "file" in line:
                line = line | {"file": no_formula(line["file"])}
            writer.writerow(json.dumps(value) if isinstance(value, list) else value for value in line.values())


def _entry_line(line: dict) -> str:
    person = f", {line['reviewer']} said {line['said']} {line['defect_type']}".rstrip() if line["said"] else ""
    facts = "; ".join(line["capture"])
    if line["score"] is not None:
        facts = f"score {line['score']:.4g}, limit {line['threshold']:.4g}"
        facts = ". ".join(filter(None, (facts, line["alarm"])))
    return f"{line['id']:6} {line['at'][:16]} {line['category']:16} {line['verdict']:8} {line['file']}: {facts}{person}"


def _daily_line(line: dict) -> str:
    low, high = (100 * end for end in line["failed_interval"])
    return (
        f"{line['day']} {line['category']:16} {line['inspected']:6} inspected, {line['refused']} refused, "
        f"{line['failed']} ANOMALY ({low:.1f}-{high:.1f}%), {line['review']} REVIEW, "
        f"{line['objected']} photos objected to, {line['false_alarms']} of {line['alarms_judged']} false alarms, "
        f"{line['escapes']} of {line['ok_judged']} escapes"
    )
