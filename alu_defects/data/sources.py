"""Where labelled photographs come from: a name in the configuration → the folder and what was found in it."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alu_defects.data import catalog, folder, tianchi
from alu_defects.data.catalog import Scan
from alu_defects.errors import UserError, check_choice
from alu_defects.synthetic import SyntheticOptions, ensure_written


def _folder(root: str) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, folder.scan_folder(path)


def _tianchi(root: str, round: int = 1, include_other: bool = False, corrections: bool = True) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, tianchi.scan_archives(path, round=round, include_other=include_other, corrections=corrections)


def _synthetic(root: str, synthetic: Mapping[str, Any], progress: bool) -> tuple[Path, Scan]:
    path = ensure_written(Path(root), SyntheticOptions(**synthetic), progress=progress)
    return path, tianchi.scan_archives(path, corrections=False)  # they are of photographs that may bear the same names


SOURCES: dict[str, Callable[..., tuple[Path, Scan]]] = {
    "folder": _folder,
    "tianchi": _tianchi,
    "synthetic": _synthetic,
}


def check_source_options(source: str, options: Mapping[str, Any]) -> None:
    """Refuse options that are wrong whatever is in the folder; nothing is read.

    Raises:
        UserError: no such source, options that are not its own, or a round that does not exist.
    """
    check_choice("data.source", source, SOURCES)
    try:
        inspect.signature(SOURCES[source]).bind(**options)
    except TypeError as error:
        raise UserError(f"data.source={source}: {error}; data={source} sets source and options together") from error
    if "round" in options:
        tianchi.check_round(options["round"])


def read_source(source: str, options: Mapping[str, Any]) -> tuple[Path, Scan]:
    """The folder and what is in it, with options that `check_source_options` has accepted.

    Raises:
        UserError: a folder that is not what the source takes it for.
    """
    return SOURCES[source](**options)
