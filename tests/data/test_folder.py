"""A folder of class folders → catalogue, and the folders that are refused."""

from pathlib import Path

import pytest

from alu_defects.data import folder
from alu_defects.errors import UserError


def make(root: Path, *names: str) -> Path:
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_the_first_folder_is_the_class_however_deep_the_picture_lies(tmp_path: Path) -> None:
    table = folder.scan(make(tmp_path, "pit/2018/day 1/x.jpg", "pit/y.jpg", "dent/x.jpg"))
    assert list(zip(table["path"], table["label"], strict=True)) == [
        ("dent/x.jpg", "dent"),
        ("pit/2018/day 1/x.jpg", "pit"),
        ("pit/y.jpg", "pit"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no pictures"),
        (("a/notes.txt", "b/.x.png"), "holds no pictures"),
        (("pit/x.png", "pit/deep/y.png"), "one class only, pit"),
        (("x.png", "a/x.png", "b/x.png"), r"x\.png .*in the root itself"),
        (("train/a/x.png", "val/a/x.png", "Test/a/x.png"), "splits, not classes"),
        (("train/a/x.png", "train/b/x.png"), "splits, not classes"),
    ],
)
def test_what_is_no_folder_of_class_folders_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder.scan(make(tmp_path / "root", *names))
