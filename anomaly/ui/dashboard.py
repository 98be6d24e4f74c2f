"""The Dashboard tab: how inspection went, whether scores or camera have drifted, and what the evaluation said."""

from collections.abc import Iterable
from html import escape

import gradio as gr
import numpy as np

from anomaly.accounts import OPERATOR
from anomaly.errors import AnomalyError
from anomaly.evaluation import FIGURES
from anomaly.handlers.dashboard import PERIODS, DashboardHandlers, Evaluated, Overview, ScoreDrift
from anomaly.handlers.session import Session, Site, refusal
from anomaly.monitor import Figures, Share
from anomaly.ui import charts, pieces
from anomaly.ui.wiring import QUICK, html

TITLE, ROLE = "Dashboard", OPERATOR

EVERY = "All products"
MONTH = PERIODS[1]
AUROC_FROM = 0.5  # where the axis of the bars begins: chance


def build(site: Site, session: gr.State) -> None:
    """Lay the tab out inside the open tab and connect it."""
    Room(DashboardHandlers(site), session).connect()


class Room:
    """The tab's components, and what each event changes on them."""

    def __init__(self, handlers: DashboardHandlers, session: gr.State):
        self.handlers, self.session = handlers, session
        detectors = handlers.site.detectors()
        with gr.Column(elem_id="dashboard") as self.column:
            with gr.Row(elem_classes="filters"):
                self.product = gr.Radio([EVERY], value=EVERY, label="Product", elem_id="dashboard-product")
                periods = [(f"{days} days", days) for days in PERIODS]
                self.days = gr.Radio(periods, value=MONTH, label="Period", elem_id="dashboard-days")
            self.record = html("dashboard-record")
            with gr.Row(elem_classes="filters"):
                self.detector = gr.Radio(
                    detectors,
                    value=next(iter(detectors), None),
                    label="Evaluation on test images when trained, of detector",
                    elem_id="dashboard-detector",
                )
            self.evaluation = html("dashboard-evaluation")

    def connect(self) -> None:
        recorded = (self.overview, [self.session, self.product, self.days], self.record)
        evaluated = (self.evaluate, [self.session, self.detector], self.evaluation)
        opened = self.column.parent.select(self.products, self.session, self.product, **QUICK)
        opened.then(*recorded, **QUICK).then(*evaluated, **QUICK)
        self.product.input(*recorded, **QUICK)
        self.days.input(*recorded, **QUICK)
        self.detector.input(*evaluated, **QUICK)

    def products(self, session: Session):
        if not session.person.may(ROLE):
            return gr.update()
        return gr.update(choices=[EVERY, *self.handlers.site.products()])

    def overview(self, session: Session, product: str, days: int) -> str:
        try:
            return overview(self.handlers.overview(session, None if product == EVERY else product, days))
        except AnomalyError as error:
            return pieces.notice(refusal(error, title="Not shown"))

    def evaluate(self, session: Session, detector: str | None) -> str:
        try:
            return evaluation(self.handlers.evaluation(session, detector or ""))
        except AnomalyError as error:
            return pieces.notice(refusal(error, title="Not shown"))


def overview(found: Overview) -> str:
    """Headline, days, products, drift and photos of the record."""
    if not found.total.inspected:
        words = "Nothing was inspected in this period: inspections by operators appear here."
        return f'<section class="figures"><h2>From the record</h2><p>{words}</p></section>'
    days = list(found.days.items())
    verdicts = [(day, (one.inspected - one.failed.k - one.review.k, one.review.k, one.failed.k)) for day, one in days]
    plots = charts.stacks(verdicts, ("OK", "REVIEW", "ANOMALY"), "Inspected parts a day") + charts.dots(
        [(day, one.failed) for day, one in days], "Share judged ANOMALY, with its 95% interval"
    )
    worked = {day: one for day, one in reversed(days) if one.inspected}
    return _sheets(
        f'<section class="figures"><h2>From the record</h2>{_headline(found.total)}'
        f'<div class="plots">{plots}</div></section>'
        f"{_table('By product', 'product', found.products)}{_table('By day', 'day', worked)}"
        f"{_drifts(found)}{_photos(found)}"
    )


def _sheets(sections: str) -> str:
    return f'<div class="sheets">{sections}</div>'


def _headline(total: Figures) -> str:
    shares = (
        ("judged ANOMALY", total.failed, ""),
        ("to REVIEW", total.review, ""),
        ("false alarms", total.false_alarms, "of the ANOMALY parts that a person judged"),
        ("escapes", total.escapes, "of the OK parts that a person judged"),
        ("photos unlike training", total.objected, ""),
    )
    cards = "".join(_card(name, share, of) for name, share, of in shares)
    refused = f"<li><b>{total.refused:,}</b><span>refused: another product</span></li>" if total.refused else ""
    return f'<ul class="cards"><li><b>{total.inspected:,}</b><span>inspected</span></li>{cards}{refused}</ul>'


def _card(name: str, share: Share, of: str) -> str:
    if share.value is None:
        return f"<li><b>-</b><span>{name}</span><small>unknown: nobody judged any</small></li>"
    low, high = (100 * end for end in share.interval)
    return (
        f"<li><b>{100 * share.value:.1f}%</b><span>{name}</span>{charts.whisker(share.value, *share.interval)}"
        f"<small>{share.k} of {share.n} {of}<br>95% interval {low:.1f}-{high:.1f}%</small></li>"
    )


def _table(title: str, of: str, rows: dict[str, Figures]) -> str:
    heads = (of, "inspected", "ANOMALY", "95% interval", "REVIEW", "false alarms", "escapes", "photos objected to")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{one.inspected:,}</td><td>{_percent(one.failed)}</td>'
        f"<td>{100 * one.failed.interval[0]:.1f}-{100 * one.failed.interval[1]:.1f}%</td>"
        f"<td>{_percent(one.review)}</td><td>{_counted(one.false_alarms)}</td><td>{_counted(one.escapes)}</td>"
        f"<td>{_percent(one.objected)}</td></tr>"
        for name, one in rows.items()
    )
    return (
        f'<section class="figures"><h2>{title}</h2><div class="wide" tabindex="0" role="group" aria-label="{title}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f}%"


def _counted(share: Share) -> str:
    return f"{share.k} of {share.n}" if share.n else "-"


def _drifts(found: Overview) -> str:
    """A sentence for each run, and its scores beside those of calibration."""
    rows = "".join(
        f'<li class="{one.drift.direction}"><div><b>{escape(one.title)} / {escape(one.detector)}</b>'
        f"<p>{_sign(one)}{escape(one.drift.sentence)}.</p></div>{_curves(one)}</li>"
        for one in found.drifts
    )
    rows += "".join(f"<li><p>{escape(sentence)}</p></li>" for sentence in found.untold)
    how = (
        "Recorded scores under the limit (solid) against those of the held-out good parts that set it (dashed): the "
        "share of parts with at most each score. Drift is said where p of Kolmogorov and Smirnov is under 0.01."
    )
    return f'<section class="figures"><h2>Drift of the scores</h2><p>{how}</p><ul class="drifts">{rows}</ul></section>'


def _sign(one: ScoreDrift) -> str:
    return pieces.icon("REVIEW") if one.drift.direction else ""


def _curves(one: ScoreDrift) -> str:
    reach = one.limit if np.isfinite(one.limit) else max(one.seen[-1], one.reference[-1])
    curves = (
        (style, *charts.distribution(scores[scores <= reach], reach))
        for style, scores in (("reference", one.reference), ("seen", one.seen))
        if (scores <= reach).any()
    )
    words = f"{one.title}: scores recorded and at calibration, up to the limit"
    return charts.steps(curves, label=words, x=("0", "score", f"limit {pieces.number(reach)}"))


def _photos(found: Overview) -> str:
    rows = "".join(
        f"<li><span>{escape(said)}</span>{charts.whisker(share.value, *share.interval)}"
        f"<small>{charts.percent(share)}</small></li>"
        for said, share in found.objections
    )
    words = f'<ul class="bars">{rows}</ul>' if rows else "<p>Every photo was taken like the training photos.</p>"
    return f'<section class="figures"><h2>Photos objected to, by reason</h2>{words}</section>'


def evaluation(rows: Iterable[Evaluated]) -> str:
    """Bars, heatmap, confusion, radar and ROC of the shipped evaluation."""
    rows = list(rows)
    if not rows:
        words = "No product has this detector with an evaluation: train it on a folder that has test images."
        return f'<section class="figures"><h2>Evaluation</h2><p>{words}</p></section>'
    return _sheets(_aurocs(rows) + _heatmap(rows) + _confusions(rows) + _radars(rows) + _rocs(rows))


def _aurocs(rows: list[Evaluated]) -> str:
    bars = "".join(
        f"<li><span>{escape(one.title)}</span>{charts.whisker(value, *one.interval, start=AUROC_FROM)}"
        f"<small>{value:.3f} ({one.interval[0]:.3f}-{one.interval[1]:.3f}, n = {one.n_good} good, "
        f"{one.n_defect} defective)</small></li>"
        for one in rows
        if (value := one.values["image_auroc"]) is not None and one.interval
    )
    words = f"How well the score sorts good from defective: {AUROC_FROM} is chance, 1 is perfect."
    return (
        f'<section class="figures"><h2>Image AUROC with 95% intervals</h2><p>{words}</p>'
        f'<ul class="bars">{bars}</ul></section>'
    )


def _heatmap(rows: list[Evaluated]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name, _ in FIGURES.values())
    body = "".join(
        f'<tr><th scope="row">{escape(one.title)}</th>'
        + "".join(charts.heat_cell(value) for value in one.values.values())
        + "</tr>"
        for one in rows
    )
    words = (
        "Lighter is better, and darkest is 0.5 or less. F1, precision, recall and accuracy at the limit of the time."
    )
    return (
        f'<section class="figures"><h2>All figures</h2><p>{words}</p>'
        '<div class="wide" tabindex="0" role="group" aria-label="All figures">'
        f'<table class="heat"><thead><tr><th scope="col">product</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></section>"
    )


def _confusions(rows: list[Evaluated]) -> str:
    def cell(n: int, of: int, kind: str) -> str:
        share = round(100 * n / of) if of else 0
        return f'<td style="--share:{share}%" class="{kind}"><b>{n}</b> of {of}</td>'

    tables = "".join(
        f'<table><caption>{escape(one.title)}</caption><thead><tr><td></td><th scope="col">passed</th>'
        f'<th scope="col">ANOMALY</th></tr></thead><tbody><tr><th scope="row">good</th>'
        f"{cell(one.confusion['tn'], one.n_good, 'right')}{cell(one.confusion['fp'], one.n_good, 'wrong')}</tr>"
        f'<tr><th scope="row">defective</th>{cell(one.confusion["fn"], one.n_defect, "wrong")}'
        f"{cell(one.confusion['tp'], one.n_defect, 'right')}</tr></tbody></table>"
        for one in rows
    )
    words = "Rows say what the test part is, columns how it was judged; REVIEW counts as passed."
    return (
        f'<section class="figures"><h2>Confusion at the limit of the time</h2><p>{words}</p>'
        f'<div class="confusions">{tables}</div></section>'
    )


def _radars(rows: list[Evaluated]) -> str:
    drawn = "".join(
        charts.radar([(name, one.values[key]) for key, (name, shown) in FIGURES.items() if shown], one.title)
        for one in rows
    )
    return f'<section class="figures"><h2>Profile of each product</h2><div class="radars">{drawn}</div></section>'


def _rocs(rows: list[Evaluated]) -> str:
    drawn = "".join(
        f"<li><b>{escape(one.title)}</b>: defects found"
        + charts.steps([("seen", *one.roc)], label=f"ROC of {one.title}", x=("0", "false alarms", "1"))
        + "</li>"
        for one in rows
        if one.roc is not None
    )
    missing = (
        "<p>A ROC curve needs the scores of defective parts, and these runs keep those of good parts only. "
        "Calibrating with a folder of test images keeps both: "
        "<code>python -m anomaly calibrate --category NAME --rule f1 --data DIR</code></p>"
    )
    return f'<section class="figures"><h2>ROC</h2>{f"<ul class=rocs>{drawn}</ul>" if drawn else missing}</section>'
