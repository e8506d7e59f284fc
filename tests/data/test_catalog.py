"""What a catalog holds, and that it survives being written, whatever the files are called."""

import hashlib
import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from alu_defects.data import catalog, files, sessions
from alu_defects.data.catalog import ImageRecord
from alu_defects.data.files import Excluded, Reason
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


def scan(root: Path, *paths: str) -> pd.DataFrame:
    """Catalog files of `root/<class>/…` without looking for copies."""
    images = [ImageRecord(path, (path.partition("/")[0],)) for path in paths]
    return catalog.build_catalog(catalog.with_hashes(root, images)[0], [], sorted({p.label for p in images})).table


def test_catalog_holds_one_row_an_image_in_text(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "擦花20180830164545.png")
    touch(tmp_path / "b" / "c" / "y.png")
    table = scan(tmp_path, "b/c/y.png", "a/擦花20180830164545.png")
    assert tuple(table.columns) == catalog.COLUMNS
    assert table["path"].tolist() == ["a/擦花20180830164545.png", "b/c/y.png"]
    assert table["label"].tolist() == table["labels"].tolist() == ["a", "b"]
    assert table["time"].tolist() == ["2018-08-30T16:45:45", ""]
    assert table["boxes"].tolist() == table["archive"].tolist() == ["", ""]
    assert table["sha256"].tolist() == [hashlib.sha256(Path(path).name.encode()).hexdigest() for path in table["path"]]


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("擦花20180830164545对照样本.jpg", "2018-08-30T16:45:45"),
        ("20180830164545.jpg", "2018-08-30T16:45:45"),
        ("IMG_20180830_164545.jpg", "2018-08-30T16:45:45"),
        ("20180830-164545 (2).jpg", "2018-08-30T16:45:45"),
        ("PXL_20201231_235959123.jpg", "2020-12-31T23:59:59"),
        ("12345678901234 20180830164545.jpg", "2018-08-30T16:45:45"),  # the first is no date
        ("20240229000000.jpg", "2024-02-29T00:00:00"),
        ("20230229000000.jpg", ""),
        ("20181330164545.jpg", ""),  # month 13
        ("20180832164545.jpg", ""),
        ("20180830240000.jpg", ""),  # 24 h, which Python 3.14 would read as the next day
        ("20180830254545.jpg", ""),  # 25 h
        ("20180830164560.jpg", ""),  # second 60
        ("20180830166045.jpg", ""),
        ("00000830164545.jpg", ""),
        ("120180830164545.jpg", ""),  # 15 digits: a number
        ("201808301645451.jpg", ""),
        ("20180830.jpg", ""),
        ("２０１８０８３０１６４５４５.jpg", ""),
        ("0.jpg", ""),
        ("", ""),
    ],
)
def test_the_time_is_found_in_a_file_name(name: str, time: str) -> None:
    assert sessions.capture_time(name) == time


def test_rows_are_in_the_order_of_classes_and_the_summary_counts_them(tmp_path: Path) -> None:
    images = [
        ImageRecord("5", ()),
        ImageRecord("4", ("pit", "dent"), "new"),
        ImageRecord("3", ("dent",), "new"),
        ImageRecord("2", ("pit",), "old"),
        ImageRecord("1", ("dent",), "old"),
    ]
    excluded = [Excluded("z", Reason.HIDDEN), Excluded("y", Reason.SAME_NAME, "1", "old", "dent")]
    result = catalog.build_catalog(images, excluded, ["pit", "bruise", "dent"])
    assert result.table["path"].tolist() == ["2", "1", "3", "4", "5"]
    assert result.table["labels"].tolist() == ["pit", "dent", "dent", "pit|dent", ""]
    assert result.table["label"].tolist() == ["pit", "dent", "dent", "", ""]
    summary = catalog.count_by_archive(result.table)
    assert summary.index.tolist() == ["pit", "dent", "several", "unlabelled", "total"]
    assert summary.columns.tolist() == ["new", "old", "total"]
    assert summary.to_numpy().tolist() == [[0, 1, 1], [1, 1, 2], [1, 0, 1], [0, 0, 1], [2, 2, 5]]
    assert tuple(result.excluded.columns) == catalog.EXCLUDED_COLUMNS
    assert result.excluded.iloc[0].tolist() == ["y", "old", "dent", "", "same file name", "1"]
    assert catalog.count_reasons(result.excluded).to_dict() == {"same file name": 1, "hidden": 1}


def test_nothing_excluded_is_an_empty_table_that_can_be_saved(tmp_path: Path) -> None:
    result = catalog.build_catalog([ImageRecord("1", ("a",)), ImageRecord("2", ("b",))], [], ["a", "b"])
    assert catalog.count_reasons(result.excluded).empty
    assert catalog.count_by_archive(result.table).columns.tolist() == ["total"]
    catalog.save_catalog(result.excluded, tmp_path / "excluded.csv")
    assert tuple(catalog.load_catalog(tmp_path / "excluded.csv").columns) == catalog.EXCLUDED_COLUMNS


def test_a_catalog_with_fewer_columns_is_read(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("path,label,sha256,split\na/x.png,NA,0,train\n", encoding="utf-8")
    table = catalog.load_catalog(tmp_path / "catalog.csv")
    assert table.iloc[0].to_dict() == {"path": "a/x.png", "label": "NA", "sha256": "0", "split": "train"}
    assert len(catalog.data_hash(table)) == 64


def test_an_unchanged_image_is_verified_and_others_are_named(tmp_path: Path) -> None:
    for path in ("a/x.png", "b/y.png"):
        touch(tmp_path / path)
    table = scan(tmp_path, "a/x.png", "b/y.png")
    catalog.verify_files(tmp_path, catalog.compare_files(tmp_path, table))
    (tmp_path / "b" / "y.png").write_bytes(b"other")
    with pytest.raises(UserError, match=r"y\.png is not the image"):
        catalog.verify_files(tmp_path, catalog.compare_files(tmp_path, table))
    (tmp_path / "a" / "x.png").unlink()
    with pytest.raises(UserError, match=r"x\.png is missing: .* holds 1 of the 2 images"):
        catalog.verify_files(tmp_path, catalog.compare_files(tmp_path, table))


@pytest.mark.parametrize("label", ["class, one", "null", "007", "不导电", "\r"])
def test_strange_names_survive_saving_and_loading(tmp_path: Path, label: str) -> None:
    root = tmp_path / "root"
    for name in STRANGE_NAMES:
        touch(root / label / name)
    touch(root / "other" / "x.png")
    table = scan(root, *files.list_files(root)[0])
    catalog.save_catalog(table, tmp_path / "catalog.csv")
    loaded = catalog.load_catalog(tmp_path / "catalog.csv")
    pd.testing.assert_frame_equal(loaded, table)
    assert len(loaded) == len(STRANGE_NAMES) + 1
    assert all((root / path).is_file() for path in loaded["path"])
    assert catalog.data_hash(loaded) == catalog.data_hash(table)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these systems refuse names that are not UTF-8")
def test_names_that_are_not_utf8_survive_saving_and_loading(tmp_path: Path) -> None:
    paths = [os.fsdecode(b"caf\xe9/\xb2\xe1\xff.png"), "b/y.png"]
    for path in paths:
        touch(tmp_path / path)
    table = scan(tmp_path, *paths)
    catalog.save_catalog(table, tmp_path / "catalog.csv")
    loaded = catalog.load_catalog(tmp_path / "catalog.csv")
    pd.testing.assert_frame_equal(loaded, table)
    assert all((tmp_path / path).is_file() for path in loaded["path"])
    assert len(catalog.data_hash(loaded)) == 64


def test_data_hash_depends_on_content_label_and_split_but_not_on_the_order_of_rows(tmp_path: Path) -> None:
    for path in ("a/x.png", "b/y.png"):
        touch(tmp_path / path)
    table = scan(tmp_path, "a/x.png", "b/y.png")
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


def test_an_absolute_root_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        catalog.existing_root(tmp_path / "nope")
    assert str(caught.value).startswith(f"data.root={tmp_path / 'nope'} is not a folder; give")


@pytest.mark.parametrize(
    ("paths", "doubt"),
    [
        (["Pit/1.png", "pit/2.png", "good/3.png"], "'Pit' and 'pit' are 2 classes"),
        (["good/1.png", "good /2.png"], "'good' and 'good ' are 2 classes"),
        (["d1/good/1.png", "d1/pit/2.png", "d2/good/3.png", "d2/pit/4.png"], r"holds the same folders \(good, pit\)"),
        (["good/l1/1.png", "good/l2/2.png", "pit/l1/3.png"], None),  # of lines, say
        (["good/1.png", "pit/2.png"], None),
    ],
)
def test_doubtful_classes_are_told(paths: list[str], doubt: str | None) -> None:
    table = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths]})
    found = catalog.doubts_about_classes(table)
    assert len(found) == (doubt is not None)
    if doubt:
        assert re.search(doubt, found[0])
