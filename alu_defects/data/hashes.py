"""SHA-256 of files, remembered from one start to the next.

A hash is looked up by path, size, mtime and ctime in an SQLite file beside the decoded pixels. Several processes may
read and write it at once, and a killed one loses only its last hashes.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from alu_defects.data.decode import CLOCK_SKEW_SECONDS
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

MEMORY_FILE = "hashes.sqlite3"
# A file that changed less than this before it was hashed may change again without another time: FAT and some file
# servers count in steps of two seconds, and the server's clock may be late.
MIN_AGE_SECONDS = CLOCK_SKEW_SECONDS + 2
_FILES_PER_TASK = 64
_FILES_PER_COMMIT = 4096  # what a killed process hashes again
_WAIT_SECONDS = 60  # for another process that writes
_TABLE = (
    "CREATE TABLE IF NOT EXISTS files "
    "(path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 BLOB) WITHOUT ROWID"
)
_FIND = "SELECT path, size, mtime_ns, ctime_ns, sha256 FROM files WHERE path BETWEEN ? AND ?"


class _State(NamedTuple):
    """What changes when a file does; ctime also when an older file takes its place with its mtime."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_State":
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _Hashed(NamedTuple):
    path: str
    sha256: str
    state: _State | None  # None: the file may just have been written, so this must not be remembered


class _Options(NamedTuple):
    folder: Path | None = None
    progress: bool = False


_options: ContextVar[_Options | None] = ContextVar("_options", default=None)


@contextlib.contextmanager
def remember_hashes(folder: Path | None, *, progress: bool = True) -> Iterator[None]:
    """Let `hash_files` inside keep hashes in a folder, and show a progress bar; None: it keeps none.

    A context, and no argument: hashes are taken deep inside the sources of images, which need not know about it.
    """
    token = _options.set(_Options(folder.expanduser().absolute() if folder else None, progress))
    try:
        yield
    finally:
        _options.reset(token)


def hash_files(paths: Iterable[str | Path]) -> list[str]:
    """SHA-256 of the bytes of each file, in hexadecimal; a `UserError` names the one that cannot be read.

    Inside `remember_hashes`, files that have kept size, mtime and ctime since they were hashed are not read again.
    """
    names, (folder, progress) = [os.fspath(path) for path in paths], _options.get() or _Options()
    with contextlib.ExitStack() as stack:
        memory = _open_memory(folder) if folder and names else None
        if memory:
            stack.enter_context(contextlib.closing(memory))
        pool = stack.enter_context(ThreadPoolExecutor())  # hashing releases the interpreter lock
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # after an error the others need not be read
        found = _recall(memory, names, pool) if memory else {}
        missing = [name for name in names if name not in found]
        done = (one for part in pool.map(_hash_some, _parts(missing)) for one in part)
        kept: list[_Hashed] = []
        what = f"hashing {len(missing)} files"
        for one in track(done, what, total=len(missing), disable=not (progress and missing)):
            found[one.path] = one.sha256
            kept.append(one)
            if len(kept) == _FILES_PER_COMMIT:
                memory, kept = _keep(memory, kept), []
        _keep(memory, kept)
    return [found[name] for name in names]


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _FILES_PER_TASK] for start in range(0, len(names), _FILES_PER_TASK)]


def _hash_some(names: Sequence[str]) -> list[_Hashed]:
    return [_hash(name) for name in names]


def _hash(name: str) -> _Hashed:
    newest = time.time_ns() - MIN_AGE_SECONDS * 10**9
    try:
        with Path(name).open("rb") as file:
            before = _State.of(os.fstat(file.fileno()))
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            after = _State.of(os.fstat(file.fileno()))
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); fix its permissions or remove it") from error
    is_settled = before == after and max(after.mtime_ns, after.ctime_ns) < newest  # a time to come is not either
    return _Hashed(name, sha256, after if is_settled else None)


def _open_memory(folder: Path) -> sqlite3.Connection | None:
    """None, with a warning, where it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(folder / MEMORY_FILE, timeout=_WAIT_SECONDS)
        try:
            memory.execute(_TABLE)
        except BaseException:
            memory.close()
            raise
        return memory
    except (OSError, sqlite3.Error) as error:
        _give_up(folder / MEMORY_FILE, error)
        return None


def _give_up(file: str | Path, error: Exception) -> None:
    log.warning(
        "%s cannot be used (%s): all files are hashed again at every start. Remove it, give another paths.cache, or "
        "data.remember_hashes=false",
        file,
        error,
    )


def _recall(memory: sqlite3.Connection, names: Sequence[str], pool: ThreadPoolExecutor) -> dict[str, str]:
    """Path → hash of the files that are as they were."""
    encoded = [os.fsencode(name) for name in names]
    try:
        rows = memory.execute(_FIND, (min(encoded), max(encoded)))  # one query for all, with few others between them
        known = {path: (state, sha256) for path, *state, sha256 in rows}
    except sqlite3.Error as error:
        _give_up(_file_of(memory), error)
        return {}
    states = (state for part in pool.map(_states_of_some, _parts(names)) for state in part)
    return {
        name: known[path][1].hex()
        for name, path, state in zip(names, encoded, states, strict=True)
        if state and path in known and tuple(known[path][0]) == state
    }


def _states_of_some(names: Sequence[str]) -> list[_State | None]:
    states: list[_State | None] = []
    for name in names:
        try:
            states.append(_State.of(os.stat(name)))  # noqa: PTH116 (a Path takes longer than the call)
        except OSError:  # hashing says what is wrong
            states.append(None)
    return states


def _keep(memory: sqlite3.Connection | None, hashed: Sequence[_Hashed]) -> sqlite3.Connection | None:
    """Write hashes; returns the memory, None where it cannot be written."""
    rows = [(os.fsencode(one.path), *one.state, bytes.fromhex(one.sha256)) for one in hashed if one.state]
    if memory and rows:
        try:
            with memory:  # all or none of them
                memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            _give_up(_file_of(memory), error)
            return None
    return memory


def _file_of(memory: sqlite3.Connection) -> str:
    try:
        return str(memory.execute("PRAGMA database_list").fetchone()[2])
    except sqlite3.Error:
        return MEMORY_FILE
