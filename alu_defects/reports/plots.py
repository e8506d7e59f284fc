"""The plots of one run, and what all plots share: colours, names in any script, and a figure as pixels.

pyplot is not used: it keeps every figure in a global list and picks a window system, and neither suits a training loop.
"""

import logging
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Okabe and Ito's palette, which people with any kind of colour vision can distinguish
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def to_image(fig: Figure, dpi: float = 100) -> NDArray[np.uint8]:
    """Render to (H, W, 3), as TensorBoard wants it."""
    fig.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(fig)  # its methods are not annotated
    canvas.draw()
    return np.array(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def label_ticks(ax: Axes, axis: Literal["x", "y"], labels: Sequence[str], **style: Any) -> None:
    """Write one label, made `readable`, at each tick."""
    set_ticks = ax.set_xticks if axis == "x" else ax.set_yticks
    set_ticks(range(len(labels)), [readable(label) for label in labels], **name_style(), **style)


def wrap(names: Sequence[str]) -> tuple[list[str], int, int]:
    """Names such as those of models with their settings, in short lines: also the most lines and characters a line."""
    wrapped = [textwrap.wrap(shorten(name, 150), 28, break_on_hyphens=False) for name in names]
    longest = max((len(line) for lines in wrapped for line in lines), default=0)
    return ["\n".join(lines) for lines in wrapped], max(map(len, wrapped), default=0), longest


def write_title(fig: Figure | SubFigure, text: str, **style: Any) -> None:
    """Write the title of a figure, in which there may be any names, in lines that are not wider than it."""
    width = int(10 * fig.bbox.width / fig.dpi)  # characters, ten an inch
    lines = (textwrap.fill(line, width) for line in renderable(text).split("\n"))
    fig.suptitle("\n".join(lines), **name_style(), **style)


def style_axes(ax: Axes, *, percent: str = "", grid: Literal["", "both", "x", "y"] = "both") -> None:
    """Draw a pale grid, no frame at the top and the right, and the fractions on the axes `percent` (x, y, xy) in %."""
    if grid:
        ax.grid(axis=grid, alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    for name in percent:
        (ax.xaxis if name == "x" else ax.yaxis).set_major_formatter(PercentFormatter(1, decimals=0))


def style_rows(ax: Axes, labels: Sequence[str]) -> None:
    """Style a plot of fractions with one row for each label, the first at the top."""
    label_ticks(ax, "y", labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    style_axes(ax, percent="x", grid="x")


def style_epochs(ax: Axes, values: NDArray[np.float64], ylabel: str, *, loss: bool, best: int | None = None) -> None:
    """Style a plot of losses or scores over epochs after its lines, which show `values`; mark the best epoch."""
    style_axes(ax, percent="" if loss else "y")
    values = values[np.isfinite(values)]
    if not loss:
        ax.set_ylim(0, 1.02)
    elif values.size and 0 < 30 * values.min() < values.max():
        ax.set_yscale("log")  # one early spike would press the rest flat
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not ax.lines:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color=GREY)
    if best is not None:
        ax.axvline(best, color=GREY, linewidth=1, linestyle=":", label="best epoch")
    if ax.lines:
        ax.legend(frameon=False, prop={"family": fonts()[0]})


# What no font has is drawn as a box, with a warning for each character; matplotlib brings no font for Chinese.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # of the same file, of which older versions of matplotlib see the first font alone
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


@cache
def fonts() -> tuple[list[str], frozenset[int]]:
    """The font families to write names with, and the characters that they can draw."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *[name for name in CJK_FONTS if name in installed][:1]]  # DejaVu comes with matplotlib
    files = [font_manager.findfont(family) for family in families]
    return families, frozenset().union(*(FT2Font(file).get_charmap() for file in files))


def name_style() -> dict[str, Any]:
    """How to write text with names in it: a `$` is no formula."""
    return {"parse_math": False, "fontfamily": fonts()[0]}


def renderable(text: str, *, missing: str | None = None) -> str:
    r"""Replace characters that no font can draw: each run by `missing`, or else each character by its \u code."""
    drawable = fonts()[1] | {ord("\n")}
    if any(ord(c) not in drawable and unicodedata.name(c, "").startswith("CJK") for c in text):
        _say_no_font()
    if missing is None:
        return "".join(c if ord(c) in drawable else f"\\u{ord(c):04x}" for c in text)
    kept = "".join(c if ord(c) in drawable else "\0" for c in text)
    return re.sub("\0+", missing, kept)


@cache
def _say_no_font() -> None:
    """Say once why names are drawn as codes."""
    log.warning(
        "no font with Chinese here: install fonts-noto-cjk, or %s, and remove %s, where matplotlib remembers its "
        "fonts; figures show codes instead (\\u…)",
        " or ".join(CJK_FONTS[-3:]),
        matplotlib.get_cachedir(),
    )


def readable(name: str) -> str:
    """A class name for people."""
    return renderable(name.replace("_", " "))


def shorten(text: str, most: int) -> str:
    """Remove the middle of a long file name; its ends tell more."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def plot_confusion(
    counts: NDArray[np.int64], class_names: Sequence[str], note: str = "", *, in_per_cent: bool = False
) -> Figure:
    """Images (true class, predicted class), coloured by their share of the row, so that rare classes show too.

    Each cell has their number, or their share in per cent. A note goes below the title.
    """
    counts = np.asarray(counts)
    number, support, right = len(class_names), counts.sum(1), int(np.trace(counts))
    share = counts / np.maximum(support, 1)[:, None]
    size = max(0.5 * number, 2)
    fig = Figure((size + 3.6, size + 2.2), layout="compressed")  # "constrained" cuts labels off beside square cells
    ax = fig.subplots()
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        text = f"{100 * share[row, column]:.0f}" if in_per_cent else str(counts[row, column])
        colour = "white" if share[row, column] > 0.5 else "black"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    for k in range(number):
        ax.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, edgecolor=GREY, linewidth=0.8))
    label_ticks(ax, "x", class_names, rotation=45, ha="right", rotation_mode="anchor")
    label_ticks(ax, "y", [f"{name} ({n})" for name, n in zip(class_names, support, strict=True)])
    ax.set(xlabel="predicted", ylabel="true (images)")
    total = int(support.sum())
    title = f"{right} of {total} images right ({right / max(total, 1):.1%})"
    write_title(fig, "Per cent of each true class" if in_per_cent else f"{title}\n{note}".strip())
    fig.colorbar(image, ax=ax, format=PercentFormatter(1), shrink=0.8, label="share of the true class")
    return fig


def plot_curves(metrics: pd.DataFrame, *, monitor: str = "val/f1") -> Figure:
    """Losses on the left, validation scores on the right, and the epoch where `monitor` was best.

    `metrics` has `epoch`, from 0, and any of `train/loss val/loss val/accuracy val/recall val/f1`; cells may be empty.
    """
    fig = Figure((10, 4.2), layout="constrained")
    left, right = fig.subplots(1, 2)
    losses = {"train/loss": ("train", BLUE, "-"), "val/loss": ("validation", ORANGE, "--")}
    scores = {
        "val/accuracy": ("accuracy", BLUE, "-"),
        "val/recall": ("macro recall", ORANGE, "--"),
        "val/f1": ("macro F1", GREEN, "-."),
    }
    drawn = [_draw_columns(ax, metrics, styles) for ax, styles in ((left, losses), (right, scores))]
    title, epoch = "Training and validation", None
    watched = by_epoch(metrics, monitor)
    if not watched.empty:
        best = int((watched.argmin if monitor.endswith("loss") else watched.argmax)())
        epoch = int(watched.index[best])
        title = f"Best {monitor}: {watched.iloc[best]:.3f} at epoch {epoch}"
    style_epochs(left, drawn[0], "loss", loss=True, best=epoch)
    style_epochs(right, drawn[1], "on validation images", loss=False, best=epoch)
    write_title(fig, title)
    return fig


def plot_classes(
    precision: NDArray[np.floating[Any]],
    recall: NDArray[np.floating[Any]],
    support: NDArray[np.int64],
    class_names: Sequence[str],
) -> Figure:
    """Precision and recall of each class, the weakest recall at the top; NaN is named and excluded from the means."""
    precision, recall = np.asarray(precision, float), np.asarray(recall, float)
    order = np.argsort(recall, kind="stable")  # NaN last
    rows = np.arange(len(order))
    fig = Figure((8.5, 0.36 * len(order) + 2.2), layout="constrained")
    ax = fig.subplots()
    ax.hlines(rows, precision[order], recall[order], color=GREY, linewidth=1.5, alpha=0.6)
    for values, word, meaning, colour, face, marker, style in (
        (recall, "recall", "share of the class that was found", BLUE, BLUE, "o", "--"),
        (precision, "precision", "share of its predictions that are right", ORANGE, "none", "D", ":"),
    ):  # hollow, so that the dot is seen where both are equal
        dots = ax.scatter(values[order], rows, 40, facecolors=face, edgecolors=colour, marker=marker, zorder=3)
        dots.set(label=f"{word}: {meaning}", clip_on=False, linewidth=1.5)
        if not np.isnan(values).all():
            mean = float(np.nanmean(values))
            ax.axvline(mean, color=colour, linewidth=1.2, linestyle=style, label=f"macro {word} {mean:.1%}")
    for row, k in enumerate(order):
        found = "no images" if np.isnan(recall[k]) else f"recall {recall[k]:.1%}"
        right = "never predicted" if np.isnan(precision[k]) else f"precision {precision[k]:.1%}"
        edge: Any = {"xy": (1, row), "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
        for points, text in ((12, found), (85, right)):
            ax.annotate(text, xytext=(points, 0), va="center", fontsize=8, annotation_clip=False, **edge)
    known = np.concatenate([precision, recall])
    lowest = float(np.nanmin(known)) if not np.isnan(known).all() else 0.0
    ax.set_xlim(max(0.0, np.floor(10 * (lowest - 0.02)) / 10), 1)
    style_rows(ax, [f"{class_names[k]} ({support[k]})" for k in order])
    ax.set_ylabel("class (images)")
    fig.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    weakest = order[0]
    title = "No class has images: recall is undefined"
    if not np.isnan(recall[weakest]):
        name = readable(class_names[weakest])
        title = f"Weakest class: {name}, {recall[weakest]:.1%} of {support[weakest]} images found"
    write_title(fig, title)
    return fig


def by_epoch(metrics: pd.DataFrame, column: str) -> "pd.Series[float]":
    """The values of a column by epoch, the first is 1 as on the screen, without the epochs that have none."""
    if column not in metrics:
        return pd.Series(dtype=float)
    return metrics.set_index(metrics["epoch"] + 1)[column].dropna().astype(float)


def _draw_columns(ax: Axes, metrics: pd.DataFrame, styles: dict[str, tuple[str, str, str]]) -> NDArray[np.float64]:
    """Draw the columns that were recorded; returns their values."""
    drawn: list[NDArray[Any]] = [np.empty(0)]
    for column, (label, colour, style) in styles.items():
        values = by_epoch(metrics, column)
        if not values.empty:
            marker = "o" if len(values) < 40 else ""
            ax.plot(values.index, values, style, marker=marker, markersize=3.5, color=colour, label=label)
            drawn.append(values.to_numpy())
    return np.concatenate(drawn)
