"""Tables for the terminal."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from alu_defects.auditing.checks import Audit
from alu_defects.data.catalog import count_by_archive, count_reasons
from alu_defects.data.datamodule import DefectData
from alu_defects.data.leakage import Leakage, NearDuplicates
from alu_defects.data.splits import NEW, SELECTED_ON_TEST, SPLITS, in_split, selected_on_test
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.training.metrics import SUMMARY_METRICS

METRIC_TITLES = {"accuracy": "accuracy", "precision": "macro precision", "recall": "macro recall", "f1": "macro F1"}


def print_data(data: DefectData) -> None:
    """Print the images by class and split, by archive where there are several, and what was excluded."""
    console, table = Console(), data.catalog
    groups = [*((name, table[table["label"] == name]) for name in data.classes), ("total", table)]
    counts = [
        {"class": name, **{split: in_split(own, split).sum() for split in SPLITS}, "sessions": own["session"].nunique()}
        for name, own in groups
    ]
    classes = make_table(pd.DataFrame(counts), f"{len(table)} images: {table['label'].nunique()} classes")
    classes.rows[-2].end_section = True  # a line above the total
    if selected_on_test(table):
        classes.caption = f"val and test are the same images: {SELECTED_ON_TEST}"
    console.print(classes)
    archives = count_by_archive(table if data.found is None else data.found.table)
    if len(archives.columns) > 2:
        console.print(make_table(archives.reset_index(), "archives"))
    for reason, count in count_reasons(data.excluded).items():
        console.print(escape(f"excluded: {count} × {reason}"), highlight=False)


def print_leakage(leakage: Leakage | None, alike: NearDuplicates | None) -> None:
    """Print what a split gives away: by the capture times where there are any, and by repeated images."""
    console = Console()
    if leakage:
        console.print(escape(leakage.sentence()), style="yellow" if leakage.is_strong else None, highlight=False)
    text = escape(alike.sentence()) if alike else "Near-duplicates across the split: not counted, alu-audit does."
    if alike and alike.are_many:
        console.print(Panel(text, title="the split gives test images away", border_style="red", highlight=False))
    else:
        console.print(text, highlight=False)


def print_run(folder: Path, results: Mapping[str, Any], evaluation: Evaluation, weights: str = "") -> None:
    """Print the metrics of a run, precision and recall of each class of one evaluation, and where the files are.

    `weights` says what the network started from.
    """
    console = Console()
    overall = [
        {"split": split, "loss": f"{results[split]['loss']:.4f}"}
        | {name: _percent(results[split][name]) for name in SUMMARY_METRICS}
        for split in (*SPLITS[1:], NEW)
        if split in results
    ]
    title = "results (precision, recall, f1: macro averages)"
    console.print(make_table(pd.DataFrame(overall), title, results["note"]))
    rows = []
    for name, values in evaluation.metrics["per_class"].items():
        counts = evaluation.confusion.loc[name]
        wrong = counts.drop(name)
        scores = {metric: _percent(values[metric]) for metric in ("precision", "recall")}
        confused = f"{wrong.idxmax()} ({wrong.max()})" if wrong.max() else ""
        rows.append({"class": name, "images": counts.sum(), **scores, "mostly taken for": confused})
    classes = make_table(pd.DataFrame(rows), f"classes ({evaluation.split})")
    classes.columns[-1].justify = "left"
    console.print(classes)
    if weights:
        print(f"starting weights: {printable(weights)}")
    print(f"folder: {folder.resolve()}")  # not by rich, which would break a long path


def make_table(frame: pd.DataFrame, title: str, caption: str = "") -> Table:
    """A table for the terminal whose names are printable and no markup: the first column to the left, others right."""
    table = Table(*(_printable_cell(name) for name in frame), title=title, caption=caption or None)
    for row in frame.itertuples(index=False):
        table.add_row(*(_printable_cell(value) for value in row))
    return numbers_to_the_right(table)


def numbers_to_the_right(table: Table) -> Table:
    """Align all columns but the first."""
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


MAX_EXAMPLES = 3  # findings of one kind
_COLOURS = {"error": "red", "warning": "yellow", "info": "dim"}


def print_audit(audit: Audit) -> None:
    """Print the images by class, split, archive and size, the findings by kind, what leaks, and the verdict."""
    console = Console()
    if len(audit.table):
        console.print(make_table(audit.classes().reset_index(), "images", audit.note))
    if audit.archives is not None:
        console.print(make_table(audit.archives.reset_index(), "archives"))
    console.print(make_table(audit.sizes(), "sizes"))
    for line in _finding_lines(audit.findings):
        console.print(line, soft_wrap=True, highlight=False)
    if audit.leakage:
        console.print(escape(audit.leakage.sentence()), highlight=False)
    if audit.alike:
        style = "yellow" if audit.alike.are_many else None
        console.print(escape(audit.alike.sentence()), style=style, highlight=False)
    console.print(f"[bold {'red' if audit.fails else 'green'}]{escape(audit.verdict)}[/]", highlight=False)


def _finding_lines(findings: pd.DataFrame) -> Iterator[str]:
    """One line for each kind and some examples below; long paths are not broken, so that they can be copied."""
    for (severity, kind), found in findings.groupby(["severity", "kind"], sort=False):
        yield f"[{_COLOURS[str(severity)]}]{severity:>7}[/]  {len(found)} × {_printable_cell(kind)}"
        for path, other, detail in found[["path", "other", "detail"]].head(MAX_EXAMPLES).to_numpy():
            text = " = ".join(filter(None, (path, other)))
            yield f"           {_printable_cell(': '.join(filter(None, (text, detail))))}"
        if len(found) > MAX_EXAMPLES:
            yield f"           and {len(found) - MAX_EXAMPLES} more"


def _printable_cell(value: object) -> str:
    return escape(printable(str(value)))


def printable(text: str) -> str:
    """Replace line ends by spaces and what is no character, as in a file name that is not UTF-8, by �."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def spaced(name: str) -> str:
    """A class name for people, in text; `plots.readable` is for figures, whose fonts may lack characters."""
    return name.replace("_", " ")


def percent(value: float, unit: str = " %") -> str:
    """A fraction in per cent; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}{unit}"


def span(ends: tuple[float, float], unit: str = " %") -> str:
    """An interval in per cent."""
    return f"{percent(ends[0], '')}–{percent(ends[1], unit)}"


def with_interval(value: float, ends: tuple[float, float], unit: str = " %") -> str:
    """A fraction in per cent and its interval; a dash for NaN."""
    return "–" if math.isnan(value) else f"{percent(value, unit)} ({span(ends, unit)})"


def points(value: float) -> str:
    """A fraction, or a difference of two, in points of a per cent."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}".replace("-", "−")


def p_value(value: float, equals: str = "") -> str:
    """A p-value; `equals` stands before all but those that are too small to write."""
    return "< 0.001" if value < 0.001 else f"{equals}{value:.3f}" if value < 0.1 else f"{equals}{value:.2f}"
