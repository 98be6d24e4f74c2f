"""The browser app: one page, one file a tab."""

import argparse
import importlib.util
import os
import secrets
import socket
import sys
from pathlib import Path
from urllib.parse import urlparse

import gradio as gr
from gradio import networking
from starlette.middleware import Middleware

from anomaly.accounts import Accounts, Desk, Person
from anomaly.api import build_api
from anomaly.errors import AnomalyError, UsageError
from anomaly.handlers.session import Session, Site
from anomaly.history import History
from anomaly.inspection import Inspector
from anomaly.ui import batch, compare, dashboard, inspect, review, teach, theme, tune
from anomaly.ui.guard import Guard
from anomaly.ui.signin import SCRIPT, Door
from anomaly.ui.wiring import html

TITLE = "Surface inspection"
KEPT = 3600  # seconds that a photo and its map stay in memory after the last look at them
SESSIONS = 48  # each holds one photo with its map, about 10 MB
LARGEST_UPLOAD = "64mb"

HEADER = f"""<header id="masthead">{theme.ICON.read_text(encoding="utf-8")}<h1>{TITLE}</h1>{theme.LANGUAGES}</header>"""

# In their order; each has a TITLE, the ROLE from which it is shown, and `build(site, session)`, for the open tab.
TABS = (inspect, compare, batch, review, tune, teach, dashboard)


def build_app(site: Site, desk: Desk | None = None) -> gr.Blocks:
    """The page and the routes beside it; without a desk nobody can sign in, and everybody is a visitor."""
    door, tabs = Door(desk or Desk()), {}
    # Uploads older than an hour are swept every ten minutes.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as app:
        with gr.Row(elem_id="top"):
            html("header", HEADER)
            account = html("account", door.control(Person()), script=SCRIPT)
        session = gr.State(Session(), time_to_live=KEPT)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            for room in TABS:
                with gr.Tab(room.TITLE, id=room.TITLE.lower(), visible=Person().may(room.ROLE)) as tab:
                    room.build(site, session)
                tabs[tab] = room.ROLE
        door.connect(app, account, session, tabs)
    app.queue(max_size=64)
    app.door, app.rest = door, build_api(site, door.desk, queue=lambda: len(app._queue))
    return app


def serve(
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    auth: list[str] | None = None,
    runs: Path | str = "runs",
    thresholds: Path | str = "threshold.json",
    record: Path | str = "record",
    auth_file: Path | None = None,
    mcp: bool = False,
) -> None:
    """Serve the page until interrupted.

    Args:
        host, port: None reads GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, then falls back to 127.0.0.1:7860
            (0.0.0.0 on a Hugging Face Space).
        share: also open a public link; when that fails the page stays up locally.
        auth: "user:password" strings; None or empty lets everybody in.
        record: folder of the inspection record.
        auth_file: accounts with roles, made by `python -m anomaly passwd`. Without one a link with a token signs in
            as supervisor, as long as only this machine can reach the page.
        mcp: also offer /inspect and /categories as tools of the Model Context Protocol.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        remedy = 'Run: .venv/bin/python -m pip install "gradio[mcp]", or start without --mcp'
        raise UsageError("--mcp needs the package mcp, which is not installed", remedy)
    if mcp and auth:
        raise UsageError(
            "--mcp and --auth exclude each other: the tools have no way to log in", "Leave one of them out"
        )
    host, port = _address(host, port)
    guests = dict(_account(text) for text in auth or [])
    desk = _desk(auth_file, guests, host, share)
    runs, thresholds = Path(runs), Path(thresholds)
    site = Site(runs, thresholds, Inspector(runs=runs, thresholds=thresholds), History(Path(record)))
    app = build_app(site, desk)
    _launch(app, host, port, list(guests.items()), mcp=mcp)
    print(_greeting(app.local_url, desk), flush=True)
    if share:
        print(_share(app), flush=True)
    app.block_thread()


def _desk(file: Path | None, guests: dict[str, str], host: str, share: bool) -> Desk:
    """Where people sign in: by account, or by a token where only this machine can reach the page, or not at all."""
    if file is not None:
        Accounts.load(file)  # refuse now what nobody could sign in with
        return Desk(file=file, guests=guests)
    local = host in ("127.0.0.1", "::1", "localhost") and not share
    return Desk(guests=guests, token=secrets.token_urlsafe(24) if local else None)


def _greeting(address: str, desk: Desk) -> str:
    """What to click, and as whom one then works."""
    if desk.token:
        return (
            f"{TITLE} is ready. Open this link in your browser; it signs you in as supervisor:\n\n"
            f"    {address}?token={desk.token}\n\n"
            f"Keep it to yourself: without the token everybody is a visitor, who may inspect and change nothing.\n"
            f"Then choose a product and click an example. Ctrl+C ends the program."
        )
    how = "sign in at the top right" if desk.file else "everybody is a visitor; to sign in, start with --auth-file"
    return f"{TITLE} is ready. Open this link in your browser ({how}):\n\n    {address}\n\nCtrl+C ends the program."


def _launch(app: gr.Blocks, host: str, port: int, accounts: list[tuple[str, str]], *, mcp: bool = False) -> None:
    guard = Middleware(Guard, rest=app.rest, person=app.door.person)
    app.launch(
        server_name=host,
        server_port=port,
        # gradio's own way to share serves the page's script from a content network; `_share` does not.
        share=False,
        auth=accounts or None,
        theme=theme.theme(),
        css_paths=[theme.CSS],
        head=theme.head(),
        favicon_path=str(theme.ICON),
        footer_links=[],
        app_kwargs={"middleware": [guard], "routes": app.door.routes()},
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=SESSIONS,
        run_history=False,
        enable_monitoring=False,
        mcp_server=mcp,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
    )


def _address(host: str | None, port: int | None) -> tuple[str, int]:
    on_space = bool(os.environ.get("SPACE_ID"))
    host = host or os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if on_space else "127.0.0.1")
    wanted = str(port or os.environ.get("GRADIO_SERVER_PORT") or 7860)
    if not wanted.isdecimal() or not 0 < int(wanted) < 65536:
        raise UsageError(f"Port {wanted} is not a number from 1 to 65535", "Choose another with --port")
    port = int(wanted)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"Cannot serve on {host}:{port} ({error.strerror or error})"
            raise UsageError(problem, "Choose another port with --port, or stop the program that uses it") from None
    return host, port


def _account(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UsageError("--auth takes USER:PASSWORD with both parts", "Write it like --auth anna:secret")
    return user, password


def _share(app: gr.Blocks) -> str:
    """Open a tunnel to a public address; says what came of it."""
    try:
        address = networking.setup_tunnel(app.server_name, app.server_port, app.share_token, None, None)
    except Exception as error:  # noqa: BLE001 - a tunnel fails in many ways, and none may stop the local page
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        return f"No public link could be made ({reason}); the page stays up at {app.local_url}"
    return f"Public link, open to whoever has it: https://{urlparse(address).netloc}"


def arguments(argv: list[str] | None = None) -> dict:
    """The options of `python app.py`, as the keyword arguments of `serve`."""
    parser = argparse.ArgumentParser(prog="app.py", description="Inspect surfaces in the browser.")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public link")
    parser.add_argument("--auth", action="append", metavar="USER:PASSWORD", help="ask for a login; may be repeated")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of trained products (default runs)")
    parser.add_argument(
        "--thresholds", type=Path, default=Path("threshold.json"), help="operating points (default threshold.json)"
    )
    parser.add_argument("--record", type=Path, default=Path("record"), help="inspection record (default record)")
    parser.add_argument("--auth-file", type=Path, help="accounts with roles, made by `python -m anomaly passwd`")
    parser.add_argument("--mcp", action="store_true", help="also serve the Model Context Protocol, read only")
    return vars(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    try:
        serve(**arguments(argv))
    except AnomalyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
