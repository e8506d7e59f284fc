"""A report in Markdown → one HTML page that needs nothing beside it."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from alu_defects.reports.terminal import printable

_STYLE = """h3 { font-size: 16px; }
body { max-width: 1320px; } p, li { max-width: 80ch; overflow-wrap: anywhere; } li { margin: 3px 0; }
.wide { overflow-x: auto; } table { margin: 10px 0; font-size: 13.5px; }
th, td { vertical-align: top; white-space: nowrap; } th { white-space: normal; vertical-align: bottom; }
img { max-width: 100%; background: #fff; border-radius: 6px; margin: 8px 0; }
blockquote { max-width: 80ch; margin: 14px 0; padding: 10px 16px; border-left: 4px solid #b26a00;
  background: var(--card); }
blockquote p { margin: 0; } code { font-size: 13px; }
"""


def markdown_table(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> str:
    """A Markdown table of what is text already: the first column to the left, the others to the right."""
    frame = pd.DataFrame(rows)
    head, rule = [escape_markdown(str(name)) for name in frame], ["---", *["---:"] * (len(frame.columns) - 1)]
    cells = [[escape_markdown(text) for text in row] for row in frame.fillna("–").astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *cells])


def escape_markdown(text: str) -> str:
    """Text that Markdown must not take for more."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", printable(text).replace("\n", " "))


def save_figure(figure: Figure, folder: Path, name: str, alt: str, svg: bool = True) -> str:
    """Write a figure as PNG and, unless it is of photographs, as SVG; returns the Markdown that shows it."""
    figure.savefig(folder / f"{name}.png", dpi=130)
    if svg:
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return f"![{escape_markdown(alt)}]({name}.png)"


def write_report(folder: Path, title: str, parts: Sequence[str]) -> Path:
    """Write report.md, and report.html with its images inside; returns the latter."""
    text = "\n\n".join([f"# {escape_markdown(title)}", *parts]) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'<img src="([^"]+)"', lambda found: f'<img src="{_inside(folder / found[1])}"', body)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    file = folder / "report.html"
    file.write_text(html_page(title, body, _STYLE), encoding="utf-8")
    return file


def _inside(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode('ascii')}"


_PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #687078; --line: #dfe3e6; --paper: #fff; --card: #f6f7f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #9aa2aa; --line: #343a40; --paper: #16191c;
  --card: #1f2327; } }
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1060px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 19px; margin: 36px 0 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 0 4px 18px; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
a { color: inherit; }
"""


def html_page(title: str, body: str, style: str) -> str:
    """A page with this title, body and further style."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(printable(title))}</title><style>{_PAGE_STYLE}{style}</style></head>\n<body>\n{body}</body></html>\n"
    )
