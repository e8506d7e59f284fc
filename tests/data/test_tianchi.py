"""The extracted archives of the competition → catalogue."""

from pathlib import Path

import pytest

from alu_defects.data import tianchi
from alu_defects.errors import UserError
from alu_defects.taxonomy import CLASS_NAMES, DEFECTS, DEFECTS_FOLDER, NORMAL


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


ALL = [f"train2/{NORMAL.folder}/正常1.jpg", *(f"train2/{DEFECTS_FOLDER}/{c.folder}/{c.name}.jpg" for c in DEFECTS)]


def test_classes_come_in_the_order_of_the_taxonomy(tmp_path: Path) -> None:
    table = tianchi.scan(make(tmp_path, *ALL))
    assert table["label"].tolist() == list(CLASS_NAMES)
    assert table["path"].tolist() == ALL


def test_other_is_left_out_unless_asked_for_and_then_comes_last(tmp_path: Path) -> None:
    rare = f"train2/{DEFECTS_FOLDER}/其他/划伤/x.jpg"
    root = make(tmp_path, *ALL, rare, f"train2/{DEFECTS_FOLDER}/.DS_Store", f"train2/{DEFECTS_FOLDER}/脏点/.DS_Store")
    assert tianchi.scan(root)["label"].tolist() == list(CLASS_NAMES)
    table = tianchi.scan(root, include_other=True)
    assert table["label"].tolist() == [*CLASS_NAMES, "other"]
    assert table["path"].tolist()[-1] == rare


def test_a_picture_in_two_archives_is_taken_once(tmp_path: Path) -> None:
    again = [name.replace("train2", "train1") for name in ALL[:3]]
    table = tianchi.scan(make(tmp_path, *ALL, *again))
    assert table["label"].tolist() == list(CLASS_NAMES)
    assert table["path"].tolist() == [*again, *ALL[3:]]


def test_an_unknown_class_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="划痕 is not a class of round 1; known are 不导电"):
        tianchi.scan(make(tmp_path, *ALL, f"train2/{DEFECTS_FOLDER}/划痕/x.jpg"))


def test_pictures_outside_the_archives_folders_do_not_count(tmp_path: Path) -> None:
    assert len(tianchi.scan(make(tmp_path, *ALL, "preview/x.jpg"))) == len(ALL)
    with pytest.raises(UserError, match="give the folder into which the round-1 archives were extracted"):
        tianchi.scan(make(tmp_path / "preview"))
