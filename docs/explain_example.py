"""The picture in docs/explain.md: `python docs/explain_example.py docs/explain.jpg`.

A small network with scSE learns three classes of generated images for a minute or two. A row for each defect class: a
test image that is decided right, what speaks for its class, Grad-CAM, and the places that attention lets pass.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from alu_defects.config import compose
from alu_defects.explain import explain
from alu_defects.synthetic.writer import draw_image
from alu_defects.tianchi_classes import CLASSES
from alu_defects.train import train

NAMES = ("normal", "bruise", "dirty_spot")
TILE = (300, 225)  # pixels of an image in the picture
GAP = 6


def draw_example(folder: Path, images: int = 150) -> Image.Image:
    """Generate `images` of each class, train on them, and show the most confident right decision of each defect."""
    for kind in CLASSES:
        if kind.name in NAMES:
            (folder / "images" / kind.name).mkdir(parents=True)
            for number in range(images):
                pixels = draw_image(0, kind, number, 0, size=(320, 240)).pixels
                Image.fromarray(pixels).save(folder / "images" / kind.name / f"{number:03}.jpg", quality=90)
    run = folder / "run"
    size, network = ["data.image_size=[128,160]"], ["model.width=0.5", "model.attention=scse", "trainer.max_epochs=24"]
    train(compose("train", ["data=folder", f"data.root={folder / 'images'}", f"run_dir={run}", *size, *network]))
    found = explain(compose("explain", [f"run={run}", "images=1000"]))
    right = {one.label: one.panels for one in found if one.label == one.decision.label}  # the most confident is last
    rows = [[*right[name][:3], right[name][-2]] for name in NAMES if name != "normal"]  # attention of the middle stage
    width, height = TILE[0] + GAP, TILE[1] + GAP
    sheet = Image.new("RGB", (4 * width - GAP, len(rows) * height - GAP), "white")
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            sheet.paste(Image.fromarray(panel.image).resize(TILE), (column * width, row * height))
    return sheet


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        draw_example(Path(place)).save(sys.argv[1], quality=80)
