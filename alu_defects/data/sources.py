"""Where images come from: a name in the configuration → the folder and the images in it."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from alu_defects.data import catalog, folder, tianchi
from alu_defects.data.catalog import FoundImages
from alu_defects.errors import UserError, check_choice
from alu_defects.synthetic import SyntheticOptions, ensure_written


def _folder(root: str) -> tuple[Path, FoundImages]:
    path = catalog.existing_root(root)
    return path, folder.find_images(path)


def _tianchi(
    root: str, round: int = 1, include_other: bool = False, corrections: bool = True
) -> tuple[Path, FoundImages]:
    path = catalog.existing_root(root)
    return path, tianchi.find_images(path, round=round, include_other=include_other, corrections=corrections)


def _synthetic(root: str, synthetic: Mapping[str, Any], progress: bool) -> tuple[Path, FoundImages]:
    path = ensure_written(Path(root), SyntheticOptions(**synthetic), progress=progress)
    return path, tianchi.find_images(path, corrections=False)  # real images with corrected labels may have these names


SOURCES: dict[str, Callable[..., tuple[Path, FoundImages]]] = {
    "folder": _folder,
    "tianchi": _tianchi,
    "synthetic": _synthetic,
}


def check_source_options(source: str, options: Mapping[str, Any]) -> None:
    """Refuse with a `UserError` a source, its options or a round that do not exist; nothing is read."""
    check_choice("data.source", source, SOURCES)
    try:
        inspect.signature(SOURCES[source]).bind(**options)
    except TypeError as error:
        raise UserError(f"data.source={source}: {error}; data={source} sets source and options together") from error
    if "round" in options:
        tianchi.check_round(options["round"])


def find_images(source: str, options: Mapping[str, Any]) -> tuple[Path, FoundImages]:
    """Find the images of a source, and the folder that they lie in; a `UserError` if it is not of this source."""
    return SOURCES[source](**options)


def check_trainable(source: str, root: Path, table: pd.DataFrame) -> None:
    """Refuse with a `UserError` fewer than two classes, and images that lie in the root of the source `folder`."""
    loose = table.loc[table["labels"] == "", "path"]
    if source == "folder" and len(loose):
        raise UserError(
            f"{root / loose.iloc[0]} and {len(loose) - 1} other images lie in the root itself; "
            "move each into a folder named after its class"
        )
    classes = set(table["label"]) - {""}
    if len(classes) < 2:
        held = f"one class only, {classes.pop()}" if classes else "no image with a class of its own"
        raise UserError(f"data.root={root} holds {held}; a classifier needs two or more class folders")
