"""Why a network decided so: a PNG for each image, and a page with all of them."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from alu_defects.data.decode import UInt8
from alu_defects.reports import html, plots

_SIDE = 480  # pixels of a picture in the page; shown at half the size, for screens with two pixels a point


class Card(NamedTuple):
    """What is shown of one image."""

    title: str
    path: str
    is_wrong: bool
    file: str  # name of its PNG
    panels: Sequence[tuple[str, UInt8, str]]  # title, picture (H, W, 3), note
    notes: Sequence[str]


def write_explanations(cards: Sequence[Card], folder: Path, title: str, notes: Sequence[str]) -> Path:
    """Write a PNG for each card, and explain.html with all of them inside; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    for card in cards:
        _plot(card).savefig(folder / card.file, dpi=100)
    shown = [
        {"card": card, "panels": [(name, _data_url(image), note) for name, image, note in card.panels]}
        for card in cards
    ]
    return html.write_page(folder / "explain.html", "explain.html", title=title, notes=notes, shown=shown)


def _plot(card: Card) -> Figure:
    height, width = card.panels[0][1].shape[:2]
    inches = 3.4 * min(2, height / width) + 0.8
    figure = Figure((3.4 * len(card.panels), inches))
    figure.subplots_adjust(0.002, 0, 0.998, 1 - 0.8 / inches, wspace=0.02)  # layout="constrained" takes half a second
    plots.write_title(figure, f"{card.title} – {card.path}", fontsize=10, x=0.01, ha="left")
    row = figure.subplots(1, len(card.panels), squeeze=False)[0]
    for axes, (title, image, note) in zip(row, card.panels, strict=True):
        axes.imshow(image)
        axes.set_axis_off()
        axes.set_title("\n".join([plots.readable(title), note]).strip(), fontsize=8, **plots.name_style())
    return figure


def _data_url(image: UInt8) -> str:
    small, content = Image.fromarray(image), BytesIO()
    small.thumbnail((_SIDE, _SIDE))
    small.save(content, "JPEG", quality=85)
    return html.data_url(content.getvalue(), "image/jpeg")
