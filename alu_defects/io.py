"""Files that are replaced whole or not at all, also when the power goes or the disk is full; folders of one's own."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from alu_defects.errors import UserError

PART_SUFFIX = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes the place of `path` when it is complete and safe on the disk.

    Until then readers find the old one; it also stays when what happens inside raises. Several may write at once, and
    the last one to finish counts. A killed writer leaves a file beside `path`; `remove_unfinished` removes it.

    Raises:
        OSError: no room, no right to write, or a limit on the size of files.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are safe on the disk, too."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left in a folder; nobody else may be writing there."""
    for file in folder.glob(f"*{PART_SUFFIX}"):
        file.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people: indented, UTF-8; readers see the old file or the new one, never half of one."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # JSON's escape for file names outside UTF-8


def claim_folder(folder: Path) -> Path:
    """Create a folder that nobody else has: this one or if that exists the first free `<name>_2`, `<name>_3`, …."""
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}_{number}")


@contextmanager
def exclusive_lock(path: Path, doing: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on `path` that no two processes hold, by a file beside it.

    `path` need not exist, but its folder must. `doing` is what the other process does, for the message of who waits.

    Raises:
        UserError: another process holds it, and `wait` is false.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(f"{path}: another process is {doing}; end it first") from None
        print(f"another process is {doing}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
