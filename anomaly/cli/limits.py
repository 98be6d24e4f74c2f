"""Verbs that choose limits, try others and show those that were."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.options import BOOK, RECORD, RUNS, Active, Book, Category, Json, Record, Runs, active

Target = Annotated[float | None, typer.Option("--target", help="0.02 = 2% for false-alarms; 99 for percentile")]
AlarmCost = Annotated[float, typer.Option("--false-alarm-cost", help="for the rule cost")]
EscapeCost = Annotated[float, typer.Option("--escape-cost", help="for the rule cost")]
By = Annotated[str | None, typer.Option("--by", help="name of who decides; default: who is logged in")]
Why = Annotated[str, typer.Option("--why", help="reason, kept with the limits")]


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
    from anomaly.runs import open_run

    detector = detector or active(category, runs, thresholds)
    costs = (false_alarm_cost, escape_cost)
    point = training.calibrate(
        category, detector, rule=rule, target=target, data=data, costs=costs, why=why, root=runs, book=thresholds
    )
    _warn(training.far_above(open_run(runs, category, detector).calibration["good"], point.fail))
    print(f"{category} / {detector}: threshold {point.fail:.4g}, {point.promise}")


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
    _warn(desk.far_above)
    print(json.dumps(shown | {"saved": save}, indent=1) if as_json else _trial_in_words(shown, saved=save))


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


def _tuning(runs: Path, thresholds: Path, record: Path | None, by: str | None):
    """The verbs of the Tune tab and a session of whoever sits here, who may do all."""
    from anomaly.accounts import SUPERVISOR, Person, user
    from anomaly.handlers.session import Session, Site
    from anomaly.handlers.tune import TuneHandlers
    from anomaly.history import History
    from anomaly.inspection import Inspector

    history = History(record) if record and record.is_dir() else None
    site = Site(runs, thresholds, Inspector(runs=runs, thresholds=thresholds), history)
    return TuneHandlers(site), Session(person=Person(user() if by is None else by, SUPERVISOR))


def _warn(said: str) -> None:
    if said:
        print(f"Warning: {said}.", file=sys.stderr)


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
