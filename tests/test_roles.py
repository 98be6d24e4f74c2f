"""Who may do what on the running page: every endpoint is called as a visitor, and nothing is written or read by it."""

import contextlib
import itertools
import json
import shutil
import sys
import zipfile
from pathlib import Path

import gradio as gr
import httpx
import pytest
from served import ROOT, ToyInspector, free_port, running_app, toy_site

from anomaly import ui
from anomaly.accounts import OPERATOR, SUPERVISOR, Desk, Person, set_password
from anomaly.handlers.session import Site
from anomaly.history import History
from anomaly.inspection import Inspector
from anomaly.ui import inspect as inspect_tab

PASSWORD, TOKEN = "correct horse", "a-token-of-this-test"
PRIVATE = "private_part_7731"  # the name of a recorded photo, which no visitor may meet
SECRET = "kept from visitors 4711"
FORGED = {"person": {"name": "mallory", "role": SUPERVISOR}}
ENDS = ("process_completed", "unexpected_error", "close_stream")  # after these gradio has no more to say


class Plant:
    """A trained product with a record, and beside it files of the server that are nobody's business."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.category = sorted(path.name for path in (ROOT / "runs").iterdir() if not path.name.startswith("_"))[0]
        for name in (self.category, "_backbones"):
            shutil.copytree(ROOT / "runs" / name, folder / "runs" / name)
        shutil.copy(ROOT / "threshold.json", folder)
        inspector = Inspector(runs=folder / "runs", thresholds=folder / "threshold.json")
        self.site = Site(folder / "runs", folder / "threshold.json", inspector, History(folder / "record"))
        self.example = inspector.categories()[0].examples[0]
        part = folder / f"{PRIVATE}.png"
        shutil.copy(self.example, part)
        self.site.history.add(inspector.inspect(part, category=self.category), user="anna")
        part.unlink()
        self.secrets = folder.parent / "secrets"
        self.secrets.mkdir()
        (self.secrets / "notes.txt").write_text(SECRET)
        shutil.copy(self.example, self.secrets / "photo.png")
        with zipfile.ZipFile(self.secrets / "photos.zip", "w") as archive:
            archive.write(self.example, "photo.png")

    def content(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


class Opened:
    """Every file and folder that this process opens or lists while the context lasts."""

    def __init__(self):
        self.paths, self.on = [], False
        sys.addaudithook(self._heard)  # it stays for good, and is deaf when it is off

    def _heard(self, event: str, values: tuple) -> None:
        if self.on and event in ("open", "os.listdir", "os.scandir", "sqlite3.connect") and values:
            self.paths.append(str(values[0]))

    @contextlib.contextmanager
    def listening(self):
        self.paths.clear()
        self.on = True
        yield self
        self.on = False

    def below(self, folder: Path) -> list[str]:
        return [path for path in self.paths if path.startswith(str(folder))]


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    return Plant(tmp_path_factory.mktemp("plant") / "plant")


@pytest.fixture(scope="module")
def opened():
    return Opened()


def serve(site: Site, desk: Desk):
    app = ui.build_app(site, desk)
    ui._launch(app, "127.0.0.1", free_port(), [])
    return app


@pytest.fixture(scope="module")
def app(plant):
    app = serve(plant.site, Desk(token=TOKEN))
    yield app
    app.close(verbose=False)


class Caller:
    """A script that knows gradio's protocol: one session, any endpoint, any data."""

    def __init__(self, app, name: str = "session"):
        self.client = httpx.Client(base_url=app.local_url, timeout=120)
        self.session = f"{name}-{next(NUMBERS)}"
        self.config = self.client.get("/config").json()
        self.parts = {part["id"]: part for part in self.config["components"]}
        self.said: list[str] = []

    def endpoints(self) -> list[dict]:
        return [dependency for dependency in self.config["dependencies"] if dependency["backend_fn"]]

    def join(self, endpoint: dict, data: list, event: dict | None = None) -> str:
        """By the queue, as the page does."""
        body = {"data": data, "fn_index": endpoint["id"], "session_hash": self.session, "event_data": event}
        answer = self.client.post("/gradio_api/queue/join", json=body | {"trigger_id": None})
        if answer.status_code != 200:
            return self._keep(answer.text)
        heard = []
        with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as stream:
            for line in stream.iter_lines():
                heard.append(line)
                if any(f'"msg":"{word}"' in line for word in ENDS):
                    break
        self._learn(endpoint, heard[-1])
        return self._keep("\n".join(heard))

    def _learn(self, endpoint: dict, line: str) -> None:
        """Take over what an answer changes on the page, such as the choices of a list."""
        output = json.loads(line.removeprefix("data: ")).get("output") or {}
        for number, value in zip(endpoint["outputs"], output.get("data") or []):
            if isinstance(value, dict) and value.get("__type__") == "update":
                self.parts[number]["props"].update(value)

    def post(self, url: str, data: list, **more) -> str:
        answer = self.client.post(f"/gradio_api/{url}", json={"data": data, "session_hash": self.session} | more)
        said = self._keep(answer.text)
        if url.startswith("call/") and answer.status_code == 200:
            said = self._keep(self.client.get(f"/gradio_api/{url}/{answer.json()['event_id']}").text)
        return said

    def upload(self, path: Path) -> dict:
        stored = self.client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()[0]
        return {"path": stored, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def _keep(self, said: str) -> str:
        self.said.append(said)
        return said


NUMBERS = itertools.count()


def honest(part: dict, plant: Plant, files: dict) -> object:
    """What the page itself might send for a component."""
    kind, props = part["type"], part["props"]
    choices = [choice[1] for choice in props.get("choices") or []]
    if kind == "state":
        return None
    if choices:
        return choices[:1] if kind in ("checkboxgroup",) or props.get("multiselect") else choices[0]
    if kind in ("image", "file", "uploadbutton"):
        one = files["image"] if kind == "image" else files["zip"]
        return [one] if props.get("file_count") in ("multiple", "directory") else one
    number = 1 if props.get("value") is None else props["value"]
    return {
        "slider": number,
        "number": number,
        "checkbox": True,
        "textbox": None if props.get("label") == "detector" else plant.category,
        "dropdown": plant.category,
        "gallery": [{"image": files["image"], "caption": None}],
        "imageeditor": {"background": files["image"], "layers": [], "composite": files["image"]},
    }.get(kind)


def hostile(part: dict, plant: Plant, _) -> object:
    """Paths of the server wherever a path, a file or a word may stand; a forged session."""
    path, kind = str(plant.secrets / "photo.png"), part["type"]
    file = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}}
    several = part["props"].get("file_count") in ("multiple", "directory")
    return {
        "state": FORGED,
        "file": [file] if several else file,
        "uploadbutton": [file] if several else file,
        "image": file,
        "gallery": [{"image": file, "caption": None}],
        "imageeditor": {"background": file, "layers": [file], "composite": file},
        "number": -1,
        "slider": 1e9,
        "checkbox": True,
        "checkboxgroup": [path],
    }.get(kind, str(plant.secrets))


def plain(part: dict, plant: Plant, _) -> object:
    """Nothing but paths as plain strings."""
    return FORGED if part["type"] == "state" else str(plant.secrets / "photo.png")


def empty(part: dict, *_) -> None:
    return None


CLICK = {"index": 0, "value": "0"}


def walk(caller: Caller, plant: Plant, kinds=(honest, hostile, plain, empty, honest)) -> int:
    """Call every endpoint by every way with every kind of data, in one session; gives the number of calls."""
    with zipfile.ZipFile(plant.folder.parent / "upload.zip", "w") as archive:
        archive.write(plant.example, "photo.png")
    files = {"image": caller.upload(plant.example), "zip": caller.upload(plant.folder.parent / "upload.zip")}
    calls = 0
    for turn, kind in enumerate(kinds):
        event = CLICK if kind is honest else {"index": [0, 0], "value": str(plant.secrets / "photo.png")}
        for endpoint in caller.endpoints():
            data = [kind(caller.parts[number], plant, files) for number in endpoint["inputs"]]
            caller.join(endpoint, data, event)
            calls += 1
            if turn in (0, 2) and endpoint["api_name"]:
                caller.post(f"call/{endpoint['api_name']}", data)
                caller.post(f"run/{endpoint['api_name']}", data, fn_index=endpoint["id"], event_data=event)
                caller.post(f"api/{endpoint['api_name']}", data, event_data=event)
                calls += 3
    return calls


def test_no_endpoint_lets_a_visitor_write_train_or_read(app, plant, opened):
    """Every dependency of the page, also of tabs that a visitor does not see."""
    caller, before = Caller(app), plant.content()
    known = {str(path) for path in plant.secrets.rglob("*")}
    with opened.listening():
        calls = walk(caller, plant)
    said = "\n".join(caller.said)
    assert calls >= 5 * len(caller.endpoints()) > 50
    assert plant.content() == before
    assert opened.below(plant.secrets) == []
    assert opened.below(plant.folder / "record") == []
    assert {str(path) for path in plant.secrets.rglob("*")} == known
    assert (
        "× the limit" in said and '"verdict":"' in said
    )  # the walk reached the network, and was not turned away at the first door
    assert PRIVATE not in said and SECRET not in said and "notes.txt" not in said


def test_the_walk_would_notice(plant, opened, monkeypatch):
    """A tab that reads what it is told to, and an operator, whose inspections are recorded: the walk sees both."""

    class Leaky:
        TITLE, ROLE = "Leaky", SUPERVISOR  # hidden from the operator, and callable all the same

        @staticmethod
        def build(*_):
            gr.Button().click(lambda path: Path(path).read_bytes()[:9].hex(), gr.Textbox(), gr.Textbox())

    monkeypatch.setattr(ui, "TABS", (inspect_tab, Leaky))
    app = serve(plant.site, Desk(token=TOKEN))
    try:
        caller, before = Caller(app), plant.content()
        assert caller.client.get("/", params={"token": TOKEN}).status_code == 303
        enter(caller)
        with opened.listening():
            walk(caller, plant, (honest, plain))
        assert plant.content() != before
        assert opened.below(plant.folder / "record") != []
        assert str(plant.secrets / "photo.png") in opened.below(plant.secrets)
    finally:
        app.close(verbose=False)


def test_every_documented_endpoint_only_reads(app, plant, opened):
    """/gradio_api/info, also with those that it does not show by default."""
    caller, before = Caller(app), plant.content()
    for question in ("", "?all_endpoints=true"):
        info = caller.client.get(f"/gradio_api/info{question}").json()
        assert set(info["named_endpoints"]) == {"/inspect", "/categories"}
        assert info["unnamed_endpoints"] == {}
    with opened.listening():
        for name, about in info["named_endpoints"].items():
            for value in (str(plant.secrets / "photo.png"), {"path": str(plant.secrets / "photo.png")}, None):
                caller.post(f"call{name}", [value for _ in about["parameters"]])
                names = [one["parameter_name"] for one in about["parameters"]]
                caller.client.post(f"/gradio_api/call/v2{name}", json=dict.fromkeys(names, value))
    assert plant.content() == before
    assert opened.below(plant.secrets) == []


def test_no_component_answers_for_the_disk(app, plant, opened):
    """A file browser would list the server to everybody: gradio asks for no role at `component_server`."""
    caller = Caller(app)
    assert [part["id"] for part in caller.config["components"] if part["type"] == "fileexplorer"] == []
    with opened.listening():
        for part in caller.config["components"]:
            for name in {*part["props"].get("server_fns", ()), "ls", "preprocess", "postprocess"}:
                body = {"session_hash": caller.session, "component_id": part["id"], "fn_name": name}
                for data in ([], str(plant.secrets), [str(plant.secrets)]):
                    answer = caller.client.post("/gradio_api/component_server", json=body | {"data": data})
                    assert "photo.png" not in answer.text
    assert opened.below(plant.secrets) == []


def test_what_the_page_brings_along_tells_a_visitor_nothing_private(app):
    caller = Caller(app)
    for url in ("/config", "/", "/gradio_api/info?all_endpoints=true", "/health", "/api/v1/categories"):
        assert PRIVATE not in caller.client.get(url).text


def test_every_tab_names_a_role_and_only_those_of_a_visitor_are_shown_at_first(app):
    shown = {
        part["props"]["label"]: part["props"]["visible"]
        for part in Caller(app).config["components"]
        if part["type"] == "tabitem"
    }
    for tab in ui.TABS:
        assert shown[tab.TITLE] == Person().may(tab.ROLE), tab.TITLE


def test_every_listener_but_the_two_published_is_private(app):
    visible = {fn.api_name for fn in app.fns.values() if fn.api_visibility != "private"}
    assert visible == {"inspect", "categories"}


# Signing in, with a toy inspector: quick, and its record tells as whom an inspection was made.


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    path = tmp_path_factory.mktemp("people") / "people.json"
    set_password(path, "anna", role=OPERATOR, password=PASSWORD)
    set_password(path, "otto", role=SUPERVISOR, password=PASSWORD)
    return path


@pytest.fixture(scope="module")
def toy(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    history = History(folder / "record")
    app = serve(toy_site(ToyInspector(folder / "examples"), history), Desk(file=people, token=TOKEN))
    app.history = history
    yield app
    app.close(verbose=False)


def endpoint(caller: Caller, name: str) -> dict:
    return next(one for one in caller.endpoints() if one["api_name"] == name)


def enter(caller: Caller) -> str:
    return caller.join(endpoint(caller, "enter"), [None])


def inspected_by(app, caller: Caller, forged=None) -> list[str]:
    """Inspect an example in the caller's session; gives the users whom the record gained."""
    before = len(app.history.entries())
    caller.join(endpoint(caller, "choose_product"), [forged, "plate"])
    caller.join(endpoint(caller, "take_example"), [forged], {"index": 0})
    runs = [one for one in caller.endpoints() if one["api_name"].startswith("run_network")]
    assert "ANOMALY" in caller.join(runs[0], [forged])
    return [entry.user for entry in app.history.entries()[: len(app.history.entries()) - before]]


def sign_in(caller: Caller, name: str, password: str = PASSWORD) -> httpx.Response:
    return caller.client.post("/sign-in", data={"name": name, "password": password})


def test_a_person_is_somebody_from_signing_in_to_signing_out(toy):
    caller = Caller(toy)
    assert inspected_by(toy, caller) == []
    assert sign_in(caller, "anna").status_code == 200
    assert inspected_by(toy, caller) == []  # the page has not been told yet
    assert "anna" in enter(caller)
    assert inspected_by(toy, caller) == ["anna"]
    assert caller.client.post("/sign-out").status_code == 200
    assert inspected_by(toy, caller) == []  # at once, also where the page was not told
    assert "anna" not in enter(caller)


def test_two_browsers_do_not_share_a_person(toy):
    first, second = Caller(toy), Caller(toy)
    sign_in(first, "anna")
    enter(first), enter(second)
    assert inspected_by(toy, second) == []
    assert inspected_by(toy, first) == ["anna"]


def test_two_tabs_of_a_browser_share_the_person_and_lose_it_together(toy):
    first = Caller(toy)
    sign_in(first, "otto")
    second = Caller(toy)
    second.client.cookies = first.client.cookies
    enter(first), enter(second)
    assert inspected_by(toy, second) == ["otto"]
    first.client.post("/sign-out")
    assert inspected_by(toy, second) == inspected_by(toy, first) == []


@pytest.mark.parametrize("forged", [FORGED, json.dumps(FORGED), [SUPERVISOR], {"__type__": "update", "value": FORGED}])
def test_a_session_sent_along_is_not_taken(toy, forged):
    """gradio's State lives on the server: what a script sends in its place is dropped."""
    assert inspected_by(toy, Caller(toy), forged) == []


def test_a_lost_session_is_a_visitor_again(toy):
    caller = Caller(toy)
    sign_in(caller, "anna")
    enter(caller)
    assert inspected_by(toy, caller) == ["anna"]
    toy.app.state_holder.delete_state(caller.session)  # what gradio does an hour after the last look
    assert inspected_by(toy, caller) == []
    enter(caller)
    assert inspected_by(toy, caller) == ["anna"]


@pytest.mark.parametrize("ticket", ["", "made-up", "../people.json", "x" * 4000])
def test_a_made_up_ticket_is_a_visitors(toy, ticket):
    caller = Caller(toy)
    caller.client.cookies.set(f"ticket-{toy.server_port}", ticket)
    enter(caller)
    assert inspected_by(toy, caller) == []


@pytest.mark.parametrize(
    "form, code", [({"name": "anna", "password": "wrong"}, 401), ({"name": "anna"}, 401), ({}, 401)]
)
def test_a_refused_sign_in_says_why_and_gives_no_ticket(toy, form, code):
    answer = Caller(toy).client.post("/sign-in", data=form)
    assert answer.status_code == code
    assert answer.json()["error"].startswith("The name or the password is wrong")
    assert "set-cookie" not in answer.headers
    assert "www-authenticate" not in answer.headers  # a browser would open a window of its own
    toy.door.desk._failures.clear()


def test_another_sites_page_cannot_sign_somebody_in(toy):
    form = {"name": "anna", "password": PASSWORD}
    answer = Caller(toy).client.post("/sign-in", data=form, headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_a_ticket_is_out_of_reach_of_scripts_and_other_sites(toy):
    cookie = sign_in(Caller(toy), "anna").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "max-age" not in cookie and "expires" not in cookie


def test_the_token_opens_once_seen_and_is_gone_from_the_address(toy):
    caller = Caller(toy)
    answer = caller.client.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["referrer-policy"] == "no-referrer"
    assert TOKEN not in answer.text + str(answer.headers)
    assert "supervisor" in enter(caller)
    assert inspected_by(toy, caller) == ["supervisor"]
    stranger = Caller(toy)
    for wrong in ("", "guess", TOKEN[:-1]):
        answer = stranger.client.get("/", params={"token": wrong})
        assert (answer.status_code, "set-cookie" in answer.headers) == (303, False)


def test_tabs_appear_with_the_role(toy, tmp_path, monkeypatch):
    class Tab:
        TITLE, ROLE = "Secret room", SUPERVISOR
        build = staticmethod(lambda *_: None)

    monkeypatch.setattr(ui, "TABS", (inspect_tab, Tab))
    app = serve(toy_site(ToyInspector(tmp_path / "examples")), toy.door.desk)
    try:
        for name, expected in (("anna", False), ("otto", True), (None, False)):
            caller = Caller(app)
            if name:
                sign_in(caller, name)
            said = json.loads(enter(caller).split("data: ")[-1])["output"]["data"]
            assert [one["visible"] for one in said[2:]] == [True, expected]
    finally:
        app.close(verbose=False)


@pytest.mark.parametrize(
    "host, share, local",
    [("127.0.0.1", False, True), ("::1", False, True), ("0.0.0.0", False, False), ("127.0.0.1", True, False)],
)
def test_only_a_server_of_this_machine_alone_has_a_token(host, share, local, people):
    desk = ui._desk(None, {}, host, share)
    assert (desk.token is not None) == local
    said = ui._greeting("http://127.0.0.1:7860/", desk)
    assert (f"http://127.0.0.1:7860/?token={desk.token}" in said) == local
    with_accounts = ui._desk(people, {}, host, share)
    assert with_accounts.token is None
    assert "sign in at the top right" in ui._greeting("http://127.0.0.1:7860/", with_accounts)


def test_a_person_signs_in_stays_and_signs_out(people, tmp_path, browser):
    api = pytest.importorskip("playwright.sync_api")
    with running_app("--auth-file", str(people), "--record", str(tmp_path / "record")) as (address, _):
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_text("Sign in", exact=True).first.click()
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill("wrong password")
        page.get_by_label("Password").press("Enter")
        api.expect(page.locator(".account [role=alert]")).to_contain_text("The name or the password is wrong")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("Password").press("Enter")
        account = page.locator("p.account")
        api.expect(account).to_contain_text("anna")
        api.expect(account).to_contain_text("operator")
        page.reload()
        api.expect(account).to_contain_text("anna")
        other = page.context.new_page()
        other.goto(address)
        api.expect(other.locator("p.account")).to_contain_text("anna")
        stranger = browser.new_context().new_page()
        stranger.goto(address)
        api.expect(stranger.locator("details.account")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        for one in (page, other):
            api.expect(one.locator("details.account")).to_be_visible()
