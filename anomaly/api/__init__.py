"""The plain REST routes beside the page: the same inspector and the same numbers, for scripts, lines and PLCs."""

import base64
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from anomaly import errors, report
from anomaly.accounts import OPERATOR, Desk, Person
from anomaly.api.page import draw
from anomaly.errors import AnomalyError, NotSignedIn, UsageError, WrongProduct
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


class Caller(HTTPBasic):
    """Who calls, by `Authorization: Basic`; without it a visitor, unless the whole page asks for a login."""

    def __init__(self, desk: Desk):
        super().__init__()
        self._desk = desk
        self._places = anyio.CapacityLimiter(2)  # the page keeps its threads while somebody guesses

    async def __call__(self, request: Request) -> Person:
        scheme, _, sealed = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            if self._desk.guests:
                raise NotSignedIn("This server asks for a login", "Send a name and password, with curl: -u NAME")
            return Person()
        try:
            name, _, password = base64.b64decode(sealed, validate=True).decode().partition(":")
        except ValueError:
            problem = "The Authorization header cannot be read"
            raise NotSignedIn(problem, "Send it as Basic, with curl: -u NAME") from None
        source = request.client.host if request.client else ""
        return await run_sync(lambda: self._desk.check(name, password, source=source), limiter=self._places)


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
    line, caller = Line(), Caller(desk)
    _add_inspections(api, site, line, caller)
    _add_overview(api, site, caller, queue=lambda: line.length + queue())
    _answer_errors(api)
    return api


def _add_inspections(api: FastAPI, site: Site, line: Line, caller: Caller) -> None:
    From = Annotated[Person, Depends(caller)]
    Text = Annotated[str | None, Form()]
    answers = {code: {"description": said} for code, said in ANSWERS.items()}

    async def inspected(person: Person, image: UploadFile | None, *asked: str | None) -> JSONResponse:
        if image is None:
            raise UsageError("No image was given", "Send one as the file `image`, with curl: -F image=@part.png")
        code, said = await line.run(_inspect, site, person, image, *asked)
        return JSONResponse(said, code)

    @api.post("/api/v1/inspect", summary="Inspect one photo", description=UPLOAD, responses=answers)
    async def inspect(
        person: From, image: UploadFile | None = None, category: Text = None, detector: Text = None
    ) -> JSONResponse:
        return await inspected(person, image, category, detector)

    @api.post(
        "/predict/{name}",
        summary="Inspect one photo, as first published",
        description="As /api/v1/inspect, by one detector: " + ", ".join(f"{n} is {d}" for n, d in DETECTORS.items()),
        responses=answers,
    )
    async def predict(person: From, name: str, image: UploadFile | None = None, category: Text = None) -> JSONResponse:
        if name not in DETECTORS:
            raise errors.UnknownName(f"There is no route /predict/{name}", f"Use one of {', '.join(DETECTORS)}")
        return await inspected(person, image, category, DETECTORS[name])

    @api.post(
        "/api/v1/inspect/batch",
        summary=f"Inspect up to {MOST} photos of one product",
        description=f"{UPLOAD} One object a photo; one that cannot be judged says so in error, and the rest go on.",
        responses=answers,
    )
    async def inspect_batch(
        person: From, images: list[UploadFile] | None = None, category: Text = None, detector: Text = None
    ) -> list[dict]:
        if not images:
            raise UsageError("No images were given", "Send each as a file `images`, with curl: -F images=@part.png")
        if len(images) > MOST:
            problem = f"{len(images)} images were given, at most {MOST} go into one request"
            raise errors.ImageTooLarge(problem, "Send several requests")
        await run_sync(site.require, category)
        found = []
        for image in images:  # each waits for its turn anew, so that a batch keeps nobody waiting for all of it
            try:
                code, said = await line.run(_inspect, site, person, image, category, detector)
            except Busy as error:
                code, said = 503, {"error": str(error)}
            asked = {"path": image.filename, "category": category, "detector": detector, "verdict": None}
            found.append(said if code == 200 else asked | said)
        return found


def _add_overview(api: FastAPI, site: Site, caller: Caller, *, queue: Callable[[], int]) -> None:
    answers = {code: {"description": ANSWERS[code]} for code in (200, 401, 503)}

    @api.get("/api/v1/categories", summary="What can be inspected", responses=answers)
    async def categories(_: Annotated[Person, Depends(caller)]) -> list[dict]:
        return await run_sync(_categories, site)

    @api.get("/health", summary="Is the server ready?", responses={code: answers[code] for code in (200, 503)})
    async def health() -> JSONResponse:
        said = await run_sync(_health, site) | {"queue_length": queue(), "version": anomaly.__version__}
        return JSONResponse(said, 200 if said["ready"] else 503)

    @api.get("/api", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(draw(api.openapi(), str(request.base_url).rstrip("/")))


def _inspect(
    site: Site, person: Person, image: UploadFile, category: str | None, detector: str | None
) -> tuple[int, dict]:
    """Status and answer for one uploaded photo; it is on the record when somebody with a role sent it."""
    with _stored(image) as path:
        try:
            site.require(category)
            try:
                found = site.inspector.inspect(path, category=category, detector=detector or None)
                row = found.to_json()
            except WrongProduct as error:
                found, row = error, report.refused(path.name, detector, error)
            if person.may(OPERATOR):
                site.record(path, found, user=person.name, detector=detector)
        except AnomalyError as error:
            return status(error), {"error": sentence(error, path)}
        except Exception:
            # Whatever broke, the caller must read that nothing was judged; the log has the rest.
            log.exception("inspection of %s as %s failed", path.name, category)
            return 500, {"error": "The program failed on this photo. Try again, and report it if it repeats."}
        return 200, row | {"path": path.name}


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
        return JSONResponse(
            {"error": f"{str(error.detail).rstrip('.')}. The page /api tells what there is."}, error.status_code
        )

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
