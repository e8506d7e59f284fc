"""Any folder of class folders → catalogue."""

import logging
from pathlib import Path

import pandas as pd

from alu_defects.data import catalog
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def scan(root: Path) -> pd.DataFrame:
    """Catalogue `root/<class>/**/<picture>`: the first folder is the class, folders in it only group pictures.

    Raises:
        UserError: no pictures, one class only, or folders that are named after splits instead of classes.
    """
    pictures = [(path, path.relative_to(root).parts[0]) for path in catalog.pictures_below(root)]
    loose = [path for path, _ in pictures if path.parent == root]
    if loose:
        raise UserError(
            f"{loose[0]} and {len(loose) - 1} other pictures lie in the root itself; "
            "move each into a folder named after its class"
        )
    labels = {label for _, label in pictures}
    if labels and {label.lower() for label in labels} <= SPLIT_NAMES:
        raise UserError(
            f"data.root={root} holds {', '.join(sorted(labels))}: splits, not classes. "
            "Put the class folders of all of them into one folder; split=random divides them"
        )
    empty = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in labels and p.name[0] != ".")
    if empty and labels:
        log.warning("%s: no pictures in %s, so there is no such class", root, ", ".join(empty))
    return catalog.build(root, pictures)
