"""Write the generated set where a catalogue of the competition archives can find it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alu_defects.data.synthetic.defects import PAINTERS
from alu_defects.data.synthetic.scene import Scene
from alu_defects.taxonomy import CLASSES, DEFECTS_FOLDER, NORMAL, NORMAL_FILE_PREFIX, DefectClass

ARCHIVE = "guangdong_round1_train2_20180916"
FIRST_SHOT = datetime(2018, 9, 11, 8)
# The classes take turns and no two shots are a burst: unlike in the real archives the time in a name tells nothing.
PAUSE = timedelta(seconds=90)


def write(
    root: Path,
    *,
    pictures_per_class: int = 50,
    width: int = 320,
    height: int = 240,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the set below `root`, which must not exist; a write that was killed leaves no `root` behind.

    A picture depends on the seed, its class and its number alone, so a larger set contains every smaller one.

    Args:
        root: becomes the folder that holds the archive's folder.
        pictures_per_class: the same for all eleven classes.
        width: of a picture, in pixels.
        height: of a picture, in pixels.
        seed: another seed, other pictures.
        progress: told the number of pictures done, after each.

    Raises:
        FileExistsError: `root` is there already, or another process finished it meanwhile.
    """
    if root.exists():
        raise FileExistsError(f"{root} exists already; remove it or choose another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as unfinished:
        staged = Path(unfinished, "set")
        done = count(1)
        for number, kind in product(range(pictures_per_class), CLASSES):
            path = staged / relative_path(kind, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(kind, number, width=width, height=height, seed=seed)).save(path, quality=92)
            if progress:
                progress(next(done))
        try:
            staged.rename(root)
        except OSError as error:
            if root.exists():
                raise FileExistsError(f"{root} was written by another process meanwhile") from error
            raise


def picture(kind: DefectClass, number: int, *, width: int = 320, height: int = 240, seed: int = 0) -> NDArray[np.uint8]:
    """The picture of that class with that number, (H, W, 3)."""
    scene = Scene(np.random.default_rng([seed, kind.id, number]), width, height)
    if kind is not NORMAL:
        PAINTERS[kind.name](scene)
    return scene.photograph()


def relative_path(kind: DefectClass, number: int) -> Path:
    """Where the archive keeps that picture."""
    time = FIRST_SHOT + (number * len(CLASSES) + kind.id) * PAUSE
    name = f"{time:%Y%m%d%H%M%S}对照样本.jpg"
    if kind is NORMAL:
        return Path(ARCHIVE, NORMAL.folder, NORMAL_FILE_PREFIX + name)
    return Path(ARCHIVE, DEFECTS_FOLDER, kind.folder, kind.folder + name)
