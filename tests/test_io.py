"""A file is replaced whole or not at all."""

import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from alu_defects.io import atomic_write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x"
    path.write_bytes(b"before")
    return path


def test_what_is_written_takes_the_place_of_what_was_there(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_raises_leaves_what_was_there_and_nothing_else(path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_may_not_grow_so_large_leaves_what_was_there(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"), atomic_write(path) as file:
            file.write(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_one_or_the_new_one(path: Path) -> None:
    contents = [bytes([n]) * 300_000 for n in range(40)]
    path.write_bytes(contents[0])
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        with atomic_write(path) as file:
            for start in range(0, len(content), 50_000):
                file.write(content[start : start + 50_000])
    done.set()
    reader.join()
    assert len(seen) > 1
    assert seen <= set(contents)


def test_it_is_safe_on_the_disk_before_it_takes_the_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("replace"), replace(self, to))[1])
    with atomic_write(path) as file:
        file.write(b"after")
    assert done[0].startswith(f"{path}.")
    assert done[0].endswith(".part")
    assert done[1:] == ["replace", str(path.parent)]
