"""Where labelled photographs come from: a name in the configuration → the folder and what was found in it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alu_defects.data import catalog, folder, tianchi
from alu_defects.data.catalog import Scan
from alu_defects.data.synthetic import Options, ensure
from alu_defects.errors import UserError, check_choice


def _folder(root: str) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, folder.scan(path)


def _tianchi(root: str, **options: Any) -> tuple[Path, Scan]:
    path = catalog.existing_root(root)
    return path, tianchi.scan(path, **options)


def _synthetic(root: str, synthetic: Mapping[str, Any], progress: bool) -> tuple[Path, Scan]:
    path = ensure(Path(root), Options(**synthetic), progress=progress)
    return path, tianchi.scan(path, corrections=False)  # they are of photographs that may bear the same names


# each with the options that it takes beside the root
SOURCES: dict[str, tuple[Callable[..., tuple[Path, Scan]], tuple[str, ...]]] = {
    "folder": (_folder, ()),
    "tianchi": (_tianchi, ("round", "include_other", "corrections")),
    "synthetic": (_synthetic, ("synthetic", "progress")),
}


def find(source: str, options: Mapping[str, Any]) -> tuple[Path, Scan]:
    """The folder and what is in it.

    Raises:
        UserError: no such source, an option of another one, or a folder that is not what the source takes it for.
    """
    check_choice("data.source", source, SOURCES)
    scan, known = SOURCES[source]
    if strange := [name for name in options if name not in ("root", *known)]:
        raise UserError(
            f"data.{strange[0]} is no option of data.source={source}; data={source} sets source and options together"
        )
    return scan(**options)
