"""The generated set, written once and found again."""

import contextlib
from pathlib import Path

from rich.progress import Progress

from alu_defects.data.synthetic.writer import write
from alu_defects.taxonomy import CLASSES

GENERATOR_VERSION = 1  # raise it when the pictures change, so that old ones are not taken for new


def ensure(root: Path, *, pictures_per_class: int, width: int, height: int, generator_seed: int) -> Path:
    """Write the set unless it is there.

    Args:
        root: the folder of all generated sets.
        pictures_per_class: see `write`, as for the others.
        width: of a picture, in pixels.
        height: of a picture, in pixels.
        generator_seed: another seed, other pictures.

    Returns:
        The folder of this set below the root.
    """
    name = f"v{GENERATOR_VERSION}_{pictures_per_class}_a_class_{width}x{height}_seed{generator_seed}"
    folder = root.expanduser() / name
    if not folder.is_dir():
        with Progress() as bar, contextlib.suppress(FileExistsError):  # another process has written the same meanwhile
            total = pictures_per_class * len(CLASSES)
            task = bar.add_task(f"generating {total} pictures", total=total)
            write(
                folder,
                pictures_per_class=pictures_per_class,
                width=width,
                height=height,
                seed=generator_seed,
                progress=lambda done: bar.update(task, completed=done),
            )
    return folder
