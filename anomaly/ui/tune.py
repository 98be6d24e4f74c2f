"""The Tune tab: move both limits, see what they would do to known parts and to the record, save them."""

import math
from html import escape

import gradio as gr

from anomaly.accounts import OPERATOR, SUPERVISOR
from anomaly.errors import AnomalyError, ConflictingSave, UsageError
from anomaly.handlers.desk import Desk
from anomaly.handlers.session import Session, Site
from anomaly.handlers.tune import TuneHandlers
from anomaly.thresholds import RULES
from anomaly.ui import limits, plots
from anomaly.ui.wiring import AT_ONCE, QUICK, SEND_INDEX, html

TITLE, ROLE = "Tune", OPERATOR

# One after the other: each event reads the desk that the one before it left, also where both sliders move at once.
IN_TURN = QUICK | {"concurrency_limit": 1, "concurrency_id": "limits"}
FINEST = 1000  # steps of a slider, about one a pixel
NAMES = {
    "f1": "Best balance of precision and recall (F1)",
    "accuracy": "Fewest wrong verdicts",
    "percentile": "Percentile of good parts",
    "false-alarms": "At most so many false alarms",
    "cost": "Lowest cost of mistakes",
}
TARGETS = {
    "false-alarms": ("At most this many false alarms, in %", 2.0),
    "percentile": ("Percentile of good parts", 99.0),
}


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    Table(TuneHandlers(site), session).connect()


class Table:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: TuneHandlers, session: gr.State):
        self.handlers = handlers
        self.session = session
        self.desk = gr.State(None)
        with gr.Row(elem_id="tune", elem_classes="bench") as self.room:
            with gr.Column():
                self._lay_out_controls()
            with gr.Column():
                self._lay_out_result()

    def _lay_out_controls(self) -> None:
        self.product = gr.Radio([], label="Product", elem_id="tune-product", elem_classes="chips")
        self.detector = gr.Radio([], label="Detector", elem_id="tune-detector", visible=False)
        with gr.Column(visible=False, elem_id="tune-rules") as self.rules:
            self.reviewed = gr.Checkbox(label="Count reviewed parts", elem_id="tune-reviewed")
            self.rule = gr.Radio(
                [(NAMES[rule], rule) for rule in RULES],
                value=None,
                label="Set both limits by a rule",
                elem_id="tune-rule",
            )
            self.target = gr.Number(TARGETS["false-alarms"][1], label="Target", visible=False, elem_id="tune-target")
            with gr.Row(visible=False) as self.costs:
                self.false_alarm_cost = gr.Number(1.0, label="Cost of a false alarm", minimum=0, min_width=120)
                self.escape_cost = gr.Number(10.0, label="Cost of an escape", minimum=0, min_width=120)
            self.apply = gr.Button("Apply the rule", visible=False, elem_id="tune-apply")
            self.refused = html("tune-refused")

    def _lay_out_result(self) -> None:
        self.said = html("tune-said", '<p class="say">Choose a product to see its limits.</p>')
        with gr.Column(visible=False) as self.body:
            self.histogram = html("tune-histogram")
            with gr.Row(elem_id="tune-limits"):
                self.review = gr.Slider(0, 1, label="REVIEW from", buttons=[], elem_id="tune-review")
                self.fail = gr.Slider(0, 1, label="FAIL from", buttons=[], elem_id="tune-fail")
                self.reset = gr.Button("Back to the stored limits", scale=0, elem_id="tune-reset")
            self.figures = html("tune-figures")
            self.what_if = html("tune-what-if")
            with gr.Column(elem_id="tune-save"):
                self.change = html("tune-change")
                with gr.Row(visible=False) as self.sign:
                    self.who = gr.Textbox(label="Your name", max_lines=1, elem_id="tune-who")
                    self.why = gr.Textbox(label="Reason", max_lines=1, scale=2, elem_id="tune-why")
                    self.save = gr.Button("Save these limits", variant="primary", scale=0, elem_id="tune-store")
                self.answer = html("tune-answer")
            self.versions = html("tune-versions", script=SEND_INDEX)

    def connect(self) -> None:
        session, desk = self.session, self.desk
        moved = [desk, self.said, self.refused, self.figures, self.change, self.answer]
        drawn = [*moved, self.histogram, self.review, self.fail, self.versions, self.reviewed]
        opened = [*drawn, self.body, self.detector, self.rules, self.sign, self.what_if]
        costs = [self.false_alarm_cost, self.escape_cost]
        self.room.parent.select(self.arrive, [session], [self.product, self.who], **QUICK)
        self.rule.input(self.ask, [self.rule], [self.target, self.costs, self.apply], **AT_ONCE)
        for event in (
            self.product.input(self.open, [session, self.product], opened, **IN_TURN),
            self.detector.input(self.open, [session, self.product, self.detector], opened, **IN_TURN),
            self.reviewed.input(self.include, [session, desk, self.reviewed], drawn, **IN_TURN),
            self.rule.input(self.choose_rule, [desk, self.rule, *costs], drawn, **IN_TURN),
            self.apply.click(self.by_rule, [desk, self.rule, self.target, *costs], drawn, **IN_TURN),
            self.fail.input(self.move_fail, [desk, self.fail], [*moved, self.review], **IN_TURN),
            self.review.input(self.move_review, [desk, self.review], [*moved, self.fail], **IN_TURN),
            self.reset.click(self.back, [desk], drawn, **IN_TURN),
            self.versions.click(self.restore, [desk], drawn, **IN_TURN | {"trigger_mode": "multiple"}),
            self.save.click(self.store, [session, desk, self.who, self.why], [*opened, self.why], **IN_TURN),
        ):
            event.then(self.judge_record, [session, desk], self.what_if, **QUICK)

    def arrive(self, session: Session) -> dict:
        """A product that was taught meanwhile appears when the tab is opened again, all of them once one signs in."""
        if not session.person.may(OPERATOR):
            return {self.product: gr.update(choices=[])}
        return {self.product: gr.update(choices=self.handlers.products(session)), self.who: session.person.name}

    def open(self, session: Session, category: str, detector: str | None = None) -> dict:
        try:
            desk = self.handlers.open(session, category, detector)
        except AnomalyError as error:
            return {self.desk: None, self.said: _refusal(error), self.body: gr.update(visible=False)}
        return self._opened(session, desk)

    def _opened(self, session: Session, desk: Desk) -> dict:
        names = self.handlers.detectors(session, desk.run.category)
        return self._drawn(desk) | {
            self.body: gr.update(visible=True),
            self.detector: gr.update(choices=list(names), value=desk.run.detector, visible=True),
            self.rules: gr.update(visible=True),
            self.sign: gr.update(visible=session.person.may(SUPERVISOR)),
            self.what_if: "",
        }

    def ask(self, rule: str) -> dict:
        """The numbers that a rule takes."""
        label, value = TARGETS.get(rule, ("", None))
        return {
            self.target: gr.update(label=label, value=value, visible=rule in TARGETS),
            self.costs: gr.update(visible=rule == "cost"),
            self.apply: gr.update(visible=True),
        }

    def choose_rule(self, desk: Desk | None, rule: str, false_alarm_cost: float, escape_cost: float) -> dict:
        return self.by_rule(desk, rule, TARGETS.get(rule, ("", None))[1], false_alarm_cost, escape_cost)

    def by_rule(self, desk: Desk | None, rule: str, target: float | None, alarm: float, escape: float) -> dict:
        if target is not None and rule == "false-alarms":
            target /= 100
        return self._tried(desk, lambda: desk.by_rule(rule, target=target, costs=(alarm or 0, escape or 0)))

    def include(self, session: Session, desk: Desk | None, wanted: bool) -> dict:
        """With what was reviewed since the product was chosen."""
        return self._tried(desk, lambda: self.handlers.refresh(session, desk).include_reviewed(wanted))

    def restore(self, desk: Desk | None, event: gr.EventData) -> dict:
        """A former version, by its button."""
        return self._tried(desk, lambda: desk.restore(getattr(event, "index", None)))

    def back(self, desk: Desk | None) -> dict:
        return self._tried(desk, lambda: desk.restore(len(desk.versions)))

    def move_fail(self, desk: Desk | None, value: float) -> dict:
        return self._moved(desk, lambda: desk.move(fail=value), self.review)

    def move_review(self, desk: Desk | None, value: float) -> dict:
        return self._moved(desk, lambda: desk.move(review=value), self.fail)

    def store(self, session: Session, desk: Desk | None, who: str, why: str) -> dict:
        try:
            desk = self.handlers.save(session, _there(desk), who=who, why=why)
        except ConflictingSave as error:
            return self._opened(session, self.handlers.refresh(session, desk)) | {self.answer: _refusal(error)}
        except AnomalyError as error:
            return {self.answer: _refusal(error)}
        said = f'<p class="say" role="status"><b>Saved.</b> Version {len(desk.versions)} judges from now on.</p>'
        return self._opened(session, desk) | {self.answer: said, self.why: ""}

    def judge_record(self, session: Session, desk: Desk | None) -> str:
        try:
            return limits.what_if(self.handlers.what_if(session, desk)) if desk else ""
        except AnomalyError as error:
            return _refusal(error)

    def _tried(self, desk: Desk | None, verb) -> dict:
        try:
            _there(desk)
            return self._drawn(verb())
        except AnomalyError as error:
            return {self.refused: _refusal(error)}

    def _moved(self, desk: Desk | None, verb, other: gr.Slider) -> dict:
        """Without the histogram: its lines were moved by the page itself."""
        try:
            _there(desk)
            now = verb()
        except AnomalyError as error:
            return {self.refused: _refusal(error)}
        value, before = (now.review, desk.review) if other is self.review else (now.fail, desk.fail)
        return self._changed(now) | ({other: value} if value != before else {})

    def _changed(self, desk: Desk) -> dict:
        return {
            self.desk: desk,
            self.said: limits.on_trial(desk),
            self.figures: limits.known_parts(desk),
            self.change: limits.change(desk),
            self.refused: "",
            self.answer: "",
        }

    def _drawn(self, desk: Desk) -> dict:
        finest = 10 ** math.floor(math.log10(desk.end / FINEST))
        step = next(factor * finest for factor in (1, 2, 5, 10) if desk.end / (factor * finest) <= FINEST)
        digits = max(0, -math.floor(math.log10(finest)))
        scale = {"minimum": round(step, digits), "maximum": desk.end, "step": round(step, digits)}
        return self._changed(desk) | {
            self.histogram: plots.histogram(desk),
            self.review: gr.update(**scale, value=round(desk.review, digits)),
            self.fail: gr.update(**scale, value=round(desk.fail, digits)),
            self.versions: limits.versions(desk),
            self.reviewed: gr.update(value=desk.reviewed, info=_reviewed(desk)),
        }


def _reviewed(desk: Desk) -> str:
    if desk.unread:
        return "The record cannot be read."
    if desk.record is None:
        return "No record is kept on this server."
    return f"{desk.said('ok').size} good and {desk.said('defect').size} defective parts, as people said"


def _there(desk: Desk | None) -> Desk:
    if desk is None:
        raise UsageError("No product is chosen", "Choose one first")
    return desk


def _refusal(error: AnomalyError) -> str:
    return f'<p class="refusal" role="alert">{escape(str(error))}</p>'
