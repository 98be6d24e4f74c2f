"""The plain REST routes on the running server: what they answer, refuse, record and leave behind."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

import httpx
import pytest
from conftest import JSON_KEYS
from PIL import Image
from served import ROOT, ToyInspector, free_port, running_app, toy_site, write_plate

import anomaly
from anomaly import api, runs, ui
from anomaly.accounts import OPERATOR, SUPERVISOR, VISITOR, Desk, set_password
from anomaly.errors import MissingThreshold, UsageError
from anomaly.handlers.inspect import InspectHandlers
from anomaly.history import History
from anomaly.inspection import Inspector

PASSWORD = "correct horse"
INSPECT, BATCH = "/api/v1/inspect", "/api/v1/inspect/batch"


class Served:
    """The page and its routes around a toy inspector, in this process."""

    def __init__(self, folder, desk=None):
        self.inspector = ToyInspector(folder / "examples")
        self.history = History(folder / "record")
        self.site = toy_site(self.inspector, self.history)
        self.app = ui.build_app(self.site, desk)
        ui._launch(self.app, "127.0.0.1", free_port(), list((desk.guests if desk else {}).items()))
        self.client = httpx.Client(base_url=self.app.local_url, timeout=30)

    def close(self):
        self.client.close()
        self.app.close(verbose=False)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    path = tmp_path_factory.mktemp("people") / "people.json"
    for role in (VISITOR, OPERATOR, SUPERVISOR):
        set_password(path, role[:3], role=role, password=PASSWORD)
    return path


@pytest.fixture(scope="module")
def served(people, tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("plant"), Desk(file=people))
    yield served
    served.close()


@pytest.fixture
def client(served):
    return served.client


@pytest.fixture
def part(tmp_path):
    return write_plate(tmp_path / "part.png", spot=0)


def send(client, path, *, field="image", url=INSPECT, category="plate", **more):
    fields = {} if category is None else {"category": category}
    return client.post(url, files={field: (path.name, path.read_bytes())}, data=fields | more)


def test_a_photo_is_answered_as_on_the_command_line(served, part):
    answer = send(served.client, part)
    assert answer.status_code == 200
    assert list(answer.json()) == JSON_KEYS
    assert answer.json() == InspectHandlers(served.site).inspect_json("plate", str(part), None)
    assert (answer.json()["path"], answer.json()["score"], answer.json()["verdict"]) == ("part.png", 20.0, "ANOMALY")


def test_a_photo_of_another_product_is_answered_as_refused_and_recorded(served, tmp_path):
    bright = write_plate(tmp_path / "bright.png", gray=200)
    answer = send(served.client, bright)
    assert answer.status_code == 200 and set(answer.json()) == set(JSON_KEYS)
    said = answer.json()
    assert (said["verdict"], said["score"], said["category"], said["path"]) == ("REFUSED", None, "plate", "bright.png")
    assert said["product"] == {"expected": "plate", "seen": "other_plate", "known": True, "distance": 0.5}
    assert said == InspectHandlers(served.site).inspect_json("plate", str(bright), None)
    assert served.history.entries() == [], "a visitor's photo is not kept"
    answer = served.client.post(
        INSPECT,
        files={"image": ("b.png", bright.read_bytes())},
        data={"category": "plate"},
        auth=(OPERATOR[:3], PASSWORD),
    )
    (entry,) = served.history.entries()
    assert (entry.verdict, entry.category) == ("REFUSED", "plate")


def test_auto_takes_the_product_that_the_photo_shows(served, tmp_path):
    bright = write_plate(tmp_path / "bright.png", gray=200)
    said = send(served.client, bright, category="auto").json()
    assert (said["category"], said["verdict"], said["product"]["expected"]) == ("other_plate", "OK", None)
    assert (said["alarm"], said["attributes"]) == ("", [])


def test_the_numbers_are_those_of_the_library(trained, tmp_path):
    inspector = Inspector(runs=trained.runs, thresholds=trained.book)
    info = inspector.categories()[0]
    app = api.build_api(ui.Site(trained.runs, trained.book, inspector), Desk(), queue=lambda: 0)
    for detector in info.detectors:
        expected = inspector.inspect(trained.good_photo, category=info.name, detector=detector).to_json()
        answer = ask(app, INSPECT, trained.good_photo, category=info.name, detector=detector)
        changing = {"path", "milliseconds"}
        assert {k: v for k, v in answer.items() if k not in changing} == {
            k: v for k, v in json.loads(json.dumps(expected)).items() if k not in changing
        }


def ask(app, url, path, **fields):
    import anyio

    async def post():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post(url, files={"image": (path.name, path.read_bytes())}, data=fields)

    return anyio.run(post).raise_for_status().json()


def test_the_detector_can_be_chosen(client, part):
    assert send(client, part).json()["detector"] == "toy"
    assert send(client, part, detector="twin").json()["detector"] == "twin"


@pytest.mark.parametrize("name, detector", [("autoencoder", "unet"), ("cnn", "mahalanobis")])
def test_the_published_routes_name_their_detector(client, part, name, detector):
    answer = send(client, part, url=f"/predict/{name}")
    assert (answer.status_code, answer.json()["detector"], answer.json()["verdict"]) == (200, detector, "ANOMALY")


def test_a_batch_is_answered_in_its_order_and_a_damaged_photo_stops_nothing(client, part, tmp_path):
    good, broken = write_plate(tmp_path / "good.png"), tmp_path / "broken.png"
    broken.write_bytes(part.read_bytes()[:80])
    files = [("images", (path.name, path.read_bytes())) for path in (part, broken, good)]
    answer = client.post(BATCH, files=files, data={"category": "plate"})
    assert answer.status_code == 200
    assert [(row["path"], row["verdict"]) for row in answer.json()] == [
        ("part.png", "ANOMALY"),
        ("broken.png", None),
        ("good.png", "OK"),
    ]
    assert answer.json()[1]["error"].startswith("broken.png")


def test_one_photo_more_than_a_batch_may_hold(client, part):
    files = [("images", ("part.png", part.read_bytes()))] * (api.MOST + 1)
    answer = client.post(BATCH, files=files, data={"category": "plate"})
    assert answer.status_code == 413
    assert answer.json() == {"error": "65 images were given, at most 64 go into one request. Send several requests."}


REFUSED = {
    "no category": (400, "No category was given. Give one of: plate, other_plate."),
    "unknown category": (404, "Category 'bolt' does not exist. Give one of: plate, other_plate."),
    "no image": (400, "No image was given. Send one as the file `image`, with curl: -F image=@part.png."),
    "a path": (400, "The field image is of the wrong kind. Photos are sent as files, with curl: -F image=@part.png."),
    "not an image": (422, "part.png is not a JPEG, PNG, BMP, TIFF or WebP image. Convert it to PNG or JPEG."),
    "empty": (422, "part.png is empty, an image was expected. Take or export the photo again."),
    "too many pixels": (
        413,
        "part.png has 8000 x 8000 pixels, at most 50 million are read. Crop the photo or reduce its size.",
    ),
    "no limit": (503, "plate has no threshold for blind. Run `python -m anomaly calibrate`."),
    "unknown route": (404, "Not Found. The page /api tells what there is."),
    "unknown alias": (404, "There is no route /predict/forest. Use one of autoencoder, cnn."),
    "wrong method": (405, "Method Not Allowed. The page /api tells what there is."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_sentence_with_its_remedy(client, part, case):
    if case == "too many pixels":
        Image.new("1", (8000, 8000)).save(part)
    elif case in ("not an image", "empty"):
        part.write_bytes(b"%PDF-1.7" if case == "not an image" else b"")
    answer = {
        "no category": lambda: send(client, part, category=None),
        "unknown category": lambda: send(client, part, category="bolt"),
        "no image": lambda: client.post(INSPECT, data={"category": "plate"}),
        "a path": lambda: client.post(INSPECT, files={"image": (None, str(part))}, data={"category": "plate"}),
        "no limit": lambda: send(client, part, detector="blind"),
        "unknown route": lambda: client.get("/api/v2/inspect"),
        "unknown alias": lambda: send(client, part, url="/predict/forest"),
        "wrong method": lambda: client.get(INSPECT),
    }.get(case, lambda: send(client, part))()
    assert (answer.status_code, answer.json()) == (REFUSED[case][0], {"error": REFUSED[case][1]})


@pytest.mark.parametrize("name", ["../../evil.png", "a/b\\c\0.png", "..", ".", "ä" * 300 + ".png", "", "part#3 .png"])
def test_no_name_of_a_file_leads_out_of_its_folder(served, part, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    before, inspect, seen = {*tmp_path.rglob("*")}, served.inspector.inspect, []
    monkeypatch.setattr(served.inspector, "inspect", lambda path, **more: seen.append(path) or inspect(path, **more))
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n' % name.encode()
    body += part.read_bytes() + b'\r\n--x\r\nContent-Disposition: form-data; name="category"\r\n\r\nplate\r\n--x--\r\n'
    answer = served.client.post(INSPECT, content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (200, 400)
    assert {*tmp_path.rglob("*")} == before
    assert all(path.parent.parent == tmp_path / "kept" for path in seen)
    if name == "part#3 .png":
        assert answer.json()["path"] == name


@pytest.mark.parametrize("user, recorded", [("ope", 1), ("sup", 1), ("vis", 0), (None, 0)])
def test_who_is_recorded(served, part, user, recorded):
    before = len(served.history.entries())
    answer = served.client.post(
        INSPECT,
        files={"image": ("line 4.png", part.read_bytes())},
        data={"category": "plate"},
        auth=(user, PASSWORD) if user else None,
    )
    assert answer.json()["verdict"] == "ANOMALY"
    entries = served.history.entries()
    assert len(entries) == before + recorded
    if recorded:
        assert (entries[0].user, entries[0].file, entries[0].score) == (user, "line 4.png", 20.0)


@pytest.mark.parametrize("header", ["Basic b3BlOndyb25n", "Basic !!!", "Basic", "Bearer abc", "Basic /w=="])
def test_wrong_credentials_are_refused_and_nothing_is_inspected(served, part, header):
    calls, before = served.inspector.calls, len(served.history.entries())
    for url in (INSPECT, BATCH, "/predict/cnn"):
        files = {"image": part.read_bytes(), "images": part.read_bytes()}
        answer = served.client.post(url, files=files, data={"category": "plate"}, headers={"authorization": header})
        served.app.door.desk._failures.clear()
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert list(answer.json()) == ["error"]
    assert (served.inspector.calls, len(served.history.entries())) == (calls, before)


def test_guessing_is_answered_with_429(served):
    codes = [served.client.get("/api/v1/categories", auth=("ope", "wrong")).status_code for _ in range(7)]
    served.app.door.desk._failures.clear()
    assert codes == [401] * 5 + [429] * 2


def test_a_page_with_a_login_has_no_open_side_door(tmp_path, part):
    served = Served(tmp_path, Desk(guests={"guest": "abc"}))
    try:
        for url in (INSPECT, BATCH, "/predict/cnn"):
            assert send(served.client, part, url=url).status_code == 401
        assert served.client.get("/api/v1/categories").status_code == 401
        assert served.client.get("/api/v1/categories", auth=("guest", "abc")).status_code == 200
        assert served.client.get("/api/v1/categories", auth=("guest", "abd")).status_code == 401
        assert served.client.get("/health").status_code == 200
        assert served.inspector.calls == 0
    finally:
        served.close()


def test_categories(client):
    assert client.get("/api/v1/categories").json()[0] == {
        "name": "plate",
        "title": "Gray plate",
        "kind": "object",
        "detectors": ["toy", "twin", "blind"],
        "active": "toy",
    }


def test_health(served, monkeypatch):
    answer = served.client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "loaded_models": ["plate/toy"],
        "error": None,
        "queue_length": 0,
        "version": anomaly.__version__,
    }
    monkeypatch.setattr(served.inspector, "categories", lambda: [])
    assert (served.client.get("/health").status_code, served.client.get("/health").json()["ready"]) == (503, False)

    def broken():
        raise MissingThreshold("threshold.json is gone", "Restore it")

    monkeypatch.setattr(served.inspector, "categories", broken)
    assert served.client.get("/health").json()["error"] == "threshold.json is gone. Restore it."


def test_loaded_models_are_those_in_memory(trained):
    inspector = Inspector(runs=trained.runs, thresholds=trained.book)
    name, detectors = next(iter(runs.names(trained.runs).items()))
    assert inspector.loaded() == []
    inspector.inspect(trained.good_photo, category=name, detector=detectors[0])
    assert inspector.loaded() == [f"{name}/{detectors[0]}"]


def test_the_server_answers_while_a_network_runs_and_sends_too_many_away(served, part, monkeypatch):
    """Blocking work stays off the event loop; what waits is counted and bounded."""
    inside, go, inspect = threading.Event(), threading.Event(), served.inspector.inspect

    def slow(path, **more):
        inside.set()
        assert go.wait(30)
        return inspect(path, **more)

    monkeypatch.setattr(served.inspector, "inspect", slow)
    monkeypatch.setattr(api, "WAITING", 5)
    codes = []

    def call():
        with httpx.Client(base_url=served.app.local_url, timeout=30) as own:
            codes.append(send(own, part).status_code)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    deadline = time.monotonic() + 20
    while len(codes) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.client.get("/health").json()["queue_length"] == 5
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] * 5 + [503] * 3


def test_a_crash_is_an_answer_and_not_a_page_of_code(served, part, monkeypatch):
    def crash(*_, **__):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served.inspector, "inspect", crash)
    answer = send(served.client, part)
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("The program failed")


def test_a_full_disk_is_said(served, part, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api.shutil, "copyfileobj", full)
    answer = send(served.client, part)
    assert answer.status_code == 507
    assert "No space left on device" in answer.json()["error"]


GIGABYTE = 2**30


@pytest.mark.parametrize("url", [INSPECT, BATCH, "/predict/cnn", "/gradio_api/upload", "/gradio_api/queue/join"])
def test_a_gigabyte_is_refused_before_it_is_read(served, url):
    with socket.create_connection((served.app.server_name, served.app.server_port), timeout=10) as line:
        head = f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {GIGABYTE}\r\n"
        line.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n")
        answer = ""
        while "most" not in answer and (piece := line.recv(65536)):
            answer += piece.decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "is too large, at most" in answer


@pytest.mark.parametrize(
    "url, most", [(INSPECT, 64), (BATCH, 256), ("/gradio_api/upload", 64), ("/gradio_api/queue/join", 16)]
)
def test_an_upload_of_unknown_length_is_cut_at_the_limit_and_nothing_is_kept(served, url, most, tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(uploads))
    monkeypatch.setattr(served.app.app, "uploaded_file_dir", str(uploads))
    sent = []

    def body():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(1024):
            sent.append(1)
            yield b"\0" * 2**20

    kind = "application/json" if "join" in url else "multipart/form-data; boundary=x"
    with contextlib.suppress(httpx.WriteError):
        answer = served.client.post(url, content=body(), headers={"content-type": kind})
        assert answer.status_code == 413
        assert re.search("too large|exceeded maximum allowed size", answer.text)
    assert [*uploads.rglob("*")] == []
    assert served.client.get("/health").status_code == 200


def test_an_upload_that_breaks_off_leaves_nothing(served, tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setattr(served.app.app, "uploaded_file_dir", str(uploads))
    with socket.create_connection((served.app.server_name, served.app.server_port), timeout=10) as line:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n"
        line.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n")
        line.sendall(b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"\0" * 10**6)
        deadline = time.monotonic() + 10
        while not [*uploads.rglob("*")] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [*uploads.rglob("*")]
    while [*uploads.rglob("*")] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [*uploads.rglob("*")] == []


def test_somebody_who_works_here_may_send_a_whole_batch_to_the_page(served, monkeypatch):
    """A visitor's upload is bounded as a whole, an operator's only file by file."""
    monkeypatch.setattr(api, "LARGEST", 1000)
    files = [("files", (f"{n}.png", b"x" * 700_000)) for n in range(3)]
    with httpx.Client(base_url=served.app.local_url, timeout=30) as visitor:
        assert visitor.post("/gradio_api/upload", files=files).status_code == 413
    with httpx.Client(base_url=served.app.local_url, timeout=30) as operator:
        operator.post("/sign-in", data={"name": "ope", "password": PASSWORD}).raise_for_status()
        assert operator.post("/gradio_api/upload", files=files).status_code == 200


def test_the_schema_and_its_page_tell_every_route(client):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {INSPECT, BATCH, "/api/v1/categories", "/predict/{name}", "/health"}
    page = client.get("/api").text
    for path in schema["paths"]:
        assert path in page
    assert str(client.base_url).rstrip("/") in page


def test_the_page_of_the_routes_loads_nothing(client):
    page = client.get("/api")
    assert not re.search(r"<script|<link|src=|url\(|@import", page.text)
    hosts = set(re.findall(r"https?://[\w.:]+", page.text))
    assert hosts == {str(client.base_url).rstrip("/")}


@pytest.mark.parametrize("url", ["/api", "/health", "/openapi.json", "/api/v1/categories"])
def test_the_policy_of_the_page_holds_for_the_routes(client, url):
    headers = client.get(url).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def curls() -> list[str]:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    return list(dict.fromkeys(re.findall(r"^curl .*$", text, re.MULTILINE)))


def test_the_docs_show_every_route():
    shown = {re.search(r"127\.0\.0\.1:7860(/\S*)", line)[1] for line in curls()}
    assert shown >= {INSPECT, BATCH, "/api/v1/categories", "/health", "/predict/autoencoder", "/predict/cnn"}
    assert any("-u " in line for line in curls())


@pytest.mark.skipif(sys.platform == "win32", reason="the examples are for a POSIX shell")
def test_every_curl_of_the_docs_works(tmp_path):
    people, record = tmp_path / "people.json", tmp_path / "record"
    set_password(people, "anna", role=OPERATOR, password=PASSWORD)
    inspector = Inspector(runs=ROOT / "runs", thresholds=ROOT / "threshold.json")
    info = inspector.categories()[0]
    (tmp_path / "part.png").write_bytes(info.examples[0].read_bytes())
    expected = inspector.inspect(info.examples[0], category=info.name)
    with running_app("--auth-file", str(people), "--record", str(record)) as (address, _):
        for line in curls():
            command = line.replace("http://127.0.0.1:7860", address)
            command = re.sub(r"category=\w+", f"category={info.name}", command)
            ended = subprocess.run(
                ["bash", "-c", f"{command} --silent --show-error --fail-with-body"],
                check=False,
                cwd=tmp_path,
                env=os.environ | {"PASSWORD": PASSWORD},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert ended.returncode == 0, f"{line}: {ended.stdout}{ended.stderr}"
            said = json.loads(ended.stdout)
            if line.endswith("/inspect"):
                assert said["score"] == pytest.approx(expected.score, abs=1e-6)
    assert len(History(record).entries()) == sum("-u " in line for line in curls())


def test_mcp_without_its_package_or_with_a_login_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(ui.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed.*gradio\[mcp\]"):
        ui.serve(mcp=True)
    monkeypatch.setattr(ui.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UsageError, match="exclude each other"):
        ui.serve(mcp=True, auth=["anna:secret"])
