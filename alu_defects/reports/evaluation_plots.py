"""The plots of an evaluation, one function each; each returns a Figure of its own."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from alu_defects.data.datamodule import DefectData
from alu_defects.evaluation import assessment
from alu_defects.evaluation.assessment import GRID
from alu_defects.evaluation.calibration import Floats
from alu_defects.evaluation.operating import Bools, Outcome, Threshold, both_kinds
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.reports import plots
from alu_defects.reports.plots import BLUE, GREEN, GREY, ORANGE, name_style, readable, style_axes

Draw = Callable[[Axes, Bools, Floats], str]  # draws one class against the rest; returns a line for its title
BAND = "95 % interval (whole sessions drawn)"
LINEAR_BELOW = 0.01  # of escape and overkill: below it the axes are linear, so that 0 can be shown


def plot_precision_recall(truth: Bools, probabilities: Floats, class_names: Sequence[str]) -> Figure:
    """Precision against recall of each class against the rest, with the average precision."""

    def draw(ax: Axes, own: Bools, scores: Floats) -> str:
        precision, recall, _ = precision_recall_curve(own, scores)
        ax.plot(recall, precision, color=BLUE, drawstyle="steps-post")
        ax.axhline(own.mean(), color=GREY, linestyle=":", linewidth=1)
        return f"AP {average_precision_score(own, scores):.2f}"

    title = "Precision and recall of each class against the rest (dotted: by chance)"
    return _small_multiples(draw, truth, probabilities, class_names, axes=("recall", "precision"), title=title)


def plot_roc(truth: Bools, probabilities: Floats, class_names: Sequence[str]) -> Figure:
    """The ROC curve of each class against the rest, with the area below."""

    def draw(ax: Axes, own: Bools, scores: Floats) -> str:
        false_alarms, found, _ = roc_curve(own, scores)
        ax.plot(false_alarms, found, color=BLUE)
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        return f"AUC {roc_auc_score(own, scores):.3f}"

    title = "ROC of each class against the rest (dotted: by chance)"
    return _small_multiples(draw, truth, probabilities, class_names, axes=("false alarms", "found"), title=title)


def _small_multiples(
    draw: Draw, truth: Bools, probabilities: Floats, class_names: Sequence[str], *, axes: tuple[str, str], title: str
) -> Figure:
    columns = min(4, len(class_names))
    rows = -(-len(class_names) // columns)
    fig = Figure((2.5 * columns, 2.4 * rows + 0.6), layout="constrained")
    for k, ax in enumerate(fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()):
        if k >= len(class_names):
            ax.set_axis_off()
            continue
        own = truth[:, k]
        number = draw(ax, own, probabilities[:, k]) if both_kinds(own) else "no images"
        ax.set_title(f"{readable(class_names[k])}\n{number}", fontsize=9, **name_style())
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.grid(alpha=0.25)
    fig.supxlabel(axes[0], fontsize=10)
    fig.supylabel(axes[1], fontsize=10)
    fig.suptitle(title, fontsize=11)
    return fig


def plot_reliability(before: Floats, after: Floats, right: Bools, errors: tuple[float, float], fitted: str) -> Figure:
    """Confidence (N,) as trained and calibrated, against the share that is right; the diagonal is perfect.

    `fitted` says how it was calibrated.
    """
    fig = Figure((9.5, 4.9), layout="constrained")
    edges = np.linspace(0, 1, 11)
    axes, titles = (
        fig.subplots(1, 2, sharey=True),
        ("as trained", fitted),
    )
    for ax, confidence, error, title in zip(axes, (before, after), errors, titles, strict=True):
        number, _ = np.histogram(confidence, edges)
        hits, _ = np.histogram(confidence[right], edges)
        known = number > 0
        middle, share = ((edges[:-1] + edges[1:]) / 2)[known], hits[known] / number[known]
        ax.bar(middle, share, width=0.092, color=BLUE, alpha=0.75)
        for x, y, n in zip(middle, share, number[known], strict=True):
            ax.text(x, y + 0.012, str(n), ha="center", fontsize=8, color=GREY)
        ax.plot([0, 1], [0, 1], color=ORANGE, linestyle="--", linewidth=1.5)
        ax.set_title(f"{title}: ECE {100 * error:.1f} %", fontsize=11)
        ax.set(xlabel="confidence (images above the bars)", xlim=(0, 1), ylim=(0, 1.06))
        style_axes(ax, percent="xy", grid="")
    fig.axes[0].set_ylabel("of them right")
    return fig


def plot_operating_curve(
    scores: Floats,
    defective: Bools,
    groups: Sequence[str],
    *,
    threshold: Threshold,
    result: Outcome,
    split: str,
    chooser: str = "val",
) -> Figure:
    """Escape rate against overkill for every threshold, with the band of resamples and the operating point."""
    fig = Figure((8.5, 5.4), layout="constrained")
    ax = fig.subplots()
    low, high = assessment.escape_band(scores, defective, groups)
    ax.fill_between(GRID, low, high, color=BLUE, alpha=0.18, linewidth=0, label=BAND)
    overkill, escape = assessment.escape_overkill_curve(scores, defective)
    ax.plot(overkill, escape, color=BLUE, label=f"every threshold, on {split}")
    ax.axhline(threshold.max_escape, color=GREY, linestyle=":", label=f"asked for: {threshold.max_escape:.1%} escape")
    (left, right), (bottom, top) = result.overkill_interval, result.escape_interval
    x, y = result.overkill, result.escape
    bars: Any = {"xerr": [[x - left], [right - x]], "yerr": [[y - bottom], [top - y]]}
    label = f"threshold from {chooser}: {y:.1%} escape, {x:.1%} overkill"
    ax.errorbar([x], [y], **bars, fmt="o", color=ORANGE, capsize=3, zorder=4, label=label)
    for axis, set_scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        set_scale("symlog", linthresh=LINEAR_BELOW, linscale=0.5)
        axis.set_major_locator(FixedLocator([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        axis.set_minor_locator(FixedLocator([]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    ax.set(xlim=(0, 1.05), ylim=(0, 1.05))
    ax.set_xlabel(f"overkill: good pieces scrapped (of {result.normal})")
    ax.set_ylabel(f"escape: defective pieces that pass (of {result.defective})")
    style_axes(ax)
    ax.legend(frameon=False, fontsize=9)
    return fig


def plot_risk_coverage(confidence: Floats, right: Bools, groups: Sequence[str], split: str) -> Figure:
    """Accuracy on the images that are decided, as more of the least confident go to a person."""
    fig = Figure((8.5, 4.6), layout="constrained")
    ax = fig.subplots()
    low, high = assessment.coverage_band(confidence, right, groups)
    ax.fill_between(1 - GRID, low, high, color=GREEN, alpha=0.18, linewidth=0, label=BAND)
    share, accuracy = assessment.coverage_curve(confidence, right)
    ax.plot(1 - share, accuracy, color=GREEN, label=f"on {split}")
    style_axes(ax, percent="xy")
    ax.set(xlim=(0, 1), ylim=(max(0.0, float(np.nanmin(low)) - 0.03), 1.01))
    ax.set_xlabel("sent to a person: the least confident images")
    ax.set_ylabel("right among the others")
    ax.legend(frameon=False, loc="lower right")
    return fig


def plot_confusions(pairs: Sequence[tuple[str, NDArray[np.uint8]]], columns: int) -> Figure:
    """The most frequent confusions, a row each: a title, and up to `columns` images (n, H, W, 3)."""
    fig = Figure((1.75 * columns + 0.4, max(2.05 * len(pairs), 1.2)), layout="constrained")
    if not pairs:
        fig.text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=14, color=GREY)
        return fig
    for part, (title, images) in zip(np.atleast_1d(np.asarray(fig.subfigures(len(pairs), 1))), pairs, strict=True):
        plots.write_title(part, title, fontsize=10, x=0.01, ha="left")
        for ax, image in zip(part.subplots(1, columns), [*images, *[None] * (columns - len(images))], strict=True):
            ax.set_axis_off()
            if image is not None:
                ax.imshow(image)
    return fig


MAX_MISTAKES = 24  # four rows of six, few enough to look at


def draw_mistakes(result: Evaluation, data: DefectData) -> NDArray[np.uint8]:
    """The most confident mistakes as one image (H, W, 3); matplotlib would need seconds in each epoch."""
    wrong = result.mistakes.head(MAX_MISTAKES)
    images = data.read_images(wrong["row"].to_numpy(dtype=np.int64))
    side, gap, line, columns = 150, 10, 15, 6  # pixels
    width, height = side + gap, side + 4 * line
    rows = max(-(-len(wrong) // columns), 1)
    page = Image.new("RGB", (gap + columns * width, 2 * line + rows * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(font_manager.findfont(plots.fonts()[0][-1]), 12)
    title = f"{len(result.mistakes)} of {len(result.predictions)} {result.split} images misclassified"
    draw.text((gap, 5), title, "black", font)
    for k, (image, mistake) in enumerate(zip(images, wrong.to_dict("records"), strict=True)):
        x, y = gap + k % columns * width, 2 * line + k // columns * height
        page.paste(ImageOps.pad(Image.fromarray(image), (side, side), color="white"), (x, y))
        file_name = plots.renderable(PurePath(mistake["path"]).name, missing="…")
        captions = (
            (readable(mistake["label"]), "black"),
            (f"→ {readable(mistake['prediction'])} {mistake['confidence']:.0%}", ORANGE),
            (plots.shorten(file_name, 20), GREY),
        )
        for number, (text, colour) in enumerate(captions):
            draw.text((x, y + side + number * line), text, colour, font)
    return np.asarray(page)
