"""The files below a folder, and what among them cannot be a picture."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from alu_defects.data.left_out import LeftOut, Reason
from alu_defects.errors import UserError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def is_picture(path: str) -> bool:
    """Whether a file name ends like that of a picture."""
    return PurePosixPath(path).suffix.lower() in PICTURE_SUFFIXES


def below(root: Path) -> tuple[list[str], list[LeftOut]]:
    """All files below a folder in sorted order; links are followed, but no folder is entered twice.

    Returns:
        The files, relative to the root with forward slashes, and what is left out: hidden files and folders (the latter
        in one line), folders that are linked a second time, and folders named like a picture with all they hold.

    Raises:
        UserError: a folder cannot be read.
    """
    entered: dict[Path, str] = {}
    found: list[str] = []
    left_out: list[LeftOut] = []

    def walk(directory: Path, impostor: str) -> None:
        here = directory.relative_to(root).as_posix()
        if (before := entered.setdefault(directory.resolve(), here)) != here:
            left_out.append(LeftOut(here, Reason.LINKED_AGAIN, before))
            return
        if impostor:
            left_out.append(LeftOut(here, Reason.FOLDER_FOR_FILE, "" if here == impostor else impostor))
        try:
            children = sorted(directory.iterdir())
        except OSError as error:
            raise UserError(f"{directory} cannot be read ({error.strerror}); mend its permissions") from error
        for child in children:
            path = child.relative_to(root).as_posix()
            if child.name.startswith("."):
                left_out.append(LeftOut(path, Reason.HIDDEN))
            elif child.is_dir():
                walk(child, impostor or (path if is_picture(path) else ""))
            elif impostor:
                left_out.append(LeftOut(path, Reason.FOLDER_FOR_FILE, impostor))
            else:
                found.append(path)

    walk(root, impostor="")
    return found, left_out


def hashes(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of the bytes of each file.

    Raises:
        UserError: a file cannot be read; it is named.
    """
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return list(pool.map(_sha256, paths))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend its permissions or remove it") from error
