"""The plots of several models side by side, one function each; each returns a Figure of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from alu_defects.reports.plots import BLUE, GREY, ORANGE, PALETTE, fonts, label_ticks, readable

_LINES = ("-", "--", "-.", ":")  # beside the colours, for print and for more models than these


def plot_epochs(histories: Mapping[str, Sequence[pd.DataFrame]], column: str, ylabel: str, title: str) -> Figure:
    """A metric per epoch for all models, as the paper's Figures 7 and 8: the mean over trainings, the band their range.

    Args:
        histories: name → metrics.csv of each training.
        column: of metrics.csv.
        ylabel: what it is.
        title: above the plot.
    """
    fig = Figure((8.5, 4.6), layout="constrained")
    ax = fig.subplots()
    values = []
    for k, (name, tables) in enumerate(histories.items()):
        known = [table.set_index("epoch")[column].dropna() for table in tables if column in table]
        if not known:
            continue
        runs = pd.concat(known, axis=1)
        runs.index = runs.index + 1  # as on the screen
        colour, line = PALETTE[k % len(PALETTE)], _LINES[k // len(PALETTE) % len(_LINES)]
        marker = "o" if len(runs) < 40 else ""
        mean = runs.mean(axis=1)
        ax.plot(runs.index, mean, line, color=colour, marker=marker, markersize=3.5, label=readable(name))
        if runs.shape[1] > 1:
            ax.fill_between(runs.index, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.15, linewidth=0)
        values.append(runs.to_numpy().ravel())
    everything = np.concatenate(values) if values else np.empty(0)
    everything = everything[np.isfinite(everything)]
    if column.endswith("loss") and len(everything) and 0 < 20 * everything.min() < everything.max():
        ax.set_yscale("log")  # one early spike would press the rest flat
    if not column.endswith("loss"):
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.set_ylim(0, 1.02)
    ax.set_xlabel("epoch")
    ax.set_ylabel(ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.lines:
        ax.legend(frameon=False, prop={"family": fonts()[0]})
    else:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color=GREY)
    fig.suptitle(title)
    return fig


def plot_accuracies(table: pd.DataFrame, seeds: Mapping[str, Sequence[float]], clock: float | None) -> Figure:
    """Accuracy of each model with its intervals, each training as a dot, and what the clock alone scores.

    Args:
        table: `Comparison.table`.
        seeds: entry → accuracy of each training.
        clock: accuracy of a predictor that sees no pixels.
    """
    fig = Figure((8.5, 0.55 * len(table) + 1.9), layout="constrained")
    ax = fig.subplots()
    for row, entry in enumerate(table.to_dict("records")):
        for low, high, width, alpha in (
            (entry["accuracy_session_low"], entry["accuracy_session_high"], 2, 0.9),
            (entry["accuracy_low"], entry["accuracy_high"], 9, 0.25),
        ):
            ax.hlines(row, low, high, color=BLUE, linewidth=width, alpha=alpha)
        dots = seeds[entry["group"]]
        ax.scatter(dots, np.full(len(dots), row), 26, facecolors="white", edgecolors=BLUE, zorder=3)
        ax.scatter([entry["accuracy"]], [row], 60, color=BLUE, marker="D", zorder=4)
    ax.plot([], [], "D", color=BLUE, label="mean of the trainings (circles)")
    ax.plot([], [], linewidth=9, alpha=0.25, color=BLUE, label="95 % interval, images independent (Wilson)")
    ax.plot([], [], linewidth=2, color=BLUE, label="95 % interval, by session")
    if clock is not None:
        ax.axvline(clock, color=ORANGE, linestyle="--", label=f"the clock, which sees no pixels: {clock:.1%}")
    label_ticks(ax, "y", [readable(str(name)) for name in table["group"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("accuracy on the test images")
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return fig


def plot_class_map(table: pd.DataFrame) -> Figure:
    """Precision, recall and F1 of each class and model as colours: a red cell is where a model fails.

    Args:
        table: `Comparison.classes`.
    """
    entries, names = list(table["group"].unique()), list(table["class"].unique())
    support = table.groupby("class")["support"].max()
    width = max(0.62 * len(entries), 1.6)
    fig = Figure((3 * width + 3.2, 0.38 * len(names) + 2.6), layout="constrained")
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
        label_ticks(ax, "x", [readable(name) for name in entries], rotation=40, ha="right", rotation_mode="anchor")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    label_ticks(axes[0], "y", [f"{readable(name)} ({support[name]})" for name in names])
    axes[0].set_ylabel("class (test images)")
    fig.colorbar(image, ax=axes, format=PercentFormatter(1), shrink=0.8)
    return fig


def plot_class_differences(table: pd.DataFrame, title: str) -> Figure:
    """What attention changes class by class: differences in recall and F1 with 95 % intervals; 0 is no difference.

    Args:
        table: rows of `Comparison.attention` of one pair.
        title: above the plot.
    """
    fig = Figure((9.5, 0.36 * len(table) + 1.9), layout="constrained")
    for ax, metric in zip(fig.subplots(1, 2, sharey=True), ("recall", "f1"), strict=True):
        low, high = table[f"{metric}_low"].to_numpy(float), table[f"{metric}_high"].to_numpy(float)
        rows = np.arange(len(table))
        clear: NDArray[np.bool_] = (metric == "recall") & table["clear"].to_numpy(bool)
        colours: list[Any] = [ORANGE if c else BLUE for c in clear]
        ax.axvline(0, color=GREY, linewidth=1)
        ax.hlines(rows, low, high, colors=colours, linewidth=2)
        ax.scatter(table[metric], rows, 36, c=colours, zorder=3)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        ax.set_xlabel(f"difference in {'F1' if metric == 'f1' else metric} (points)")
        ax.grid(axis="x", alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    first = fig.axes[0]
    label_ticks(
        first, "y", [f"{readable(r['class'])} ({r['support']} in {r['sessions']})" for r in table.to_dict("records")]
    )
    first.set_ylim(len(table) - 0.5, -0.5)
    first.set_ylabel("class (test images in sessions)")
    fig.suptitle(
        f"{title}\n95 % intervals; orange: shown after Holm's correction",
        parse_math=False,
        fontfamily=fonts()[0],
        fontsize=11,
    )
    return fig
