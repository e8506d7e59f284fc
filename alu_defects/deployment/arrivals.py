"""Which images in a folder are new and complete, found by looking again and again.

Shares that cameras write to do not notify of changes. A file is complete when its size and the time of its last change
have stayed the same for some seconds.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from alu_defects.data.files import is_image


class Arrival(NamedTuple):
    """A file as it was when it was listed."""

    path: str
    size: int
    mtime_ns: int


def as_arrival(path: str) -> Arrival:
    """A file as it is now."""
    status = os.stat(path)  # noqa: PTH116 (a string, as it was listed)
    return Arrival(path, status.st_size, status.st_mtime_ns)


class ChangedError(Exception):
    """A file is no longer what was listed."""


@dataclass
class Waiting:
    """A file that is not decided yet.

    Attributes:
        file: as it is.
        since: when it was first seen so, or was last put off; of the monotonic clock, which nobody sets.
        has_changed: it was another one before.
        is_second_look: it could not be decoded once.
    """

    file: Arrival
    since: float
    has_changed: bool = False
    is_second_look: bool = False


class Arrivals:
    """The images of a folder that are not decided yet.

    Args:
        source: the folder.
        output: a folder whose files are never seen, even if it lies in `source`.
        is_known: whether a file was decided as it is; asked once for each.
        settle: seconds that a file must stay as it is.
        recursive: whether folders in `source` are looked into.
    """

    def __init__(
        self, source: str, output: str, is_known: Callable[[Arrival], bool], *, settle: float, recursive: bool
    ) -> None:
        self.waiting: dict[str, Waiting] = {}
        self.unreadable: list[str] = []  # folders and files of the last listing, with the reason
        self._source, self._settle, self._recursive = source, settle, recursive
        self._output = os.path.realpath(output)
        self._is_known = is_known
        self._known: dict[str, Arrival] = {}

    def poll(self) -> list[Arrival]:
        """List the folder again: the complete files, the oldest first.

        They stay `waiting` until `forget` is called for them.

        Raises:
            OSError: the folder cannot be read; what was waiting stays.
        """
        now = time.monotonic()
        self.unreadable = []
        waiting: dict[str, Waiting] = {}
        known: dict[str, Arrival] = {}
        for file in self._list():
            if self._known.get(file.path) == file:
                known[file.path] = file
                continue
            before = self.waiting.get(file.path)
            if before and before.file == file:
                waiting[file.path] = before
            elif self._is_known(file):
                known[file.path] = file
            else:
                waiting[file.path] = Waiting(file, now, has_changed=before is not None)
        self.waiting, self._known = waiting, known
        complete = [one.file for one in waiting.values() if now - one.since >= self._settle]
        return sorted(complete, key=attrgetter("mtime_ns", "path"))

    def put_off(self, file: Arrival, *, second_look: bool = False) -> None:
        """Look at a file again after `settle` seconds."""
        one = self.waiting[file.path]
        one.since, one.is_second_look = time.monotonic(), one.is_second_look or second_look

    def forget(self, file: Arrival, *, is_removed: bool) -> None:
        """A file is decided; unless it was removed, it is known from now on."""
        del self.waiting[file.path]
        if not is_removed:
            self._known[file.path] = file

    def _list(self) -> Iterator[Arrival]:
        entered: set[str] = set()
        folders = [self._source]
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder)
            if real in entered or self._lies_in_output(real):  # a link may lead in a circle
                continue
            entered.add(real)
            try:
                with os.scandir(folder) as entries:
                    children = list(entries)
            except OSError as error:
                if folder == self._source:
                    raise
                self._note(folder, error)
                continue
            for child in children:
                if child.name.startswith("."):
                    continue
                try:
                    if child.is_dir():
                        folders += [child.path] * self._recursive
                    elif is_image(child.name) and not self._leads_to_output(child):
                        status = child.stat()
                        if stat.S_ISREG(status.st_mode):
                            yield Arrival(child.path, status.st_size, status.st_mtime_ns)
                except OSError as error:
                    self._note(child.path, error)

    def _note(self, path: str, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # it has vanished since it was listed
            self.unreadable.append(f"{path} ({error.strerror})")

    def _leads_to_output(self, entry: "os.DirEntry[str]") -> bool:
        return entry.is_symlink() and self._lies_in_output(os.path.realpath(entry.path))

    def _lies_in_output(self, real: str) -> bool:
        return real == self._output or real.startswith(os.path.join(self._output, ""))  # noqa: PTH118 (of strings)


def read(file: Arrival) -> bytes:
    """The content of a file.

    Raises:
        ChangedError: it is no longer the one that was listed.
        OSError: it cannot be read, or has vanished.
    """
    with open(file.path, "rb") as opened:  # noqa: PTH123 (a string, as it was listed)
        content = opened.read()
        status = os.fstat(opened.fileno())
    if (len(content), status.st_size, status.st_mtime_ns) != (file.size, file.size, file.mtime_ns):
        raise ChangedError
    return content
