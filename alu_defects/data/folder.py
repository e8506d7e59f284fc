"""Any folder of class folders → catalogue."""

import logging
from pathlib import Path, PurePosixPath

from alu_defects.data import catalog, duplicates, files
from alu_defects.data.catalog import Picture, Scan
from alu_defects.data.left_out import LeftOut, Reason
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def scan(root: Path) -> Scan:
    """Catalogue `root/<class>/**/<picture>`: the first folder is the class, folders in it only group pictures.

    A copy in the same class is left out, of a picture in two classes all copies are.

    Raises:
        UserError: no pictures, one class only, or folders that are named after splits instead of classes.
    """
    found, left_out = files.below(root)
    left_out += [LeftOut(path, Reason.NOT_A_PICTURE) for path in found if not files.is_picture(path)]
    pictures = [Picture(path, (PurePosixPath(path).parts[0],)) for path in found if files.is_picture(path)]
    if not pictures:
        raise UserError(
            f"data.root={root} holds no pictures ({', '.join(sorted(files.PICTURE_SUFFIXES))}) in class folders"
        )
    loose = [picture.path for picture in pictures if "/" not in picture.path]
    if loose:
        raise UserError(
            f"{root / loose[0]} and {len(loose) - 1} other pictures lie in the root itself; "
            "move each into a folder named after its class"
        )
    labels = {picture.label for picture in pictures}
    if {label.lower() for label in labels} <= SPLIT_NAMES:
        raise UserError(
            f"data.root={root} holds {', '.join(sorted(labels))}: splits, not classes. "
            "Put the class folders of all of them into one folder; split=session divides them"
        )
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in labels and p.name[0] != ".")
    if empty:
        log.warning("%s: no pictures in %s, so there is no such class", root, ", ".join(empty))
    pictures, copies = duplicates.by_content(catalog.hashed(root, pictures))
    return catalog.build(root, pictures, left_out + copies, sorted(labels))
