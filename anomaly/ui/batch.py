"""The Batch tab: many photos at once, a gallery of what came out, and a report to take home."""

import math
from collections.abc import Callable
from functools import partial
from html import escape

import gradio as gr

from anomaly.accounts import OPERATOR, SUPERVISOR
from anomaly.errors import AnomalyError
from anomaly.handlers.batch import PAGE, BatchHandlers, Card, Page, Progress
from anomaly.handlers.session import Notice, Session, Site, refusal
from anomaly.report import ERROR, VERDICTS
from anomaly.ui import pieces
from anomaly.ui.photo import Photos
from anomaly.ui.wiring import AT_ONCE, ONCE, QUICK, html

TITLE, ROLE = "Batch", OPERATOR

ALL = "ALL"
GALLERY, TABLE = "Pictures", "Table"
LABELS = ("Download CSV", "Download JSONL", "Report as HTML", "Report as PDF")
WELCOME = Notice("idle", "Add photos or a ZIP", "Choose the product, add the photos, and start.")
STATES = {
    "waiting": "Waiting for another batch to end",
    "running": "Inspecting",
    "done": "Done",
    "stopped": "Stopped; what was done is kept",
    "failed": "Ended early; what was done is kept",
}
ICONS = {ERROR: "refused"}
NOTHING = '<p class="nothing">No photo matches these filters.</p>'


class Download(gr.DownloadButton):
    """A button that hands out a file."""

    is_template = True  # drawn by the browser as gradio's download button

    def example_payload(self):
        return None  # gradio's own example is a file on another server

    def example_value(self):
        return None


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    Room(BatchHandlers(site), session).connect()


class Room:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: BatchHandlers, session: gr.State):
        self.handlers = handlers
        self.session = session
        # Kept by the browser, so that a page that is opened anew finds its batch again.
        self.ticket = gr.BrowserState(None, storage_key="anomaly-batch")
        self.first = gr.State(0)
        self.clock = gr.Timer(1.0, active=False)
        with gr.Row(elem_id="batch", elem_classes="bench") as self.room:
            with gr.Column(elem_id="batch-controls"):
                self._lay_out_controls()
            with gr.Column(elem_id="batch-result"):
                self._lay_out_result()
        shown = [self.progress, self.stop, self.results]
        self.begun = [self.session, self.ticket, self.refusal, self.clock, self.files, *shown]
        self.seen = [self.session, self.first, self.verdict, self.photos, self.pages, self.pager, self.back, self.on]
        self.told = [self.session, self.clock, *shown, *self.downloads, *self.seen[1:]]

    def _lay_out_controls(self) -> None:
        self.product = gr.Radio(
            self.handlers.products(), value=None, label="Product", elem_id="batch-product", elem_classes="chips"
        )
        self.files = Photos(
            label="Photos, or a ZIP of photos", file_count="multiple", height=190, elem_id="batch-files"
        )
        self.start = gr.Button("Inspect all", variant="primary", elem_id="batch-start")
        with gr.Accordion("A folder of the server", open=False, visible=False) as self.server:
            self.folder = gr.Textbox(label="Path on the server", max_lines=1)
            self.start_folder = gr.Button("Inspect the folder")

    def _lay_out_result(self) -> None:
        self.refusal = html("batch-refusal")
        self.progress = html("batch-progress", pieces.notice(WELCOME))
        self.stop = gr.Button("Stop, and keep what is done", visible=False, elem_id="batch-stop")
        with gr.Column(visible=False, elem_id="batch-found") as self.results:
            with gr.Row(elem_id="batch-downloads"):
                self.downloads = [Download(label, size="md") for label in LABELS]
            with gr.Row(elem_id="batch-filters"):
                self.verdict = gr.Radio(_choices({}), value=ALL, label="Verdict", elem_id="batch-verdict")
                self.text = gr.Textbox(label="Name, product or remark contains", max_lines=1)
                self.view = gr.Radio([GALLERY, TABLE], value=GALLERY, label="Show as")
            self.photos = html("batch-photos")
            with gr.Row(elem_id="batch-pager") as self.pages:
                self.back = gr.Button("Previous", size="md")
                self.pager = html("batch-place")
                self.on = gr.Button("Next", size="md")

    def connect(self) -> None:
        session, ticket = self.session, self.ticket
        self.room.parent.select(self.arrive, session, [self.product, self.server, self.clock], **QUICK)
        asked = [session, ticket, self.product]
        self.start.click(self.begin, [*asked, self.files], self.begun, **ONCE)
        self.start_folder.click(self.begin_folder, [*asked, self.folder], self.begun, **ONCE)
        self.stop.click(self.end, [session, ticket], [session, self.refusal, self.stop], **AT_ONCE)
        self.clock.tick(self.tick, [session, ticket], self.told, **ONCE)
        chosen = [session, ticket, self.verdict, self.text, self.view]
        # One listener for the three, so that the last change is answered last.
        gr.on([self.verdict.input, self.text.change, self.view.input], self.look, chosen, self.seen, **AT_ONCE)
        for button, step in ((self.back, -PAGE), (self.on, PAGE)):
            button.click(partial(self.turn, step), [*chosen, self.first], self.seen, **AT_ONCE)

    def arrive(self, session: Session) -> dict:
        """Products that were taught meanwhile appear, and the batch of a page that was left."""
        return {
            self.product: gr.update(choices=self.handlers.products()),
            self.server: gr.update(visible=session.person.may(SUPERVISOR)),
            self.clock: gr.Timer(active=True),
        }

    def begin(self, session: Session, now: str | None, product: str | None, files: list[str]) -> dict:
        return self._begin(session, lambda: self.handlers.start(session, product, files, now=now)) | {self.files: None}

    def begin_folder(self, session: Session, now: str | None, product: str | None, folder: str) -> dict:
        return self._begin(session, lambda: self.handlers.start_folder(session, product, folder, now=now))

    def _begin(self, session: Session, start: Callable[[], str]) -> dict:
        try:
            ticket = start()
        except AnomalyError as error:
            return {self.session: session, self.refusal: pieces.notice(refusal(error, title="Not started"))}
        return {
            self.session: session,
            self.ticket: ticket,
            self.refusal: "",
            self.clock: gr.Timer(active=True),
            self.progress: progress(self.handlers.progress(session, ticket)),
            self.stop: gr.update(visible=True, interactive=True),
            self.results: gr.update(visible=False),
        }

    def end(self, session: Session, ticket: str | None) -> dict:
        try:
            self.handlers.stop(session, ticket)
        except AnomalyError as error:
            return {self.session: session, self.refusal: pieces.notice(refusal(error, title="Not stopped"))}
        return {self.session: session, self.stop: gr.update(interactive=False)}

    def tick(self, session: Session, ticket: str | None) -> dict:
        """Say where the batch stands; show the result once it is over, and then tick no more."""
        now = self.handlers.progress(session, ticket)
        if now is None:
            return {self.session: session, self.clock: gr.Timer(active=False)}
        if not now.over:
            return {self.session: session, self.progress: progress(now), self.stop: gr.update(visible=True)}
        files = self.handlers.downloads(session, ticket) or (None,) * len(LABELS)
        return self._show(session, self.handlers.page(session, ticket, None, "", 0), GALLERY) | {
            self.clock: gr.Timer(active=False),
            self.progress: progress(now),
            self.stop: gr.update(visible=False),
            self.results: gr.update(visible=now.done > 0),
            self.verdict: gr.update(choices=_choices(now.counts), value=ALL),
            **{button: gr.update(value=file, visible=file is not None) for button, file in zip(self.downloads, files)},
        }

    def look(self, session: Session, ticket: str | None, verdict: str, text: str, view: str, first: int = 0) -> dict:
        try:
            page = self.handlers.page(session, ticket, None if verdict == ALL else verdict, text, first)
        except AnomalyError as error:
            return {self.session: session, self.photos: pieces.notice(refusal(error, title="Not shown"))}
        return self._show(session, page, view)

    def turn(self, step: int, *seen) -> dict:
        *chosen, first = seen
        return self.look(*chosen, first + step)

    def _show(self, session: Session, page: Page, view: str) -> dict:
        last = page.first + len(page.cards)
        return {
            self.session: session,
            self.first: page.first,
            self.photos: (table if view == TABLE else gallery)(page.cards),
            self.pages: gr.update(visible=page.matching > PAGE),
            self.pager: f"<p>{page.first + 1:,} to {last:,} of {page.matching:,}</p>",
            self.back: gr.update(interactive=page.first > 0),
            self.on: gr.update(interactive=last < page.matching),
        }


def _choices(counts: dict[str, int]) -> list[tuple[str, str]]:
    named = [(f"{name} {counts.get(name, 0):,}", name) for name in VERDICTS]
    return [(f"All {sum(counts.values()):,}", ALL), *named]


def progress(now: Progress) -> str:
    """Bar, count, rate, time left, and how many of each verdict so far."""
    facts = [f"<b>{now.done:,}</b> of {now.total:,}"]
    if now.done and now.rate:
        facts.append(f"{now.rate:.1f} a second" if now.rate >= 1 else f"{1 / now.rate:.1f} seconds each")
    if now.over:
        facts.append(f"took {_duration(now.seconds)}")
    elif now.state == "running":
        facts.append("time left unknown yet" if now.seconds_left is None else f"{_duration(now.seconds_left)} left")
    counts = "".join(
        f'<li class="{name.lower()}">{_icon(name)}<b>{now.counts[name]:,}</b> {name}</li>' for name in VERDICTS
    )
    said = "".join(f'<p class="said" role="alert">{escape(sentence)}</p>' for sentence in now.said)
    return (
        f'<section class="progress"><h2>{STATES[now.state]}</h2>'
        f'{pieces.bar("Photos inspected", now.done, now.total)}<p class="facts">{" · ".join(facts)}</p>'
        f'<ul aria-label="Verdicts so far">{counts}</ul>{said}</section>'
    )


def gallery(cards: tuple[Card, ...]) -> str:
    """Thumbnails with outlined defects, highest level first."""
    if not cards:
        return NOTHING
    return f'<ul class="tiles">{"".join(map(_tile, cards))}</ul>'


def _tile(card: Card) -> str:
    said = _reading(card)
    # The picture of an unreadable photo is its reason.
    shown = f'<p class="why-not">{escape(card.said)}</p>'
    if card.thumbnail:
        shown = f'<img src="{pieces.data_uri(card.thumbnail)}" alt="{escape(f"{card.name}: {said}")}">'
    remark = f'<p class="remark">{escape(card.said)}</p>' if card.said and card.thumbnail else ""
    return (
        f'<li class="{card.verdict.lower()}">{shown}<p class="head">{_icon(card.verdict)}<b>{card.verdict}</b>'
        f"<span>{said}</span></p><p class='name' translate='no'>{escape(card.name)}</p>"
        f"<p>{escape(card.category)}</p>{remark}</li>"
    )


def table(cards: tuple[Card, ...]) -> str:
    if not cards:
        return NOTHING
    columns = ("Verdict", "Photo", "Product", "Level", "Score", "Limit", "Remark")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = "".join(
        f'<tr class="{card.verdict.lower()}"><td>{_icon(card.verdict)}{card.verdict}</td>'
        f'<th scope="row" translate="no">{escape(card.name)}</th><td>{escape(card.category)}</td>'
        + "".join(f'<td class="n">{text}</td>' for text in _numbers(card))
        + f"<td>{escape(card.said)}</td></tr>"
        for card in cards
    )
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Results"><table class="rows">'
        f'<caption class="unseen">Results, highest level first</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _numbers(card: Card) -> tuple[str, str, str]:
    if card.level is None:
        return "", "", ""
    return f"{card.level:.2f}", pieces.number(card.score), pieces.number(card.threshold)


def _reading(card: Card) -> str:
    return "not judged" if card.level is None else f"{card.level:.2f} × the limit"


def _icon(verdict: str) -> str:
    return pieces.icon(ICONS.get(verdict, verdict))


def _duration(seconds: float) -> str:
    """About how long, as people say it."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
