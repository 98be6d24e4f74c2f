"""The plain REST routes beside the page: the same inspector and the same numbers, for scripts, lines and PLCs."""

import base64
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBasic
from starlette.exceptions import HTTPException

import anomaly
from anomaly import errors
from anomaly.accounts import OPERATOR, Desk, Person
from anomaly.errors import AnomalyError, NotSignedIn, UsageError
from anomaly.handlers.session import Site, sentence

log = logging.getLogger(__name__)

PATHS = re.compile(r"/(api(/.*)?|predict/[^/]*|health|openapi\.json)")  # what is answered here and not by the page
MEGABYTE = 2**20
LARGEST = 64 * MEGABYTE  # of a photo
LARGEST_BATCH = 256 * MEGABYTE  # of a request with several
MOST = 64  # photos of one request
WAITING = 64  # photos of all requests that wait; one more would only wait too long
DETECTORS = {"autoencoder": "unet", "cnn": "mahalanobis"}  # by the names under which they were first published
# The first that fits, so subclasses come before their bases; whatever is not here is a fault of ours: 503.
STATUS = {
    errors.NotSignedIn: 401,
    errors.TooManyTries: 429,
    errors.Forbidden: 403,
    errors.UnknownName: 404,
    errors.UsageError: 400,
    errors.ImageTooLarge: 413,
    errors.ImageError: 422,
}
ANSWERS = {
    200: "Done",
    400: "Something is missing or wrong in the request",
    401: "The name or the password is wrong",
    404: "There is no such category or detector",
    413: "Too large or too many",
    422: "Not an image that can be read",
    429: "Wait: too many wrong passwords",
    503: "The server cannot do it now; the error says why",
}
UPLOAD = "A form with files (multipart/form-data). The answer has the keys of python -m anomaly inspect --json."


class Busy(AnomalyError):
    """More work than can be done in time."""


def status(error: AnomalyError) -> int:
    """The HTTP status of a refusal."""
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 503)


def refused(error: AnomalyError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status(error))


class Line:
    """Takes blocking work off the event loop, two at a time: one may read its photo while the network is at another."""

    def __init__(self):
        self._places = anyio.CapacityLimiter(2)
        self.length = 0

    async def run(self, work: Callable, *args) -> Any:
        if self.length >= WAITING:
            raise Busy(f"{WAITING} photos are waiting already", "Send this one again in a few seconds")
        self.length += 1
        try:
            return await run_sync(work, *args, limiter=self._places)
        finally:
            self.length -= 1


def build_api(site: Site, desk: Desk, *, queue: Callable[[], int]) -> FastAPI:
    """The routes of `PATHS` as an app of their own.

    Args:
        queue: how many wait for the page's own queue.
    """
    api = FastAPI(
        title="Surface inspection",
        version=anomaly.__version__,
        description="The same inspections as on the page and on the command line, over plain HTTP.",
        openapi_url="/openapi.json",
        docs_url=None,  # FastAPI's own page loads its script from a content network; `/api` does not
        redoc_url=None,
    )
    line, caller = Line(), _caller(desk)
    Caller = Annotated[Person, Depends(caller)]
    answers = {code: {"description": said} for code, said in ANSWERS.items()}
    reading = {code: answers[code] for code in (200, 401, 503)}

    async def inspected(
        person: Person, image: UploadFile | None, category: str | None, detector: str | None
    ) -> JSONResponse:
        if image is None:
            raise UsageError("No image was given", "Send one as the file `image`, with curl: -F image=@part.png")
        code, said = await line.run(_inspect, site, person, image, category, detector)
        return JSONResponse(said, code)

    @api.post("/api/v1/inspect", summary="Inspect one photo", description=UPLOAD, responses=answers)
    async def inspect(
        person: Caller,
        image: UploadFile | None = None,
        category: Annotated[str | None, Form()] = None,
        detector: Annotated[str | None, Form()] = None,
    ) -> JSONResponse:
        return await inspected(person, image, category, detector)

    @api.post(
        "/api/v1/inspect/batch",
        summary=f"Inspect up to {MOST} photos of one product",
        description=f"{UPLOAD} One object a photo; one that cannot be judged says so in error, and the rest go on.",
        responses=answers,
    )
    async def inspect_batch(
        person: Caller,
        images: list[UploadFile] | None = None,
        category: Annotated[str | None, Form()] = None,
        detector: Annotated[str | None, Form()] = None,
    ) -> list[dict]:
        if not images:
            raise UsageError("No images were given", "Send each as a file `images`, with curl: -F images=@part.png")
        if len(images) > MOST:
            problem = f"{len(images)} images were given, at most {MOST} go into one request"
            raise errors.ImageTooLarge(problem, "Send several requests")
        await run_sync(_require_category, site, category)
        found = []
        for image in images:  # each waits for its turn anew, so that a batch keeps nobody waiting for all of it
            code, said = await line.run(_inspect, site, person, image, category, detector)
            asked = {"path": image.filename, "category": category, "detector": detector, "verdict": None}
            found.append(said if code == 200 else asked | said)
        return found

    @api.post(
        "/predict/{name}",
        summary="Inspect one photo, as first published",
        description="As /api/v1/inspect, by one detector: " + ", ".join(f"{n} is {d}" for n, d in DETECTORS.items()),
        responses=answers,
    )
    async def predict(
        person: Caller, name: str, image: UploadFile | None = None, category: Annotated[str | None, Form()] = None
    ) -> JSONResponse:
        if name not in DETECTORS:
            raise errors.UnknownName(f"There is no route /predict/{name}", f"Use one of {', '.join(DETECTORS)}")
        return await inspected(person, image, category, DETECTORS[name])

    @api.get("/api/v1/categories", summary="What can be inspected", responses=reading)
    async def categories(person: Caller) -> list[dict]:
        return await run_sync(_categories, site)

    @api.get(
        "/health", summary="Is the server ready?", responses={200: answers[200], 503: {"description": "Not ready"}}
    )
    async def health() -> JSONResponse:
        said = await run_sync(_health, site) | {"queue_length": line.length + queue(), "version": anomaly.__version__}
        return JSONResponse(said, 200 if said["ready"] else 503)

    @api.get("/api", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(api.openapi(), str(request.base_url).rstrip("/")))

    _answer_errors(api)
    return api


def _caller(desk: Desk) -> Callable:
    """Who calls, by `Authorization: Basic`; without it a visitor, unless the whole page asks for a login."""
    places = anyio.CapacityLimiter(2)  # the page keeps its threads while somebody guesses

    async def caller(request: Request, _: Annotated[Any, Depends(HTTPBasic(auto_error=False))] = None) -> Person:
        scheme, _, sealed = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            if desk.guests:
                raise NotSignedIn("This server asks for a login", "Send a name and password, with curl: -u NAME")
            return Person()
        try:
            if scheme.lower() != "basic":
                raise ValueError(scheme)
            name, _, password = base64.b64decode(sealed, validate=True).decode().partition(":")
        except ValueError:
            raise NotSignedIn(
                "The Authorization header cannot be read", "Send it as Basic, with curl: -u NAME"
            ) from None
        source = request.client.host if request.client else ""
        return await run_sync(lambda: desk.check(name, password, source=source), limiter=places)

    return caller


def _inspect(
    site: Site, person: Person, image: UploadFile, category: str | None, detector: str | None
) -> tuple[int, dict]:
    """Status and answer for one uploaded photo; it is on the record when somebody with a role sent it."""
    with _stored(image) as path:
        try:
            _require_category(site, category)
            found = site.inspector.inspect(path, category=category, detector=detector or None)
            if site.history and person.may(OPERATOR):
                site.history.add(found, user=person.name)
        except AnomalyError as error:
            return status(error), {"error": sentence(error, path)}
        return 200, found.to_json() | {"path": path.name}


@contextmanager
def _stored(image: UploadFile) -> Iterator[Path]:
    """The upload as a file under its own name, gone afterwards."""
    name = re.sub(r"[\x00-\x1f/\\]", "_", image.filename or "").strip(".")
    stem, suffix = os.path.splitext(name)
    stem = stem.encode()[:180].decode(errors="ignore")  # a file system takes 255 bytes
    with tempfile.TemporaryDirectory(prefix="anomaly-") as folder:
        path = Path(folder) / f"{stem or 'image'}{suffix[:16]}"
        with path.open("wb") as file:
            shutil.copyfileobj(image.file, file, MEGABYTE)
        yield path


def _require_category(site: Site, category: str | None) -> None:
    names = [info.name for info in site.inspector.categories()]
    choices = f"Give one of: {', '.join(names) or 'none is trained yet'}"
    if not category:
        raise UsageError("No category was given", choices)
    if category not in names:
        raise errors.UnknownName(f"Category {category!r} does not exist", choices)


def _categories(site: Site) -> list[dict]:
    keys = ("name", "title", "kind", "detectors", "active")
    return [{key: getattr(info, key) for key in keys} for info in site.inspector.categories()]


def _health(site: Site) -> dict:
    """Ready means that a photo sent now could be judged."""
    try:
        ready, error = bool(site.inspector.categories()), None
    except AnomalyError as found:
        ready, error = False, str(found)
    return {"ready": ready, "loaded_models": list(site.inspector.loaded()), "error": error}


def _answer_errors(api: FastAPI) -> None:
    """Every refusal is `{"error": a sentence}` with its status."""

    @api.exception_handler(AnomalyError)
    async def ours(_: Request, error: AnomalyError) -> JSONResponse:
        answer = refused(error)
        if answer.status_code == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="anomaly", charset="UTF-8"'
        return answer

    @api.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": f"{error.detail}. The page /api tells what there is."}, error.status_code)

    @api.exception_handler(RequestValidationError)
    async def wrong_field(_: Request, error: RequestValidationError) -> JSONResponse:
        place = ".".join(str(part) for part in error.errors()[0]["loc"][1:]) or "body"
        said = f"The field {place} is of the wrong kind. Photos are sent as files, with curl: -F image=@part.png."
        return JSONResponse({"error": said}, 400)

    @api.exception_handler(OSError)
    async def disk(_: Request, error: OSError) -> JSONResponse:
        log.error("an upload could not be kept: %s", error)
        said = f"The server cannot keep the upload ({error.strerror}). Free some room on its disk, then send it again."
        return JSONResponse({"error": said}, 507)

    @api.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        said = "The program failed on this request. Try again, and report it if it repeats."
        return JSONResponse({"error": said}, 500)


STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
section { border-top: 1px solid #8885; padding: .5rem 0 1rem } h2 { font-size: 1.1rem } h2 code { font-size: 1rem }
pre { overflow-x: auto; padding: .75rem 1rem; border-radius: 8px; background: #8882 }
section div { display: flex; flex-wrap: wrap; gap: 1rem 4rem; align-items: start }
caption { text-align: left; opacity: .75 }
td, th { text-align: left; padding: .1rem 1.5rem .1rem 0; vertical-align: top }
"""
EXAMPLES = {  # by route; the page fills in its own address
    "/api/v1/inspect": "curl -F image=@part.png -F category=NAME {address}/api/v1/inspect",
    "/api/v1/inspect/batch": "curl -F images=@a.png -F images=@b.png -F category=NAME {address}/api/v1/inspect/batch",
    "/api/v1/categories": "curl {address}/api/v1/categories",
    "/health": "curl {address}/health",
    "/predict/{name}": "curl -F image=@part.png -F category=NAME {address}/predict/cnn",
}


def _page(schema: dict, address: str) -> str:
    """The schema for people; nothing on it is loaded from anywhere."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{escape(schema["info"]["title"])}: API</title>
<style>{STYLE}</style><main><h1>{escape(schema["info"]["title"])}: API</h1>
<p>{escape(schema["info"]["description"])} Version {escape(schema["info"]["version"])}.
The same for programs: <a href="openapi.json">openapi.json</a> (OpenAPI {schema["openapi"]}).</p>
<p>Without a name and password nothing is kept. With those of an operator or supervisor
(<code>curl -u NAME</code>) each inspection goes into the record.</p>
{"".join(_route(schema, path, method, address) for path, methods in schema["paths"].items() for method in methods)}
</main></html>"""


def _route(schema: dict, path: str, method: str, address: str) -> str:
    about = schema["paths"][path][method]
    form = about.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    fields = schema["components"]["schemas"].get(form.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
    needed = "file" if "image" in fields else "files, repeated"
    sent = "".join(
        f"<tr><th scope='row'><code>{name}</code><td>{needed if name.startswith('image') else 'text'}"
        f"<td>{'default: the active one' if name == 'detector' else 'required'}"
        for name in fields
    )
    got = "".join(
        f"<tr><th scope='row'>{code}<td>{escape(said['description'])}" for code, said in about["responses"].items()
    )
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code> {escape(about['summary'])}</h2>"
        f"<p>{escape(about.get('description', ''))}</p><pre>{escape(EXAMPLES[path].format(address=address))}</pre>"
        f"<div>{f'<table><caption>Fields</caption>{sent}</table>' if sent else ''}"
        f"<table><caption>Answers</caption>{got}</table></div></section>"
    )
