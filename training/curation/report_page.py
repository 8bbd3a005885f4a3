"""The page around the report's parts: no script, no font and no picture from elsewhere, light or dark as one reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --card: #fff; --ink: #22252a; --soft: #6b7078; --line: #e3e0d8;
  --kept: #2f7d6b; --dropped: #d98841; --plain: #5b7fa6; --limit: #b3303c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --card: #1e2125; --ink: #e6e4df; --soft: #9a9fa7;
  --line: #32363c; --kept: #57b39c; --dropped: #e0a061; --plain: #82a8d1; --limit: #f07a83; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main, header, nav div { max-width: 1160px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; padding-bottom: 20px; }
h1 { font-size: 30px; margin: 0; letter-spacing: -.02em; }
h2 { font-size: 21px; margin: 0 0 4px; } h3 { font-size: 15px; margin: 0 0 4px; } h4 { font-size: 13px; margin: 8px 0; }
h4.kept { color: var(--kept); } h4.dropped { color: var(--dropped); }
small, .note, figcaption small { color: var(--soft); font-weight: 400; } small { font-size: 12.5px; }
.note { margin: 0 0 16px; max-width: 76ch; }
nav { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line); z-index: 2; }
nav div { display: flex; gap: 20px; flex-wrap: wrap; padding-top: 10px; padding-bottom: 10px; }
nav a { color: var(--ink); text-decoration: none; } nav a:hover { text-decoration: underline; }
section { padding: 30px 0 6px; scroll-margin-top: 36px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin-top: 20px; }
.cards div, article, .histogram { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.cards div { padding: 10px 14px; } .cards b { display: block; font-size: 25px; font-weight: 600; line-height: 1.25; }
article { padding: 14px 16px; margin-bottom: 14px; overflow: hidden; } article p { margin: 0 0 10px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; } tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-right: 18px; }
.bar { width: 38%; } .bar div { display: flex; height: 16px; border-radius: 3px; overflow: hidden; }
i.kept { background: var(--kept); } i.dropped { background: var(--dropped); } i.plain { background: var(--plain); }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 12px; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: 5px; margin: 0; padding: 0; font-size: 13px; }
.chips li { border: 1px solid var(--line); border-radius: 9px; padding: 0 8px; white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 14px; }
.histogram { margin: 0; padding: 10px 14px 4px; } .histogram figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11.5px; }
rect.kept { fill: var(--kept); } rect.dropped { fill: var(--dropped); } line.floor { stroke: var(--line); }
line.limit { stroke: var(--limit); stroke-dasharray: 4 3; } svg text.limit { fill: var(--limit); }
.strip { display: flex; flex-wrap: wrap; gap: 8px; } .strip figure { margin: 0; max-width: 100%; }
.frames { margin-bottom: 10px; } img { border-radius: 4px; background: #fff; max-width: 100%; object-fit: contain; }
figcaption { font-size: 13px; line-height: 1.3; padding-top: 3px; } figure.reject img { opacity: .35; }
.edges { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 16px; }
.absent { color: var(--soft); border: 1px dashed var(--line); border-radius: 4px; padding: 30px 14px; }
footer { color: var(--soft); padding: 24px 0 48px; font-size: 13px; }
@media print { nav { display: none; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page: ``name`` is its place in the page, ``note`` says how to read it."""

    name: str
    title: str
    note: str
    body: str


@dataclass(frozen=True)
class Figure:
    """A number on top of the page."""

    value: str
    what: str


def page(title: str, subtitle: str, figures: Sequence[Figure], sections: Sequence[Section]) -> str:
    """The whole file."""
    links = "".join(f'<a href="#{part.name}">{escape(part.title)}</a>' for part in sections)
    cards = "".join(f"<div><b>{escape(figure.value)}</b>{escape(figure.what)}</div>" for figure in figures)
    parts = "".join(
        f'<section id="{part.name}"><h2>{escape(part.title)}</h2><p class="note">{part.note}</p>{part.body}</section>'
        for part in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' file: data:; "
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><small>{escape(subtitle)}</small><div class="cards">{cards}</div></header>'
        f"<nav><div>{links}</div></nav><main>{parts}"
        "<footer>Everything on this page lies beside it; it needs no network.</footer></main></body></html>\n"
    )


def table(heads: Sequence[str], rows: str) -> str:
    """``rows`` are ready-made; a head that begins with # stands over numbers."""
    cells = "".join(
        f'<th scope="col" class="number">{escape(head[1:])}</th>' if head.startswith("#") else
        f'<th scope="col">{escape(head)}</th>'
        for head in heads
    )  # fmt: skip
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
