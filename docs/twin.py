"""The contact sheet of the generated images: `python docs/twin.py docs/twin.jpg`.

A row for each class; below each image its defect, a crop of 120 × 90 pixels at twice the size.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from alu_defects.synthetic.writer import SyntheticImage, draw_image
from alu_defects.tianchi_classes import CLASSES, DefectClass

SIZE = (640, 480)  # of an image
FRAME = (240, 180)  # of an image and of a crop on the sheet
GAP, TITLE = 6, 22


def draw_contact_sheet(classes: Sequence[DefectClass], columns: int) -> Image.Image:
    """The first image of each of the first sessions of these classes."""
    width, height = FRAME[0] + GAP, 2 * FRAME[1] + GAP + TITLE
    sheet = Image.new("RGB", (columns * width + GAP, len(classes) * height), "white")
    paint = ImageDraw.Draw(sheet)
    for row, kind in enumerate(classes):
        paint.text((GAP, row * height + 4), kind.name, fill="black", font_size=14)
        for column in range(columns):
            image = draw_image(0, kind, column, 0, size=SIZE)
            left, top = GAP + column * width, row * height + TITLE
            sheet.paste(Image.fromarray(image.pixels).resize(FRAME, Image.Resampling.LANCZOS), (left, top))
            sheet.paste(_crop(image), (left, top + FRAME[1] + GAP // 2))
    return sheet


def _crop(image: SyntheticImage) -> Image.Image:
    """The part of the image round the defect, or round the middle of the image, at twice the size."""
    row, column = SIZE[1] // 2, SIZE[0] // 2
    if image.masks and image.masks[0].any():
        rows, columns = np.nonzero(image.masks[0])
        row, column = int(np.median(rows)), int(np.median(columns))
        nearest = np.argmin(np.hypot(rows - row, columns - column))  # the middle of a cluster may be bare
        row, column = int(rows[nearest]), int(columns[nearest])
    width, height = FRAME[0] // 2, FRAME[1] // 2
    left = min(max(column - width // 2, 0), SIZE[0] - width)
    top = min(max(row - height // 2, 0), SIZE[1] - height)
    part = Image.fromarray(image.pixels).crop((left, top, left + width, top + height))
    return part.resize(FRAME, Image.Resampling.NEAREST)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the file to write: python docs/twin.py docs/twin.jpg")
    draw_contact_sheet(CLASSES, 4).save(Path(sys.argv[1]), quality=80)
