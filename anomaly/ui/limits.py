"""Limits on trial as HTML: their promise, what they do to known and recorded parts, and their former versions."""

from html import escape

from anomaly.errors import UsageError
from anomaly.handlers.desk import VERDICTS, Desk, figures, ranking
from anomaly.handlers.tune import WhatIf
from anomaly.metrics import Estimate
from anomaly.thresholds import RULES, OperatingPoint
from anomaly.thresholds.intervals import percent
from anomaly.ui import plots
from anomaly.ui.pieces import data_uri, moment, number

NO_DEFECTS = (
    "<p class='missing'><b>No known defects.</b> Escapes, precision, recall, F1, accuracy and the curves need them. "
    "Two ways to get them: let people review recorded parts and tick <b>Count reviewed parts</b>, or score photos of "
    "defects with <code>python -m anomaly calibrate --category {} --detector {} --rule f1 --data DIR</code>.</p>"
)


def on_trial(desk: Desk) -> str:
    """Which limits are on trial, and their promise in words."""
    promise = "".join(f"<li>{escape(part.strip())}</li>" for part in desk.choice.promise.split(";"))
    if desk.number is None:
        source = desk.choice.rule if desk.choice.rule not in RULES else f"by the rule {desk.choice.rule}"
        source = f"{source}, not saved"
    elif desk.number == len(desk.versions):
        source = f"stored, version {desk.number}"
    else:
        source = f"version {desk.number} again, not saved"
    far = f'<p class="warn">⚠ {escape(said)}.</p>' if (said := desk.far_above) else ""
    return (
        f'<section class="trial-limits" role="status"><h2>FAIL {number(desk.fail)} · REVIEW {number(desk.review)}'
        f"<small>{escape(source)}</small></h2><ul>{promise}</ul>{far}</section>"
    )


def known_parts(desk: Desk) -> str:
    """Confusion, figures with interval and n, both curves."""
    found, order = figures(desk), ranking(desk)
    rows = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{count}</td>" for count in found.counts[kind]) + "</tr>"
        for kind, name in (("good", "good parts"), ("defect", "known defects"))
    )
    heads = "".join(f'<th scope="col">{verdict}</th>' for verdict in VERDICTS)
    confusion = (
        f'<table class="confusion"><caption>Confusion matrix</caption><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    shares = "".join(
        f'<tr><th scope="row">{figure.name}<small>{figure.meaning}</small></th>{_cells(figure.estimate)}</tr>'
        for figure in found.shares
    )
    table = (
        '<table class="shares"><caption>At these limits</caption><thead><tr><th scope="col">Figure</th>'
        '<th scope="col">value</th><th scope="col">95% interval</th><td class="wide"></td>'
        f'<th scope="col">n</th></tr></thead><tbody>{shares}</tbody></table>'
    )
    missing = NO_DEFECTS.format(escape(desk.run.category), escape(desk.run.detector))
    return (
        f'<section class="known" aria-label="Known parts at these limits"><div>{confusion}{table}</div>'
        f"{plots.curves(order, desk) if order else missing}</section>"
    )


def what_if(found: WhatIf | None) -> str:
    """The recorded parts whose verdict would change."""
    head = "<h2>What if: the record under these limits</h2>"
    if found is None:
        return f'<section class="what-if">{head}<p>This server keeps no record of inspections.</p></section>'
    if not found.total:
        return f'<section class="what-if">{head}<p>No recorded part was judged by these weights yet.</p></section>'
    changed = sum(found.counts.values())
    said = f"<p><b>{changed} of {found.total:,}</b> recorded parts would get another verdict.</p>"
    if found.objected:
        stay = (
            f"{found.objected:,} of {found.total:,} stay in REVIEW at any limit: their photos are unlike the good ones."
        )
        said += f"<p>{stay}</p>"
    counts = "".join(f"<li>{before} → {after}: <b>{count}</b></li>" for (before, after), count in found.counts.items())
    items = "".join(
        f'<li><img src="{data_uri(entry.thumbnail)}" alt="{escape(entry.file)}">'
        f"<b>{entry.verdict} → {now}</b><span>{escape(entry.file)}</span>"
        f"<span>{moment(entry.at)} · score {number(entry.score)}</span>"
        + (f"<span>a person said: <b>{escape(entry.said)}</b></span>" if entry.said else "")
        + "</li>"
        for entry, now in found.parts
    )
    rest = changed - len(found.parts)
    more = f"<p>and {rest:,} older ones</p>" if rest > 0 else ""
    return (
        f'<section class="what-if">{head}{said}<ul class="counts">{counts}</ul><ul class="parts">{items}</ul>{more}'
        "</section>"
    )


def change(desk: Desk) -> str:
    """Before and after, for who signs."""
    before = desk.stored
    try:
        after = desk.point()
    except UsageError:
        return "<h2>Save</h2><p>Nothing to save: these are the stored limits.</p>"
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{_value(before, field)}</td><td>→ {_value(after, field)}</td></tr>'
        for name, field in (("FAIL", "fail"), ("REVIEW", "review"), ("Pixel limit", "pixel"), ("Rule", "rule"))
    )
    return (
        '<h2>Save</h2><table class="change"><thead><tr><td></td><th scope="col">stored</th><th scope="col">new</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def versions(desk: Desk) -> str:
    """All limits that were ever saved, newest first, each with a button that puts it on trial."""
    rows = "".join(
        f'<tr><th scope="row">{place}</th><td>{escape(moment(point.set_at))}</td>'
        f"<td>{escape(point.set_by)}</td><td>{escape(point.why)}</td><td>{number(point.fail)}</td>"
        f"<td>{number(point.review)}</td><td>{escape(point.rule)}</td><td>{_button(desk, place, point)}</td></tr>"
        for place, point in reversed(list(enumerate(desk.versions, 1)))
    )
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("No.", "when (UTC)", "who", "why", "FAIL", "REVIEW", "rule")
    )
    damage = f'<p class="refusal" role="alert">{escape(desk.damage)}</p>' if desk.damage else ""
    return (
        f'<section class="versions"><h2>Versions</h2>{damage}<div class="wide"><table>'
        f"<thead><tr>{heads}<td></td></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _button(desk: Desk, place: int, point: OperatingPoint) -> str:
    if point.weights_sha256 != desk.run.weights_sha256:
        return "other weights"
    if place == len(desk.versions):
        return "stored"
    return f'<button type="button" data-index="{place}" aria-label="Roll back to version {place}">Roll back</button>'


def _cells(estimate: Estimate | None) -> str:
    if estimate is None:
        return '<td colspan="4">not known</td>'
    low, high = percent(estimate.low), percent(estimate.high)
    return (
        f"<td><b>{percent(estimate.value)}%</b></td><td>{low}-{high}%</td><td class='wide'>{plots.span(estimate)}</td>"
        f"<td>{estimate.n}</td>"
    )


def _value(point: OperatingPoint | None, field: str) -> str:
    value = getattr(point, field, "none")
    return number(value) if isinstance(value, float) else escape(str(value))
