"""The command line: every verb of the browser, and those that make what it shows.

Exit status: 0 done, 1 at least one part judged ANOMALY (inspect), 2 refused with one line on standard error.
"""

from __future__ import annotations

import csv
import getpass
import json
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from anomaly.errors import AnomalyError, RecordError, UnknownName, UsageError

if TYPE_CHECKING:
    from anomaly.history import History
    from anomaly.training import Outcome

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Runs = Annotated[Path, typer.Option("--runs", help="folder of trained categories")]
Book = Annotated[Path, typer.Option("--thresholds", help="file of operating points")]
Data = Annotated[Path, typer.Option("--data", help="folder of categories, or one category's folder")]
Category = Annotated[str, typer.Option("--category", help="name of the product")]
Detectors = Annotated[list[str] | None, typer.Option("--detector", help="may be repeated; default: all trained")]
Target = Annotated[float | None, typer.Option("--target", help="0.02 = 2% for false-alarms; 99 for percentile")]
AlarmCost = Annotated[float, typer.Option("--false-alarm-cost", help="for the rule cost")]
EscapeCost = Annotated[float, typer.Option("--escape-cost", help="for the rule cost")]
Active = Annotated[str | None, typer.Option("--detector", help="default: the active one")]
By = Annotated[str | None, typer.Option("--by", help="name of who decides; default: who is logged in")]
Why = Annotated[str, typer.Option("--why", help="reason, kept with the limits")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Minutes = Annotated[float | None, typer.Option("--minutes", min=0.01, help="at most, for each detector")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="source of all randomness")]
Record = Annotated[Path, typer.Option("--record", help="folder of the inspection record")]
INTERRUPTED = 130  # what typer makes of Ctrl-C
RUNS, BOOK, RECORD = Path("runs"), Path("threshold.json"), Path("record")


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="folder to write into, in MVTec AD layout")],
    category: Annotated[list[str] | None, typer.Option("--category", help="may be repeated; default: all")] = None,
    train: Annotated[int, typer.Option("--train", help="good images to learn from")] = 60,
    test: Annotated[int, typer.Option("--test", help="good test images, and as many defective ones")] = 40,
    size: Annotated[int, typer.Option("--size", help="side in pixels")] = 256,
    seed: Seed = 0,
) -> None:
    """Draw toy products with exact defect masks."""
    from anomaly import synthetic

    for name in category or synthetic.PRODUCTS:
        with _Progress(name) as progress:
            synthetic.write_product(
                out, name, train=train, test=test, size=size, seed=seed, progress=lambda i, n: progress("draw", i, n)
            )


@app.command()
def train(
    data: Data,
    category: Category,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", help="may be repeated; default: mahalanobis and unet")
    ] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="features of mahalanobis")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="side in pixels of the model's input")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="at most, for detectors that have any")] = None,
    minutes: Minutes = None,
    region: Annotated[
        str | None, typer.Option("--region", help="X,Y,WIDTH,HEIGHT of what to look at, in shares of the photo")
    ] = None,
    seed: Seed = 0,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Learn a product from good images, set its threshold on held-out ones, evaluate on test images if any."""
    from anomaly import detectors, training
    from anomaly.images import checked_region

    box = checked_region(region.split(",")) if region else None
    wanted = {"backbone": backbone, "image_size": image_size, "epochs": epochs, "minutes": minutes}
    for name in detector or detectors.USUAL:
        model = detectors.create(name, seed=seed, **{k: v for k, v in wanted.items() if v is not None})
        with _Progress(f"{category} / {name}") as progress:
            done = training.train(data, category, model, root=runs, book=thresholds, region=box, progress=progress)
        _print_outcome(done)


@app.command()
def check(
    path: Annotated[list[Path], typer.Argument(help="photos of good parts, folders of them, or ZIPs")],
) -> None:
    """Look photos through before they teach a product: repeated, blurred, odd and unreadable ones are named."""
    from anomaly import intake

    with tempfile.TemporaryDirectory() as folder, _Progress("check") as progress:
        found = list(intake.gather(_photos(path), Path(folder)))
        photos = []
        for name, file, error in found:
            photos.append(intake.look(name, file, error))
            progress("look", len(photos), len(found))
        odd = [photo for photo in intake.judge(photos) if photo.reasons]
    for photo in odd:
        print(f"{photo.name}: {'; '.join(photo.reasons)}")
    print(f"{len(odd)} of {len(found)} photos stand out")


@app.command()
def refit(
    category: Category,
    data: Annotated[Path | None, typer.Option("--data", help="folder of more photos of good parts")] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="inspection record: adds the parts reviewed as OK, compares on defects"),
    ] = None,
    detector: Annotated[str | None, typer.Option("--detector", help="default: the active one")] = None,
    minutes: Minutes = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Train a new version beside the one in use, on its photos and on more; compare both; `versions` chooses."""
    from anomaly import teaching
    from anomaly.handlers.teach import recorded
    from anomaly.history import History
    from anomaly.runs import open_run

    detector = detector or _active(category, runs, thresholds)
    run = open_run(runs, category, detector)
    photos = [(path.name, path) for path in _photos([data])] if data else []
    history = History(record) if record else None
    photos += [(Path(one.file).name, one.photo) for one in recorded(history, category, "ok")]
    defects = [one.photo for one in recorded(history, category, "defect")]
    if not teaching.kept_photos(runs, run):
        problem = f"The photos that taught {category} / {detector} are not kept: only those given now are learned from"
        print(f"Warning: {problem}.", file=sys.stderr)
    model = teaching.successor(run, minutes=minutes)
    with _Progress(f"{category} / {detector}") as progress:
        made = teaching.refit(photos, category, model, defects=defects, root=runs, book=thresholds, progress=progress)
    _print_outcome(made.outcome)
    for name, side in (("in use", made.old), ("new", made.new)):
        print(
            f"{name:8} {side.false_alarms} of {side.n_good} good photos over the limit, typical {side.median:.2f} and "
            f"highest {side.highest:.2f} of it"
            + (f"; {side.caught} of {side.n_defect} known defects caught" if side.n_defect else "")
        )
    print(f"Make it active: python -m anomaly versions --category {category} --activate {made.stamp}")


@app.command("versions")
def list_versions(
    category: Category,
    activate: Annotated[str | None, typer.Option("--activate", help="version that shall judge from now on")] = None,
    detector: Annotated[str | None, typer.Option("--detector", help="default: the active one")] = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Versions of a trained product; `--activate` brings one into use, and the one before can be brought back."""
    from anomaly import training, versions

    if activate:
        detector = detector or _active(category, runs, thresholds)
        versions.activate(runs, thresholds, category, activate, detector, by=training.user())
    for one in versions.listed(runs, thresholds, category):
        promise = one.point.promise.split("; ")[0] if one.point else "no limit"
        photos = one.run.manifest["data"]["good_images"]
        print(f"{one.stamp or 'in use':21} {one.run.detector:12} {photos} photos, {promise}")


@app.command()
def calibrate(
    category: Category,
    rule: Annotated[str, typer.Option("--rule", help="f1, accuracy, percentile, false-alarms or cost")],
    detector: Active = None,
    target: Target = None,
    data: Annotated[Path | None, typer.Option("--data", help="test images, for rules that need defects")] = None,
    false_alarm_cost: AlarmCost = 1.0,
    escape_cost: EscapeCost = 10.0,
    why: Why = "",
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Choose the threshold of a trained product by a rule, and say what it promises."""
    from anomaly import training

    detector = detector or _active(category, runs, thresholds)
    costs = (false_alarm_cost, escape_cost)
    point = training.calibrate(
        category, detector, rule=rule, target=target, data=data, costs=costs, why=why, root=runs, book=thresholds
    )
    print(f"{category} / {detector}: threshold {point.fail:.4g}, {point.promise}")


@app.command()
def tune(
    category: Category,
    detector: Active = None,
    fail: Annotated[float | None, typer.Option("--fail", help="limit of ANOMALY, by hand")] = None,
    review: Annotated[float | None, typer.Option("--review", help="limit of REVIEW, by hand")] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="sets both, as in calibrate")] = None,
    target: Target = None,
    false_alarm_cost: AlarmCost = 1.0,
    escape_cost: EscapeCost = 10.0,
    reviewed: Annotated[bool, typer.Option("--reviewed", help="count parts that people reviewed")] = False,
    save: Annotated[bool, typer.Option("--save", help="store these limits; needs --why")] = False,
    by: By = None,
    why: Why = "",
    as_json: Json = False,
    record: Record = RECORD,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Try other limits on known parts and on the record; stores nothing without --save."""
    from anomaly.handlers.tune import to_json

    handlers, session = _tuning(runs, thresholds, record, by)
    desk = handlers.open(session, category, detector).include_reviewed(reviewed)
    if rule:
        desk = desk.by_rule(rule, target=target, costs=(false_alarm_cost, escape_cost))
    if fail is not None or review is not None:
        desk = desk.move(fail=fail, review=review)
    shown = to_json(desk, handlers.what_if(session, desk))
    if save:
        handlers.save(session, desk, who=session.person.name, why=why)
    print(json.dumps(shown | {"saved": save}, indent=1) if as_json else _trial_in_words(shown, saved=save))


@app.command("thresholds")
def list_thresholds(
    category: Category,
    detector: Active = None,
    roll_back: Annotated[int | None, typer.Option("--roll-back", help="number of the version to store again")] = None,
    by: By = None,
    why: Why = "",
    as_json: Json = False,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """All limits that a product ever had: who set them, when and why; --roll-back stores a former version again."""
    handlers, session = _tuning(runs, thresholds, None, by)
    desk = handlers.open(session, category, detector)
    if roll_back is not None:
        desk = handlers.save(session, desk.restore(roll_back), who=session.person.name, why=why)
    if desk.damage:
        print(f"Warning: {desk.damage}", file=sys.stderr)
    versions = [{"version": place} | point.model_dump() for place, point in enumerate(desk.versions, 1)]
    if as_json:
        print(json.dumps(versions, indent=1))
        return
    for one in versions:
        stored = " (stored)" if one["version"] == len(versions) else ""
        limits = f"FAIL {one['fail']:.4g}, REVIEW {one['review']:.4g}, {one['rule']}"
        print(f"{one['version']:3} {one['set_at']} {one['set_by']}: {limits}; {one['why']}{stored}")


@app.command()
def evaluate(
    data: Data,
    category: Annotated[list[str] | None, typer.Option("--category", help="may be repeated; default: all")] = None,
    detector: Detectors = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here")] = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Measure trained products on labelled test images, without those that chose the threshold."""
    from anomaly import dataset, training
    from anomaly.runs import names

    trained = names(runs)
    wanted = category or [name for name in dataset.categories(data) if name in trained]
    if not wanted:
        raise UnknownName(f"No category of {data} is trained in {runs}", "Train one with `python -m anomaly train`")
    report: dict = {}
    for name in wanted:
        for one in detector or trained.get(name, ("",)):
            with _Progress(f"{name} / {one}") as progress:
                figures = training.evaluate(data, name, one, root=runs, book=thresholds, progress=progress)
            report.setdefault(name, {})[one] = figures
            print(f"{name} / {one}: {_in_words(figures)}")
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@app.command()
def inspect(
    path: Annotated[list[Path], typer.Argument(help="photos, folders of photos, or ZIPs of photos")],
    category: Annotated[
        str, typer.Option("--category", help="name of the product; by-folder: the folder of each photo names it")
    ],
    detector: Annotated[str | None, typer.Option("--detector", help="default: the active one")] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write predict_summary.csv here")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for pictures and predict_summary.csv")] = None,
    report_file: Annotated[Path | None, typer.Option("--report", help="write a report here, .html or .pdf")] = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Judge photos. A photo that cannot be read is reported and the rest go on."""
    from anomaly.errors import ArchiveError, ImageError
    from anomaly.handlers.photos import BY_FOLDER, gather, judge, refuse_auto, refused
    from anomaly.inspection import Inspector
    from anomaly.report import ERROR, Results, write_summary, write_visualization
    from anomaly.report.document import check_suffix, write_report
    from anomaly.runs import names

    refuse_auto(category)
    if report_file:
        check_suffix(report_file)
    inspector, known = Inspector(runs=runs, thresholds=thresholds), names(runs)
    with tempfile.TemporaryDirectory(prefix="anomaly-") as scratch, _Progress("inspect") as progress:
        results = Results(Path(scratch) / "results")
        total, photos = gather(path, Path(scratch) / "unpacked", deep=category == BY_FOLDER)
        for photo in photos:
            name = str(photo.given.parent / photo.name)
            try:
                row, found = judge(inspector, photo, category, detector, known=known, name=name)
            except (ImageError, ArchiveError) as error:
                row, found = refused(error, photo, category, detector, name=name), None
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
    raise typer.Exit(1 if results.counts["ANOMALY"] else 2 if failed else 0)


@app.command("list")
def list_runs(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """What is trained, with digests, thresholds and figures."""
    from anomaly.runs import names, open_run
    from anomaly.thresholds import Thresholds

    book, found = Thresholds.load(thresholds), {}
    for category, detectors in names(runs).items():
        for name in detectors:
            try:
                run = open_run(runs, category, name)
                point = book.get(category, name, weights_sha256=run.weights_sha256)
                entry = {
                    "weights_sha256": run.weights_sha256,
                    "active": book.active(category) == name,
                    "threshold": point.fail,
                    "promise": point.promise,
                    "metrics": run.metrics,
                    "error": None,
                }
            except AnomalyError as error:
                entry = {"error": str(error)}
            found.setdefault(category, {})[name] = entry
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for category, entries in found.items():
        for name, entry in entries.items():
            auroc = (entry.get("metrics") or {}).get("image_auroc")
            said = entry["error"] or (
                f"threshold {entry['threshold']:.4g}, "
                + (f"image AUROC {auroc:.3f}, " if auroc is not None else "")
                + f"{entry['weights_sha256'][:12]}{' (active)' if entry['active'] else ''}"
            )
            print(f"{category:20} {name:12} {said}")


@app.command()
def bench(
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here")] = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Latency, throughput, fit time and memory on this machine."""
    from anomaly.bench import bench as measure

    with _Progress("bench") as progress:
        figures = measure(root=runs, book=thresholds, progress=progress)
    print(json.dumps(figures, indent=1))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


@app.command()
def pretrain(
    folder: Annotated[list[Path], typer.Argument(help="folders of images, read recursively; labels are not used")],
    network: Annotated[str, typer.Option("--network", help="backbone, or repair: where unet starts")] = "backbone",
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for the weights; default: in runs/_backbones")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="at most")] = 6000,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="at most")] = 60.0,
    rate: Annotated[float, typer.Option("--rate", min=0.0, help="backbone: peak learning rate")] = 3e-2,
    seed: Seed = 0,
) -> None:
    """Train what the detectors start from: the backbone of mahalanobis, or the repair network of unet."""
    from anomaly import backbones, pretraining

    settings = pretraining.Settings(steps=steps, minutes=minutes, rate=rate, seed=seed)
    with _Progress(f"pretrain {network}") as bar:
        if network == "repair":
            out = out or backbones.SHIPPED / "unet_repair"
            pretraining.pretrain_repair(folder, out, settings=settings, progress=bar)
        elif network == "backbone":
            out = out or backbones.SHIPPED / backbones.DEFAULT
            pretraining.pretrain(
                folder, out, settings=settings, progress=lambda i, n, loss: bar(f"loss {loss:.3f}", i, n)
            )
        else:
            raise UnknownName(f"There is no network '{network}' to pretrain", "Choose one of: backbone, repair")


@app.command("record")
def show_record(
    category: Annotated[str | None, typer.Option("--category", help="of this product only")] = None,
    verdict: Annotated[list[str] | None, typer.Option("--verdict", help="OK, REVIEW, ANOMALY; may be repeated")] = None,
    said: Annotated[
        list[str] | None, typer.Option("--said", help="by a person: ok, defect, unsure, nothing; may be repeated")
    ] = None,
    since: Annotated[str, typer.Option("--since", help="day or time, like 2026-11-22, in local time")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="entries at most, the newest")] = 1000,
    daily: Annotated[bool, typer.Option("--daily", help="figures of each product and day instead of entries")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="write the lines here as CSV")] = None,
    record: Record = RECORD,
) -> None:
    """What was inspected, and what people said of it: the newest entries, or daily figures."""
    from anomaly.monitor import daily as by_day

    _one_of("--verdict", verdict, ("OK", "REVIEW", "ANOMALY"))
    _one_of("--said", said, ("ok", "defect", "unsure", "nothing"))
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


@app.command()
def review(
    number: Annotated[int, typer.Argument(help="of the entry, as `record` shows it")],
    said: Annotated[str, typer.Argument(help="ok, defect or unsure")],
    defect_type: Annotated[str, typer.Option("--type", help="of the defect")] = "",
    user: Annotated[str | None, typer.Option("--user", help="who says so; default: who is logged in")] = None,
    record: Record = RECORD,
) -> None:
    """Put on record what a person says of an inspected part."""
    history = _existing(record)
    history.review(number, said=said, user=user or getpass.getuser(), defect_type=defect_type)
    print(_entry_line(history.get(number).to_json()))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option("--host", help="address to listen on (default 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option("--port", help="port to listen on (default 7860)")] = None,
    share: Annotated[bool, typer.Option("--share", help="also open a public link")] = False,
    auth: Annotated[list[str] | None, typer.Option("--auth", help="USER:PASSWORD, may be repeated")] = None,
    auth_file: Annotated[Path | None, typer.Option("--auth-file", help="accounts with roles")] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="also serve the Model Context Protocol, read only")] = False,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
    record: Record = RECORD,
) -> None:
    """Open the browser app (the same as `python app.py`)."""
    from anomaly.ui import serve as run

    run(host, port, share, auth, runs, thresholds, record, auth_file, mcp)


@app.command()
def passwd(
    name: Annotated[str, typer.Argument(help="who signs in")],
    auth_file: Annotated[Path, typer.Option("--auth-file", help="accounts; made if it is missing")],
    role: Annotated[str, typer.Option("--role", help="visitor, operator or supervisor")] = "operator",
) -> None:
    """Give a person an account, or a new role and password; the password is asked for."""
    from anomaly.accounts import set_password

    if sys.stdin.isatty():
        password = typer.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    set_password(auth_file, name, role=role, password=password)
    print(f"{name} may sign in as {role}.")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; every refusal is one line on standard error and status 2."""
    try:
        status = app(args=arguments, prog_name="python -m anomaly", standalone_mode=False) or 0
        if status != INTERRUPTED:
            return status
        print("Stopped; nothing half-done was kept.", file=sys.stderr)
    except AnomalyError as error:
        print(error, file=sys.stderr)
    except typer.TyperException as error:
        print(f"{error.format_message().rstrip('.')}. Run `python -m anomaly --help`.", file=sys.stderr)
    except OSError as error:
        place = error.filename or "A file"
        print(f"{place} cannot be used ({error.strerror}). Check its path and permissions.", file=sys.stderr)
    return 2


class _Progress:
    """A bar on a terminal, nothing in a pipe."""

    def __init__(self, title: str):
        self._title = title
        self._bar: tqdm | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, leave=False, disable=None)
        if self._bar.total != total:
            self._bar.reset(total)
        self._bar.set_description(f"{self._title}: {stage}", refresh=False)
        self._bar.update(done - self._bar.n)


def _active(category: str, runs: Path, thresholds: Path) -> str:
    from anomaly.runs import names
    from anomaly.thresholds import Thresholds

    return Thresholds.load(thresholds).active(category) or next(iter(names(runs).get(category, ())), "")


def _tuning(runs: Path, thresholds: Path, record: Path | None, by: str | None):
    """The verbs of the Tune tab and a session of whoever sits here, who may do all."""
    from anomaly.accounts import SUPERVISOR, Person
    from anomaly.handlers.session import Session, Site
    from anomaly.handlers.tune import TuneHandlers
    from anomaly.history import History
    from anomaly.inspection import Inspector
    from anomaly.training import user

    history = History(record) if record and record.is_dir() else None
    site = Site(runs, thresholds, Inspector(runs=runs, thresholds=thresholds), history)
    return TuneHandlers(site), Session(person=Person(user() if by is None else by, SUPERVISOR))


def _trial_in_words(shown: dict, *, saved: bool) -> str:
    lines = [f"{shown['category']} / {shown['detector']}: FAIL {shown['fail']:.4g}, REVIEW {shown['review']:.4g}"]
    lines[0] += f" ({shown['rule']}), {shown['promise']}"
    for name, one in shown["figures"].items():
        said = "not known" if one is None else "{value:.3f} [{low:.3f}, {high:.3f}], n = {n}".format(**one)
        lines.append(f"{name.replace('_', ' '):18} {said}")
    if record := shown["record"]:
        lines.append(f"{sum(c['parts'] for c in record['changes'])} of {record['parts']} recorded parts would change")
        lines += [f"{one['from']} -> {one['to']}: {one['parts']}" for one in record["changes"]]
        lines += [f"  {one['from']} -> {one['to']} {one['file']}: {one['score']:.4g}" for one in record["newest"]]
    lines.append("Saved." if saved else "Nothing was saved.")
    return "\n".join(lines)


def _photos(paths: list[Path]) -> list[Path]:
    from anomaly.errors import DatasetError
    from anomaly.images import list_images

    files = []
    for path in paths:
        found = list_images(path) if path.is_dir() else [path]
        if not found:
            raise DatasetError(f"{path} holds no images", "Name a folder that has photos directly in it")
        files += found
    return files


def _line(row: dict) -> str:
    if row["error"]:
        return f"{'ERROR':8} {row['path']}: {row['error']}"
    facts = (
        f"{row['verdict']:8} {row['path']}: score {row['score']:.4g}, {row['level']:.2f} of the limit, "
        f"{len(row['regions'])} region(s), {row['milliseconds']:.0f} ms"
    )
    return ". ".join((facts, *row["capture"]))


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
    """One row a line; lists stay JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(lines[0] if lines else ())
        for line in lines:
            writer.writerow(json.dumps(value) if isinstance(value, list) else value for value in line.values())


def _entry_line(line: dict) -> str:
    person = f", {line['reviewer']} said {line['said']} {line['defect_type']}".rstrip() if line["said"] else ""
    return (
        f"{line['id']:6} {line['at'][:16]} {line['category']:16} {line['verdict']:8} {line['file']}: "
        f"score {line['score']:.4g}, limit {line['threshold']:.4g}{person}"
    )


def _daily_line(line: dict) -> str:
    low, high = (100 * end for end in line["failed_interval"])
    return (
        f"{line['day']} {line['category']:16} {line['inspected']:6} inspected, {line['failed']} ANOMALY "
        f"({low:.1f}-{high:.1f}%), {line['review']} REVIEW, {line['objected']} photos objected to, "
        f"{line['false_alarms']} of {line['alarms_judged']} false alarms, "
        f"{line['escapes']} of {line['ok_judged']} escapes"
    )
