"""HTML pages: they need no other file, and every name is shown as text."""

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from alu_defects.reports import html

NASTY = [
    "a|b*c_<script>alert(1)</script>[x](javascript:1)",
    "![x](http://example.org/x.png)",
    "<img src=http://example.org/x.png onerror=alert(1)>",
    "</td></table></body>",
    "back\\slash and \\| pipe\\",
    "`code` **bold** __bold__ # head",
    '" onload="alert(1)',
    "桔皮",
    "<http://example.org>",
]
# elements whose content is not shown, and elements without an end tag
HIDDEN, EMPTY = {"style", "title", "script"}, {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[str] = []
        self.text = ""
        self.title = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in EMPTY:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:  # <img … /> ends itself
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if "title" in self.open:
            self.title += data
        if not HIDDEN & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def check_self_contained(self) -> None:
        """No other file is needed, no script runs, and every opened element is closed."""
        assert self.open == []
        assert not {"script", "link", "iframe", "object", "embed", "base", "a"} & set(self.tags)
        for tag, name, value in self.attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith("data:image/png;base64,"), (tag, name, value[:60])
        style = re.search(r"<style>(.*)</style>", self.source, re.DOTALL)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]

    @property
    def images(self) -> list[bytes]:
        sources = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        return [base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) for source in sources]


@pytest.fixture
def figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1], [1, 0])
    return figure


def test_report_is_self_contained(figure, tmp_path):
    rows = [{"class": name, "recall": "90.0", "support": "12"} for name in NASTY]
    shown = [html.save_figure(figure, tmp_path, name, NASTY[0]) for name in ("first", "second")]
    path = html.write_report(
        tmp_path, f"Run {NASTY[0]}", ["## Classes", html.markdown_table(rows), *shown, "> *a note*"]
    )
    assert path == tmp_path / "report.html"
    page = Page(path)
    page.check_self_contained()
    assert page.images == [(tmp_path / f"{name}.png").read_bytes() for name in ("first", "second")]
    assert [value for tag, name, value in page.attributes if name == "alt"] == [NASTY[0]] * 2
    assert page.cells == ["class", "recall", "support", *(text for name in NASTY for text in (name, "90.0", "12"))]
    assert page.title == f"Run {NASTY[0]}"
    assert f"Run {NASTY[0]}" in page.text
    assert page.tags.count("table") == 1
    assert {"h1", "h2", "blockquote", "em"} <= set(page.tags)
    assert ("meta", "charset", "utf-8") in page.attributes


@pytest.mark.parametrize("name", NASTY)
def test_hostile_name_is_text_in_every_place(name, tmp_path):
    text = html.escape_markdown(name)
    page = Page(html.write_report(tmp_path, name, [text, f"* {text}", f"> {text}", f"## {text}"]))
    page.check_self_contained()
    assert page.text.split("\n").count(name) == 5
    assert not {"img", "strong", "code", "a"} & set(page.tags)
    assert page.tags.count("h1") == page.tags.count("h2") == 1


@pytest.mark.parametrize("name", ["two\nlines", "a tab\there", "no utf-8: \udce9", "null \x00"])
def test_unprintable_characters_are_replaced(name, tmp_path):
    page = Page(html.write_report(tmp_path, name, [html.markdown_table([{"class": name, "n": "1"}])]))
    page.check_self_contained()
    assert len(page.cells) == 4
    assert "\n" not in page.cells[2]
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("\n") == 5


def test_html_entity_in_a_name_is_text(tmp_path):
    page = Page(html.write_report(tmp_path, "t", [html.escape_markdown("R&amp;D &copy;")]))
    assert "R&amp;D &copy;" in page.text


def test_markdown_of_a_report(figure, tmp_path):
    table = html.markdown_table(pd.DataFrame({"class": ["pit", "dent"], "recall": ["90.0", "81.5"]}))
    assert table == "| class | recall |\n| --- | ---: |\n| pit | 90.0 |\n| dent | 81.5 |"
    shown = html.save_figure(figure, tmp_path, "confusion", "Confusion matrix")
    html.write_report(tmp_path, "Test of run_1", ["Some words.", table, shown])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text == f"# Test of run\\_1\n\nSome words.\n\n{table}\n\n![Confusion matrix](confusion.png)\n"
    assert "data:" not in text


def test_table_has_one_line_for_each_row():
    table = html.markdown_table([{"class": name, "n": "1"} for name in NASTY])
    assert table.count("\n") == len(NASTY) + 1
    assert all(line.startswith("| ") and line.endswith(" |") for line in table.split("\n"))
    assert html.markdown_table([{"class": "pit", "n": 3, "rate": 0.5}]).endswith("| pit | 3 | 0.5 |")


@pytest.mark.parametrize("missing", [None, math.nan])
def test_table_with_a_missing_value(missing):
    assert html.markdown_table([{"class": "pit", "n": "1"}, {"class": "dent", "n": missing}]).count("\n") == 3


def test_hostile_column_name_is_text(tmp_path):
    page = Page(html.write_report(tmp_path, "t", [html.markdown_table([{"class": "pit", "a|b": "1"}])]))
    assert page.cells == ["class", "a|b", "pit", "1"]


def test_figure_is_written_as_png_and_svg(figure, tmp_path):
    assert html.save_figure(figure, tmp_path, "loss", "Loss [val]") == "![Loss \\[val\\]](loss.png)"
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "loss.svg").read_text(encoding="utf-8")
    assert "<svg" in drawing
    assert "<dc:date>" not in drawing  # the same figure is the same file
    html.save_figure(figure, tmp_path, "images", "Images", svg=False)
    assert (tmp_path / "images.png").is_file()
    assert not (tmp_path / "images.svg").exists()


@pytest.mark.parametrize("name", [*NASTY, "two\nlines", "no utf-8: \udce9"])
def test_values_of_a_template_are_escaped(name, tmp_path):
    page = Page(html.write_page(tmp_path / "page.html", "report.html", title=name, body=name))
    page.check_self_contained()
    assert page.title == page.text.strip() == name.replace("\n", " ").replace("\udce9", "�")
