"""A report in Markdown → one HTML page that needs nothing beside it."""

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from alu_defects.reporting import page
from alu_defects.reporting.text import printable

_STYLE = """h3 { font-size: 16px; }
body { max-width: 1320px; } p, li { max-width: 80ch; overflow-wrap: anywhere; } li { margin: 3px 0; }
.wide { overflow-x: auto; } table { margin: 10px 0; font-size: 13.5px; }
th, td { vertical-align: top; white-space: nowrap; } th { white-space: normal; vertical-align: bottom; }
img { max-width: 100%; background: #fff; border-radius: 6px; margin: 8px 0; }
blockquote { max-width: 80ch; margin: 14px 0; padding: 10px 16px; border-left: 4px solid #b26a00;
  background: var(--card); }
blockquote p { margin: 0; } code { font-size: 13px; }
"""


def table(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> str:
    """A Markdown table of what is text already: the first column to the left, the others to the right."""
    frame = pd.DataFrame(rows)
    head, rule = [cell(str(name)) for name in frame], ["---", *["---:"] * (len(frame.columns) - 1)]
    cells = [[cell(text) for text in row] for row in frame.fillna("–").astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *cells])


def cell(text: str) -> str:
    """Text that Markdown must not take for more."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", printable(text).replace("\n", " "))


def save_figure(figure: Figure, folder: Path, name: str, alt: str, svg: bool = True) -> str:
    """Write a figure as PNG and, unless it is of photographs, as SVG; returns the Markdown that shows it."""
    figure.savefig(folder / f"{name}.png", dpi=130)
    if svg:
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return f"![{cell(alt)}]({name}.png)"


def write(folder: Path, title: str, parts: Sequence[str]) -> Path:
    """Write report.md, and report.html with its pictures inside; returns the latter."""
    text = "\n\n".join([f"# {cell(title)}", *parts]) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'<img src="([^"]+)"', lambda found: f'<img src="{_inside(folder / found[1])}"', body)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    file = folder / "report.html"
    file.write_text(page.html(title, body, _STYLE), encoding="utf-8")
    return file


def _inside(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"
