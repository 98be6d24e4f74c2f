"""The Inspect tab: choose a product, add a photo, read the verdict."""

import gradio as gr

from anomaly.accounts import VISITOR
from anomaly.errors import AnomalyError
from anomaly.handlers.inspect import STORED, InspectHandlers
from anomaly.handlers.session import Notice, Session, Site, refusal
from anomaly.ui import pieces
from anomaly.ui.photo import Photo, drop_zone
from anomaly.ui.wiring import AT_ONCE, QUICK, SEND_INDEX, html

TITLE, ROLE = "Inspect", VISITOR

# An event repeated by "always_last" reads its components anew but carries the first click's data, here its index.
CLICKS = QUICK | {"trigger_mode": "multiple", "concurrency_limit": 1, "concurrency_id": "clicks"}
# One network at a time for everybody: two at once on the same cores would each take twice as long.
NETWORK = QUICK | {"concurrency_limit": 1, "concurrency_id": "network"}


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    handlers = InspectHandlers(site)
    Bench(handlers, session).connect()
    publish(handlers)


class Bench:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: InspectHandlers, session: gr.State):
        self.handlers = handlers
        self.session = session
        with gr.Row(elem_id="bench", elem_classes="bench") as self.room:
            with gr.Column(elem_id="controls"):
                self._lay_out_controls()
            with gr.Column(elem_id="result"):
                self._lay_out_result()
        self.pictures = {
            self.original: pieces.original,
            self.reconstruction: pieces.reconstruction,
            self.heatmap: pieces.heatmap,
        }
        said = [self.verdict, self.switch, self.tuning, self.limit]
        self.result = [self.session, *said, self.panels, *self.pictures, self.regions, self.ask, self.why]

    def _lay_out_controls(self) -> None:
        handlers = self.handlers
        self.product = gr.Radio(
            handlers.site.products(), value=None, label="Product", elem_id="product", elem_classes="chips"
        )
        self.hint = html("hint", '<p class="hint">Choose a product first.</p>')
        self.photo = drop_zone("Photo", "photo", visible=False)
        self.examples = html("examples", script=SEND_INDEX)
        self.detector = gr.Radio(
            handlers.site.detectors(),
            value=None,
            label="Detector",
            elem_id="detector",
            elem_classes="chips",
            visible=False,
        )

    def _lay_out_result(self) -> None:
        self.verdict = html("verdict", pieces.notice(self.handlers.welcome()))
        self.switch = gr.Button(elem_id="switch", visible=False)
        with gr.Row(elem_id="tuning", visible=False) as self.tuning:
            self.limit = gr.Slider(
                1,
                3 * STORED,
                value=STORED,
                step=1,
                label="Limit, in % of the stored one",
                info="Moving it shows what another limit would say. Nothing is saved.",
                buttons=[],
                scale=4,
                elem_id="limit",
            )
            self.reset = gr.Button("Reset to stored limit", elem_id="reset", scale=0)
        with gr.Row(elem_id="panels", visible=False) as self.panels:
            self.original = html("original")
            self.reconstruction = html("reconstruction")
            self.heatmap = html("heatmap")
        self.regions = html("regions", pieces.legend())
        self.ask = gr.Button("Why? Show a good part beside it", elem_id="ask", visible=False)
        self.why = html("why")

    def connect(self) -> None:
        session, result = self.session, self.result
        offered = [self.hint, self.photo, self.detector, self.examples]
        # A product that was taught meanwhile appears when the tab is opened again.
        listed = self.room.parent.select
        listed(lambda: gr.update(choices=self.handlers.site.products()), None, self.product, **QUICK)
        for event in (
            self.product.input(self.choose_product, [session, self.product], [*result, *offered], **QUICK),
            self.detector.input(self.choose_detector, [session, self.detector], result, **QUICK),
            self.photo.input(self.take_photo, [session, self.photo], [*result, self.photo], **QUICK),
            self.examples.click(self.take_example, [session], result, **CLICKS),
            self.switch.click(self.switch_product, [session], [*result, *offered, self.product], **QUICK),
        ):
            event.then(self.run_network, [session], result, **NETWORK)
        moved = [session, self.verdict, self.heatmap, self.regions]
        self.limit.input(self.move_limit, [session, self.limit], moved, **AT_ONCE)
        self.reset.click(self.reset_limit, [session], [self.limit, *moved], **AT_ONCE)
        self.ask.click(self.explain, [session], [session, self.ask, self.why], **NETWORK)

    def choose_product(self, session: Session, category: str | None) -> dict:
        try:
            product = self.handlers.choose_product(session, category)
        except AnomalyError as error:
            return self._clear(session, refusal(error))
        return self._clear(session) | {
            self.hint: gr.update(visible=False),
            self.photo: gr.update(visible=True, value=None),
            self.detector: gr.update(choices=list(product.detectors), value=product.active, visible=True),
            self.examples: pieces.examples(product.examples),
        }

    def switch_product(self, session: Session) -> dict:
        """To the product that the refused photo shows; the photo stays."""
        category = session.shown
        if category is None:  # a click that came late: the refused photo is gone
            return {self.session: session}
        return self.choose_product(session, category) | {self.product: category}

    def choose_detector(self, session: Session, detector: str) -> dict:
        self.handlers.choose_detector(session, detector)
        return self._clear(session)

    def take_photo(self, session: Session, path: str | None) -> dict:
        try:
            self.handlers.take_photo(session, path)
        except AnomalyError as error:
            return self._clear(session, refusal(error)) | {self.photo: None}
        # The drop zone is free again at once: the photo itself is shown beside its verdict.
        return self._clear(session) | {self.photo: None}

    def take_example(self, session: Session, event: gr.EventData) -> dict:
        try:
            self.handlers.take_example(session, getattr(event, "index", None))
        except AnomalyError as error:
            return self._clear(session, refusal(error))
        return self._clear(session)

    def run_network(self, session: Session) -> dict:
        report = self.handlers.inspect(session)
        if report is None:
            return {self.session: session}
        if isinstance(report, Notice):
            return self._clear(session, report)
        span = report.slider
        return {
            self.session: session,
            self.verdict: pieces.banner(report),
            self.tuning: gr.update(visible=True),
            self.limit: gr.update(minimum=span.minimum, maximum=span.maximum, step=span.step, value=STORED),
            self.panels: gr.update(visible=True),
            self.regions: pieces.regions(report),
            self.ask: gr.update(visible=True),
        } | {panel: draw(report) for panel, draw in self.pictures.items()}

    def explain(self, session: Session) -> dict:
        found = self.handlers.explain(session)
        if found is None:
            return {self.session: session}
        return {self.session: session, self.ask: gr.update(visible=False), self.why: pieces.why(found)}

    def move_limit(self, session: Session, percent: float) -> dict:
        """Only what the limit changes is sent, so that the slider answers while it is dragged."""
        report = self.handlers.move_limit(session, percent)
        if report is None:
            return {self.session: session}
        if isinstance(report, Notice):
            return {self.session: session, self.verdict: pieces.notice(report)}
        return {
            self.session: session,
            self.verdict: pieces.banner(report),
            self.heatmap: pieces.heatmap(report),
            self.regions: pieces.regions(report),
        }

    def reset_limit(self, session: Session) -> dict:
        return self.move_limit(session, STORED) | {self.limit: STORED}

    def _clear(self, session: Session, said: Notice | None = None) -> dict:
        """Take the old verdict away before anything else happens; say `said`, or what the page waits for."""
        said = said or self.handlers.waiting(session)
        busy = said.kind == "busy"
        return {
            self.session: session,
            self.verdict: pieces.notice(said),
            self.switch: gr.update(value=f"Inspect as {said.switch}", visible=bool(said.switch)),
            self.tuning: gr.update(visible=False),
            self.panels: gr.update(visible=busy),
            self.regions: pieces.legend() if said.kind == "idle" else "",
            self.ask: gr.update(visible=False),
            self.why: "",
        } | {panel: pieces.empty_panel(panel.elem_id.capitalize()) if busy else "" for panel in self.pictures}


def publish(handlers: InspectHandlers) -> None:
    """The public endpoints, for scripts: /inspect and /categories. They only read; their components are never drawn."""

    def inspect(category: str | None, image: str | None, detector: str | None = None) -> dict:
        """Inspect one photo; gives the same JSON as `python -m anomaly inspect --json`."""
        return handlers.inspect_json(category, image, detector)

    def categories() -> dict:
        """What can be inspected: the title of each category by its name."""
        return {name: title for title, name in handlers.site.products()}

    with gr.Row(visible=False):
        asked = [gr.Textbox(label="category"), Photo(label="image"), gr.Textbox(label="detector")]
        found = gr.JSON(label="inspection")
        public = {"api_visibility": "public", "trigger_mode": "multiple"}
        gr.Button().click(inspect, asked, found, api_name="inspect", **NETWORK | public)
        gr.Button().click(categories, None, gr.JSON(label="categories"), api_name="categories", **QUICK | public)
