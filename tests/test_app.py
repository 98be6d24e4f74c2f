"""The server behind the page: what it publishes, what it refuses, how it starts."""

import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from served import ROOT, ToyInspector, free_port, toy_site, write_plate

from anomaly import ui
from anomaly.errors import UsageError

TOKEN = "kept-from-visitors"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The page around a toy inspector, served in this process."""
    app = ui.build_app(toy_site(ToyInspector(tmp_path_factory.mktemp("runs") / "examples")))
    ui._launch(app, "127.0.0.1", free_port(), [])
    yield app
    app.close(verbose=False)


@pytest.fixture(scope="module")
def client(app):
    with httpx.Client(base_url=app.local_url, timeout=30) as client:
        yield client


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret.png"
    path.write_text(TOKEN)
    return path


def upload(client, path: Path) -> dict:
    with path.open("rb") as file:
        stored = client.post("/gradio_api/upload", files={"files": (path.name, file)}).raise_for_status().json()[0]
    return {"path": stored, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def call(client, *values) -> str:
    """Call /inspect as a script would; gives the event stream of the answer."""
    event = client.post("/gradio_api/call/inspect", json={"data": values}).raise_for_status().json()["event_id"]
    return client.get(f"/gradio_api/call/inspect/{event}").text


def test_the_page_names_no_other_server(client):
    page = client.get("/").text
    addresses = set(re.findall(r"https?:\\?/\\?/[\w.:-]+", page))
    assert addresses <= {client.base_url.scheme + "://" + client.base_url.netloc.decode(), "http://www.w3.org"}


def test_the_style_sheets_name_no_other_server(client):
    sheets = [*re.findall(r'href="\.?(/[^"]+\.css)"', client.get("/").text), "/theme.css"]
    for sheet in sheets:
        text = client.get(sheet).raise_for_status().text
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), sheet


def test_the_browser_is_told_to_stay_on_this_server(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_two_endpoints_are_public(client):
    info = client.get("/gradio_api/info").json()
    assert list(info["named_endpoints"]) == ["/inspect", "/categories"]
    assert info["unnamed_endpoints"] == {}


def test_inspect_for_scripts(client, tmp_path):
    answer = call(client, "plate", upload(client, write_plate(tmp_path / "part.png", spot=0)), None)
    assert '"verdict": "ANOMALY"' in answer
    assert '"score": 20.0' in answer
    assert '"path": "part.png"' in answer


def test_inspect_without_a_category_is_refused(client, tmp_path):
    answer = call(client, None, upload(client, write_plate(tmp_path / "part.png")), None)
    assert "No category was given" in answer
    assert '"verdict": null' in answer


def test_a_damaged_upload_is_an_answer_and_not_a_crash(client, tmp_path):
    path = tmp_path / "part.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    answer = call(client, "plate", upload(client, path), None)
    assert "part.png" in answer
    assert '"verdict": null' in answer
    assert "Traceback" not in answer
    assert client.get("/").status_code == 200


def payloads(path: Path) -> list:
    meta = {"_type": "gradio.FileData"}
    return [
        {"path": str(path), "meta": meta},
        {"path": str(path)},
        {"path": str(path), "url": f"/gradio_api/file={path}", "orig_name": "part.svg", "meta": meta},
        {"path": f"../../../../..{path}", "meta": meta},
        {"url": f"file://{path}", "meta": meta},
        {"path": "http://127.0.0.1:9/part.png", "meta": meta},
        str(path),
    ]


@pytest.mark.parametrize("kind", range(7))
def test_a_path_of_the_server_is_refused_as_an_image(client, tmp_path, kind):
    part = write_plate(tmp_path / "part.png", spot=0)
    answer = call(client, "plate", payloads(part)[kind], None)
    assert "event: error" in answer
    assert "ANOMALY" not in answer


def test_files_of_the_server_cannot_be_fetched(client, secret):
    for path in (
        secret,
        ROOT / "app.py",
        ROOT / "pyproject.toml",
        "/etc/passwd",
        f"{tempfile.gettempdir()}/gradio/../..{secret}",
    ):
        answer = client.get(f"/gradio_api/file={path}")
        assert answer.status_code == 403, path
        assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "route", ["file=http://127.0.0.1:9/x", "file=HTTPS://127.0.0.1:9/x", "proxy=http://127.0.0.1:9/x", "deep_link"]
)
def test_the_server_fetches_and_stores_nothing_for_a_visitor(client, route):
    assert client.get(f"/gradio_api/{route}").status_code == 403


def test_an_upload_over_the_limit_is_refused(client, monkeypatch, app):
    monkeypatch.setattr(app, "max_file_size", 1000)
    answer = client.post("/gradio_api/upload", files={"files": ("part.png", b"x" * 2000)})
    assert answer.status_code == 413


def test_the_upload_limit_is_64_megabytes(app):
    assert app.max_file_size == 64 * 2**20


def test_memory_and_disk_are_bounded(app):
    assert app.state_session_capacity == ui.SESSIONS
    assert app.delete_cache == (600, 3600)


def test_records_and_monitoring_are_off(client):
    assert client.get("/monitoring/summary").status_code == 403
    assert client.get("/gradio_api/runs").status_code in (403, 404)


def test_a_login_is_asked_for(tmp_path):
    app = ui.build_app(toy_site(ToyInspector(tmp_path / "examples")))
    ui._launch(app, "127.0.0.1", free_port(), [ui._account("anna:a:b")])
    try:
        with httpx.Client(base_url=app.local_url) as visitor:
            assert visitor.get("/config").status_code == 401
            part = {"files": ("part.png", b"x")}
            assert visitor.post("/gradio_api/upload", files=part).status_code == 401
            assert visitor.post("/login", data={"username": "anna", "password": "wrong"}).status_code == 400
            assert visitor.post("/login", data={"username": "anna", "password": "a:b"}).status_code == 200
            assert visitor.get("/config").status_code == 200
    finally:
        app.close(verbose=False)


@pytest.mark.parametrize("text", ["anna", ":secret", "anna:", ""])
def test_an_account_needs_both_parts(text):
    with pytest.raises(UsageError, match="USER:PASSWORD"):
        ui._account(text)


def test_a_share_that_cannot_be_made_says_so_in_one_line(app, client, monkeypatch):
    def fail(*_):
        raise RuntimeError("no route\nto the service")

    monkeypatch.setattr(ui.networking, "setup_tunnel", fail)
    said = ui._share(app)
    assert said == f"No public link could be made (no route); the page stays up at {app.local_url}"
    assert client.get("/").status_code == 200


def test_a_share_leaves_the_page_on_its_own_server(app, client, monkeypatch):
    monkeypatch.setattr(ui.networking, "setup_tunnel", lambda *_: "http://abc.gradio.live")
    assert "https://abc.gradio.live" in ui._share(app)
    assert "amazonaws" not in client.get("/").text


def test_the_address_is_local_unless_asked_otherwise(monkeypatch):
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    port = free_port()
    assert ui._address(None, port) == ("127.0.0.1", port)
    assert ui.arguments([])["share"] is False
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert ui._address(None, port)[0] == "0.0.0.0"
    monkeypatch.setenv("GRADIO_SERVER_NAME", "127.0.0.2")
    assert ui._address(None, port)[0] == "127.0.0.2"


@pytest.mark.parametrize("port", ["70000", "http"])
def test_a_port_that_cannot_be_is_refused(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(UsageError, match="--port"):
        ui._address("127.0.0.1", None)


def start(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "app.py", *options]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_taken_port_is_one_sentence_and_status_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = start("--port", str(taken.getsockname()[1]))
    assert ended.returncode == 2
    assert "--port" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_help_lists_the_options():
    ended = start("--help")
    assert ended.returncode == 0
    for option in ("--host", "--port", "--share", "--auth", "--runs", "--thresholds"):
        assert option in ended.stdout


def test_importing_the_app_writes_nothing_into_the_package():
    assert list((ROOT / "anomaly").rglob("*.pyi")) == []
