"""The catalogue: a table with one row a picture.

Columns: `path` (relative to the root, with forward slashes), `label` (class name), `sha256` (of the file's bytes) and,
once the pictures have been divided, `split` (train, val or test).
"""

import csv
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from alu_defects.errors import UserError

log = logging.getLogger(__name__)

pd.set_option("mode.string_storage", "python")  # pyarrow, where it is installed, refuses names that are not UTF-8

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def pictures_below(folder: Path) -> Iterator[Path]:
    """All picture files below a folder in sorted order; links are followed, but no folder is entered twice.

    Hidden files are passed over; how many others are not pictures is logged.
    """
    seen: set[Path] = set()
    strangers: list[Path] = []

    def walk(directory: Path) -> Iterator[Path]:
        if (real := directory.resolve()) in seen:
            return
        seen.add(real)
        try:
            children = sorted(directory.iterdir())
        except OSError as error:
            raise UserError(f"{directory} cannot be read ({error.strerror}); mend its permissions") from error
        for child in children:
            if child.name.startswith("."):
                continue
            if child.is_dir():
                yield from walk(child)
            elif child.suffix.lower() in PICTURE_SUFFIXES:
                yield child
            else:
                strangers.append(child)

    yield from walk(folder)
    if strangers:
        log.warning("%s: %d files are not pictures and were left out, such as %s", folder, len(strangers), strangers[0])


def existing_root(root: str | Path) -> Path:
    """The root as an absolute path.

    Raises:
        UserError: it is no folder.
    """
    path = Path(str(root)).expanduser().absolute()  # the command line reads a folder named 2018 as a number
    if not path.is_dir():
        raise UserError(f"data.root={root} is not a folder ({path}); give the folder of the pictures")
    return path


def build(root: Path, pictures: Sequence[tuple[Path, str]]) -> pd.DataFrame:
    """Make the catalogue of (picture file, class name) pairs.

    Raises:
        UserError: there are no pictures, or there is one class only.
    """
    if not pictures:
        raise UserError(f"data.root={root} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}) in class folders")
    labels = {label for _, label in pictures}
    if len(labels) < 2:
        raise UserError(
            f"data.root={root} holds one class only, {labels.pop()}; a classifier needs two or more class folders"
        )
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        hashes = list(pool.map(_sha256, [path for path, _ in pictures]))
    return pd.DataFrame(
        {
            "path": [path.relative_to(root).as_posix() for path, _ in pictures],
            "label": [label for _, label in pictures],
            "sha256": hashes,
        }
    )


def verify(root: Path, table: pd.DataFrame) -> None:
    """Make sure that the pictures of a catalogue lie below a root, unchanged.

    Raises:
        UserError: one is missing or has another content; it is named.
    """
    paths = [root / path for path in table["path"]]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing; give the folder of the run's pictures with data.root=…")
    with ThreadPoolExecutor() as pool:
        for path, now, then in zip(paths, pool.map(_sha256, paths), table["sha256"], strict=True):
            if now != then:
                raise UserError(f"{path} is not the picture that the run was made with; restore it")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend its permissions or remove it") from error


def data_hash(catalog: pd.DataFrame) -> str:
    """SHA-256 of which pictures there are, how they are labelled and how they are split."""
    columns = [c for c in ("path", "label", "split", "sha256") if c in catalog]
    text = catalog[columns].sort_values("path").to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def save(catalog: pd.DataFrame, path: Path) -> None:
    """Write a catalogue as CSV; names that are not UTF-8 survive and, thanks to the quotes, those with line ends."""
    catalog.to_csv(path, index=False, errors="surrogateescape", quoting=csv.QUOTE_ALL)


def load(path: Path) -> pd.DataFrame:
    """Read a catalogue written by `save`."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
