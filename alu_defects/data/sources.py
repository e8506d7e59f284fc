"""Where images come from: a name in the configuration → the folder and the images in it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from alu_defects.data import catalog, folder, tables, tianchi
from alu_defects.data.catalog import FoundImages, Root
from alu_defects.errors import UserError, check_choice
from alu_defects.synthetic import SurfaceOptions, SyntheticOptions, ensure_written, write_surfaces


def _folder(root: str | Sequence[str]) -> tuple[Root, FoundImages]:
    path = catalog.existing_root(root)
    return path, folder.find_images(path)


def _table(
    table: str,
    root: str | Sequence[str] | None = None,
    columns: Mapping[str, str] = tables.COLUMNS,
    encoding: str | None = None,
) -> tuple[Root, FoundImages]:
    path = given_root("table", {"root": root, "table": table})
    return path, tables.find_images(Path(str(table)).expanduser(), path, columns, encoding)


def _tianchi(
    root: str, round: int = 1, include_other: bool = False, corrections: bool = True
) -> tuple[Root, FoundImages]:
    path = catalog.existing_folder(root)
    return path, tianchi.find_images(path, round=round, include_other=include_other, corrections=corrections)


def _synthetic(root: str, synthetic: Mapping[str, Any], progress: bool) -> tuple[Root, FoundImages]:
    path = ensure_written(Path(root), SyntheticOptions(**synthetic), progress=progress)
    return path, tianchi.find_images(path, corrections=False)  # real images with corrected labels may have these names


def _surfaces(root: str, surfaces: Mapping[str, Any], progress: bool) -> tuple[Root, FoundImages]:
    path = write_surfaces(Path(root), SurfaceOptions(**surfaces), progress=progress)
    return path, folder.find_images(path)


GENERATED = ("synthetic", "surfaces")  # written where they are not there yet, which takes as long as decoding
SOURCES: dict[str, Callable[..., tuple[Root, FoundImages]]] = {
    "folder": _folder,
    "table": _table,
    "tianchi": _tianchi,
    "synthetic": _synthetic,
    "surfaces": _surfaces,
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
    if "columns" in options:
        tables.check_columns(options["columns"])
    if "encoding" in options:
        tables.check_encoding(options["encoding"])


def given_root(source: str, options: Mapping[str, Any]) -> Root:
    """The folder, or folders, that the options of a source name; a `UserError` if one is not there."""
    if source in GENERATED:
        return Path(options["root"]).expanduser()  # may not be written yet
    if source == "table" and not options.get("root"):
        tables.check_exists(options["table"])
        return catalog.existing_root(Path(str(options["table"])).expanduser().parent)
    return catalog.existing_root(options["root"])


def find_images(source: str, options: Mapping[str, Any]) -> tuple[Root, FoundImages]:
    """Find the images of a source and the root that they lie in; a `UserError` if that is not of this source."""
    return SOURCES[source](**options)


def check_trainable(source: str, root: Root, table: pd.DataFrame) -> None:
    """Refuse with a `UserError` fewer than two classes, and images of the source `folder` that lie in no class folder.

    In a given split, images without a class may lie in test, which need not be labelled.
    """
    loose = table.loc[(table["labels"] == "") & ~table["given_split"].isin(["test", "unlabelled"]), "path"]
    if source == "folder" and len(loose):
        raise UserError(
            f"{root / loose.iloc[0]} and {len(loose) - 1} other images lie in no class folder, but in the root "
            "itself or in a folder of a split; move each into a folder named after its class, or out of the root"
        )
    classes = set(table["label"]) - {""}
    if len(classes) < 2:
        held = f"one class only, {min(classes)}" if classes else "no image with a class of its own"
        inner = sorted({path.split("/")[1] for path in table["path"] if path.count("/") > 1})
        hint = f". If its folders {', '.join(inner[:5])} are the classes, give data.root={root / min(classes)}"
        hint = hint if source == "folder" and isinstance(root, Path) and len(classes) == 1 and len(inner) > 1 else ""
        raise UserError(f"data.root={root} holds {held}; a classifier needs two or more classes{hint}")
