"""Contents of files → a folder for each decision, safe on the disk. What lies there is never replaced."""

import errno
import os
import re
from pathlib import Path

from alu_defects.deployment.bundle import Action
from alu_defects.deployment.table import Row
from alu_defects.io import sync_folder

# of a name that a file system does not take, or that is a folder there; not of the disk
_OF_THE_NAME = {
    errno.EEXIST,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
}


def folder_of(row: Row) -> str:
    """The folder of a decision: pass, reject, ask or error; accept/<class> where no class is that of good pieces."""
    if row.get("decision") != Action.ACCEPT:
        return str(row.get("decision") or row["status"])
    # letters of a class that a path cannot have, or that would lead out of the folder
    label = re.sub(r'[/\\:*?"<>|%\x00-\x1f]|^\.', lambda found: f"%{ord(found[0]):02X}", str(row["label"]))
    return f"{Action.ACCEPT}/{label}"


class Folders:
    """Writes files below a folder.

    Args:
        output: the folder.
    """

    def __init__(self, output: Path) -> None:
        self._output, self._unfinished = output, output / "unfinished"
        self._unsafe: set[Path] = set()  # folders with new names
        self._unfinished.mkdir(exist_ok=True)
        for file in self._unfinished.iterdir():  # of a process that was killed
            file.unlink()

    def place(self, content: bytes, folder: str, name: str, sha256: str, mtime_ns: int) -> str:
        """Write a file, and return its path relative to the output; `sync` makes it safe.

        It is `folder/name`, unless another content has this name: then a part of the hash is added. What the file
        system does not take as a name is called by its hash. A file that is there already with this content is kept.

        Raises:
            OSError: no room, or no right to write.
        """
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (of a string of any bytes)
        names = (name, f"{stem}_{sha256[:8]}{suffix}", f"{sha256}{suffix}")
        for candidate in names:
            target = self._output / folder / candidate
            try:
                if not self._holds(target, content):
                    self._write(target, content, sha256, mtime_ns)
            except OSError as error:
                if error.errno not in _OF_THE_NAME or candidate == names[-1]:
                    raise
            else:
                self._unsafe |= {one for one in target.parents if one.is_relative_to(self._output)}
                return f"{folder}/{candidate}"
        raise AssertionError("unreachable")

    def sync(self) -> None:
        """Return when all files are safe on the disk."""
        for folder in self._unsafe:
            sync_folder(folder)
        self._unsafe.clear()

    def _holds(self, target: Path, content: bytes) -> bool:
        """Whether a file has this content; a `FileExistsError` if it has another, or is none."""
        if not os.path.lexists(target):
            return False
        if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
            return True
        raise FileExistsError(errno.EEXIST, "another file has this name", str(target))

    def _write(self, target: Path, content: bytes, sha256: str, mtime_ns: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._unfinished / sha256
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.utime(unfinished, ns=(mtime_ns, mtime_ns))
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
