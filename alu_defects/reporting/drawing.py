"""What the plots share: colours, names in any script, and a figure as pixels.

pyplot is not used: it keeps every figure in a global list and picks a window system, and neither suits a training loop.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray

# Okabe and Ito's palette: told apart with any kind of colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def to_image(fig: Figure, dpi: float = 100) -> NDArray[np.uint8]:
    """Render to (H, W, 3), as TensorBoard wants it."""
    fig.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(fig)  # its methods are not annotated
    canvas.draw()
    return np.array(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def label_ticks(ax: Axes, axis: str, labels: Sequence[str], **style: Any) -> None:
    """Write one label a tick; a `$` in a class name is no formula."""
    family = fonts()[0]
    if axis == "x":
        ax.set_xticks(range(len(labels)), labels, parse_math=False, fontfamily=family, **style)
    else:
        ax.set_yticks(range(len(labels)), labels, parse_math=False, fontfamily=family, **style)


# What no font has is drawn as a box, with a warning for each character; matplotlib brings no font for Chinese.
CJK_FONTS = (
    "Noto Sans CJK SC",
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


def renderable(text: str, *, missing: str | None = None) -> str:
    r"""Replace what no font can draw: each run by `missing`, or else each character by its \u code."""
    drawable = fonts()[1]
    if missing is None:
        return "".join(c if ord(c) in drawable else f"\\u{ord(c):04x}" for c in text)
    kept = "".join(c if ord(c) in drawable else "\0" for c in text)
    return re.sub("\0+", missing, kept)


def readable(name: str) -> str:
    """A class name for people."""
    return renderable(name.replace("_", " "))


def shorten(text: str, most: int) -> str:
    """Cut out the middle: both ends of a file name tell more."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"
