"""What was measured, as tables: for the terminal, for Markdown and, unrounded, for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import rich.table
from rich.markup import escape

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

    def to_rich(self) -> rich.table.Table:
        """For the terminal, rounded."""
        table = rich.table.Table(title=escape(self.title), caption=escape(self.note) or None)
        for name in self.frame:
            justify: Literal["left", "right"] = "left" if self._is_text(str(name)) else "right"
            table.add_column(escape(str(name)), justify=justify, overflow="fold")
        for row in self._cells():
            table.add_row(*map(escape, row))
        return table

    def to_markdown(self) -> str:
        """The same in Markdown, below a heading."""
        names = [str(name) for name in self.frame]
        rule = ["---" if self._is_text(name) else "---:" for name in names]
        lines = ["| " + " | ".join(cells) + " |" for cells in (names, rule, *self._cells())]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists: `title`, `note` and `rows`, a `Spread` as median, low and high, NaN as null."""
        rows = [{str(name): _plain(value) for name, value in row.items()} for row in self.frame.to_dict("records")]
        return {"title": self.title, "note": self.note, "rows": rows}

    def _is_text(self, name: str) -> bool:
        return bool(self.frame[name].map(lambda value: isinstance(value, str)).any())

    def _cells(self) -> list[list[str]]:
        return [[for_people(value) for value in row] for row in self.frame.astype(object).itertuples(index=False)]


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
