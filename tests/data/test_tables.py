"""A table of images → catalog: what is read, and what is refused with its line."""

import logging
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from alu_defects.data import catalog, tables
from alu_defects.data.catalog import FoundImages
from alu_defects.errors import UserError


def find(root: Path, text: str | bytes, folders: list[Path] | None = None, **columns: str) -> FoundImages:
    """Write a table into the root, and read it; every image that a cell names is there already."""
    file = root / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    tables.check_columns(columns)
    return tables.find_images(file, catalog.existing_root([str(f) for f in folders or [root]]), columns)


def labels(found: FoundImages) -> dict[str, str]:
    return dict(zip(found.table["path"], found.table["labels"], strict=True))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("a.png", "b.png", "in/c.png", "起坑 1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_columns_of_the_table_and_of_the_catalog(root: Path) -> None:
    text = f"""file,class,part,piece,taken,line
{root / "a.png"},pit,Train,p1,2018-08-30T16:45:45,L 1
./in/../b.png, scuffed|pit ,validation,p1,2018/8/30 16:45,NA
in\\c.png,pit,,,,
起坑 1.png,pit,unlabelled,,30.8.2018 16:45:07,L 3
"""
    columns = {"path": "file", "label": "class", "split": "part", "group": "piece", "time": "taken"}
    table = find(root, text, **columns).table.set_index("path")
    assert list(table.columns) == [*catalog.COLUMNS[1:], "group", "line"]
    assert table[["label", "labels", "given_split", "time", "group", "line"]].to_numpy().tolist() == [
        ["pit", "pit", "train", "2018-08-30T16:45:45", "p1", "L 1"],
        ["pit", "pit", "", "", "", ""],
        ["", "pit|scuffed", "val", "2018-08-30T16:45:00", "p1", "NA"],
        ["", "", "unlabelled", "2018-08-30T16:45:07", "", "L 3"],
    ]


@pytest.mark.parametrize(
    ("encoding", "delimiter", "said"),
    [("utf-8", ",", False), ("utf-8-sig", ";", False), ("utf-16", "\t", False), ("gb18030", ";", True)],
)
def test_encodings_and_delimiters(
    root: Path, caplog: pytest.LogCaptureFixture, encoding: str, delimiter: str, said: bool
) -> None:
    lines = ["path|label|note", '"起坑 1.png"|起坑|"1,5"', "a.png|擦花|", "||"]
    text = "\r\n".join(lines).replace("|", delimiter)
    with caplog.at_level(logging.WARNING):
        found = find(root, text.encode(encoding))
    assert labels(found) == {"起坑 1.png": "起坑", "a.png": "擦花"}
    assert set(found.table["note"]) == {"1,5", ""}
    assert ("read as GB18030" in caplog.text) is said


def test_an_encoding_that_is_given(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = root / "table.csv"
    file.write_bytes("path,label\na.png,Öl fleck\nb.png,Kratzer größe".encode("cp1252"))
    with caplog.at_level(logging.WARNING):
        tables.find_images(file, root, {})
    assert re.search(r"GB18030 .* such as 謑 fleck; if they look wrong, .* data\.encoding=cp1252", caplog.text)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        found = tables.find_images(file, root, {}, "cp1252")
    assert labels(found) == {"a.png": "Öl fleck", "b.png": "Kratzer größe"}
    assert "GB18030" not in caplog.text
    with pytest.raises(UserError, match=r"is not in data\.encoding=utf-8 \(.*position"):
        tables.find_images(file, root, {}, "utf-8")
    for wrong in ("klingon", "hex", "a\0b", 12):
        with pytest.raises(UserError, match=r"data\.encoding=.* is not an encoding; give utf-8"):
            tables.check_encoding(wrong)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2018-08-30 16:45", "2018-08-30T16:45:00"),
        ("2018-08-30T16:45:45.678+08:00", "2018-08-30T08:45:45"),
        ("20180830T164545", "2018-08-30T16:45:45"),
        ("20180830164545", "2018-08-30T16:45:45"),
        ("20180830_164545", "2018-08-30T16:45:45"),
        ("2018:08:30 16:45:45", "2018-08-30T16:45:45"),
        ("2018-08-30", ""),  # images of a day are no session
        ("", ""),
    ],
)
def test_spellings_of_a_time(root: Path, written: str, read: str) -> None:
    assert find(root, f"path,label,time\na.png,x,{written}").table["time"].tolist() == [read]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,x", r"no column path, only file, label; .* data\.columns\.path=…"),
        ("path,klass\na.png,x", r"no column label, only path, klass; .* data\.columns\.label=…"),
        ("path,label,label\na.png,x,y", "the column label twice"),
        ("path,label,sha256\na.png,x,y", "a column sha256 of its own; rename"),
        ("path,label\n", "no lines below a header"),
        ("", "no lines below a header"),
        ("path,label\na.png,x\nb.png,x,y", "line 3 has 3 cells, the header 2"),
        ('path,label\na.png,"x', r"line 2 cannot be read \(unexpected end of data\); correct it$"),
        ('path,label\n\na.png,"x\nb.png,y\nc.png,z\n', r"line 3 cannot be .* A quote in it is open until line 5$"),
        ('path,label\na.png,"x\nb.png,"y"\nc.png,z', r"line 2 cannot be .* A quote in it is open until line 3$"),
        ('path,"label\n' + "a.png,x\n" * 20_000, r"line 1 cannot be read \(field larger than field limit"),
        ('path,label,note\na.png,x,"two\nlines"\nb.png,y,z,z', "line 4 has 4 cells"),
        (
            "path,label\na.png,x\nno.png,y\nno2.png,y",
            r"2 of 3 images do not exist in .*first is no\.png \(line 3\); correct",
        ),
        (
            "path,label\na.png,x\nIN/C.png,y",
            r"1 of 2 images do not .*first is IN/C\.png \(line 3\); did you mean .*root/in/c\.png\?",
        ),
        ("path,label\na.png,x\n./a.png,y", r"line 3: \./a\.png is also in line 2; .* several classes as a\|b"),
        ("path,label\n../a.png,x", r"line 2: \.\./a\.png does not exist, and would lie outside of data\.root="),
        ("path,label\n../root/../,x", r"line 2: \.\./root/\.\./ lies outside of data\.root="),
        ("path,label\n/etc/passwd,x", "line 2: /etc/passwd lies outside"),
        ("path,label\n,x", "line 2: the path is empty"),
        ("path,label,split\na.png,x,trian", "line 2: split trian is none of train, val, test"),
        ("path,label,time\na.png,x,30/8/2018 16:45", "line 2: time 30/8/2018 16:45 is not known; write it like 2018"),
        ("path,label,time\na.png,x,2018", "line 2: time 2018 is not known"),
        ("path,label,time\na.png,x,201808301645", "line 2: time 201808301645 is not known"),
        (b"PK\x03\x04\0\0", "is no text; save it as CSV"),
        (b"path,label\na.png,\xff\xff", r"neither UTF-8 nor GB18030 text; .* data\.encoding=cp1252"),
    ],
)
def test_what_is_refused(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(root, text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("['起坑']", "起坑"),
        ("['pit', 'dent']", "dent|pit"),
        ('["pit","dent"]', "dent|pit"),
        ("[]", ""),
        ("pit, deep", "pit, deep"),  # deep is no label of another line
    ],
)
def test_lists_of_labels(root: Path, written: str, read: str) -> None:
    frame = pd.DataFrame({"path": ["a.png", "b.png"], "label": [written, "pit"]})
    assert labels(find(root, frame.to_csv(index=False)))["a.png"] == read


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("pit, dent", r"2 of 6 labels are like pit, dent in line 2; its parts .* several classes are written a\|b"),
        ("起坑；dent、pit", "like 起坑；dent、pit in line 2; its parts"),
        ("['pit' 'dent']", r"2 of 6 labels are like \['pit' 'dent'\] in line 2; this list cannot be read: .* a\|b"),
        ("[pit]", "this list cannot be read"),
        ("[1]", "this list cannot be read"),
        ("NaN", "2 of 6 labels are like NaN in line 2; leave it empty .* or write the name of the class"),
        ("none", "like none in line 2; leave it empty"),
        ("pit|NULL", r"like pit\|NULL in line 2; leave it empty"),
    ],
)
def test_labels_that_would_be_invented_classes(root: Path, written: str, message: str) -> None:
    paths = ["a.png", "in/c.png", "起坑 1.png", "b.png"]
    frame = pd.DataFrame({"path": paths, "label": [written, "pit", "起坑|dent", written]})
    frame = pd.concat([frame, pd.DataFrame({"path": ["d.png", "e.png"], "label": ["dent", "起坑"]})])
    for name in ("d.png", "e.png"):
        (root / name).write_bytes(name.encode())
    with pytest.raises(UserError, match=message):
        find(root, frame.to_csv(index=False))


def test_a_column_that_was_named_must_be_there(root: Path) -> None:
    with pytest.raises(UserError, match=r"no column lott, only path, label, lot; .*group=…; did you mean lot\?"):
        find(root, "path,label,lot\na.png,x,1", group="lott")
    with pytest.raises(UserError, match="lot would be two of path, label"):
        find(root, "path,label,lot\na.png,x,1", group="lot", split="lot")
    with pytest.raises(UserError, match=r"data\.columns\.time=None: give the name"):
        tables.check_columns({"time": None})
    with pytest.raises(UserError, match=r"no table\.csv cannot be read \(No such file"):
        tables.find_images(root / "no table.csv", root, {})


@pytest.mark.skipif(sys.platform == "win32", reason="they are read there")
@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([r"D:\T\a.png", r"d:\T\in\c.png"], r"2 of 2 paths .* D:\T\a.png (line 2); remove D:\T\ from their"),
        (["D:/T/root/in/c.png"], "remove D:\\T\\root\\ from"),  # in is a folder of the root
        ([r"D:\a.png", r"E:\b.png"], "remove D:\\ from"),
        (
            [r"\\pc\share\T\b.png", "a.png"],
            r"1 of 2 paths are absolute paths of Windows, the first is \\pc\share\T\b.png",
        ),
        ([r"\\pc\share\T\b.png", "a.png"], "remove \\\\pc\\share\\T\\ from"),
        ([r"D:\T\x.png"], "remove D:\\T\\ from their beginning, so that they are relative to data.root="),
    ],
)
def test_absolute_paths_of_windows(root: Path, paths: list[str], message: str) -> None:
    first, _, rest = message.partition(" .* ")
    with pytest.raises(UserError, match=f"{re.escape(first)}.*{re.escape(rest)}"):
        find(root, "path,label\n" + "".join(f"{path},x\n" for path in paths))


def test_images_without_a_label_or_a_line_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = find(root, "path,label\na.png,pit\nb.png,\n")
    assert labels(found) == {"a.png": "pit", "b.png": ""}
    assert found.excluded[["path", "reason"]].to_numpy().tolist() == [
        ["in/c.png", "not in the table"],
        ["起坑 1.png", "not in the table"],
    ]
    assert "1 of 2 images have no label and take no part in training, the first is b.png (line 3)" in caplog.text
    assert "2 × not in the table, such as in/c.png" in caplog.text


def test_several_roots_are_told_apart_by_where_the_image_is(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("a.png", "d.png"):
        other.mkdir(exist_ok=True)
        (other / name).write_bytes(b"other" + name.encode())
    found = find(root, f"path,label\nb.png,x\nd.png,y\n{other / 'a.png'},y", folders=[root, other])
    assert labels(found) == {"1/b.png": "x", "2/a.png": "y", "2/d.png": "y"}
    with pytest.raises(UserError, match=r"first is D\.png \(line 2\); did you mean .*other/d\.png\?"):
        find(root, "path,label\nD.png,x", folders=[root, other])
    with pytest.raises(
        UserError, match=r"a\.png is in several roots, as 1/a\.png and 2/a\.png; write its path in full"
    ):
        find(root, "path,label\na.png,x", folders=[root, other])


def test_parquet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(
        {
            "path": ["a.png", "b.png", "in/c.png"],
            "label": [["pit", "dent"], ["pit"], None],
            "time": [pd.Timestamp("2018-08-30 16:45:45"), pd.NaT, pd.NaT],
            "lot": [1, 2, 3],
        }
    )
    monkeypatch.setattr(pd, "read_parquet", lambda *_, **__: frame)  # pyarrow need not be installed
    found = tables.find_images(root / "table.parquet", root, {})
    assert labels(found) == {"a.png": "dent|pit", "b.png": "pit", "in/c.png": ""}
    table = found.table.set_index("path")
    assert table.loc["a.png", ["time", "lot"]].tolist() == ["2018-08-30T16:45:45", "1"]


def test_parquet_of_pyarrow(root: Path) -> None:
    pytest.importorskip("pyarrow")
    file = root / "table.parquet"
    pd.DataFrame({"path": ["a.png", "b.png"], "label": [["pit", "dent"], ["pit"]]}).set_index("path").to_parquet(file)
    assert labels(tables.find_images(file, root, {})) == {"a.png": "dent|pit", "b.png": "pit"}
    file.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        tables.find_images(file, root, {})


def test_parquet_without_pyarrow_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"Parquet needs pyarrow: pip install 'alu-defects\[parquet\]'"):
        tables.find_images(root / "table.parquet", root, {})
