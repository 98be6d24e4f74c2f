"""What stands between the network and gradio: a policy for the browser, and doors that stay shut."""

import re

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

# The language chosen on the page, told to gradio before it looks: its own words follow the browser's only.
LANGUAGE = b"""<script>{
  const chosen = localStorage.getItem("language");
  if (chosen) Object.defineProperty(navigator, "language", { value: chosen });
}</script>"""


class Guard:
    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif SHUT.search(scope["path"]):
            await PlainTextResponse("Not offered here.", status_code=403)(scope, receive, send)
        else:
            await self.app(scope, receive, _Answer(send))


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
