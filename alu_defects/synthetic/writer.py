"""The generated bars on the disk, in the layout of the competition archives."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alu_defects.synthetic.defects import DRAW_FUNCTIONS
from alu_defects.synthetic.files import save_image, write_once
from alu_defects.synthetic.plan import PlannedImage, plan_images
from alu_defects.synthetic.scene import Scene
from alu_defects.synthetic.setting import Setting
from alu_defects.tianchi_classes import CLASSES, DEFECTS_FOLDER, NORMAL, NORMAL_FILE_PREFIX, DefectClass

GENERATOR_VERSION = 3  # raise it when the images change, so that old ones are generated again
ARCHIVE = "guangdong_round1_train2_20180916"
MULTI_ARCHIVE = Path("guangdong_round2_train_20181011", "多瑕疵图片")
SAME_PIECE_PROBABILITY = 0.6  # that an image shows the piece of the previous one, moved a little
# the classes of round 1 that round 2 has too
ROUND2_CLASSES = ("non_conductive", "scuffed", "orange_peel", "bottom_leakage", "pit", "dirty_spot")


@dataclass(frozen=True)
class SyntheticOptions:
    """What a generated set is made of; see conf/data/synthetic.yaml, and `config.ALLOWED` for the ranges."""

    images: int
    balance: str = "equal"
    severity: float = 1.0
    size: tuple[int, int] = (640, 480)
    seed: int = 0
    multi_defect: int = 0

    def folder_name(self) -> str:
        """A name that no other set has."""
        width, height = self.size
        name = f"v{GENERATOR_VERSION}_{self.images}_{self.balance}_{width}x{height}_severity{self.severity:g}"
        return f"{name}_seed{self.seed}" + (f"_multi{self.multi_defect}" if self.multi_defect else "")


def ensure_written(root: Path, options: SyntheticOptions, *, workers: int | None = None, progress: bool = True) -> Path:
    """Write the set unless it is there; an interrupted one is finished.

    Beside the images, `masks/` holds for every defect image a PNG of the same name that is white on the defect.

    Args:
        root: the folder of all generated sets.
        options: what the set is made of.
        workers: processes; None: one a core. The images are the same with any number.
        progress: show a progress bar.

    Returns:
        The folder of the images, which `tianchi.find_images` reads.

    Raises:
        UserError: a root that holds something else, such as images of the user.
    """
    return write_once(root, options.folder_name(), _jobs(options), workers=workers, progress=progress) / "images"


def _jobs(options: SyntheticOptions) -> Iterator[Callable[[Path], None]]:
    for planned in plan_images(options.images, options.balance, options.seed):
        yield partial(_write_single, planned, options)
    for number in range(options.multi_defect):
        yield partial(_write_multi, number, options)


def relative_path(planned: PlannedImage) -> Path:
    """Where the archive has that image."""
    name = f"{planned.time:%Y%m%d%H%M%S}对照样本.jpg"
    if planned.kind == NORMAL:  # not `is`: worker processes have copies
        return Path(ARCHIVE, NORMAL.folder, NORMAL_FILE_PREFIX + name)
    return Path(ARCHIVE, DEFECTS_FOLDER, planned.kind.folder, planned.kind.folder + name)


def _write_single(planned: PlannedImage, options: SyntheticOptions, folder: Path) -> None:
    path = folder / "images" / relative_path(planned)
    if path.exists():  # written before an interruption; the image is written last
        return
    which = planned.kind, planned.session, planned.number
    image = draw_image(options.seed, *which, size=options.size, severity=options.severity)
    for mask in image.masks:
        save_image(Image.fromarray(mask), (folder / "masks" / relative_path(planned)).with_suffix(".png"))
    save_image(Image.fromarray(image.pixels), path, quality=image.quality)


def _write_multi(number: int, options: SyntheticOptions, folder: Path) -> None:
    """An image with two or three defects and their boxes, as round 2 of the competition keeps them (labelme)."""
    path = folder / "images" / MULTI_ARCHIVE / f"{number}.jpg"
    if path.exists():
        return
    rng = np.random.default_rng([options.seed, 6, number])
    names = [str(name) for name in rng.choice(ROUND2_CLASSES, rng.integers(2, 4), replace=False)]
    folders = {kind.name: kind.folder for kind in CLASSES}
    session = 10**6 + number  # no session of a single-defect class has such a number
    image = draw_image(options.seed, NORMAL, session, 0, size=options.size, severity=options.severity, defects=names)
    shapes = []
    for name, mask in zip(names, image.masks, strict=True):
        save_image(Image.fromarray(mask), folder / "masks" / MULTI_ARCHIVE / f"{number}_{name}.png")
        if box := Image.fromarray(mask).getbbox():  # None where the defect lies outside the frame
            left, top, right, bottom = box
            corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
            shapes.append({"label": folders[name], "points": corners})
    content = {"shapes": shapes, "imagePath": path.name, "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    save_image(Image.fromarray(image.pixels), path, quality=image.quality)


class SyntheticImage(NamedTuple):
    """A generated image."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    masks: tuple[NDArray[np.bool_], ...]  # (H, W) each: where the first defect is, the second, …
    quality: int  # of the JPEG that the phone would write


def draw_image(
    seed: int,
    kind: DefectClass,
    session: int,
    number: int,
    *,
    size: tuple[int, int],
    severity: float = 1.0,
    defects: Sequence[str] | None = None,
) -> SyntheticImage:
    """Draw an image; it depends on the arguments alone.

    Args:
        seed: of the generated set.
        kind: class of the session.
        session: counted within the class; all its images share bar, coat, bench, light and camera.
        number: of the image within the session.
        size: (width, height) in pixels.
        severity: multiplies the strength of the defects; 0.3 makes them hardly visible.
        defects: classes to draw, if other than `kind` alone.
    """
    setting = Setting.sample(np.random.default_rng([seed, 2, kind.id, session]))
    changes = np.random.default_rng([seed, 3, kind.id, session]).random(number + 1) > SAME_PIECE_PROBABILITY
    piece_rng = np.random.default_rng([seed, 4, kind.id, session, int(changes[1:].sum())])
    image_rng = np.random.default_rng([seed, 5, kind.id, session, number])
    scene = Scene(setting, piece_rng, image_rng, (size[1], size[0]), severity)
    masks = []
    for name in [kind.name] if defects is None else defects:
        if name in DRAW_FUNCTIONS:
            scene.mask = np.zeros(scene.shape, np.bool_)
            DRAW_FUNCTIONS[name](scene)
            masks.append(scene.mask)
    return SyntheticImage(scene.render(), tuple(masks), setting.quality)
