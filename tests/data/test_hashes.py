"""Hashes that are remembered, and when they must not be."""

import hashlib
import os
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from alu_defects.data import hashes
from alu_defects.data.hashes import hash_files, remember_hashes


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    found = [tmp_path / "images" / name for name in ("a.png", os.fsdecode(b"\xff.png"), "b, c.png")]
    for file in found:
        file.write_bytes(os.fsencode(file.name))
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    hash_one = hashes._hash
    monkeypatch.setattr(hashes, "_hash", lambda name: (names.append(Path(name).name), hash_one(name))[1])
    return names


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old enough at once."""
    monkeypatch.setattr(hashes, "MIN_AGE_SECONDS", -1)


def remembered(files: list[Path], folder: Path | None) -> list[str]:
    with remember_hashes(folder, progress=False):
        return hash_files(files)


def right(files: list[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.usefixtures("settled")
def test_unchanged_files_are_not_read_again_and_changed_ones_are(files, read, tmp_path):
    assert remembered(files, tmp_path) == right(files)
    read.clear()
    assert remembered(files, tmp_path) == right(files)
    assert read == []
    status = files[0].stat()
    files[0].write_bytes(b"other")  # as long as before
    os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert files[0].stat().st_size == status.st_size
    assert remembered(files, tmp_path) == right(files)  # ctime tells
    assert read == ["a.png"]


def test_a_file_that_was_just_written_or_is_of_the_future_is_not_trusted(files, read, tmp_path, monkeypatch):
    remembered(files, tmp_path)
    remembered(files, tmp_path)
    assert len(read) == 6
    monkeypatch.setattr(hashes, "MIN_AGE_SECONDS", -1)
    os.utime(files[0], (4e9, 4e9))
    remembered(files, tmp_path)
    read.clear()
    remembered(files, tmp_path)
    assert read == ["a.png"]


@pytest.mark.usefixtures("settled")
def test_nothing_is_written_where_hashes_are_not_to_be_remembered(files, read, tmp_path):
    for _ in range(2):
        assert hash_files(files) == remembered(files, None) == right(files)
    assert len(read) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\x00" + bytes(84)])
def test_a_broken_memory_is_said_and_files_are_read(files, tmp_path, caplog, content):
    (tmp_path / hashes.MEMORY_FILE).write_bytes(content)
    assert remembered(files, tmp_path) == right(files)
    assert "all files are hashed again at every start" in caplog.text


@pytest.mark.usefixtures("settled")
def test_a_killed_writer_leaves_what_can_be_used(files, read, tmp_path):
    remembered(files[:2], tmp_path)
    writing = sqlite3.connect(tmp_path / hashes.MEMORY_FILE)
    writing.execute("UPDATE files SET sha256 = x'00'")
    writing.close()  # without a commit
    read.clear()
    assert remembered(files, tmp_path) == right(files)
    assert read == ["b, c.png"]


def _remember_many(folder: Path) -> list[str]:
    hashes.MIN_AGE_SECONDS = -1
    return remembered(sorted((folder / "many").iterdir()), folder)


def test_several_processes_may_write_at_once(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(300):
        (tmp_path / "many" / str(number)).write_text(str(number))
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_remember_many, [tmp_path] * 3))
    assert found == [right(sorted((tmp_path / "many").iterdir()))] * 3
