"""What was measured, as tables for the terminal and in Markdown."""

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import rich.table
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.text import Text

from alu_defects.benchmarking.measurement import Spread


@dataclass(frozen=True)
class Table:
    """A table of measurements.

    Attributes:
        title: what was measured.
        rows: quantities by their name with the unit: text, numbers, `Spread`s, and None for what was not measured.
            All have the same names; at least one row.
        note: how to read it; "" for none.
        names: so many first columns name a row, such as network and pixels.
    """

    title: str
    rows: list[dict[str, Any]]
    note: str = ""
    names: int = 1

    def to_rich(self, width: int) -> RenderableType:
        """For a terminal of `width` columns, rounded: one table, or where that is too wide a block for each name.

        A block of one row has its quantities one below the other.
        """
        whole = _rich_table(self.rows)
        whole.title, whole.caption = escape(self.title), escape(self.note) or None
        if Console(width=10_000).measure(whole).maximum <= width:
            return whole
        first, *others = list(self.rows[0])[: self.names]
        blocks: list[RenderableType] = []
        for key, group in groupby(self.rows, lambda row: ", ".join([row[first], *(f"{n} {row[n]}" for n in others)])):
            rows = [{name: value for name, value in row.items() if name not in (first, *others)} for row in group]
            if upright := len(rows) == 1:
                rows = [{"quantity": name, "value": value} for name, value in rows[0].items()]
            blocks += [Text(key, style="bold"), _rich_table(rows, show_header=not upright)]
        return Group(Text(self.title, style="table.title"), *blocks, Text(self.note, style="table.caption"))

    def to_markdown(self) -> str:
        """The same in Markdown, below a heading."""
        rule = ["---" if _is_text(self.rows, name) else "---:" for name in self.rows[0]]
        cells = [list(self.rows[0]), rule, *(map(format_value, row.values()) for row in self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])


def _rich_table(rows: list[dict[str, Any]], show_header: bool = True) -> rich.table.Table:
    table = rich.table.Table(
        box=SIMPLE, show_header=show_header, show_edge=False, pad_edge=False, collapse_padding=True
    )
    for name in rows[0]:
        table.add_column(escape(name), justify="left" if _is_text(rows, name) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(format_value(value)) for value in row.values()))
    return table


def _is_text(rows: list[dict[str, Any]], name: str) -> bool:
    return all(isinstance(row[name], str) for row in rows)


def format_value(value: Any) -> str:
    """A cell as text: counts in full, other numbers with three digits, what was not measured as a dash.

    A `Spread` is shown as its median, with the range of the rounds in brackets where it is seen in three digits.
    """
    if isinstance(value, Spread):
        median, low, high = map(format_value, (value.median, value.low, value.high))
        return median if low == high else f"{median} ({low}–{high})"
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    value = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{max(0, decimals)}f}"
