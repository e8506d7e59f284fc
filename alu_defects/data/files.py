"""The files below a folder, which of them are images, and why something is excluded."""

import os
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from alu_defects.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class Reason(StrEnum):
    """Why something is excluded; `Excluded.detail` says what the reason alone does not."""

    HIDDEN = "hidden"
    NOT_AN_IMAGE = "not an image"
    FOLDER_FOR_FILE = "a folder where a file is expected"  # and all it holds
    LINKED_AGAIN = "a folder that was entered before"  # detail: where
    NO_FILE = "a pipe, a socket or a device"
    MASK = "a mask"
    NOT_IN_TABLE = "not in the table"
    NO_CLASS_FOLDER = "lies in no class folder"
    UNKNOWN_CLASS = "unknown class folder"  # detail: the folder
    NO_ANNOTATION = "no usable annotation"  # detail: what is wrong with it
    NO_IMAGE = "annotation without an image"
    SAME_NAME = "same file name"  # detail: the image that is kept
    SAME_CONTENT = "same content"  # detail: the image that is kept
    IN_TWO_SPLITS = "same content in two given splits"  # detail: the image that is kept
    TWO_LABELS = "same content under another label"  # detail: the other image, excluded as well
    CLASS_OTHER = "class other"
    ROUND1 = "round 1; data.round=1 reads it"
    ROUND2 = "round 2; data.round=2 reads it"
    NO_CLASS = "without a class"  # in the catalog, but not trained on
    SEVERAL_CLASSES = "of several classes"  # likewise
    BROKEN = "cannot be decoded"  # detail: the error


class Excluded(NamedTuple):
    """One file or folder that is excluded."""

    path: str  # relative to the root, with forward slashes
    reason: Reason
    detail: str = ""
    archive: str = ""
    label: str = ""


def is_image(path: str) -> bool:
    """Whether a file name ends like that of an image."""
    stem, dot, ending = path.rpartition("/")[2].rpartition(".")
    return bool(stem) and (dot + ending).lower() in IMAGE_SUFFIXES


def list_files(root: Path) -> tuple[list[str], list[Excluded]]:
    """All files below a folder in sorted order, relative to it; links are followed, but no folder is entered twice.

    Excluded are hidden files and folders (without what they hold), folders that are linked a second time, folders named
    like an image with all they hold, and pipes, sockets and devices. A `UserError` names a folder that cannot be read.
    """
    entered: dict[str, str] = {}
    found: list[str] = []
    excluded: list[Excluded] = []

    def walk(directory: str, here: str, image_folder: str) -> None:
        if (before := entered.setdefault(os.path.realpath(directory), here)) != here:
            excluded.append(Excluded(here, Reason.LINKED_AGAIN, before))
            return
        if image_folder:
            excluded.append(Excluded(here, Reason.FOLDER_FOR_FILE, "" if here == image_folder else image_folder))
        try:
            with os.scandir(directory) as entries:
                children = sorted(entries, key=attrgetter("name"))
        except OSError as error:
            raise UserError(f"{directory} cannot be read ({error.strerror}); fix its permissions") from error
        above = "" if here == "." else f"{here}/"
        for child in children:
            path = above + child.name
            if child.name.startswith("."):
                excluded.append(Excluded(path, Reason.HIDDEN))
            elif Path(child.path).is_dir() if child.is_symlink() else child.is_dir():  # a link may lead in a circle
                walk(child.path, path, image_folder or (path if is_image(path) else ""))
            elif image_folder:
                excluded.append(Excluded(path, Reason.FOLDER_FOR_FILE, image_folder))
            elif not child.is_symlink() and not child.is_file():  # opening a pipe waits for a writer for ever
                excluded.append(Excluded(path, Reason.NO_FILE))
            else:
                found.append(path)

    walk(str(root), ".", image_folder="")
    return found, excluded
