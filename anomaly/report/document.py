"""The report of a batch as one self-contained HTML file, or as PDF."""

from __future__ import annotations

import base64
import functools
import io
import re
from html import escape
from pathlib import Path

import matplotlib
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Image, Paragraph, SimpleDocTemplate, Spacer
from reportlab.platypus import Table as Grid

from anomaly.errors import UsageError
from anomaly.report import Results
from anomaly.report.content import Block, Heading, Picture, Table, Text, content

# Nothing in the file may load or run anything, wherever it is opened.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; color: #15202b; background: #fff;
  max-width: 1000px; margin: 0 auto; padding: 24px 16px; color-scheme: light; }
h1 { font-size: 1.6rem; margin: 0 0 4px; } h2 { font-size: 1.15rem; margin: 28px 0 8px; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: 5px 10px 5px 0; border-bottom: 1px solid #d5dce4;
  overflow-wrap: anywhere; }
th { font-size: .85rem; color: #526272; overflow-wrap: normal; }
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
img { max-width: 100%; } .gallery { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--width), 100%), 1fr)); }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""

WIDTH = A4[0] - 36 * mm - 12  # margins, and the padding of reportlab's frame
TALLEST = 60 * mm  # of a picture in the PDF
RULE = [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LINEBELOW", (0, 0), (-1, -1), 0.4, colors.HexColor("#c6d0da"))]
BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9, leading=12, splitLongWords=True)
SMALL = ParagraphStyle("small", parent=BODY, fontSize=7.5, leading=9.5)
HEADING = ParagraphStyle(
    "heading", parent=BODY, fontName="Helvetica-Bold", fontSize=12, leading=16, spaceBefore=12, keepWithNext=1
)
TITLE = ParagraphStyle("title", parent=HEADING, fontSize=17, leading=22)

# Helvetica, which every reader has, ends with Latin-1. Asian text is drawn by the reader's own font, all else by the
# font that matplotlib brings along.
_ASIAN = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+")
_OTHER = re.compile(r"[^\x00-\xff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+")


def write_report(results: Results, path: Path, *, book: Path, by: str) -> None:
    """Write the report of a batch, as HTML or PDF by the suffix of `path`.

    Args:
        book: threshold.json, for who set the limits and why.
        by: whose batch it is.

    Raises:
        UsageError: another suffix.
        OSError: the file cannot be written.
    """
    write = {".html": _html, ".pdf": _pdf}[check_suffix(path)]
    title = f"Inspection of {len(results):,} {'photo' if len(results) == 1 else 'photos'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write(title, content(results, book=book, by=by)))


def check_suffix(path: Path) -> str:
    if path.suffix.lower() not in (".html", ".pdf"):
        problem = f"The report {path.name} ends in {path.suffix or 'nothing'}, .html or .pdf was expected"
        raise UsageError(problem, "Name it report.html or report.pdf")
    return path.suffix.lower()


def _html(title: str, blocks: list[Block]) -> bytes:
    body = "\n".join(map(_as_html, blocks))
    return PAGE.format(policy=escape(POLICY), title=escape(title), style=STYLE, body=body).encode()


def _as_html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Table):
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in block.head) if any(block.head) else ""
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in block.rows)
        columns = "".join(f'<col style="width:{share:.0%}">' for share in block.shares)
        top = f"<thead><tr>{head}</tr></thead>" if head else ""
        return f'<div class="wide"><table><colgroup>{columns}</colgroup>{top}<tbody>{rows}</tbody></table></div>'
    figures = "".join(
        f'<figure><img src="{_data_uri(one.data)}" alt="{escape(one.alt)}">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in block.pictures
    )
    return f'<div class="gallery" style="--width:{900 // block.columns - 20}px">{figures}</div>'


def _data_uri(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _pdf(title: str, blocks: list[Block]) -> bytes:
    _register_fonts()
    stream = io.BytesIO()
    margins = dict.fromkeys(("leftMargin", "rightMargin", "topMargin", "bottomMargin"), 18 * mm)
    page = SimpleDocTemplate(stream, pagesize=A4, title=title, **margins)
    story = [_paragraph(title, TITLE), *(flowable for block in blocks for flowable in _as_flowables(block))]
    page.build(story, onFirstPage=_number, onLaterPages=_number)
    return stream.getvalue()


def _as_flowables(block: Block) -> list[Flowable]:
    if isinstance(block, Heading):
        return [_paragraph(block.text, HEADING)]
    if isinstance(block, Text):
        return [_paragraph(block.text, BODY), Spacer(1, 4)]
    if isinstance(block, Table):
        head = [block.head] if any(block.head) else []
        rows = [[_paragraph(cell, BODY) for cell in row] for row in (*head, *block.rows)]
        widths = [share * WIDTH for share in block.shares]
        return [Grid(rows, colWidths=widths, repeatRows=len(head), splitInRow=1, style=RULE, hAlign="LEFT")]
    width, rows = WIDTH / block.columns, []
    for first in range(0, len(block.pictures), block.columns):
        row = [_picture(one, width - 8) for one in block.pictures[first : first + block.columns]]
        rows.append(row + [""] * (block.columns - len(row)))
    return [Grid(rows, colWidths=[width] * block.columns, style=RULE[:1], hAlign="LEFT")]


def _picture(picture: Picture, width: float) -> list[Flowable]:
    across, down = ImageReader(io.BytesIO(picture.data)).getSize()
    scale = min(width / across, TALLEST / down)
    image = Image(io.BytesIO(picture.data), across * scale, down * scale, hAlign="LEFT")
    return [image, _paragraph(picture.caption, SMALL)]


def _paragraph(text: str, style: ParagraphStyle) -> Paragraph:
    text = _OTHER.sub(r'<font name="DejaVu">\g<0></font>', escape(text, quote=False))
    return Paragraph(_ASIAN.sub(r'<font name="STSong-Light">\g<0></font>', text), style)


@functools.cache
def _register_fonts() -> None:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pdfmetrics.registerFont(TTFont("DejaVu", fonts / "DejaVuSans.ttf"))
    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))


def _number(canvas, page: SimpleDocTemplate) -> None:
    canvas.setFont("Helvetica", 8)
    canvas.drawRightString(A4[0] - 18 * mm, 10 * mm, f"{page.title} · page {page.page}")
