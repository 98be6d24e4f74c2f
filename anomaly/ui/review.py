"""The Review tab: a recorded part, a key, the next part; and who agrees with whom."""

from html import escape

import gradio as gr

from anomaly.accounts import OPERATOR
from anomaly.defects import spoken
from anomaly.errors import AnomalyError
from anomaly.handlers.review import LONGEST_TYPE, SPOT_CHECK, UNSURE, WAITING, Desk, Part, ReviewHandlers
from anomaly.handlers.session import Notice, Session, Site, refusal
from anomaly.monitor import Agreement
from anomaly.ui import charts, pieces
from anomaly.ui.wiring import QUICK, html

TITLE, ROLE = "Review", OPERATOR

EVERY = "All products"
QUEUES = [
    ("REVIEW and ANOMALY, not judged yet", WAITING),
    ("Said unsure", UNSURE),
    ("Spot check of OK parts", SPOT_CHECK),
]
WORDS = {"ok": "OK", "defect": "Defect", "unsure": "Unsure"}

ARROWS = {"arrowleft": ("←", "ArrowLeft"), "arrowright": ("→", "ArrowRight")}

# A button sends its number and word with the click: a key pressed before the next part is drawn judges nothing.
SEND = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-do]');
  if (button) trigger('click', {...button.dataset});
});
element.addEventListener('submit', event => {
  event.preventDefault();
  const box = event.target.elements.type;
  trigger('click', {...event.target.dataset, type: box.value});
  box.value = '';
  box.blur();  // the same box serves the next part: what is typed from here on are keys again
});"""


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    Room(ReviewHandlers(site), session).connect()


class Room:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: ReviewHandlers, session: gr.State):
        self.handlers, self.session = handlers, session
        self.desk = gr.State(Desk(), time_to_live=3600)
        with gr.Column(elem_id="review") as self.column:
            with gr.Row(elem_classes="filters"):
                self.product = gr.Radio([EVERY], value=EVERY, label="Product", elem_id="review-product")
                self.queue = gr.Radio(QUEUES, value=WAITING, label="Queue", elem_id="review-queue")
            self.part = html("review-part", script=SEND)
            self.agreement = html("review-agreement")

    def connect(self) -> None:
        asked, shown = [self.session, self.desk, self.product, self.queue], [self.desk, self.part]
        counted = ([self.session, self.product], self.agreement)
        tab = self.column.parent  # parts that came in since are in the queue when the tab is opened again
        events = [
            tab.select(self.products, self.session, self.product, **QUICK).then(self.lay_out, asked, shown, **QUICK),
            self.product.input(self.lay_out, asked, shown, **QUICK),
            self.queue.input(self.lay_out, asked, shown, **QUICK),
            self.part.click(self.act, [self.session, self.desk], shown, **QUICK | {"trigger_mode": "once"}),
        ]
        for event in events:
            event.then(self.count, *counted, **QUICK)

    def products(self, session: Session):
        """Names are no secret, but the list is of use to nobody else."""
        if not session.person.may(ROLE):
            return gr.update()
        return gr.update(choices=[EVERY, *self.handlers.site.products()])

    def lay_out(self, session: Session, desk: Desk, product: str, queue: str) -> tuple[Desk, str]:
        try:
            return desk, card(self.handlers.lay_out(session, desk, _named(product), queue), desk)
        except AnomalyError as error:
            return desk, pieces.notice(refusal(error, title="Not shown"))

    def act(self, session: Session, desk: Desk, event: gr.EventData) -> tuple[Desk, str]:
        """What a button or its key does: say something of the part, look around, or take a word back."""
        done, number = (str(getattr(event, name, "")) for name in ("do", "number"))
        try:
            if done == "undo":
                shown = self.handlers.undo(session, desk)
            elif done in ("back", "next"):
                shown = self.handlers.move(session, desk, 1 if done == "next" else -1)
            else:
                kind = str(getattr(event, "type", ""))
                shown = self.handlers.say(session, desk, int(number) if number.isdecimal() else 0, done, kind)
        except AnomalyError as error:
            shown = refusal(error, title="Not shown")
        return desk, card(shown, desk)

    def count(self, session: Session, product: str) -> str:
        try:
            return agreement(self.handlers.agreement(session, _named(product)))
        except AnomalyError:  # said on the card above
            return ""


def _named(product: str) -> str | None:
    return None if product == EVERY else product


def card(shown: Part | Notice, desk: Desk) -> str:
    """The part, what the machine made of it, and a button with its key for whatever may be said."""
    if isinstance(shown, Notice):
        return f'{pieces.notice(shown)}<div class="review-keys">{_walk(desk)}</div>'
    entry = shown.entry
    words = f"Part {entry.id}, {entry.file}: {entry.verdict}, {entry.level:.2f} times the limit"
    capture = "".join(f"<li>{escape(one)}</li>" for one in entry.capture)
    alarm = f"<div class='alarm'><dt>alarm</dt><dd>{escape(entry.alarm)}</dd></div>" if entry.alarm else ""
    return (
        f'<article class="review-card"><figure class="review-photo">'
        f'<img class="marked" src="{pieces.picture(shown.marked)}" alt="{escape(words)}, defects outlined">'
        f'<img class="plain" src="{pieces.picture(shown.photo)}" alt="{escape(words)}, without outlines">'
        f"</figure><div class='review-side'>"
        f'<p class="review-place"><b>{shown.place}</b> of {shown.total}</p>'
        f'<p class="review-verdict {entry.verdict.lower()}">{pieces.icon(entry.verdict)}<b>{entry.verdict}</b>'
        f"<span>{entry.level:.2f} × the limit</span></p>{pieces.looks(shown.type)}"
        f"{f'<ul class=review-capture>{capture}</ul>' if capture else ''}"
        f"<dl><div><dt>score</dt><dd>{pieces.number(entry.score)}</dd></div>"
        f"<div><dt>limit</dt><dd>{pieces.number(entry.threshold)}</dd></div>"
        f"<div><dt>product</dt><dd>{escape(shown.title)}</dd></div><div><dt>file</dt><dd>{escape(entry.file)}</dd></div>"
        f"<div><dt>detector</dt><dd>{escape(entry.detector)}</dd></div>"
        f"<div><dt>inspected at</dt><dd>{pieces.moment(entry.at)} UTC, {escape(entry.user)}</dd></div>{alarm}</dl>"
        f"{_said(shown)}{_answers(shown)}"
        f'<div class="review-keys">{_walk(desk)}{_key("marks", "m", "Outlines on or off")}</div>'
        f'<p class="review-note" role="status">{escape(shown.note)}</p></div></article>'
    )


def _key(do: str, key: str, words: str, *, number: int = 0, kind: str = "", look: str = "") -> str:
    shown, shortcut = ARROWS.get(key, (key.upper(), key.upper()))
    about = f' data-do="{do}" data-number="{number}" data-type="{escape(kind)}"' if do != "marks" else ""
    return (
        f'<button type="button" class="{look}" data-key="{key}"{about} aria-keyshortcuts="{shortcut}">'
        f"<kbd>{shown}</kbd>{escape(words)}</button>"
    )


def _walk(desk: Desk) -> str:
    buttons = _key("back", "arrowleft", "Back") if desk.at else ""
    buttons += _key("next", "arrowright", "Next") if desk.at < len(desk.order) else ""
    return buttons + (_key("undo", "z", "Undo") if desk.said else "")


def _said(shown: Part) -> str:
    entry = shown.entry
    if entry.said is None:
        return ""
    kind = f", {escape(entry.defect_type)}" if entry.defect_type else ""
    return f'<p class="review-said">{escape(entry.reviewer)} said <b>{WORDS[entry.said]}</b>{kind}.</p>'


def _answers(shown: Part) -> str:
    number = shown.entry.id
    says = "".join(
        _key(said, said[0], WORDS[said], number=number, look=look)
        for said, look in (("ok", "ok"), ("defect", "anomaly"), ("unsure", "review"))
    )
    kinds = "".join(
        _key("defect", str(place), spoken(kind), number=number, kind=kind) for place, kind in enumerate(shown.types, 1)
    )
    if kinds:
        kinds = f'<div class="review-kinds" role="group" aria-label="A defect of which type?">{kinds}</div>'
    return (
        f'<div class="review-answers" role="group" aria-label="What is this part?">{says}</div>{kinds}'
        f'<form class="review-form" data-do="defect" data-number="{number}"><kbd>T</kbd>'
        f'<input name="type" maxlength="{LONGEST_TYPE}" placeholder="another type of defect, then Enter" data-key="t"'
        ' aria-label="Another type of defect" autocomplete="off"></form>'
    )


def agreement(found: Agreement) -> str:
    """Person against machine as a table, and in words with intervals."""
    table = found.table
    if not sum(sum(row.values()) for row in table.values()):
        return ""
    rows = "".join(
        f'<tr><th scope="row">{verdict}</th>' + "".join(f"<td>{row[said]}</td>" for said in WORDS) + "</tr>"
        for verdict, row in table.items()
    )
    alarms, doubts, escapes = found.share("ANOMALY", "ok"), found.share("REVIEW", "defect"), found.share("OK", "defect")
    kappa = f"; Cohen's kappa {found.kappa:.2f}" if found.kappa is not None else ""
    lines = (
        f"Person and machine agree on {charts.percent(found.agreed)} of the parts judged OK or ANOMALY{kappa}.",
        f"False alarms: {charts.percent(alarms)} of the ANOMALY parts were good.",
        f"Doubt: {charts.percent(doubts)} of the REVIEW parts were defective.",
        f"Escapes: {charts.percent(escapes)} of the OK parts were defective."
        if escapes.n
        else "Escapes: unknown. Nobody has looked at OK parts; choose the spot check above.",
    )
    words = "".join(f"<li>{escape(line)}</li>" for line in lines)
    heads = "".join(f'<th scope="col">{word}</th>' for word in WORDS.values())
    return (
        '<section class="figures"><h2>Person and machine</h2><div class="review-agreement"><table>'
        '<caption class="unseen">Parts by verdict of the machine and word of a person</caption>'
        f'<thead><tr><th scope="col">machine ↓ person →</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"<ul>{words}</ul></div></section>"
    )
