"""A comparison → report.html, report.md, tables as CSV, figures as PNG and SVG."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alu_defects.evaluation import statistics
from alu_defects.evaluation.comparison import MIN_SESSIONS, Comparison
from alu_defects.reports import comparison_plots as figures
from alu_defects.reports import html
from alu_defects.reports.comparison_text import difference_interval, findings, time_only_accuracy, warnings
from alu_defects.reports.plots import readable
from alu_defects.reports.terminal import METRIC_TITLES, numbers_to_the_right, p_value, percent, points, spaced
from alu_defects.training.metrics import SUMMARY_METRICS

METHOD = f"""
* Each number is the mean over the seeds of a row, ± their standard deviation. In brackets the 95 % interval for
  other test images of the same kind: of accuracy Wilson's, which assumes that images are independent; of the macro
  averages Wilson's of the effective sample size of Korn and Graubard (1998), with the variance of a bootstrap of
  {statistics.RESAMPLES} resamples that draws whole sessions, since the images of one session go right or wrong
  together. The same for accuracy stands beside it.
* Differences: Welch's t interval over the seeds, with the variance between resamples of the test sessions added.
  The p-value is the larger of its and of the exact McNemar test's on the same images, taken from the seed where
  that is weakest, and 1 where the seeds disagree about who is better. Holm's correction makes it hold for all pairs
  of the table together; a difference is called real if it is then below 0.05. One run of each can show that two
  trained networks differ, not that two models do.
* Operating point: probabilities are calibrated on the val images, which have also chosen the epoch. The bound that val
  promises assumes that images are independent; "together" is the one that holds if the defective images of one session
  pass or are caught together.
* Precision, recall and F1 of a class: Wilson's interval of as many independent images as they say as much as, if the
  images of one session go right or wrong together (Kish's effective sample size).
* Macro averages are over the classes that occur. F1 of a class is 2 · hits / (its images + its predictions).
* Multiply-adds are those of convolutions and matrix products for one image; img/s and minutes are those of training
  on the machine of the run.
"""


def write_comparison_report(comparison: Comparison, folder: Path, operating: Mapping[str, Any]) -> Path:
    """Write the report into a folder, which is made; returns report.html. `operating` is as in conf/operating."""
    folder.mkdir(parents=True, exist_ok=True)
    operating_points = comparison.operating_points(operating)
    tables = {
        "runs": comparison.runs,
        "table2": comparison.table,
        "differences": comparison.differences,
        "classes": comparison.classes,
        "attention": comparison.attention,
        "operating": operating_points,
        "predictions": comparison.predictions,
    }
    html.write_tables(folder, tables)
    return html.write_report(folder, "Comparison of models", [*_parts(comparison, operating_points, folder)])


def print_comparison(comparison: Comparison) -> None:
    """Print the models side by side, the most accurate first, and which differences are real."""
    console, names = Console(), [name for name in SUMMARY_METRICS if name != "accuracy"]
    title = "test images: mean ± standard deviation (95 % interval), in per cent"
    table = Table("model", "seeds", "accuracy", *names, title=title, caption="precision, recall, f1: macro averages")
    for row in comparison.table.to_dict("records"):
        macro = [_with_interval(row, name).split(" (")[0] for name in names]
        table.add_row(escape(row["group"]), _seeds(row), _with_interval(row, "accuracy"), *macro)
    if comparison.groups:
        console.print(numbers_to_the_right(table))
    for text in warnings(comparison):
        console.print(escape(text), style="yellow", highlight=False)
    for text in findings(comparison):
        console.print(escape(text), highlight=False)


def _parts(comparison: Comparison, operating_points: pd.DataFrame, folder: Path) -> Iterator[str]:
    yield _origin(comparison)
    yield from (f"> {html.escape_markdown(text)}" for text in warnings(comparison))
    if comparison.groups:
        yield "## What the runs show"
        yield "\n".join(f"* {html.escape_markdown(text)}" for text in findings(comparison))
        yield "## Test images"
        yield html.markdown_table(table2(comparison))
        seeds = {group.name: group.scores.summary["accuracy"].tolist() for group in comparison.groups}
        figure = figures.plot_accuracies(comparison.table, seeds, time_only_accuracy(comparison))
        yield html.save_figure(figure, folder, "accuracy", "Accuracy of each model with its intervals")
    if len(comparison.differences):
        yield "## Differences"
        yield html.markdown_table(differences(comparison))
    if len(operating_points):
        yield "## Operating point"
        yield html.markdown_table(_operating(operating_points))
        asked = operating_points.iloc[0]
        yield (
            f"Each run's val chose the highest threshold at which, with {100 * asked['confidence_level']:g} % "
            f"confidence, at most {percent(asked['max_escape'])} of the defective pieces pass; where it has too few "
            "images to promise that, the highest at which no greater share of them did. With split=paper val and test "
            "are the same images: then it proves nothing. alu-evaluate shows a run's curve."
        )
    if comparison.groups:
        yield "## Training"
        histories = {group.name: group.histories() for group in comparison.groups}
        for name, column, what in (("loss", "val/loss", "loss"), ("epochs", "val/accuracy", "accuracy")):
            title = f"{what.capitalize()} on the validation images"
            figure = figures.plot_epochs(histories, column, what, title)
            yield html.save_figure(figure, folder, name, title)
        yield "The paper's figures 7 and 8: mean over the runs, and from the lowest to the highest of them."
        yield "## Classes"
        figure = figures.plot_class_map(comparison.classes)
        yield html.save_figure(figure, folder, "classes", "Precision, recall and F1 of each class")
        yield html.markdown_table(classes(comparison))
    yield from _attention(comparison, folder)
    yield "## Runs"
    yield html.markdown_table(runs(comparison))
    yield "## How it was computed"
    yield METHOD.strip()


def _origin(comparison: Comparison) -> str:
    done = [job for job in comparison.jobs if job.status == "finished"]
    text = f"{len(done)} of {len(comparison.jobs)} runs finished. {datetime.now():%Y-%m-%d %H:%M}."
    for size, group in comparison.table.groupby(["images", "sessions"]) if comparison.groups else ():
        images, sessions = map(int, size)  # type: ignore[arg-type]
        kept = f" in {sessions} sessions" if sessions < images else ""
        names = "" if len(group) == len(comparison.table) else f" ({', '.join(group['group'])})"
        text += f" {images} test images{kept}; one image is {100 / images:.2f} points{names}."
    return html.escape_markdown(text)


def table2(comparison: Comparison) -> pd.DataFrame:
    """The paper's Table 2 with what it lacks, as text in per cent."""
    rows = []
    for group in comparison.table.to_dict("records"):
        row = {"model": group["group"], "seeds": _seeds(group)}
        for metric, title in METRIC_TITLES.items():
            row[f"{title} (%)"] = _with_interval(group, metric)
            if metric == "accuracy":
                low, high = group["accuracy_session_low"], group["accuracy_session_high"]
                row["by session"] = f"{points(low)}–{points(high)}"
        paper = [group.get(f"paper_{metric}") for metric in SUMMARY_METRICS[:3]]
        if "paper_accuracy" in comparison.table:
            known = [value for value in paper if value is not None and not np.isnan(value)]
            row["the paper's"] = " / ".join(f"{100 * value:.2f}" for value in known) or "–"
        row["parameters"] = _scaled(group["parameters"], 1e6, " M")
        row["multiply-adds"] = _scaled(group["multiply_adds"], 1e9, " G")
        row["img/s"] = _scaled(group["images_per_second"], 1, "", digits=0)
        row["minutes"] = _scaled(group["seconds"], 60, "", digits=1)
        rows.append(row)
    return pd.DataFrame(rows)


def differences(comparison: Comparison) -> pd.DataFrame:
    """Paired differences as text, in points."""
    return pd.DataFrame(
        {
            "models": f"{row['group']} − {row['other']}",
            "accuracy (points)": f"{points(row['accuracy'])} ({difference_interval(row, 'accuracy')})",
            "macro F1 (points)": f"{points(row['f1'])} ({difference_interval(row, 'f1')})",
            "right alone": f"{row['only_right']} : {row['other_only_right']}",
            "McNemar p of each seed": " ".join(p_value(p) for p in row["p_of_each"]),
            "p, Holm": p_value(row["p_holm"]),
            "real": "yes" if row["real"] else "of these runs" if row["clear"] else "not shown",
        }
        for row in comparison.differences.to_dict("records")
    )


def classes(comparison: Comparison) -> pd.DataFrame:
    """Recall and F1 of each class with intervals, a column a model, as text in per cent."""
    table = comparison.classes
    support = table.groupby("class", sort=False)["support"].max()
    result = pd.DataFrame({"class": [spaced(name) for name in support.index], "images": support.to_numpy()})
    for name, own in table.groupby("group", sort=False):
        cells = own.set_index("class").reindex(support.index)
        for metric in ("recall", "f1"):
            texts = [_with_interval(row, metric) for row in cells.to_dict("records")]
            result[f"{spaced(str(name))}, {metric}"] = texts
    return result


def _operating(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": row["group"],
            "promised by val": f"escape ≤ {points(row['bound'])} %"
            + ("" if row["promised"] == row["runs"] else f", too few for {percent(row['max_escape'])}"),
            "together": f"≤ {points(row['bound_together'])} %",
            f"escape (% of {row['defective']} defective)": _spread(row, "escape"),
            f"overkill (% of {row['normal']} good)": _spread(row, "overkill"),
        }
        for row in table.to_dict("records")
    )


def runs(comparison: Comparison) -> pd.DataFrame:
    """Every job and what became of it, as text."""
    rows = []
    for row in comparison.runs.to_dict("records"):
        scores = {name: "–" if pd.isna(row[name]) else f"{100 * row[name]:.1f}" for name in SUMMARY_METRICS}
        best = "–" if pd.isna(row["best_epoch"]) else f"{row['best_epoch'] + 1:.0f} of {row['epochs']:.0f}"
        status = row["status"] + (f": {row['error']}" if row["error"] else "")
        named = {"run": row["job"], "model": row["group"], "seed": row["seed"]}
        rows.append(named | scores | {"best epoch": best, "starting weights": row["weights"], "status": status})
    return pd.DataFrame(rows)


def _attention(comparison: Comparison, folder: Path) -> Iterator[str]:
    if not len(comparison.attention):
        return
    yield "## What attention changes"
    for number, ((name, other), own) in enumerate(comparison.attention.groupby(["group", "other"], sort=False)):
        title = f"{spaced(str(name))} − {spaced(str(other))}"
        figure = figures.plot_class_differences(own, readable(title))
        yield html.save_figure(figure, folder, f"attention{number or ''}", title)
        clear = own[own["clear"]]
        named = ", ".join(f"{spaced(r['class'])} ({points(r['recall'])})" for r in clear.to_dict("records"))
        few = int((own["sessions"] < MIN_SESSIONS).sum())
        text = f"{title}: a difference in recall is shown for {named or 'no class'}."
        if few < len(own):
            text += f" Holm's correction is for {len(own) - few} of {len(own)} classes."
        if few:
            text += f" {few} of {len(own)} have fewer than {MIN_SESSIONS} test sessions, too few to show any."
        yield html.escape_markdown(text)


def _spread(row: Any, metric: str) -> str:
    """A value ± its standard deviation over seeds, or over folds where there is one seed."""
    known = [row[name] for name in (f"{metric}_sd", f"{metric}_fold_sd") if name in row and not pd.isna(row[name])]
    return points(row[metric]) + (f" ± {points(known[0])}" if known else "")


def _with_interval(row: Any, metric: str) -> str:
    if pd.isna(row[metric]):
        return "–"
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{_spread(row, metric)} ({points(low)}–{points(high)})"


def _seeds(group: Any) -> str:
    seeds, folds = int(group["repeats"]), int(group["folds"])
    return f"{seeds} × {folds} folds" if folds > 1 else str(seeds)


def _scaled(value: float, unit: float, name: str, digits: int = 2) -> str:
    return "–" if pd.isna(value) else f"{value / unit:.{digits}f}{name}"
