"""One process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock on `path` that no two processes hold, by a file beside it; says so when it has to wait.

    Args:
        path: what only one process may write; it need not exist, but its folder must.
        doing: what the other process does, for the message.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is {doing}; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
