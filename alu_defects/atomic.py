"""A file that is replaced whole or not at all, also when the power goes or the disk is full."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` when it is complete and safe on the disk.

    Until then readers find the old one; it also stays when what happens inside raises. Several may write at once: each
    has a file of its own beside `path`, and the last one to finish counts. A killed writer leaves its file there;
    `remove_unfinished` removes it.

    Raises:
        OSError: no room, no right to write, or a limit on the size of files.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name is safe too
        finally:
            os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder; nobody else may be writing there."""
    for file in folder.glob(f"*{UNFINISHED}"):
        file.unlink(missing_ok=True)
