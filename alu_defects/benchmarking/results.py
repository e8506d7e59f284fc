"""What was measured, as tables: for the terminal, for Markdown and, unrounded, for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import rich.table
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.text import Text

from alu_defects.benchmarking.timing import Spread


@dataclass(frozen=True)
class Table:
    """A table of measurements.

    Attributes:
        title: what was measured.
        frame: a column a quantity, named with its unit; text, numbers, `Spread`s, and NaN or None for what was not
            measured. Text columns come first.
        note: how to read it; "" for none.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""

    def to_rich(self, width: int) -> RenderableType:
        """For a terminal of `width` columns, rounded: one table, or where that is too wide a block a network.

        What names a row (network, pixels, variant) comes first; as much of it as need be goes into the blocks' titles.
        A block of one row has its quantities one below the other.
        """
        whole = self._rich(self.frame, self.title, self.note)
        if _fits(whole, width):
            return whole
        names = [str(name) for name in self.frame]
        texts = [number for number, name in enumerate(names, 1) if self._is_text(name)]
        first = names[: max(texts, default=1)]
        for count in range(1, len(first)):
            groups = self.frame.groupby(first[:count], sort=False, dropna=False)
            blocks = [
                self._rich(rows.drop(columns=first[:count]), _label(rows[first[:count]].iloc[0])) for _, rows in groups
            ]
            if len(blocks) < len(self.frame) and all(_fits(block, width) for block in blocks):
                break
        else:
            blocks = [self._transposed()]
        note = [Text(self.note, style="table.caption")] if self.note else []
        return Group(Text(self.title, style="table.title"), *blocks, *note)

    def _rich(self, frame: pd.DataFrame, title: str, note: str = "") -> rich.table.Table:
        table = rich.table.Table(title=escape(title), caption=escape(note) or None)
        for name in frame:
            justify: Literal["left", "right"] = "left" if self._is_text(str(name)) else "right"
            table.add_column(escape(str(name)), justify=justify, overflow="fold")
        for row in _cells(frame):
            table.add_row(*map(escape, row))
        return table

    def _transposed(self) -> rich.table.Table:
        """Of each row its name, which is in the first column, and a line for each other column."""
        table = rich.table.Table(show_header=False)
        table.add_column(overflow="fold")
        table.add_column(justify="right", overflow="fold")
        for row, *cells in _cells(self.frame):
            table.add_section()
            table.add_row(escape(row), style="bold")
            for name, cell in zip(self.frame.columns[1:], cells, strict=True):
                table.add_row(escape(str(name)), escape(cell))
        return table

    def to_markdown(self) -> str:
        """The same in Markdown, below a heading."""
        names = [str(name) for name in self.frame]
        rule = ["---" if self._is_text(name) else "---:" for name in names]
        lines = ["| " + " | ".join(cells) + " |" for cells in (names, rule, *_cells(self.frame))]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists: `title`, `note` and `rows`, a `Spread` as median, low and high, NaN as null."""
        rows = [{str(name): _plain(value) for name, value in row.items()} for row in self.frame.to_dict("records")]
        return {"title": self.title, "note": self.note, "rows": rows}

    def _is_text(self, name: str) -> bool:
        return bool(self.frame[name].map(lambda value: isinstance(value, str)).any())


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    return [[for_people(value) for value in row] for row in frame.astype(object).itertuples(index=False)]


def _label(names: "pd.Series[Any]") -> str:
    """What names a block: the first name by itself, others with what they are."""
    first, *others = ((str(name), for_people(value)) for name, value in names.items())
    return ", ".join([first[1], *(f"{name} {value}" for name, value in others)])


def _fits(table: rich.table.Table, width: int) -> bool:
    """Whether no cell has to be broken in a terminal of that width."""
    console = Console(width=10_000)
    return console.measure(table).maximum <= width


def document(title: str, command: str, machine: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """A Markdown page: the command, the machine, the tables."""
    described = [f"- {name}: {_sentence(value)}" for name, value in machine.items() if value not in (None, [], {})]
    head = [f"# {title}", f"    {command}", "\n".join(described)]
    return "\n\n".join([*head, *(table.to_markdown() for table in tables)]) + "\n"


def for_people(value: Any) -> str:
    """A cell as text: counts in full, other numbers with three digits, what was not measured as a dash.

    A `Spread` is shown as its median, with the range of the rounds in brackets where it is seen in three digits.
    """
    if isinstance(value, Spread):
        median, low, high = map(for_people, (value.median, value.low, value.high))
        return median if low == high else f"{median} ({low}–{high})"
    if isinstance(value, (bool, str)):
        return str(value)
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    value = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{max(0, decimals)}f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _sentence(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return ", ".join(map(_sentence, value)) if isinstance(value, list) else for_people(value)
