"""How a lesson looks: photos to choose from, a training on its way, what it learned. HTML and SVG, no gradio."""

import math
from html import escape

import numpy as np

from anomaly.handlers.teach import Checked, Learned, Lessons, Taught, Tray
from anomaly.intake import FEWEST
from anomaly.lessons import CANCELLED, DONE, FAILED, RUNNING, Lesson
from anomaly.monitor import Share
from anomaly.ui.charts import percent
from anomaly.ui.pieces import bar, data_uri, figure, icon, moment, number, picture
from anomaly.versions import Side, Version

STAGES = {
    "read": "Reading the photos",
    "features": "Looking at every photo",
    "turn": "Turning the photos, to see whether parts lie every way",
    "leave out": "Leaving photos out in turn, to learn how far good ones differ",
    "know": "Learning how photos of this product look",
    "train": "Learning to repair",
    "score": "Judging held-out photos for the limit",
    "compare": "Comparing both versions",
    "save": "Saving",
}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 220, 44, 26, 34  # of a drawing and its margins, in units of its viewBox


def words(title: str, text: str, kind: str = "idle") -> str:
    return (
        f'<section class="said {kind}">{icon(kind)}<div><h3>{escape(title)}</h3><p>{escape(text)}</p></div></section>'
    )


def looking(checked: Checked) -> str:
    label = f"Looking through the photos: {checked.done} of {checked.total}"
    return f'<section class="live"><h3>{label}</h3>{bar(label, checked.done, checked.total)}</section>'


def facts(known: Lessons) -> str:
    kept = (
        f"{known.kept} photos of its training are kept; new ones are added to them."
        if known.kept
        else "The photos that it was trained on are not kept here: give those as well, or it forgets what they showed."
    )
    return f'<p class="facts">{kept}</p>'


def summary(tray: Tray) -> str:
    """What will be learned from, in one line; redrawn with each click."""
    kept, total = sum(tray.kept), len(tray.photos)
    odd = sum(1 for photo in tray.photos if photo.reasons)
    said = f"{odd} of them stand out and should be looked at." if odd else "None of them stands out."
    if tray.category is None and kept < FEWEST:
        said = f"At least {FEWEST} are needed. {said}"
    return f'<p class="sum" role="status"><b>{kept} of {total} photos will be learned from.</b> {said}</p>'


def tray(tray: Tray) -> str:
    """Photos with a reason first; a click sends the index and whether to keep it, never a path."""
    odd = [index for index, photo in enumerate(tray.photos) if photo.reasons]
    plain = [index for index, photo in enumerate(tray.photos) if not photo.reasons]
    parts = []
    if odd:
        cards = "".join(_card(tray, index) for index in odd)
        parts.append(f'<h3>Look at these: a click keeps one or leaves it out</h3><ul class="tray odd">{cards}</ul>')
    if plain:
        cards = "".join(_card(tray, index) for index in plain)
        title = f"The other {len(plain)} photos" if odd else f"All {len(plain)} photos"
        parts.append(f'<details><summary>{title}</summary><ul class="tray">{cards}</ul></details>')
    return "".join(parts)


def _card(tray: Tray, index: int) -> str:
    photo = tray.photos[index]
    name = escape(photo.name)
    shown = f'<img src="{data_uri(photo.thumbnail)}" alt="" loading="lazy">' if photo.thumbnail else icon("refused")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in photo.reasons)
    states = '<b class="in">✓ Kept</b><b class="out">✕ Left out</b>' if photo.readable else "<b>✕ Cannot be used</b>"
    off = "" if photo.readable else " disabled"
    return (
        f'<li><button type="button" data-index="{index}" aria-pressed="{str(tray.kept[index]).lower()}"{off}'
        f' aria-label="Keep the photo {name}"><span class="shot">{shown}</span>{states}</button>'
        f'<span class="name">{name}</span>{f"<ul>{reasons}</ul>" if reasons else ""}</li>'
    )


def sample(image: np.ndarray | None) -> str:
    """A photo on which a box can be drawn; the four numbers say the same for the keyboard."""
    if image is None:
        return ""
    fields = "".join(
        f'<label>{name}<input type="number" aria-label="{name}, percent" min="0" max="100" step="1" value="{value}"'
        f' data-side="{side}"> %</label>'
        for side, (name, value) in enumerate((("left", 0), ("top", 0), ("width", 100), ("height", 100)))
    )
    return (
        '<section class="region"><p>Draw a box around what shall be judged, if not all of the photo shall be. '
        "What lies outside of it is never looked at.</p>"
        f'<div class="canvas"><img src="{picture(image)}" alt="One of the photos" draggable="false">'
        f'<div class="box" hidden></div></div><div class="numbers">{fields}'
        '<button type="button" class="whole">All of the photo</button></div></section>'
    )


def live(lesson: Lesson) -> str:
    """Where a lesson stands."""
    if lesson.state == FAILED:
        return words("Not taught", lesson.error, "refused")
    if lesson.state == CANCELLED:
        return words("Cancelled", f"Nothing of {lesson.title} was kept.")
    if lesson.state == DONE:
        return ""
    stage = STAGES.get(lesson.stage, lesson.stage)
    if lesson.cancelling:
        stage = "Cancelling"
    elif lesson.stopping:
        stage = f"Ending early · {stage}"
    name = f" · {escape(lesson.detector.name)}" if lesson.detector else ""
    minutes, seconds = divmod(int(lesson.seconds), 60)
    return (
        f'<section class="live" role="status"><h3>{escape(lesson.title)}{name}</h3>'
        f"<p>{escape(stage)} · {lesson.done} of {lesson.total} · {minutes}:{seconds:02d}</p>"
        f"{bar(stage, lesson.done, lesson.total)}{losses(lesson.history())}</section>"
    )


def losses(history: list[dict[str, float]]) -> str:
    """The loss of each epoch, on photos that are learned from and on those left out."""
    if not history:
        return ""
    top = max(max(one["train_loss"], one["held_out_loss"]) for one in history) or 1.0
    last = max(2, history[-1]["epoch"])

    def line(key: str) -> str:
        points = [(_x((one["epoch"] - 1) / (last - 1)), _y(one[key] / top)) for one in history]
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return f'<g class="{key}"><polyline points="{path}"/>{dots}</g>'

    now = history[-1]
    said = f"Loss after epoch {now['epoch']}: {now['train_loss']:.3f} learned, {now['held_out_loss']:.3f} left out"
    return (
        f'<figure class="plot"><figcaption>{said}</figcaption>{_canvas(said, "losses")}'
        f'<text x="{LEFT - 6}" y="{_y(1) + 4:.0f}" text-anchor="end">{number(top)}</text>'
        f'<text x="{LEFT - 6}" y="{_y(0) + 4:.0f}" text-anchor="end">0</text>'
        f'<text x="{_x(1):.0f}" y="{HEIGHT - 8}" text-anchor="end">epoch {last}</text>'
        f"{line('train_loss')}{line('held_out_loss')}</svg>"
        '<p class="key"><i class="train_loss"></i>photos that are learned from '
        '<i class="held_out_loss"></i>photos left out</p></figure>'
    )


def repairs(lesson: Lesson) -> str:
    """A left-out photo with painted damage, and what the network makes of it as it learns."""
    shown = lesson.preview()
    if shown is None or not shown.repairs:
        return ""
    pictures = [("with painted damage", shown.damaged)]
    pictures += [(f"repaired after epoch {epoch}", image) for epoch, image in sorted(shown.repairs.items())]
    figures = "".join(figure(image, said) for said, image in pictures)
    head = "<h3>A photo that was left out, repaired as it learns</h3>"
    return f'<section class="repairs">{head}<div class="strip">{figures}</div></section>'


def result(title: str, taught: Taught) -> str:
    head = words(
        f"{title} is learned" if taught.version is None else "The new version is ready",
        "It is in the list of products now."
        if taught.version is None
        else "It does not judge yet: compare it with the one in use, and choose.",
        "OK",
    )
    table = comparison(taught.version) if taught.version else ""
    return f'<div class="learned">{head}{table}{"".join(map(_learned, taught.learned))}</div>'


def _learned(one: Learned) -> str:
    warnings = "".join(f'<p class="warn">⚠ {escape(said)}.</p>' for said in one.warnings)
    apart = "".join(figure(image, name) for name, image in one.apart)
    strip = f'<div class="strip">{apart}</div>' if apart else ""
    more = "".join(f"<li>{escape(said)}</li>" for said in one.more)
    return (
        f"<section><h3>{escape(one.detector)}</h3><p>Learned from {one.photos - len(one.scores)} photos; "
        f"{len(one.scores)} others, which it never saw, set its limit.</p>"
        f"<p><b>What it promises:</b> {escape(one.promise)}.</p>{warnings}{strip}{histogram(one)}"
        f"{f'<p>More photos buy a stronger promise:</p><ul>{more}</ul>' if more else ''}</section>"
    )


def histogram(one: Learned) -> str:
    """Scores of the held-out good photos, with REVIEW and the limit."""
    # The limit is the edge of a bar, to the last bit: the highest good part often lies just under it.
    edges = one.fail * (np.arange(max(26, math.ceil(20 * float(one.scores.max()) / one.fail) + 2)) / 20)
    end = edges[-1]
    counts, _ = np.histogram(one.scores, bins=edges)
    top = int(counts.max())
    bars = "".join(
        f'<rect class="bar" x="{_x(left / end):.1f}" width="{_x(right / end) - _x(left / end) - 1:.1f}"'
        f' y="{_y(count / top):.1f}" height="{_y(0) - _y(count / top):.1f}"/>'
        for count, left, right in zip(counts, edges, edges[1:])
        if count
    )
    limit, review, floor, ceiling = _x(one.fail / end), _x(max(0.0, one.review) / end), _y(0), _y(1)
    said = f"Scores of {len(one.scores)} held-out good photos; the limit is {number(one.fail)}"
    return (
        f'<figure class="plot"><figcaption>{said}</figcaption>{_canvas(said, "histogram")}'
        f'<rect class="zone" x="{review:.1f}" y="{ceiling:.1f}" width="{limit - review:.1f}"'
        f' height="{floor - ceiling:.1f}"/><g class="bars">{bars}</g>'
        f'<line class="limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="4" y2="{floor:.1f}"/>'
        f'<text x="{limit + 6:.1f}" y="16">limit</text>'
        f'<text x="{LEFT - 6}" y="{_y(1) + 4:.0f}" text-anchor="end">{top}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 10}">0</text>'
        f'<text x="{_x(1):.0f}" y="{HEIGHT - 10}" text-anchor="end">score {number(end)}</text></svg>'
        '<p class="key"><i class="bars"></i>good photos <i class="zone"></i>REVIEW</p></figure>'
    )


def comparison(version: Version) -> str:
    """Both versions on the same photos, side by side."""
    rows = (
        ("Good photos that neither has learned", lambda side: f"{side.n_good}"),
        ("False alarms among them", lambda side: percent(Share(side.false_alarms, side.n_good))),
        ("Typical score of them, in limits", lambda side: f"{side.median:.2f}"),
        ("Highest score of them, in limits", lambda side: f"{side.highest:.2f}"),
        ("Known defects that are caught", _caught),
    )
    body = "".join(
        f"<tr><th scope='row'>{name}</th><td>{said(version.old)}</td><td>{said(version.new)}</td></tr>"
        for name, said in rows
    )
    return (
        '<section class="versions"><table><caption>On the same photos, each by its own limit</caption><thead><tr>'
        "<th></th><th scope='col'>in use</th><th scope='col'>new version</th></tr></thead>"
        f"<tbody>{body}</tbody></table>{_use(version)}</section>"
    )


def versions(found: list[Version]) -> str:
    """Every version of a product; a click sends stamp and detector."""
    body = "".join(
        f"<tr><td>{escape(moment(one.run.manifest.get('made', '')))}</td>"
        f"<td>{escape(one.run.detector)}</td><td>{one.run.manifest['data']['good_images']}</td>"
        f"<td>{escape(f'{100 * one.point.target:.3g}%') if one.point and one.point.target else '–'}</td>"
        f"<td>{_use(one) if one.stamp else '✓ in use'}</td></tr>"
        for one in found
    )
    return (
        '<section class="versions"><h3>Versions</h3><div class="wide"><table><thead><tr>'
        '<th scope="col">trained (UTC)</th>'
        '<th scope="col">detector</th><th scope="col">photos</th><th scope="col">false alarms promised</th>'
        f'<th scope="col">state</th></tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _use(version: Version) -> str:
    return (
        f'<button type="button" data-stamp="{escape(version.stamp)}" data-detector="{escape(version.run.detector)}"'
        f' data-category="{escape(version.run.category)}">Use this version</button>'
    )


def _caught(side: Side) -> str:
    return percent(Share(side.caught, side.n_defect)) if side.n_defect else "none on record"


def _canvas(said: str, kind: str) -> str:
    """The opening tag of a drawing, and its axes."""
    axes = f'<path class="axes" d="M{LEFT} 8V{_y(0):.0f}H{WIDTH - 8}"/>'
    return f'<svg class="{kind}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{axes}'


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 12)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def running(lesson: Lesson | None) -> bool:
    return lesson is not None and lesson.state == RUNNING
