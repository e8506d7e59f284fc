"""The page of the mistakes that a model was most certain of."""

from pathlib import PurePath

import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from alu_defects.data.datamodule import DefectData
from alu_defects.reporting import drawing
from alu_defects.reporting.evaluation import Evaluation

MOST = 24  # four rows of six: a page that can still be looked through


def sheet(result: Evaluation, data: DefectData) -> NDArray[np.uint8]:
    """The most certain mistakes as one picture (H, W, 3), for which matplotlib would take seconds of an epoch."""
    wrong = result.mistakes.head(MOST)
    pictures = data.pictures(wrong["row"].to_numpy(dtype=np.int64))
    side, gap, line, columns = 150, 10, 15, 6  # pixels
    width, height = side + gap, side + 4 * line
    rows = max(-(-len(wrong) // columns), 1)
    page = Image.new("RGB", (gap + columns * width, 2 * line + rows * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(font_manager.findfont(drawing.fonts()[0][-1]), 12)
    title = f"{len(result.mistakes)} of {len(result.predictions)} {result.split} pictures misclassified"
    draw.text((gap, 5), title, "black", font)
    for k, (picture, mistake) in enumerate(zip(pictures, wrong.to_dict("records"), strict=True)):
        x, y = gap + k % columns * width, 2 * line + k // columns * height
        page.paste(Image.fromarray(picture).resize((side, side)), (x, y))
        file_name = drawing.renderable(PurePath(mistake["path"]).name, missing="…")
        captions = (
            (drawing.readable(mistake["label"]), "black"),
            (f"→ {drawing.readable(mistake['prediction'])} {mistake['certainty']:.0%}", drawing.ORANGE),
            (drawing.shorten(file_name, 20), drawing.GREY),
        )
        for number, (text, colour) in enumerate(captions):
            draw.text((x, y + side + number * line), text, colour, font)
    return np.asarray(page)
