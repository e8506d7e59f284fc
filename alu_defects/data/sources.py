"""Where labelled photographs come from: a name in the configuration → the folder and what was found in it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alu_defects.data import catalog, folder, tianchi
from alu_defects.data.catalog import Scan
from alu_defects.data.synthetic import Options, ensure


def _folder(root: str) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, folder.scan(path)


def _tianchi(root: str, **options: Any) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, tianchi.scan(path, **options)


def _synthetic(root: str, synthetic: Mapping[str, Any], progress: bool) -> tuple[Path, Scan]:
    path = ensure(Path(root), Options(**synthetic), progress=progress)
    return path, tianchi.scan(path, corrections=False)  # they are of photographs that may bear the same names


SOURCES: dict[str, Callable[..., tuple[Path, Scan]]] = {
    "folder": _folder,
    "tianchi": _tianchi,
    "synthetic": _synthetic,
}
