"""A file that is replaced whole or not at all, also when the power goes or the disk is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` when it is complete and safe on the disk.

    Until then readers find the old one; it also stays when what happens inside raises. What a killed writer leaves
    beside it, `<name>.part`, the next one replaces.

    Raises:
        OSError: no room, no right to write, or a limit on the size of files.
    """
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
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
