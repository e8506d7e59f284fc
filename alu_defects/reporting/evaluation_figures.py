"""The plots of an evaluation, one function each; each returns a Figure of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from alu_defects.reporting import operating
from alu_defects.reporting.drawing import BLUE, GREEN, GREY, ORANGE, fonts, label_ticks, readable
from alu_defects.reporting.operating import GRID, Outcome, Threshold

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SMALLEST = 0.01  # of escape and overkill: below it the axes are linear, so that 0 can be shown


def confusion_shares(counts: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Each row of the confusion matrix in per cent of the pictures of the true class."""
    share = counts / np.maximum(counts.sum(axis=1), 1)[:, None]
    names = [readable(name) for name in class_names]
    size = max(0.5 * len(names), 2)
    fig = Figure((size + 3.6, size + 2), layout="compressed")
    ax = fig.subplots()
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        ink = "white" if share[row, column] > 0.5 else "black"
        ax.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=9)
    label_ticks(ax, "x", names, rotation=45, ha="right", rotation_mode="anchor")
    label_ticks(ax, "y", names)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    fig.suptitle("Per cent of each true class")
    fig.colorbar(image, ax=ax, format=PercentFormatter(1), shrink=0.8)
    return fig


def precision_recall(truth: Bools, probabilities: Floats, class_names: Sequence[str]) -> Figure:
    """Precision against recall of each class against the rest, with the average precision."""

    def draw(ax: Axes, own: Bools, scores: Floats) -> str:
        precision, recall, _ = precision_recall_curve(own, scores)
        ax.plot(recall, precision, color=BLUE, drawstyle="steps-post")
        ax.axhline(own.mean(), color=GREY, linestyle=":", linewidth=1)
        return f"AP {average_precision_score(own, scores):.2f}"

    title = "Precision and recall of each class against the rest (dotted: by chance)"
    return _small_multiples(draw, truth, probabilities, class_names, axes=("recall", "precision"), title=title)


def roc(truth: Bools, probabilities: Floats, class_names: Sequence[str]) -> Figure:
    """The ROC curve of each class against the rest, with the area below."""

    def draw(ax: Axes, own: Bools, scores: Floats) -> str:
        false_alarms, found, _ = roc_curve(own, scores)
        ax.plot(false_alarms, found, color=BLUE)
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        return f"AUC {roc_auc_score(own, scores):.3f}"

    title = "ROC of each class against the rest (dotted: by chance)"
    return _small_multiples(draw, truth, probabilities, class_names, axes=("false alarms", "found"), title=title)


def _small_multiples(
    draw: Any, truth: Bools, probabilities: Floats, class_names: Sequence[str], *, axes: tuple[str, str], title: str
) -> Figure:
    columns = min(4, len(class_names))
    rows = -(-len(class_names) // columns)
    fig = Figure((2.5 * columns, 2.4 * rows + 0.6), layout="constrained")
    for k, ax in enumerate(fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()):
        if k >= len(class_names):
            ax.set_axis_off()
            continue
        own = truth[:, k]
        number = draw(ax, own, probabilities[:, k]) if 0 < own.sum() < len(own) else "no pictures"
        ax.set_title(f"{readable(class_names[k])}\n{number}", fontsize=9, parse_math=False, fontfamily=fonts()[0])
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.grid(alpha=0.25)
    fig.supxlabel(axes[0], fontsize=10)
    fig.supylabel(axes[1], fontsize=10)
    fig.suptitle(title, fontsize=11)
    return fig


def reliability(before: Floats, after: Floats, right: Bools, errors: tuple[float, float], temperature: float) -> Figure:
    """Certainty against the share that is right, as trained and with the temperature; the diagonal is honest.

    Args:
        before: certainty of each picture as trained (N,).
        after: the same, calibrated.
        right: whether it was classified right.
        errors: expected calibration error before and after.
        temperature: that was applied.
    """
    fig = Figure((9.5, 4.9), layout="constrained")
    edges = np.linspace(0, 1, 11)
    titles = ("as trained", f"temperature {temperature:.2f}, fitted on val")
    for ax, certainty, error, title in zip(
        fig.subplots(1, 2, sharey=True), (before, after), errors, titles, strict=True
    ):
        number, _ = np.histogram(certainty, edges)
        hits, _ = np.histogram(certainty[right], edges)
        known = number > 0
        middle = (edges[:-1] + edges[1:]) / 2
        ax.bar(middle[known], hits[known] / number[known], width=0.092, color=BLUE, alpha=0.75)
        for x, y, n in zip(middle[known], hits[known] / number[known], number[known], strict=True):
            ax.text(x, y + 0.012, str(n), ha="center", fontsize=8, color=GREY)
        ax.plot([0, 1], [0, 1], color=ORANGE, linestyle="--", linewidth=1.5)
        ax.set_title(f"{title}: ECE {100 * error:.1f} %", fontsize=11)
        ax.set(xlabel="certainty (pictures above the bars)", xlim=(0, 1), ylim=(0, 1.06))
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.spines[["top", "right"]].set_visible(False)
    fig.axes[0].set_ylabel("of them right")
    return fig


def escape_and_overkill(
    scores: Floats, defective: Bools, groups: Sequence[str], *, threshold: Threshold, result: Outcome, split: str
) -> Figure:
    """Escape rate against overkill for every threshold, with the band of resamples and the operating point."""
    fig = Figure((8.5, 5.4), layout="constrained")
    ax = fig.subplots()
    low, high = operating.band(scores, defective, groups)
    ax.fill_between(GRID, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval (whole sessions drawn)")
    overkill, escape = operating.curve(scores, defective)
    ax.plot(overkill, escape, color=BLUE, label=f"every threshold, on {split}")
    ax.axhline(threshold.max_escape, color=GREY, linestyle=":", label=f"asked for: {threshold.max_escape:.1%} escape")
    (left, right), (bottom, top) = result.overkill_interval, result.escape_interval
    x, y = result.overkill, result.escape
    bars: Any = {"xerr": [[x - left], [right - x]], "yerr": [[y - bottom], [top - y]]}
    label = f"threshold from val: {y:.1%} escape, {x:.1%} overkill"
    ax.errorbar([x], [y], **bars, fmt="o", color=ORANGE, capsize=3, zorder=4, label=label)
    for axis, set_scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        set_scale("symlog", linthresh=SMALLEST, linscale=0.5)
        axis.set_major_locator(FixedLocator([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        axis.set_minor_locator(FixedLocator([]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    ax.set(xlim=(0, 1.05), ylim=(0, 1.05))
    ax.set_xlabel(f"overkill: good pieces scrapped (of {result.normal})")
    ax.set_ylabel(f"escape: defective pieces that pass (of {result.defective})")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return fig


def risk_coverage(certainty: Floats, right: Bools, groups: Sequence[str], split: str) -> Figure:
    """Accuracy on the pictures that are decided, as more of the least certain go to a person."""
    fig = Figure((8.5, 4.6), layout="constrained")
    ax = fig.subplots()
    low, high = operating.coverage_band(certainty, right, groups)
    ax.fill_between(
        1 - GRID, low, high, color=GREEN, alpha=0.18, linewidth=0, label="95 % interval (whole sessions drawn)"
    )
    share, accuracy = operating.coverage(certainty, right)
    ax.plot(1 - share, accuracy, color=GREEN, label=f"on {split}")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlim=(0, 1), ylim=(max(0.0, float(np.nanmin(low)) - 0.03), 1.01))
    ax.set_xlabel("sent to a person: the least certain pictures")
    ax.set_ylabel("right among the others")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return fig


def confusions(pairs: Sequence[tuple[str, NDArray[np.uint8]]], columns: int) -> Figure:
    """The most frequent confusions, a row each, with their most certain mistakes.

    Args:
        pairs: what was taken for what, and its pictures (n, H, W, 3), n up to `columns`.
        columns: pictures a row.
    """
    fig = Figure((1.75 * columns + 0.4, max(2.05 * len(pairs), 1.2)), layout="constrained")
    if not pairs:
        fig.text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=14, color=GREY)
        return fig
    for part, (title, images) in zip(np.atleast_1d(np.asarray(fig.subfigures(len(pairs), 1))), pairs, strict=True):
        part.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False, fontfamily=fonts()[0])
        for ax, image in zip(part.subplots(1, columns), [*images, *[None] * (columns - len(images))], strict=True):
            ax.set_axis_off()
            if image is not None:
                ax.imshow(image)
    return fig
