"""The plots of several models side by side, one function each; each returns a Figure of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from alu_defects.reports import plots
from alu_defects.reports.plots import BLUE, GREY, ORANGE, PALETTE, label_ticks, readable

_LINES = ("-", "--", "-.", ":")  # beside the colours, for print and for more models than these


def plot_epochs(histories: Mapping[str, Sequence[pd.DataFrame]], column: str, ylabel: str, title: str) -> Figure:
    """A column of metrics.csv per epoch for all models, as the paper's Figures 7 and 8: mean and range over trainings.

    `histories` has each training's metrics.csv by the model's name.
    """
    fig = Figure((8.5, 4.6), layout="constrained")
    ax = fig.subplots()
    values = [np.empty(0)]
    for k, (name, tables) in enumerate(zip(plots.wrap(list(histories))[0], histories.values(), strict=True)):
        known = [plots.by_epoch(table, column) for table in tables if column in table]
        if not known:
            continue
        runs = pd.concat(known, axis=1)
        colour, line = PALETTE[k % len(PALETTE)], _LINES[k // len(PALETTE) % len(_LINES)]
        marker = "o" if len(runs) < 40 else ""
        mean = runs.mean(axis=1)
        ax.plot(runs.index, mean, line, color=colour, marker=marker, markersize=3.5, label=readable(name))
        if runs.shape[1] > 1:
            ax.fill_between(runs.index, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.15, linewidth=0)
        values.append(runs.to_numpy().ravel())
    plots.style_epochs(ax, np.concatenate(values), ylabel, loss=column.endswith("loss"))
    plots.write_title(fig, title)
    return fig


def plot_accuracies(table: pd.DataFrame, seeds: Mapping[str, Sequence[float]], time_only: float | None) -> Figure:
    """Accuracy of each model in `Comparison.table` with its intervals and trainings, and the time-only baseline's."""
    labels, lines, _ = plots.wrap(list(table["group"]))
    fig = Figure((8.5, max(0.55, 0.2 * lines) * len(table) + 1.9), layout="constrained")
    ax = fig.subplots()
    for row, entry in enumerate(table.to_dict("records")):
        for name, width, alpha in (("accuracy_session", 2, 0.9), ("accuracy", 9, 0.25)):
            low, high = entry[f"{name}_low"], entry[f"{name}_high"]
            ax.hlines(row, low, high, color=BLUE, linewidth=width, alpha=alpha)
        dots = seeds[entry["group"]]
        ax.scatter(dots, np.full(len(dots), row), 26, facecolors="white", edgecolors=BLUE, zorder=3)
        ax.scatter([entry["accuracy"]], [row], 60, color=BLUE, marker="D", zorder=4)
    ax.plot([], [], "D", color=BLUE, label="mean of the seeds (circles)")
    ax.plot([], [], linewidth=9, alpha=0.25, color=BLUE, label="95 % interval, images independent (Wilson)")
    ax.plot([], [], linewidth=2, color=BLUE, label="95 % interval, by session")
    if time_only is not None:
        label = f"time-only baseline, which sees no pixels: {time_only:.1%}"
        ax.axvline(time_only, color=ORANGE, linestyle="--", label=label)
    plots.style_rows(ax, labels)
    ax.set_xlabel("accuracy on the test images")
    fig.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return fig


def plot_class_map(table: pd.DataFrame) -> Figure:
    """Precision, recall and F1 in `Comparison.classes` as colours: a red cell is where a model fails."""
    entries, names = list(table["group"].unique()), list(table["class"].unique())
    support = table.groupby("class")["support"].max()
    labels, lines, longest = plots.wrap(entries)
    width = max(max(0.62, 0.2 * lines) * len(entries), 1.6)
    fig = Figure((3 * width + 3.2, 0.38 * len(names) + 1 + 0.09 * longest), layout="constrained")
    axes = fig.subplots(1, 3, sharey=True)
    for ax, metric in zip(axes, ("recall", "precision", "f1"), strict=True):
        values = table.pivot_table(metric, "class", "group", dropna=False, sort=False, observed=False)
        cells = values.reindex(index=names, columns=entries).to_numpy(float)
        image = ax.imshow(cells, cmap="RdYlBu", vmin=0, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(cells):
            text = "–" if np.isnan(value) else f"{100 * value:.0f}"
            ink = "black" if np.isnan(value) or 0.2 < value < 0.85 else "white"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        ax.set_title({"f1": "F1"}.get(metric, metric), fontsize=11)
        label_ticks(ax, "x", labels, rotation=90, fontsize=9)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    label_ticks(axes[0], "y", [f"{name} ({support[name]})" for name in names])
    axes[0].set_ylabel("class (test images)")
    fig.colorbar(image, ax=axes, format=PercentFormatter(1), shrink=0.8)
    return fig


def plot_class_differences(table: pd.DataFrame, title: str) -> Figure:
    """What attention changes class by class: rows of `Comparison.attention` of one pair with 95 % intervals."""
    fig = Figure((9.5, 0.36 * len(table) + 1.9), layout="constrained")
    labels = [f"{row['class']} ({row['support']} in {row['sessions']})" for row in table.to_dict("records")]
    rows = np.arange(len(table))
    for ax, metric in zip(fig.subplots(1, 2, sharey=True), ("recall", "f1"), strict=True):
        clear: NDArray[np.bool_] = (metric == "recall") & table["clear"].to_numpy(bool)
        colours: list[Any] = [ORANGE if c else BLUE for c in clear]
        ax.axvline(0, color=GREY, linewidth=1)
        low, high = table[f"{metric}_low"].to_numpy(float), table[f"{metric}_high"].to_numpy(float)
        ax.hlines(rows, low, high, colors=colours, linewidth=2)
        ax.scatter(table[metric], rows, 36, c=colours, zorder=3)
        plots.style_rows(ax, labels)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        ax.set_xlabel(f"difference in {'F1' if metric == 'f1' else metric} (points)")
    fig.axes[0].set_ylabel("class (test images in sessions)")
    note = "95 % intervals; orange: shown after Holm's correction"
    plots.write_title(fig, f"{title}\n{note}", fontsize=11)
    return fig
