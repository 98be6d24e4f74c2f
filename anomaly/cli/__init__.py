"""The command line: every verb of the browser, and those that make what it shows.

Exit status: 0 done, 1 at least one part judged ANOMALY (inspect), 2 refused with one line on standard error.
"""

from __future__ import annotations

import sys

import typer

from anomaly.cli import classes, judge, learn, limits, serve
from anomaly.errors import AnomalyError

VERBS = {  # in the order of --help
    "synth": learn.synth,
    "train": learn.train,
    "check": learn.check,
    "refit": learn.refit,
    "versions": learn.list_versions,
    "types": learn.types,
    "calibrate": limits.calibrate,
    "tune": limits.tune,
    "thresholds": limits.list_thresholds,
    "evaluate": learn.evaluate,
    "inspect": judge.inspect,
    "compare": judge.compare,
    "classify": classes.classify,
    "list": serve.list_runs,
    "bench": serve.bench,
    "pretrain": learn.pretrain,
    "record": judge.show_record,
    "review": judge.review,
    "serve": serve.serve,
    "passwd": serve.passwd,
}
INTERRUPTED = 130  # what typer makes of Ctrl-C


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
    for name, verb in VERBS.items():
        app.command(name)(verb)
    return app


app = _app()


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
