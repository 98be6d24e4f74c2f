"""Verbs of a place of work: what is trained there, how fast it is, its page and who may sign in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.options import BOOK, RECORD, RUNS, Book, FiguresFile, Json, Progress, Record, Runs
from anomaly.errors import AnomalyError


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


def list_runs(
    as_json: Json = False,
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


def bench(
    json_file: FiguresFile = None,
    runs: Runs = RUNS,
    thresholds: Book = BOOK,
) -> None:
    """Latency, throughput, fit time and memory on this machine."""
    from anomaly.bench import bench as measure

    with Progress("bench") as progress:
        figures = measure(root=runs, book=thresholds, progress=progress)
    print(json.dumps(figures, indent=1))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
