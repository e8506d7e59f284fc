"""Which files are found, and that a catalogue survives being written, whatever the files are called."""

import hashlib
import logging
import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from alu_defects.data import catalog
from alu_defects.errors import UserError

# every name is a valid one on Linux; each broke some CSV, sorting or quoting in one library or another
STRANGE_NAMES = [
    "涂层开裂 2018.png",
    " leading and trailing .png",
    'quote"comma,.png',
    "line\nfeed.png",
    "carriage\rreturn.png",
    "both\r\n.png",
    "NA.png",
    "é" * 123 + ".png",  # 250 bytes
]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode(errors="surrogateescape"))
    return path


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in catalog.pictures_below(root)]


def test_nested_folders_and_every_suffix_are_found_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b/deep/er/x.JPG", "b/x.Jpeg", "a/x.png", "a/x.BMP", "a/x.tif", "a/x.TIFF", "a/x.webp"):
        touch(tmp_path / name)
    names = ["a/x.BMP", "a/x.TIFF", "a/x.png", "a/x.tif", "a/x.webp", "b/deep/er/x.JPG", "b/x.Jpeg"]
    assert found(tmp_path) == names


def test_hidden_files_and_folders_are_passed_over_and_others_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/x.png", "a/._x.png", ".cache/x.png", "a/.DS_Store", "a/notes.txt", "a/Thumbs.db"):
        touch(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == ["a/x.png"]
    assert "2 files are not pictures" in caplog.text
    assert "Thumbs.db" in caplog.text


def test_loops_of_links_end_and_linked_class_folders_are_read(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path / "elsewhere" / "x.png").parent
    root = touch(tmp_path / "root" / "a" / "y.png").parent.parent
    (root / "b").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (elsewhere / "back").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "itself").symlink_to(root / "a" / "itself")
    assert found(root) == ["a/y.png", "b/x.png"]


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    good, gone = touch(tmp_path / "a" / "x.png"), tmp_path / "b" / "gone.png"
    gone.parent.mkdir()
    gone.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        catalog.build(tmp_path, [(good, "a"), (gone, "b")])


def test_catalogue_holds_relative_paths_labels_and_hashes(tmp_path: Path) -> None:
    pairs = [(touch(tmp_path / "a" / "x.png"), "a"), (touch(tmp_path / "b" / "c" / "y.png"), "b")]
    table = catalog.build(tmp_path, pairs)
    assert table["path"].tolist() == ["a/x.png", "b/c/y.png"]
    assert table["label"].tolist() == ["a", "b"]
    assert table["sha256"].tolist() == [hashlib.sha256(name).hexdigest() for name in (b"x.png", b"y.png")]


@pytest.mark.parametrize("folder", ["class, one", "null", "007", "不导电", "\r"])
def test_strange_names_survive_saving_and_loading(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "root"
    for name in STRANGE_NAMES:
        touch(root / folder / name)
    touch(root / "other" / "x.png")
    table = catalog.build(root, [(p, p.relative_to(root).parts[0]) for p in catalog.pictures_below(root)])
    catalog.save(table, tmp_path / "catalog.csv")
    loaded = catalog.load(tmp_path / "catalog.csv")
    pd.testing.assert_frame_equal(loaded, table)
    assert len(loaded) == len(STRANGE_NAMES) + 1
    assert all((root / path).is_file() for path in loaded["path"])
    assert catalog.data_hash(loaded) == catalog.data_hash(table)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these systems refuse names that are not UTF-8")
def test_names_that_are_not_utf8_survive_saving_and_loading(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    pairs = [(touch(folder / os.fsdecode(b"\xb2\xe1\xff.png")), folder.name), (touch(tmp_path / "b" / "y.png"), "b")]
    table = catalog.build(tmp_path, pairs)
    catalog.save(table, tmp_path / "catalog.csv")
    loaded = catalog.load(tmp_path / "catalog.csv")
    pd.testing.assert_frame_equal(loaded, table)
    assert (tmp_path / loaded["path"][0]).is_file()
    assert len(catalog.data_hash(loaded)) == 64


def test_data_hash_depends_on_content_label_and_split_but_not_on_the_order_of_rows(tmp_path: Path) -> None:
    pairs = [(touch(tmp_path / "a" / "x.png"), "a"), (touch(tmp_path / "b" / "y.png"), "b")]
    table = catalog.build(tmp_path, pairs)
    assert catalog.data_hash(table[::-1]) == catalog.data_hash(table)
    changes = [("label", "c"), ("split", "val"), ("sha256", "0"), ("path", "a/z.png")]
    others = {catalog.data_hash(table.assign(**{column: [value, "b"]})) for column, value in changes}
    assert len(others | {catalog.data_hash(table)}) == 5


@pytest.mark.parametrize("root", ["missing", "file.txt"])
def test_a_root_that_is_no_folder_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    touch(tmp_path / "file.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"data.root={root} is not a folder .*{tmp_path / root}"):
        catalog.existing_root(root)


def test_a_root_whose_name_is_a_number_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2018").mkdir()
    monkeypatch.chdir(tmp_path)
    assert catalog.existing_root(2018) == tmp_path / "2018"  # the command line reads data.root=2018 as a number
