"""The Teach tab: photos of good parts in, a product that judges out; new versions of it, and the way back."""

import time

import gradio as gr

from anomaly import detectors
from anomaly.accounts import SUPERVISOR
from anomaly.errors import AnomalyError
from anomaly.handlers.session import Session, Site
from anomaly.handlers.teach import KINDS, MINUTES, TeachHandlers, Tray, choices
from anomaly.intake import FEWEST, MOST
from anomaly.lessons import DONE
from anomaly.ui import lesson as look
from anomaly.ui.photo import Photos
from anomaly.ui.wiring import AT_ONCE, ONCE, QUICK, html

TITLE, ROLE = "Teach", SUPERVISOR

NEW = ""  # in the list of products: none of them yet
KEPT = 3600  # seconds that photos wait to be learned from
# One look through photos at a time: each keeps a core busy.
LOOKING = QUICK | {"concurrency_limit": 1, "concurrency_id": "intake"}
CLICKS = QUICK | {"trigger_mode": "multiple", "concurrency_limit": 1, "concurrency_id": "tray"}

# The photo turns at once; the server hears which one, and what it shall be now.
SEND_PHOTO = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-index]');
  if (!button || button.disabled) return;
  const keep = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', keep);
  trigger('click', {index: Number(button.dataset.index), keep});
});"""

SEND_VERSION = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-stamp]');
  if (!button) return;
  button.disabled = true;
  const {category, stamp, detector} = button.dataset;
  trigger('click', {category, stamp, detector});
});"""

# A box is drawn with finger, pen or mouse, or set by its four numbers; it is sent when it is done.
DRAW = """let from = null;
const fields = () => [...element.querySelectorAll('input[data-side]')];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const show = sides => {
  const box = element.querySelector('.box'), whole = sides[2] >= 100 && sides[3] >= 100;
  box.hidden = whole;
  ['left', 'top', 'width', 'height'].forEach((side, i) => box.style[side] = sides[i] + '%');
  fields().forEach((field, i) => field.value = Math.round(sides[i]));
};
const send = sides => trigger('input', {region: sides.map(side => side / 100)});
const place = event => {
  const frame = element.querySelector('.canvas').getBoundingClientRect();
  return [100 * clamp((event.clientX - frame.left) / frame.width, 0, 1),
          100 * clamp((event.clientY - frame.top) / frame.height, 0, 1)];
};
const span = event => {
  const to = place(event);
  return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
};
element.addEventListener('pointerdown', event => {
  if (!event.target.closest('.canvas')) return;
  from = place(event);
  event.target.closest('.canvas').setPointerCapture(event.pointerId);
  event.preventDefault();
});
element.addEventListener('pointermove', event => { if (from) show(span(event)); });
element.addEventListener('pointerup', event => {
  if (!from) return;
  let sides = span(event);
  from = null;
  if (sides[2] < 5 || sides[3] < 5) sides = [0, 0, 100, 100];
  show(sides); send(sides);
});
element.addEventListener('change', event => {
  if (!event.target.closest('input[data-side]')) return;
  const [left, top, width, height] = fields().map(field => clamp(Number(field.value) || 0, 0, 100));
  const sides = [Math.min(left, 95), Math.min(top, 95)];
  sides.push(clamp(width, 5, 100 - sides[0]), clamp(height, 5, 100 - sides[1]));
  show(sides); send(sides);
});
element.addEventListener('click', event => {
  if (!event.target.closest('button.whole')) return;
  show([0, 0, 100, 100]); send([0, 0, 100, 100]);
});"""

WELCOME = (
    f"Drop {FEWEST} to {MOST} photos of good parts, or a ZIP of them. They are looked through first: repeated, blurred "
    "and odd ones are shown to you before anything is learned."
)


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    handlers = TeachHandlers(site)
    handlers.sweep()
    School(handlers, session).connect()


class School:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: TeachHandlers, session: gr.State):
        self.handlers = handlers
        self.session = session
        self.tray = gr.State(None, time_to_live=KEPT)
        self.region = gr.State(None)
        self.seen = gr.State(0)  # repaired pictures that the page shows already: they are large, a tick is not
        self.clock = gr.Timer(1.0, active=False)
        with gr.Row(elem_id="teach", elem_classes="bench") as self.room:
            with gr.Column(elem_id="teach-controls"):
                self._lay_out_controls()
            with gr.Column(elem_id="teach-result"):
                self._lay_out_result()
        self.begun = [self.session, self.clock, self.live, self.repairs, self.seen, self.outcome, self.stop]
        self.begun += [self.cancel, self.close, self.setup, self.again, self.chosen]
        self.emptied = [self.session, self.tray, self.region, self.photos, self.sum, self.setup, self.again]
        self.emptied += [self.chosen, self.place, self.drawing]
        self.ticked = [*dict.fromkeys([*self.begun, *self.emptied]), self.files, self.versions, self.product]

    def _lay_out_controls(self) -> None:
        self.product = gr.Radio(
            [("A new product", NEW)], value=NEW, label="Product", elem_id="teach-product", elem_classes="chips"
        )
        self.facts = html("teach-facts")
        self.files = Photos(
            label="Photos of good parts, or a ZIP of them", file_count="multiple", height=170, elem_id="teach-files"
        )
        self.reviewed = gr.Checkbox(False, label="Add the reviewed parts", visible=False, elem_id="teach-reviewed")
        with gr.Column(visible=False, elem_id="teach-setup") as self.setup:
            self.title = gr.Textbox(label="Name", max_lines=1, max_length=60, elem_id="teach-name")
            self.kind = gr.Radio(
                [("One part on a ground", KINDS[0]), ("A surface that fills the photo", KINDS[1])],
                value=KINDS[0],
                label="What a photo shows",
            )
            self.names = gr.CheckboxGroup(
                choices(),
                value=list(detectors.USUAL),
                label="Detectors",
                info="mahalanobis takes a minute or two, the others as long as the budget lets them.",
                elem_id="teach-detectors",
            )
            self.minutes = gr.Number(10, label="Time budget in minutes", minimum=MINUTES[0], maximum=MINUTES[1])
            self.start = gr.Button("Teach", variant="primary", elem_id="teach-start")
        with gr.Column(visible=False, elem_id="teach-again") as self.again:
            self.name = gr.Radio([], label="Detector")
            self.budget = gr.Number(10, label="Time budget in minutes", minimum=MINUTES[0], maximum=MINUTES[1])
            self.restart = gr.Button("Train a new version", variant="primary", elem_id="teach-restart")

    def _lay_out_result(self) -> None:
        self.live = html("teach-live", look.words("Teach a product", WELCOME))
        with gr.Row(elem_id="teach-buttons"):
            self.stop = gr.Button("Stop and keep", visible=False, elem_id="teach-stop")
            self.cancel = gr.Button("Cancel, keep nothing", visible=False, elem_id="teach-cancel")
            self.close = gr.Button("Close", visible=False, elem_id="teach-close")
        self.repairs = html("teach-repairs")
        self.outcome = html("teach-outcome", script=SEND_VERSION)
        with gr.Column(visible=False, elem_id="teach-chosen") as self.chosen:
            self.sum = html("teach-sum")
            self.photos = html("teach-photos", script=SEND_PHOTO)
            with gr.Accordion("Region of interest", open=False, elem_id="teach-place") as self.place:
                self.drawing = html("teach-region", script=DRAW)
        self.versions = html("teach-versions", script=SEND_VERSION)

    def connect(self) -> None:
        session = self.session
        offered = [session, self.product, self.clock]
        self.room.parent.select(self.open, [session], offered, **AT_ONCE)
        chosen = [*self.emptied, self.facts, self.files, self.reviewed, self.name, self.versions, self.live]
        self.product.input(self.choose, [session, self.product], chosen, **AT_ONCE)
        given = [session, self.product, self.files, self.reviewed]
        for event in (self.files.upload, self.files.delete, self.files.clear, self.reviewed.input):
            event(self.check, given, [*self.emptied, self.live], **LOOKING)
        self.photos.click(self.pick, [session, self.tray], [session, self.sum], **CLICKS)
        self.drawing.input(self.draw, None, self.region, **AT_ONCE)
        wanted = [session, self.tray, self.title, self.kind, self.region, self.names, self.minutes]
        self.start.click(self.teach, wanted, self.begun, **AT_ONCE)
        self.restart.click(self.refit, [session, self.tray, self.name, self.budget], self.begun, **AT_ONCE)
        self.clock.tick(self.tick, [session, self.product, self.seen, self.tray], self.ticked, **ONCE)
        self.stop.click(self.end, [session], [session, self.stop], **AT_ONCE)
        self.cancel.click(self.abandon, [session], [session, self.cancel], **AT_ONCE)
        self.close.click(self.dismiss, [session], self.begun, **AT_ONCE)
        for table in (self.versions, self.outcome):
            table.click(self.activate, [session, self.product], [session, self.versions, self.outcome], **AT_ONCE)

    def open(self, session: Session) -> dict:
        """The tab comes into view: what there is to add to, and whether something runs."""
        try:
            choices = [("A new product", NEW), *self.handlers.products(session)]
        except AnomalyError:
            return {self.session: session}
        return {self.session: session, self.product: gr.update(choices=choices), self.clock: gr.Timer(active=True)}

    def choose(self, session: Session, category: str) -> dict:
        empty = self._empty(session) | {self.files: None, self.facts: "", self.versions: ""}
        empty |= {self.reviewed: gr.update(visible=False, value=False)}
        empty |= {self.live: look.words("Teach a product", WELCOME)}
        if category == NEW:
            return empty
        try:
            known = self.handlers.lessons(session, category)
            table = look.versions(self.handlers.versions(session, category))
        except AnomalyError as error:
            return empty | {self.live: look.words("Not possible", str(error), "refused")}
        label = f"Add the {known.reviewed} parts of the record that people called OK"
        return empty | {
            self.facts: look.facts(known),
            self.reviewed: gr.update(visible=known.reviewed > 0, label=label, value=False),
            self.name: gr.update(choices=list(known.detectors), value=known.detectors[0]),
            self.versions: table,
            self.live: look.words(
                f"More photos for {known.title}",
                "A new version is trained beside the one in use. Both are compared, and you choose.",
            ),
        }

    def check(self, session: Session, category: str, files: list[str], reviewed: bool):
        if not files and not reviewed:
            yield self._empty(session)
            return
        shown = 0.0
        yield self._empty(session)
        try:
            for checked in self.handlers.check(session, files, category=category or None, reviewed=reviewed):
                if checked.tray is not None:
                    yield self._full(session, checked.tray)
                elif time.monotonic() > shown + 0.4:
                    shown = time.monotonic()
                    yield {self.live: look.looking(checked)}
        except AnomalyError as error:
            yield {self.live: look.words("Not taken", str(error), "refused")}

    def _full(self, session: Session, tray: Tray) -> dict:
        sample = self.handlers.sample(session, tray) if tray.category is None else None
        return {
            self.session: session,
            self.tray: tray,
            self.live: "",
            self.sum: look.summary(tray),
            self.photos: look.tray(tray),
            **self._asking(tray),
            self.place: gr.update(visible=sample is not None),
            self.drawing: look.sample(sample),
        }

    def _empty(self, session: Session) -> dict:
        nothing = {self.session: session, self.tray: None, self.region: None, self.photos: "", self.sum: ""}
        return nothing | self._asking(None) | {self.drawing: ""}

    def _asking(self, tray: Tray | None) -> dict:
        """What a person may set, of photos that wait; nothing without any."""
        return {
            self.chosen: gr.update(visible=tray is not None),
            self.setup: gr.update(visible=tray is not None and tray.category is None),
            self.again: gr.update(visible=tray is not None and tray.category is not None),
        }

    def pick(self, session: Session, tray: Tray | None, event: gr.EventData) -> dict:
        if tray is None:
            return {self.session: session}
        try:
            self.handlers.choose(session, tray, getattr(event, "index", None), getattr(event, "keep", False) is True)
        except AnomalyError as error:
            gr.Warning(str(error))
        return {self.session: session, self.sum: look.summary(tray)}

    def draw(self, event: gr.EventData) -> dict:
        return {self.region: getattr(event, "region", None)}

    def teach(self, session: Session, tray, title, kind, region, names, minutes) -> dict:
        return self._begin(
            session,
            lambda: self.handlers.teach(
                session, tray, title=title, kind=kind, region=region, names=names, minutes=minutes
            ),
        )

    def refit(self, session: Session, tray: Tray | None, detector: str, minutes: float) -> dict:
        return self._begin(session, lambda: self.handlers.refit(session, tray, detector=detector, minutes=minutes))

    def _begin(self, session: Session, start) -> dict:
        try:
            lesson = start()
        except AnomalyError as error:
            return {self.session: session, self.live: look.words("Not begun", str(error), "refused")}
        return self._running(session, lesson) | {self.clock: gr.Timer(active=True)}

    def _running(self, session: Session, lesson) -> dict:
        return {
            self.session: session,
            self.live: look.live(lesson),
            self.outcome: "",
            self.stop: gr.update(visible=True, interactive=not lesson.stopping),
            self.cancel: gr.update(visible=True, interactive=not lesson.cancelling),
            self.close: gr.update(visible=False),
            **self._asking(None),
        }

    def tick(self, session: Session, category: str, seen: int, tray: Tray | None) -> dict:
        """Show where the lesson stands; once it is over, show the result and tick no more."""
        try:
            lesson = self.handlers.watch(session)
        except AnomalyError:
            lesson = None
        if lesson is None:
            return {self.session: session, self.clock: gr.Timer(active=False)}
        preview = lesson.preview()
        count = len(preview.repairs) if preview else 0
        pictures = {} if count == seen else {self.repairs: look.repairs(lesson), self.seen: count}
        if look.running(lesson):
            return self._running(session, lesson) | pictures
        over = {
            self.session: session,
            self.clock: gr.Timer(active=False),
            self.live: look.live(lesson),
            self.stop: gr.update(visible=False),
            self.cancel: gr.update(visible=False),
            self.close: gr.update(visible=True),
        }
        if lesson.state != DONE:  # the photos are still there: change what was wrong, and try again
            return pictures | over | self._asking(tray)
        named = self.handlers.products(session)
        # Photos that came since, on a page that was loaded again, wait for a lesson of their own.
        learned = self._empty(session) | {self.files: None} if tray is not None and tray.learned else {}
        return (
            pictures
            | over
            | learned
            | {
                self.outcome: look.result(lesson.title, lesson.result),
                self.versions: self._versions(session, category),
                self.product: gr.update(choices=[("A new product", NEW), *named]),
            }
        )

    def _versions(self, session: Session, category: str) -> str:
        return look.versions(self.handlers.versions(session, category)) if category != NEW else ""

    def end(self, session: Session) -> dict:
        self.handlers.stop(session)
        return {self.session: session, self.stop: gr.update(interactive=False)}

    def abandon(self, session: Session) -> dict:
        self.handlers.cancel(session)
        return {self.session: session, self.cancel: gr.update(interactive=False)}

    def dismiss(self, session: Session) -> dict:
        self.handlers.close(session)
        return {
            self.session: session,
            self.live: look.words("Teach a product", WELCOME),
            self.repairs: "",
            self.seen: 0,
            self.outcome: "",
            self.close: gr.update(visible=False),
        }

    def activate(self, session: Session, category: str, event: gr.EventData) -> dict:
        asked = [str(getattr(event, name, "")) for name in ("category", "stamp", "detector")]
        try:
            self.handlers.activate(session, *asked)
        except AnomalyError as error:
            gr.Warning(str(error))
            return {self.session: session, self.versions: self._versions(session, category)}
        gr.Info(f"{asked[0]} is judged by this version of {asked[2]} from now on.")
        return {self.session: session, self.outcome: "", self.versions: self._versions(session, category)}
