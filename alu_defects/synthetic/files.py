"""Generated images on the disk: a set is written once, by all cores, and an interrupted one is finished."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from PIL import Image
from rich.progress import track

from alu_defects.errors import UserError
from alu_defects.io import exclusive_lock

_GENERATED = re.compile(r"v[0-9]+_|\.")  # generated sets, finished or not, and hidden files


def write_once(
    root: Path, name: str, jobs: Iterable[Callable[[Path], None]], *, workers: int | None = None, progress: bool = True
) -> Path:
    """Write a set of images into the folder `root / name` unless it is there.

    Args:
        root: the folder of all generated sets.
        name: of the set, `v<version>_…`, which no other set has.
        jobs: each writes some files into the folder that it is given; what is there already it does not write again.
        workers: processes; None: one a core.
        progress: show a progress bar.

    Returns:
        The folder of the set.

    Raises:
        UserError: a root that holds something else, such as images of the user.
    """
    root = root.expanduser().absolute()
    others = sorted(p.name for p in root.iterdir() if not _GENERATED.match(p.name)) if root.is_dir() else []
    if others:
        raise UserError(
            f"data.root={root} holds {others[0]}, which was not generated here. Add data=folder or data=tianchi to "
            "read it, or remove data.root"
        )
    folder = root / name
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder, f"generating {name}"):
        if not folder.is_dir():  # another process may have written it
            unfinished = folder.with_name(f"{name}.part")
            for path in list(unfinished.rglob(".*")):  # unfinished files of a killed process
                path.unlink()
            tasks = [delayed(job)(unfinished) for job in jobs]
            pool = Parallel(n_jobs=workers or -1, return_as="generator_unordered", batch_size=4)
            for _ in track(pool(tasks), f"generating {len(tasks)} images", total=len(tasks), disable=not progress):
                pass
            unfinished.rename(folder)
    return folder


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Write an image that readers see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}_{path.name}")
    image.save(beside, **options)
    beside.replace(path)
