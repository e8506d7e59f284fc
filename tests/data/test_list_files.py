"""Which files are found below a folder, and what is not entered."""

import hashlib
import os
from pathlib import Path

import pytest

from alu_defects.data import files, hashes
from alu_defects.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def excluded(root: Path) -> list[tuple[str, str, str]]:
    return [(one.path, str(one.reason), one.detail) for one in files.list_files(root)[1]]


def test_nested_folders_and_every_suffix_are_found_in_sorted_order(tmp_path: Path) -> None:
    names = ["a/x.BMP", "a/x.TIFF", "a/x.png", "a/x.tif", "a/x.webp", "b/deep/er/x.JPG", "b/x.Jpeg"]
    assert files.list_files(touch(tmp_path, *reversed(names))) == (names, [])
    assert all(map(files.is_image, names))
    assert not any(map(files.is_image, ["x", "x.json", "png", "x.jpg.zip", "Thumbs.db"]))


def test_hidden_files_and_folders_are_excluded(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "a/._x.png", ".cache/x.png", "a/.DS_Store")
    assert files.list_files(tmp_path)[0] == ["a/x.png"]
    assert excluded(tmp_path) == [(".cache", "hidden", ""), ("a/.DS_Store", "hidden", ""), ("a/._x.png", "hidden", "")]


def test_a_folder_named_like_an_image_is_excluded_with_all_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg/y.jpg", "a/x.jpg/deep/z.jpg", "a/z.jpg")
    reason = "a folder where a file is expected"
    assert files.list_files(tmp_path)[0] == ["a/z.jpg"]
    assert excluded(tmp_path) == [
        ("a/x.jpg", reason, ""),
        ("a/x.jpg/deep", reason, "a/x.jpg"),
        ("a/x.jpg/deep/z.jpg", reason, "a/x.jpg"),
        ("a/x.jpg/y.jpg", reason, "a/x.jpg"),
    ]


def test_loops_of_links_end_and_linked_class_folders_are_read(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path / "elsewhere", "x.png")
    root = touch(tmp_path / "root", "a/y.png")
    (root / "b").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (elsewhere / "back").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "itself").symlink_to(root / "a" / "itself")
    assert files.list_files(root)[0] == ["a/itself", "a/y.png", "b/x.png"]
    assert excluded(root) == [
        ("a/up", "a folder that was entered before", "."),
        ("b/back", "a folder that was entered before", "a"),
    ]


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be read \(No such file.*remove it"):
        hashes.hash_files([tmp_path / "gone.png"])


def test_a_pipe_is_excluded(tmp_path: Path) -> None:
    os.mkfifo(touch(tmp_path, "a.png") / "pipe.png")
    assert files.list_files(tmp_path)[0] == ["a.png"]
    assert excluded(tmp_path) == [("pipe.png", "a pipe, a socket or a device", "")]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)  # chmod does not stop root
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); fix its permissions"):
        files.list_files(tmp_path)


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    assert hashes.hash_files([tmp_path / "x"]) == [hashlib.sha256(b"x").hexdigest()]
