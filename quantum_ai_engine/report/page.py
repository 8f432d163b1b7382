"""One HTML file that needs nothing else: no script, no request, its pictures inside."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from quantum_ai_engine.report import chart as pictures
from quantum_ai_engine.report.chart import Chart

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --back: #f4f6f8; --ink: #1b2129;
  --soft: #57616d; --line: #d8dee5; --mark: #0072b2; --alarm: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #161b22; --back: #0d1117;
  --ink: #e4e9ef; --soft: #9aa6b3; --line: #303944; --mark: #56b4e9; --alarm: #ff9e8f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .8rem; font-size: 1.15rem; }
p { margin: .4rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
section.verdict { margin: 1.2rem 0; padding: 1rem 1.2rem; background: var(--paper);
  border: 1px solid var(--line); border-left: 6px solid var(--mark); border-radius: 6px; }
.verdict strong { font-size: 1.2rem; }
section.warnings { margin: 1.2rem 0; padding: 1rem 1.2rem; background: var(--paper);
  border: 1px solid var(--line); border-left: 6px solid var(--alarm); border-radius: 6px; }
.warnings strong { color: var(--alarm); font-size: 1.1rem; }
.warnings ul { margin: .4rem 0 0; padding-left: 1.2rem; }
figure { display: inline-block; width: 49.5%; margin: 0 0 .8rem; padding: 1rem;
  vertical-align: top; background: var(--paper); border: 1px solid var(--line);
  border-radius: 6px; }
figure:last-child:nth-child(odd) { width: 100%; }
figure.wide { width: 100%; }
figure.wide img { max-width: none; }
figure h3 { margin: 0 0 .5rem; font-size: 1rem; }
img { display: block; width: 100%; max-width: 640px; height: auto; margin: 0 auto; }
figcaption { margin-top: .6rem; }
.scroll { overflow-x: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 6px; }
.scroll + .scroll, .scroll + .charts, .charts + .scroll { margin-top: .8rem; }
table { width: 100%; border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { padding: .6rem .8rem; text-align: left; caption-side: bottom; }
th, td { padding: .4rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; }
.facts td { overflow-wrap: anywhere; }
.numbers td { text-align: right; }
.numbers thead th:not(:first-child) { text-align: right; }
@media screen and (max-width: 820px) { figure { width: 100%; } }
@media screen and (max-width: 560px) { main { padding: 1rem .7rem 2rem; }
  table { font-size: .82rem; } th, td, caption { padding: .35rem .4rem; } }
@media print { @page { margin: 14mm; } :root { font-size: 11px; } body { background: none; }
  main { max-width: none; padding: 0; } img { max-width: 420px; }
  section.verdict, section.warnings, figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; } }
"""

Rows = Iterable[Sequence[str]]


def page(title: str, parts: Iterable[str]) -> str:
    """The document. Its policy allows this very style and pictures in it, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *parts,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def header(title: str, subtitle: str) -> str:
    """What the page is about."""
    return f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(subtitle)}</p>'


def verdict(heading: str, *sentences: str) -> str:
    """The answer, before everything else."""
    said = "".join(f"\n<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<section class="verdict"><strong>{escape(heading)}</strong>{said}\n</section>'


def warnings(heading: str, sentences: Sequence[str]) -> str:
    """What should be known before anything is believed: one line each."""
    said = "".join(f"\n<li>{escape(sentence)}</li>" for sentence in sentences)
    return (
        f'<section class="warnings"><strong>{escape(heading)}</strong>\n<ul>{said}\n</ul></section>'
    )


def paragraph(text: str) -> str:
    """A few sentences between the tables."""
    return f'<p class="soft">{escape(text)}</p>'


def heading(text: str) -> str:
    """The title of what follows."""
    return f"<h2>{escape(text)}</h2>"


def figures(charts: Iterable[Chart]) -> str:
    """The charts with what they say, in the reader's light or dark."""
    return "\n".join(['<div class="charts">', *map(_figure, charts), "</div>"])


def table(head: Sequence[str], rows: Rows, caption: str = "") -> str:
    """Figures by name: the first cell of a row is its name, the others are numbers."""
    shown = "".join(
        f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in head
    )
    return _table("numbers", caption, f"<thead><tr>{shown}</tr></thead>", rows)


def facts(rows: Rows) -> str:
    """Names and what they stand for."""
    return _table("facts", "", "", rows)


def _table(kind: str, caption: str, head: str, rows: Rows) -> str:
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        '<div class="scroll" tabindex="0">'
        f'<table class="{kind}">{said}{head}\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _figure(chart: Chart) -> str:
    light, dark = (
        "data:image/png;base64," + base64.b64encode(pictures.png(chart, theme)).decode()
        for theme in (pictures.LIGHT, pictures.DARK)
    )
    wide = ' class="wide"' if chart.is_wide else ""
    width, height = (round(inches * 96) for inches in chart.inches)  # 96 CSS px an inch
    return (
        f"<figure{wide}><h3>{escape(chart.title)}</h3>\n<picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" width="{width}" height="{height}" '
        f'alt="{escape(chart.title)}, described below"></picture>\n'
        f"<figcaption>{escape(chart.says)}</figcaption></figure>"
    )
