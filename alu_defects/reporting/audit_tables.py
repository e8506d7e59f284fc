"""An audit as tables for the terminal."""

from collections.abc import Iterator

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alu_defects.data.auditing import Audit
from alu_defects.reporting.text import printable

MOST_EXAMPLES = 3  # of one kind
_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}


def print_audit(audit: Audit) -> None:
    """Print the pictures by class, split, archive and size, the findings by kind, what leaks, and the verdict."""
    console = Console()
    if len(audit.table):
        classes = _table("pictures", audit.classes().reset_index())
        classes.caption = audit.note
        console.print(classes)
    if audit.archives is not None:
        console.print(_table("archives", audit.archives.reset_index()))
    console.print(_table("sizes", audit.sizes()))
    for line in _findings(audit.findings):
        console.print(line, soft_wrap=True, highlight=False)
    if audit.leakage:
        console.print(escape(audit.leakage.sentence()), highlight=False)
    console.print(f"[bold {'red' if audit.fails else 'green'}]{escape(audit.verdict)}[/]", highlight=False)


def _table(title: str, frame: pd.DataFrame) -> Table:
    table = Table(*(_cell(name) for name in frame), title=title)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _findings(findings: pd.DataFrame) -> Iterator[str]:
    """A line a kind, below it some examples; long paths are not broken, so that they can be copied."""
    for (severity, kind), found in findings.groupby(["severity", "kind"], sort=False):
        yield f"[{_COLOURS[str(severity)]}]{severity:>7}[/]  {len(found)} × {_cell(kind)}"
        for path, other, detail in found[["path", "other", "detail"]].head(MOST_EXAMPLES).to_numpy():
            text = " = ".join(filter(None, (path, other)))
            yield f"           {_cell(': '.join(filter(None, (text, detail))))}"
        if len(found) > MOST_EXAMPLES:
            yield f"           and {len(found) - MOST_EXAMPLES} more"


def _cell(value: object) -> str:
    return escape(printable(str(value)))
