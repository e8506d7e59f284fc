"""The extracted archives of Tianchi 2018, round 1 → catalogue."""

import logging
from pathlib import Path

import pandas as pd

from alu_defects.data import catalog
from alu_defects.errors import UserError
from alu_defects.taxonomy import CLASSES, DEFECTS_FOLDER, NORMAL, OTHER

log = logging.getLogger(__name__)

_LABELS = {c.folder: c.name for c in (*CLASSES, OTHER)}


def scan(root: Path, *, include_other: bool = False) -> pd.DataFrame:
    """Catalogue every `无瑕疵样本/` and `瑕疵样本/<class>/` below the root.

    The archives overlap: of several files of one name only the first is taken, or a picture could be in train and test.

    Raises:
        UserError: no such folders, or a class folder that is not in the taxonomy.
    """
    found: dict[str, tuple[Path, str]] = {}
    repeated = other = 0
    for path in catalog.pictures_below(root):
        label = _label(path.relative_to(root).parts, path)
        if label is None:
            continue
        if label == OTHER.name and not include_other:
            other += 1
        elif path.name in found:
            repeated += 1
        else:
            found[path.name] = (path, label)
    if repeated or other:
        log.info("left out: %d pictures whose file name came before, %d of the class other", repeated, other)
    if not found:
        raise UserError(
            f"data.root={root} holds no {NORMAL.folder}/ or {DEFECTS_FOLDER}/<class>/; "
            "give the folder into which the round-1 archives were extracted"
        )
    order = list(_LABELS.values())
    return catalog.build(root, sorted(found.values(), key=lambda item: order.index(item[1])))


def _label(parts: tuple[str, ...], path: Path) -> str | None:
    """The class of a picture by the folders above it; None where they name neither normal nor defects."""
    if NORMAL.folder in parts:
        return NORMAL.name
    if DEFECTS_FOLDER not in parts:
        return None
    folder = parts[parts.index(DEFECTS_FOLDER) + 1]
    if folder not in _LABELS:
        raise UserError(f"{path}: {folder} is not a class of round 1; known are {', '.join(list(_LABELS)[1:])}")
    return _LABELS[folder]
