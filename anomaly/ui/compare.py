"""The Compare tab: one photo through every detector of a product, and against every product."""

import math
from collections.abc import Iterator
from html import escape

import gradio as gr
import numpy as np

from anomaly.accounts import VISITOR
from anomaly.errors import AnomalyError
from anomaly.handlers.compare import CompareHandlers, Comparison, Pictures, Reading, Side, nearest, verdicts
from anomaly.handlers.session import Session, Site, refusal
from anomaly.ui import charts, pieces
from anomaly.ui.photo import drop_zone
from anomaly.ui.wiring import QUICK, html

TITLE, ROLE = "Compare", VISITOR

# Not the queue of the Inspect tab: a comparison is many passes, and an inspection must not wait for all of them.
MANY = QUICK | {"concurrency_limit": 1, "concurrency_id": "compare"}
LOWEST = 0.1  # limits: where the bars of the products begin
TALLEST = 420  # CSS pixels of a picture, so that two pairs of them fit on one screen


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    Bench(CompareHandlers(site)).connect(session)


class Bench:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: CompareHandlers):
        self.handlers = handlers
        self.asked = gr.State(Comparison())
        with gr.Row(elem_id="compare", elem_classes="bench") as self.room:
            with gr.Column(elem_id="compare-controls"):
                self.photo = drop_zone("Photo to compare", "compare-photo")
                self.inspected = gr.Button("Take the photo of the Inspect tab", elem_id="take-inspected")
                self.product = gr.Radio(
                    handlers.site.products(),
                    value=None,
                    label="Product whose detectors to compare",
                    elem_id="compare-product",
                    elem_classes="chips",
                )
            with gr.Column(elem_id="compare-result"):
                self.sides = html("sides", pieces.notice(handlers.waiting(Comparison())))
                self.ranking = html("ranking")

    def connect(self, session: gr.State) -> None:
        asked, result = self.asked, [self.asked, self.sides, self.ranking]
        # A product that was taught meanwhile appears when the tab is opened again.
        listed = self.room.parent.select
        listed(lambda: gr.update(choices=self.handlers.site.products()), None, self.product, **QUICK)
        taken = self.photo.input(self.take_photo, [asked, self.photo], [*result, self.photo], **QUICK)
        same = self.inspected.click(self.take_inspected, [asked, session], [*result, self.product], **QUICK)
        chosen = self.product.input(self.choose_product, [asked, self.product], result, **QUICK)
        for event in (taken, same):
            event.then(self.compare_detectors, [asked], result, **MANY).then(
                self.compare_products, [asked], result, **MANY
            )
        chosen.then(self.compare_detectors, [asked], result, **MANY)

    def take_photo(self, asked: Comparison, path: str | None) -> dict:
        self.handlers.take_photo(asked, path)
        return self._clear(asked) | {self.photo: None}

    def take_inspected(self, asked: Comparison, session: Session) -> dict:
        try:
            self.handlers.take_inspected(asked, session)
        except AnomalyError as error:
            return {self.asked: asked, self.sides: pieces.notice(refusal(error, title="Nothing to compare"))}
        return self._clear(asked) | {self.product: asked.product.name}

    def choose_product(self, asked: Comparison, category: str | None) -> dict:
        try:
            self.handlers.choose_product(asked, category)
        except AnomalyError as error:
            return {self.asked: asked, self.sides: pieces.notice(refusal(error, title="Nothing to compare"))}
        return {self.asked: asked, self.sides: pieces.notice(self.handlers.waiting(asked))}

    def compare_detectors(self, asked: Comparison) -> Iterator[dict]:
        """Each detector appears as soon as it is done."""
        sides: list[Side] = []
        for side in self.handlers.detectors(asked):
            sides.append(side)
            yield {self.asked: asked, self.sides: columns(asked, sides)}
        if not sides:
            yield {self.asked: asked}

    def compare_products(self, asked: Comparison) -> Iterator[dict]:
        """The table grows product by product."""
        try:
            total, sides = len(self.handlers.site.products()), []
            for side in self.handlers.all_products(asked):
                sides.append(side)
                yield {self.asked: asked, self.ranking: ranking(asked, sides, total)}
        except AnomalyError as error:
            yield {self.asked: asked, self.ranking: pieces.notice(refusal(error, title="Nothing to compare"))}
            return
        if not sides:
            yield {self.asked: asked} | ({} if total else {self.ranking: ""})

    def _clear(self, asked: Comparison) -> dict:
        """Take the old comparison away before anything else happens."""
        said = pieces.notice(self.handlers.waiting(asked))
        hint = '<p class="hint">Choose a product to see its detectors side by side.</p>'
        alone = asked.photo is not None and asked.product is None
        return {self.asked: asked, self.sides: hint if alone else said, self.ranking: said if alone else ""}


def columns(asked: Comparison, sides: list[Side]) -> str:
    """The detectors of one product side by side; a place is kept for those still at work."""
    waiting = '<article class="side waiting"></article>' * (len(asked.product.detectors) - len(sides))
    agreement = "" if waiting else f"<p>{escape(verdicts(sides))}</p>"
    return (
        f'<section class="sides"><header><h2>Detectors side by side</h2>{about(asked, asked.product.title)}{agreement}'
        f'</header><div class="columns">{"".join(column(asked, side) for side in sides)}{waiting}</div></section>'
    )


def about(asked: Comparison, title: str = "") -> str:
    product = f"<b>{escape(title)}</b> · " if title else ""
    return f'<p class="about" translate="no">{product}{escape(asked.photo.name)}</p>'


def column(asked: Comparison, side: Side) -> str:
    """One detector: verdict, the shared scales, and the photo under its pictures."""
    decides = '<span class="decides">decides</span>' if side.decides else ""
    if side.reading is None:
        head = f"<header>{pieces.icon('refused')}<h3>{side.heading}</h3>{_name(side.detector)}{decides}</header>"
        return f'<article class="side refused">{head}<p class="why-not">{escape(side.refusal)}</p></article>'
    reading, kind = side.reading, side.reading.verdict.lower()
    return (
        f'<article class="side {kind}"><header>{pieces.icon(reading.verdict)}<h3>{reading.verdict}</h3>'
        f"{_name(side.detector)}{decides}</header>"
        f'<div class="scales">{level(reading)}{standing(reading)}{pieces.warning(reading.capture)}</div>'
        f"{pairs(asked.photo.name, side.detector, side.pictures)}</article>"
    )


def _name(detector: str) -> str:
    return f'<b class="name" translate="no">{escape(detector)}</b>'


def level(reading: Reading) -> str:
    return (
        f'<p class="level"><b>{reading.level:.2f}</b> × the limit</p>{pieces.meter(reading.level, reading.review)}'
        f'<p class="small">score <b>{pieces.number(reading.score)}</b> · '
        f"limit <b>{pieces.number(reading.threshold)}</b></p>"
    )


def standing(reading: Reading) -> str:
    """Where the score lies among good parts: a mark, and the 95% interval as a line through it."""
    found = reading.standing
    return (
        '<p class="rank">Rank among good parts</p>'
        f"{charts.whisker(found.below / found.n, found.low, found.high, bar=False)}"
        '<div class="ticks" aria-hidden="true"><span>0%</span><span>50%</span><span>100%</span></div>'
        f'<p class="small">{escape(reading.doubt)}</p>'
    )


def pairs(name: str, detector: str, found: Pictures) -> str:
    """The photo under the heatmap, and under the reconstruction if this detector makes one."""
    heat = f"Heatmap of {detector} over {name}, regions over the limit: {found.regions}."
    shown = curtain(found, name, found.overlay, "Heatmap", heat)
    if found.reconstruction is None:
        return f'{shown}<p class="none"><b translate="no">{escape(detector)}</b> makes no reconstruction.</p>'
    return shown + curtain(found, name, found.reconstruction, "Reconstruction", f"{name} as a good part")


def curtain(found: Pictures, name: str, over: np.ndarray, title: str, alt: str) -> str:
    """Two pictures in one place, parted by a line that is drawn with mouse, finger or arrow keys.

    Not gradio's ImageSlider: that one cannot be moved by keyboard, takes no alt texts, and stores its pictures as files
    of the server, while these go to the one page that asked and nowhere else.
    """
    ratio = found.width / found.height
    at = min(max(round(100 * found.centre), 10), 90)  # through the defect, so that both halves of it are seen at once
    return (
        f'<figure class="curtain"><figcaption><span>Original</span><span>{title}</span></figcaption>'
        f'<div class="pair" style="width:min(100%,{TALLEST * ratio:.0f}px);aspect-ratio:{ratio:.4f};--at:{at}%">'
        f'<img src="{pieces.picture(found.photo)}" alt="Photo {escape(name)}">'
        f'<img class="over" src="{pieces.picture(over)}" alt="{escape(alt)}">'
        f'<input type="range" min="0" max="100" value="{at}" aria-label="Original to {title}">'
        '<i class="edge" aria-hidden="true"></i></div></figure>'
    )


def ranking(asked: Comparison, sides: list[Side], total: int) -> str:
    """The products as a table, the most alike first."""
    ranked = nearest(sides)
    if len(sides) < total:
        said = f"<p>{len(sides)} of {total} products</p>"
    elif ranked[0].reading:
        first = ranked[0]
        said = f"<p>By level the photo is most like <b>{escape(first.product)}</b>.</p>"
    else:
        said = ""
    ticks = "".join(f"<span>{tick}</span>" for tick in ("0.1", "limit", "10", "100"))
    return (
        f'<section class="ranking"><header><h2>Against every product</h2>{about(asked)}{said}</header>'
        '<table><thead><tr><th scope="col">Product</th><th scope="col">Verdict</th><th scope="col">Score ÷ limit'
        f'<div class="ticks" aria-hidden="true">{ticks}</div></th></tr></thead>'
        f"<tbody>{''.join(map(row, ranked))}</tbody></table>"
        '<p class="small">A level says how far the photo is from the good parts of one product. A product that the '
        "photo does not show judges nothing and has none.</p></section>"
    )


def row(side: Side) -> str:
    detector = f'<span class="small" translate="no">{escape(side.detector)}</span>'
    name = f'<th scope="row">{escape(side.product)}{detector}</th>'
    if side.reading is None:
        return f"<tr>{name}<td>{pieces.icon('refused')}<b>{side.heading}</b></td><td>{escape(side.refusal)}</td></tr>"
    found = side.reading
    unlike = '<p class="small">Photo unlike the training photos</p>' if found.capture else ""
    return (
        f'<tr>{name}<td class="{found.verdict.lower()}">{pieces.icon(found.verdict)}<b>{found.verdict}</b></td>'
        f"<td><b>{found.level:.2f}</b>{ladder(found.level)}{unlike}</td></tr>"
    )


def ladder(level: float) -> str:
    """A bar from 0.1 to 100 limits in equal steps of ratio: other products are often tens of limits away."""
    share = min(max((math.log10(max(level, LOWEST)) + 1) / 3, 0), 1) * 100
    fill = f'<i class="fill" style="width:{share:.1f}%"></i>'
    return f'<div class="meter" aria-hidden="true">{fill}<i class="limit"></i></div>'
