"""What stands between the network and gradio: a policy for the browser, doors that stay shut, and limits of size."""

import json
import math
import re
from collections.abc import Callable

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomaly import api
from anomaly.accounts import OPERATOR, Person

# The browser itself holds the page to its own server. Inline script and eval are what gradio's page is made of.
POLICY = (
    "default-src 'self'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; "
    "font-src 'self' data:; "
    "connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; "
    "object-src 'none'; "
    "base-uri 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
# Routes of gradio that this app has no use for and that fetch, convert or store for a visitor.
SHUT = re.compile(r"/gradio_api/(file=https?:|proxy=|deep_link|process_recording|vibe-|run-history)", re.IGNORECASE)
# Link previews of gradio's own: they name its brand and point to pictures on other servers.
PREVIEWS = re.compile(rb'\s*<meta\s+(?:property="og:|name="twitter:)[^>]*>')
OVERHEAD = api.MEGABYTE  # of the form around a photo
OTHERS = 16 * api.MEGABYTE + OVERHEAD  # what a page sends besides files is words and numbers
UPLOAD = "/gradio_api/upload"
LINGER = 2.0  # seconds

# The language chosen on the page, told to gradio before it looks: its own words follow the browser's only.
LANGUAGE = b"""<script>{
  const chosen = localStorage.getItem("language");
  if (chosen) Object.defineProperty(navigator, "language", { value: chosen });
}</script>"""


class Guard:
    """Around the whole app.

    Args:
        app: gradio's; rest: answers the paths of `api.PATHS` in its place.
        person: who sends a request.
    """

    def __init__(self, app: ASGIApp, *, rest: ASGIApp, person: Callable[[Request], Person]):
        self.app = app
        self.rest = rest
        self.person = person

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        app = self.rest if api.PATHS.fullmatch(scope["path"]) else self.app
        answer = _Answer(send)
        if SHUT.search(scope["path"]):
            await PlainTextResponse("Not offered here.", status_code=403)(scope, receive, answer)
            return
        body = _Body(scope, receive, self._most(scope))
        if not body.over:
            try:
                await app(scope, body, body.unless_over(answer))
            except MultiPartException:
                if not body.over:
                    raise
        if body.over:
            await body.refuse(answer)

    def _most(self, scope: Scope) -> float:
        """Bytes that a request may bring along."""
        path = scope["path"].rstrip("/")
        if path == UPLOAD:
            # Somebody who works here may send a whole batch at once; gradio limits each of its files.
            return math.inf if self.person(Request(scope)).may(OPERATOR) else api.LARGEST + OVERHEAD
        if path == "/api/v1/inspect/batch":
            return api.LARGEST_BATCH + OVERHEAD
        return api.LARGEST + OVERHEAD if path.startswith(("/api", "/predict")) else OTHERS


class _Body:
    """Hands the request on piece by piece, and stops where it becomes too large: nothing is kept of it."""

    def __init__(self, scope: Scope, receive: Receive, most: float):
        self.receive = receive
        self.most = most
        self.path = scope["path"]
        said = Headers(scope=scope).get("content-length", "")
        self.over = said.isdecimal() and int(said) > most
        self.read = 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.read += len(message.get("body", b""))
        self.over = self.read > self.most
        # Of all exceptions this is the one on which gradio deletes what it has stored so far.
        if self.over:
            raise MultiPartException("Exceeds the maximum allowed size")
        if message["type"] == "http.disconnect" and self.path.rstrip("/") == UPLOAD:
            raise MultiPartException("The connection was closed")
        return message

    def unless_over(self, send: Send) -> Send:
        async def send_on(message: Message) -> None:
            if not self.over:
                await send(message)

        return send_on

    async def refuse(self, send: Send) -> None:
        """Say so, and read on for a moment: whoever is still sending would otherwise meet a closed door, not words."""
        said = f"The upload is too large, at most {self.most // api.MEGABYTE - 1:.0f} MB are taken at once."
        said += " Send fewer or smaller files."
        kind = "application/json" if api.PATHS.fullmatch(self.path) else "text/plain; charset=utf-8"
        words = json.dumps({"error": said}) if kind == "application/json" else said
        headers = [(b"content-type", kind.encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": words.encode(), "more_body": True})
        with anyio.move_on_after(LINGER):
            while (await self.receive()).get("more_body"):
                pass
        await send({"type": "http.response.body"})


class _Answer:
    """Sends one response on, with our headers; an HTML page is held back until whole, to be cleaned."""

    def __init__(self, send: Send):
        self.send = send
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            if headers.get("content-type", "").startswith("text/html"):
                self.start = message
                return
        elif self.start is not None:
            self.body += message.get("body", b"")
            if message.get("more_body"):
                return
            page = PREVIEWS.sub(b"", self.body).replace(b"<head>", b"<head>" + LANGUAGE, 1)
            MutableHeaders(scope=self.start)["content-length"] = str(len(page))
            await self.send(self.start)
            message = {"type": "http.response.body", "body": page}
            self.start = None
        await self.send(message)
