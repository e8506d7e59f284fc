"""Files that are replaced whole or not at all, also when the power goes or the disk is full; folders of one's own."""

import itertools
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

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


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people: indented, UTF-8; readers see the old file or the new one, never half of one."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # JSON's escape for file names outside UTF-8


def claim(folder: Path) -> Path:
    """Create a folder that nobody else has: this one or if that exists the first free `<name>_2`, `<name>_3`, …."""
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("unreachable")
