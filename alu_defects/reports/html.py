"""HTML pages from templates/; each is one file that needs nothing beside it. A report is written in Markdown first."""

import base64
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from alu_defects.reports.terminal import printable


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame], index: bool = False) -> None:
    """Write tables that have columns as CSV, as the catalog: names may hold line ends, or be no UTF-8."""
    for name, table in tables.items():
        if len(table.columns):
            file = folder / f"{name}.csv"
            table.to_csv(file, index=index, quoting=csv.QUOTE_NONNUMERIC, errors="surrogateescape")


def markdown_table(rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> str:
    """A Markdown table of what is text already: the first column to the left, the others to the right."""
    frame = pd.DataFrame(rows)
    head, rule = [escape_markdown(str(name)) for name in frame], ["---", *["---:"] * (len(frame.columns) - 1)]
    cells = [[escape_markdown(text) for text in row] for row in frame.fillna("–").astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *cells])


def escape_markdown(text: str) -> str:
    """Text in which Markdown sees no markup."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", printable(text))


def save_figure(figure: Figure, folder: Path, name: str, alt: str, svg: bool = True) -> str:
    """Write a figure as PNG and, unless it shows images, as SVG; returns the Markdown that shows it."""
    figure.savefig(folder / f"{name}.png", dpi=130)
    if svg:
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return f"![{escape_markdown(alt)}]({name}.png)"


def write_report(folder: Path, title: str, parts: Sequence[str]) -> Path:
    """Write report.md, and report.html with its images inside; returns the latter."""
    text = "\n\n".join([f"# {escape_markdown(title)}", *parts]) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for image in (child for token in tokens for child in token.children or () if child.type == "image"):
        image.attrs["src"] = data_url((folder / str(image.attrs["src"])).read_bytes(), "image/png")
    body = markdown.renderer.render(tokens, markdown.options, {})
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return write_page(folder / "report.html", "report.html", title=title, body=Markup(body))


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Write a page from a template; every value in it is made printable and escaped, unless it is `Markup`."""
    path.write_text(_TEMPLATES.get_template(template).render(content), encoding="utf-8")
    return path


def data_url(content: bytes, media_type: str) -> str:
    """A file as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) else printable(str(value))


_TEMPLATES = Environment(
    loader=PackageLoader("alu_defects.reports"),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
