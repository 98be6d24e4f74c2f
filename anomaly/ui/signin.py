"""Signing in on the page: the control in the masthead, the routes behind it, and which tabs a person sees."""

from html import escape

import anyio
import gradio as gr
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Match, Route

from anomaly.accounts import Desk, Person
from anomaly.api import refused
from anomaly.errors import AnomalyError
from anomaly.handlers.session import Session

# A form that is not one of gradio's: browsers offer to keep and fill in the password. Other tabs of the same browser
# are told of a signing out, so that nothing which only the person before may see stays on the screen.
SCRIPT = """
const others = new BroadcastChannel('sign-in');
others.onmessage = () => location.reload();
element.addEventListener('submit', async event => {
  event.preventDefault();
  const form = event.target, said = form.querySelector('[role=alert]'), button = form.querySelector('button');
  button.disabled = true;
  said.textContent = '';
  try {
    const answer = await fetch('sign-in', {method: 'POST', body: new FormData(form)});
    if (answer.ok) trigger('submit');
    else said.textContent = (await answer.json()).error;
  } catch {
    said.textContent = 'The server does not answer. Check that it is running.';
  }
  button.disabled = false;
});
element.addEventListener('click', async event => {
  if (!event.target.closest('[data-sign-out]')) return;
  await fetch('sign-out', {method: 'POST'});
  others.postMessage('out');
  location.reload();
});
"""
FORM = """<form><label>Name <input name="name" autocomplete="username" maxlength="64" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button type="submit">Sign in</button><p role="alert"></p></form>"""
BY_LINK = "<p>Open the link that the program printed when it was started: it signs you in as supervisor.</p>"


class Door:
    """The way in to one desk: its routes on the server, its control on the page."""

    def __init__(self, desk: Desk):
        self.desk = desk
        self._places = anyio.CapacityLimiter(2)  # the page keeps its threads while somebody guesses

    def routes(self) -> list[Route]:
        """To stand before gradio's own."""
        return [
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            _TokenRoute("/", self.show_token, methods=["GET"]),
        ]

    async def sign_in(self, request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return JSONResponse({"error": "Sign in on the page of this server."}, 403)
        async with request.form(max_files=0, max_fields=4) as form:
            name, password = str(form.get("name", "")), str(form.get("password", ""))
        source = request.client.host if request.client else ""
        try:
            ticket = await run_sync(lambda: self.desk.sign_in(name, password, source=source), limiter=self._places)
        except AnomalyError as error:
            return refused(error)
        return _with_ticket(JSONResponse({"name": name}), request, ticket)

    async def sign_out(self, request: Request) -> Response:
        self.desk.sign_out(request.cookies.get(_cookie(request)))
        answer = JSONResponse({})
        answer.delete_cookie(_cookie(request))
        return answer

    async def show_token(self, request: Request) -> Response:
        """Answer with the page's plain address: the token stays in no address bar, history or referrer."""
        ticket = self.desk.show(request.query_params["token"])
        answer = RedirectResponse("./", 303, {"Cache-Control": "no-store"})
        return _with_ticket(answer, request, ticket) if ticket else answer

    def person(self, request: Request | gr.Request) -> Person:
        return self.desk.person(request.cookies.get(_cookie(request)))

    def connect(self, app: gr.Blocks, masthead: gr.HTML, session: gr.State, tabs: dict[gr.Tab, str]) -> None:
        """Show who is signed in, and the tabs that this person may see, whenever a page is opened or somebody signs in.

        Args:
            tabs: with the least role that sees each.
        """

        def enter(session: Session, request: gr.Request) -> dict:
            person = self.desk.seat(request.cookies.get(_cookie(request)), session)
            seen = {tab: gr.update(visible=person.may(role)) for tab, role in tabs.items()}
            return {session_state: session, masthead: gr.update(value=self.control(person))} | seen

        session_state = session
        for event in (app.load, masthead.submit):
            event(
                enter,
                session,
                [session, masthead, *tabs],
                show_progress="hidden",
                api_visibility="private",
                queue=False,
            )

    def control(self, person: Person) -> str:
        if person != Person():
            shown = f" {person.role}" if person.name != person.role else ""  # the holder of the token has no name
            return (
                f'<p class="account"><span><b>{escape(person.name)}</b>{shown}</span>'
                '<button type="button" data-sign-out>Sign out</button></p>'
            )
        if self.desk.file is None and self.desk.token is None:
            return ""  # nobody can sign in here
        return (
            '<details class="account"><summary>Sign in</summary>'
            f"<div>{FORM if self.desk.file else BY_LINK}</div></details>"
        )


class _TokenRoute(Route):
    """The page's own address, with a token: without one it is gradio's."""

    def matches(self, scope) -> tuple[Match, dict]:
        if scope["type"] != "http" or "token" not in Request(scope).query_params:
            return Match.NONE, {}
        return super().matches(scope)


def _cookie(request: Request | gr.Request) -> str:
    """Browsers keep one jar for all ports of a host, where two servers must not throw each other's ticket away."""
    return f"ticket-{request.url.port or 'standard'}"


def _with_ticket(answer: Response, request: Request, ticket: str) -> Response:
    # Lax: sent when a link to the page is followed, but not with what another site's page sends in secret.
    answer.set_cookie(_cookie(request), ticket, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return answer
