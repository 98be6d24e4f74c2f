"""Pieces of the page as HTML. Every text from outside passes `escape`: a file name is chosen by a visitor."""

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from anomaly.handlers.inspect import MOST_REGIONS, STORED, Example, Report, Why
from anomaly.handlers.session import Notice

TALLEST = 460  # CSS pixels that a panel may take, so that the verdict and the pictures fit on one screen
METER_END = 2.0  # the level bar ends at twice the limit, which puts the limit in its middle for every product

SQUARE = '<rect x="3" y="3" width="42" height="42" rx="6"/><path class="ink" d="M24 12.5v15M24 35v.5"/>'
# One shape a verdict, so that it is told by form as well as by colour: disc, triangle, octagon, square.
ICONS = {
    "OK": '<circle cx="24" cy="24" r="22"/><path class="ink" d="m13.5 24.5 7.5 7.5 14-15"/>',
    "REVIEW": '<path d="M24 2 47 43a2 2 0 0 1-2 3H3a2 2 0 0 1-2-3Z"/><path class="ink" d="M24 17v13.5M24 37.5v.5"/>',
    "ANOMALY": '<path d="M15 2h18l13 13v18L33 46H15L2 33V15Z"/><path class="ink" d="m15.5 15.5 17 17m0-17-17 17"/>',
    "REFUSED": SQUARE,
    "refused": SQUARE,
    "idle": '<rect x="3" y="9" width="42" height="32" rx="5"/><circle class="ink" cx="24" cy="25" r="8.5"/>',
    "busy": '<circle class="track" cx="24" cy="24" r="19"/><path class="ink spin" d="M24 5a19 19 0 0 1 19 19"/>',
}


def icon(name: str) -> str:
    return f'<svg class="icon" viewBox="0 0 48 48" aria-hidden="true">{ICONS[name]}</svg>'


def picture(image: np.ndarray, *, quality: int = 88) -> str:
    """An RGB image as a data URI: nothing is stored on the server, and no address of it can be guessed."""
    buffer = io.BytesIO()
    # 4:4:4, since half-resolution colour would smear the thin contours.
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return data_uri(buffer.getvalue())


def data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def number(value: float) -> str:
    """Four significant digits: enough to compare two parts, and the same width from one part to the next."""
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"


def moment(at: str) -> str:
    """An ISO time in minutes: "2026-11-22 10:05"."""
    return at[:16].replace("T", " ")


def bar(label: str, done: int, total: int) -> str:
    """How far some work is."""
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="{total}"'
        f' aria-valuenow="{done}"><i style="width:{100 * done / max(1, total):.1f}%"></i></div>'
    )


def notice(said: Notice) -> str:
    shown = ""
    if said.photo is not None:
        shown = (
            f'<figure><img src="{picture(said.photo)}" alt="Photo {escape(said.name)}">'
            f'<figcaption translate="no">{escape(said.name)}</figcaption></figure>'
        )
    return (
        f'<section class="verdict {said.kind}">{icon(said.kind)}'
        f'<div class="word"><h2>{escape(said.title)}</h2><p>{escape(said.text)}</p></div>{shown}</section>'
    )


def legend() -> str:
    """What the three verdicts mean, for the page before its first one."""
    meanings = (
        ("OK", "Clearly under the limit."),
        ("REVIEW", "Too near to the limit to be sure, or a photo unlike the good ones: a person should look."),
        ("ANOMALY", "At or over the limit."),
    )
    items = "".join(
        f'<li class="{word.lower()}">{icon(word)}<b>{word}</b><span>{text}</span></li>' for word, text in meanings
    )
    return f'<ul class="legend" aria-label="What the verdicts mean">{items}</ul>'


def banner(report: Report) -> str:
    """Icon, word and colour; product and file; score against limit as a level bar."""
    review = report.review_threshold / report.threshold
    return (
        f'<section class="verdict {report.verdict.lower()}">{icon(report.verdict)}'
        f'<div class="word"><h2>{report.verdict}</h2>'
        f'<p translate="no"><b>{escape(report.title)}</b> · {escape(report.name)}</p>'
        f"{looks(report.type, report.attributes)}</div>"
        f'<div class="reading"><p class="level"><b>{report.level:.2f}</b> × the limit</p>{meter(report.level, review)}'
        f"<p>score <b>{number(report.score)}</b> · limit <b>{number(report.threshold)}</b></p>"
        f'<p class="doubt">{escape(report.doubt)}</p></div>'
        f"{warning(report.capture)}{unrecorded(report)}{trial(report)}</section>"
    )


def looks(kind: str, attributes: tuple[str, ...] = ()) -> str:
    """Of which type the defect is, where types are known, and what it looks like."""
    said = f'<p class="kind">{escape(kind)}</p>' if kind else ""
    return said + (f"<p>{escape(' · '.join(attributes))}</p>" if attributes else "")


def meter(level: float, review: float) -> str:
    """A bar from 0 to twice the limit; both arguments are in limits, `review` is where REVIEW begins."""
    share, begins = min(level / METER_END, 1) * 100, review / METER_END * 100
    zone = f'<i class="zone" style="left:{begins:.1f}%;right:50%"></i>' if begins < 50 else ""
    over = '<i class="over" aria-hidden="true">»</i>' if level > METER_END else ""
    return (
        '<div class="meter" role="meter" aria-label="Score divided by limit"'
        f' aria-valuemin="0" aria-valuemax="{METER_END:g}" aria-valuenow="{min(level, METER_END):.3f}"'
        f' aria-valuetext="{level:.2f} times the limit">'
        f'{zone}<i class="fill" style="width:{share:.1f}%"></i><i class="limit"></i>{over}</div>'
        '<div class="ticks" aria-hidden="true"><span>0</span><span>limit</span><span>2×</span></div>'
    )


def warning(capture: tuple[str, ...]) -> str:
    """How the photo differs from those that the limit was set on; the verdict is then a person's."""
    if not capture:
        return ""
    said = " ".join(f"{escape(sentence)}." for sentence in capture)
    return f'<p class="capture" role="alert"><b>This photo is unlike the training photos.</b> {said}</p>'


def unrecorded(report: Report) -> str:
    """The verdict stands, but nobody will find it in the record."""
    if not report.unrecorded:
        return ""
    return f'<p class="capture" role="alert"><b>This inspection is not on record.</b> {escape(report.unrecorded)}</p>'


def trial(report: Report) -> str:
    """Nobody may take a moved slider for the product's own limit."""
    if report.percent == STORED:
        return ""
    return (
        f'<p class="trial"><b>Trial at {report.percent:g}% of the stored limit.</b> '
        f"At the stored limit this part is <b>{report.stored_verdict}</b>. Nothing is saved.</p>"
    )


def frame(report: Report) -> str:
    """Inline style that gives a panel its final size before its picture is decoded, so that nothing jumps."""
    ratio = report.width / report.height
    return f"width:min(100%,{TALLEST * ratio:.0f}px);aspect-ratio:{ratio:.4f}"


def panel(report: Report, title: str, image: np.ndarray, alt: str, over: str = "", below: str = "") -> str:
    return (
        f'<figure class="panel"><figcaption>{title}</figcaption>'
        f'<button type="button" class="enlarge" data-title="{title}" aria-label="Enlarge: {title}"'
        f' style="{frame(report)}">'
        f'<img src="{picture(image)}" alt="{escape(alt)}">{over}</button>{below}</figure>'
    )


def original(report: Report) -> str:
    size = f'<p class="under">{report.width} × {report.height} pixels</p>'
    return panel(report, "Original", report.photo, f"Photo {report.name}", below=size)


def reconstruction(report: Report) -> str:
    title, ratio = "Reconstruction", report.width / report.height
    if report.reconstruction is None:
        return (
            f'<figure class="panel"><figcaption>{title}</figcaption><div class="none" style="aspect-ratio:{ratio:.4f}">'
            f"<p><b>{escape(report.detector)}</b> makes no reconstruction.</p></div></figure>"
        )
    words = '<p class="under">the part as the model would repair it</p>'
    return panel(report, title, report.reconstruction, f"{report.name} as a good part", below=words)


def heatmap(report: Report) -> str:
    count = len(report.regions)
    alt = f"Heatmap over {report.name}. {report.note}"
    if count:
        first = report.regions[0]
        alt += f" The strongest is at x {first.x}, y {first.y}, {first.width} by {first.height} pixels."
    return panel(report, "Heatmap", report.overlay, alt, over=tags(report), below=colour_bar(report))


def tags(report: Report) -> str:
    """The number of each region at its top left corner, as in the table."""
    corners = [(100 * spot.x / report.width, 100 * spot.y / report.height) for spot in report.regions[:MOST_REGIONS]]
    return "".join(
        f'<i class="tag" style="--x:{x:.2f}%;--y:{y:.2f}%">{place}</i>' for place, (x, y) in enumerate(corners, 1)
    )


def colour_bar(report: Report) -> str:
    """From 0 to twice the stored limit, the same for every photo of the product; a marker shows a moved limit."""
    stops = ",".join("rgb({},{},{})".format(*colour) for colour in report.scale[0, ::7].tolist())
    at = min(report.percent / STORED / 2, 1) * 100
    moved = "" if report.percent == STORED else f'<i class="moved" style="left:{at:.1f}%"></i>'
    return (
        '<div class="scale" role="img" aria-label="Colours from 0 to twice the limit, the limit in the middle">'
        f'<div class="bar" style="background:linear-gradient(90deg,{stops})"><i class="limit"></i>{moved}</div>'
        '<div class="ticks" aria-hidden="true"><span>0</span><span>limit</span><span>2×</span></div></div>'
    )


def regions(report: Report) -> str:
    """The defects as a table, strongest first, numbered as on the heatmap."""
    facts = (
        f'<p class="facts"><span>detector <b>{escape(report.detector)}</b></span>'
        f"<span>time <b>{report.milliseconds:,.0f} ms</b></span></p>"
    )
    head = f'<div class="regions"><header><h3>Regions</h3>{facts}</header><p>{escape(report.note)}</p>'
    head += f"<p>{escape(report.unchecked)}.</p>" if report.unchecked else ""
    if not report.regions:
        return head + "</div>"
    rows = "".join(
        f'<tr><th scope="row">{place}</th><td>{spot.x}</td><td>{spot.y}</td><td>{spot.width}</td>'
        f"<td>{spot.height}</td><td>{spot.area:,}</td><td>{spot.level:.2f} ×</td></tr>"
        for place, spot in enumerate(report.regions[:MOST_REGIONS], 1)
    )
    rest = len(report.regions) - MOST_REGIONS
    weaker = "and 1 weaker one" if rest == 1 else f"and {rest} weaker ones"
    more = f"<p>{weaker}</p>" if rest > 0 else ""
    columns = "".join(
        f'<th scope="col">{name}</th>' for name in ("No.", "x", "y", "width", "height", "area", "peak ÷ limit")
    )
    return (
        f'{head}<div class="wide"><table><caption class="unseen">Defect regions in pixels of the original</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>{more}</div>"
    )


def figure(image: np.ndarray, words: str) -> str:
    """A picture and what it is."""
    words = escape(words)
    return f'<figure><img src="{picture(image)}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def why(found: Why | Notice) -> str:
    """The place in question beside a good one, and what the score is made of."""
    if isinstance(found, Notice):
        return notice(found)
    pictures = figure(found.here, "this photo") + figure(found.good, found.source)
    bars = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td><i style='width:{100 * share:.0f}%'></i></td>"
        f"<td>{100 * share:.0f}%</td></tr>"
        for name, share in found.shares
    )
    return (
        f'<section class="why" aria-label="Why"><div class="pair">{pictures}</div>'
        f"<table><caption>What the score is made of</caption><tbody>{bars}</tbody></table></section>"
    )


def examples(shown: tuple[Example, ...]) -> str:
    """Buttons with a picture; a click sends the index, never a path."""
    if not shown:
        return ""
    buttons = "".join(
        f'<button type="button" data-index="{index}" aria-label="Inspect the example {escape(one.name)}">'
        f'<img src="{picture(one.thumbnail, quality=80)}" alt=""><span>{escape(one.kind)}</span></button>'
        for index, one in enumerate(shown)
    )
    return f'<div class="examples"><h2>Examples</h2><div class="strip">{buttons}</div></div>'


def empty_panel(title: str) -> str:
    """Holds the place of a panel while the network runs."""
    return f'<figure class="panel"><figcaption>{title}</figcaption><div class="enlarge waiting"></div></figure>'
