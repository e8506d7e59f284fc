"""Tables for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alu_defects.data.catalog import reasons, summary
from alu_defects.data.datamodule import DefectData
from alu_defects.data.leakage import Leakage
from alu_defects.data.splits import SELECTED_ON_TEST, SPLITS, rows, selected_on_test
from alu_defects.learning.metrics import SUMMARY
from alu_defects.reporting.evaluation import Evaluation


def print_data(data: DefectData) -> None:
    """Print the pictures by class and split, by archive where there are several, and what was left out."""
    console, table = Console(), data.scan()
    classes = Table("class", *SPLITS, "sessions", title=f"{len(table)} pictures: {table['label'].nunique()} classes")
    groups = [(name, table[table["label"] == name]) for name in data.classes]
    for name, own in [*groups, ("total", table)]:
        counts = [str(rows(own, split).sum()) for split in SPLITS]
        classes.add_row(escape(name), *counts, str(own["session"].nunique()), end_section=name == data.classes[-1])
    if selected_on_test(table):
        classes.caption = f"val and test are the same pictures: {SELECTED_ON_TEST}"
    console.print(numbers_to_the_right(classes))
    if data.found is None:
        return
    archives = summary(data.found)
    if len(archives.columns) > 2:
        sources = Table("class", *(escape(str(name)) for name in archives.columns), title="archives")
        for row in archives.itertuples():
            sources.add_row(*(escape(str(value)) for value in row))
        console.print(numbers_to_the_right(sources))
    if len(data.unused):
        several = int((data.unused["labels"] != "").sum())
        print(f"not used: {several} pictures of several classes, {len(data.unused) - several} without a class")
    for reason, count in reasons(data.found).items():
        console.print(escape(f"left out: {count} × {reason}"), highlight=False)


def print_leakage(leakage: Leakage | None, near_duplicates: int | None) -> None:
    """Print what a split gives away: by the capture times where there are any, and by repeated pictures."""
    counted = "not counted, alu-audit does" if near_duplicates is None else near_duplicates
    text = leakage.sentence() if leakage else f"Pairs of near-duplicates across the split: {counted}."
    Console().print(escape(text), style="yellow" if leakage and leakage.telling else None, highlight=False)


def print_run(folder: Path, results: Mapping[str, Any], evaluation: Evaluation) -> None:
    """Print the metrics of a run, precision and recall of each class of one evaluation, and where the files are."""
    console = Console()
    overall = Table("split", "loss", *SUMMARY, title="results (precision, recall, f1: macro averages)")
    overall.caption = results["note"]
    for split in ("val", "test"):
        if split in results:
            values = results[split]
            overall.add_row(split, f"{values['loss']:.4f}", *(_percent(values[name]) for name in SUMMARY))
    console.print(numbers_to_the_right(overall))
    classes = Table(
        "class", "pictures", "precision", "recall", "mostly taken for", title=f"classes ({evaluation.split})"
    )
    for name, values in evaluation.metrics["per_class"].items():
        counts = evaluation.confusion.loc[name]
        wrong = counts.drop(name)
        confused = escape(f"{wrong.idxmax()} ({wrong.max()})") if wrong.max() else ""
        classes.add_row(
            escape(name), str(counts.sum()), _percent(values["precision"]), _percent(values["recall"]), confused
        )
    for column in classes.columns[1:4]:
        column.justify = "right"
    console.print(classes)
    print(f"folder: {folder.resolve()}")  # not by rich, which would break a long path


def numbers_to_the_right(table: Table) -> Table:
    """Align all columns but the first."""
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
