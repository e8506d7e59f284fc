"""Round 2 of the competition → catalog: labelme's JSON, images of several classes, files that do not parse."""

import json
from pathlib import Path

import pytest

from alu_defects.data import catalog, tianchi
from alu_defects.tianchi_classes import ROUND2_DEFECTS, ROUND2_NORMAL, ROUNDS

from .tianchi_names import TRAIN3, write_tree

ROOT = "guangdong_round2_train_20181011"
SINGLE, SEVERAL, NORMAL = f"{ROOT}/单瑕疵图片", f"{ROOT}/多瑕疵图片", f"{ROOT}/无瑕疵图片"
CORNERS = [[10, 20], [30.55, 20], [30.55, 40], [10, 40]]


def labelme(*labels: str, points: object = CORNERS) -> str:
    shapes = [{"label": label, "points": points} for label in labels]
    return json.dumps({"version": "3.4.1", "shapes": shapes, "imageData": "AAAA"}, ensure_ascii=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image of each class, its JSON beside it."""
    names = [f"{NORMAL}/normal.jpg", *(f"{SINGLE}/{c.folder}/{c.name}.jpg" for c in ROUND2_DEFECTS)]
    write_tree(tmp_path, names)
    for kind in ROUND2_DEFECTS:
        (tmp_path / SINGLE / kind.folder / f"{kind.name}.json").write_text(labelme(kind.submission), encoding="utf-8")
    return tmp_path


def test_the_names_of_both_rounds_are_consistent() -> None:
    names = [c.name for c in ROUNDS[2]]
    assert len(set(names)) == len(names) == 11
    assert [c.submission for c in ROUND2_DEFECTS] == [f"defect{number}" for number in range(10)]
    english = {c.folder: c.name for c in ROUNDS[1]}
    assert all(english.get(c.folder, c.name) == c.name for c in ROUND2_DEFECTS)


def test_single_defects_have_their_folders_class_and_boxes(root: Path) -> None:
    found = tianchi.find_images(root, round=2)
    assert found.table["label"].tolist() == [c.name for c in ROUNDS[2]]
    assert found.table["labels"].tolist() == found.table["label"].tolist()
    assert found.table["boxes"].tolist() == [
        "",
        *(f'[{{"label": "{c.name}", "box": [10.0, 20.0, 30.6, 40.0]}}]' for c in ROUND2_DEFECTS),
    ]
    assert set(found.table["archive"]) == {ROOT}
    assert found.excluded.empty


def test_images_of_several_classes_come_last_with_their_classes_in_order(root: Path) -> None:
    write_tree(root, [f"{SEVERAL}/a.jpg", f"{SEVERAL}/b.jpg"])
    (root / SEVERAL / "a.json").write_text(labelme("脏点", "擦花", "脏点"), encoding="utf-8")
    (root / SEVERAL / "b.json").write_text(labelme("defect7", "起坑"), encoding="utf-8")
    table = tianchi.find_images(root, round=2).table.set_index("path")
    assert table.index[-1] == f"{SEVERAL}/a.jpg"
    assert table.loc[f"{SEVERAL}/a.jpg", ["label", "labels"]].tolist() == ["", "scuffed|dirty_spot"]
    assert len(json.loads(table.loc[f"{SEVERAL}/a.jpg", "boxes"])) == 3
    assert table.loc[f"{SEVERAL}/b.jpg", ["label", "labels"]].tolist() == ["pit", "pit"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "does not parse: JSONDecodeError"),
        (labelme("脏点")[:-9], "does not parse"),
        ("[]", "does not parse"),
        ("{}", "does not parse: KeyError"),
        ('{"shapes": [{"label": 1, "points": [[1, 2]]}]}', "1 is not a class"),
        (labelme("脏点", points=[]), "a shape without points"),
        (labelme("脏点", points=[[1, "here"]]), "does not parse"),
        (labelme("脏点", points=[[1, float("nan")]]), "nan is not a coordinate"),
        (labelme("划痕", "毛刺"), "unknown class 划痕, 毛刺"),
        (labelme(), "marks nothing"),
    ],
)
def test_a_broken_annotation_removes_the_boxes_of_one_defect_and_excludes_an_image_of_several(
    root: Path, text: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    single, several = f"{SINGLE}/擦花/scuffed", f"{SEVERAL}/x"
    write_tree(root, [f"{several}.jpg"])
    for path in (single, several):
        (root / f"{path}.json").write_text(text, encoding="utf-8")
    found = tianchi.find_images(root, round=2)
    row = found.table.set_index("path").loc[f"{single}.jpg"]
    assert row[["label", "boxes"]].tolist() == ["scuffed", ""]
    assert f"{single}.json " in caplog.text
    assert fault in caplog.text
    (left,) = found.excluded.itertuples()
    assert (left.path, left.reason) == (f"{several}.jpg", "no usable annotation")
    assert left.detail.startswith(f"{several}.json ")
    assert fault in left.detail


def test_several_defects_without_annotation_are_excluded(root: Path) -> None:
    write_tree(root, [f"{SEVERAL}/x.jpg"])
    (left,) = tianchi.find_images(root, round=2).excluded.itertuples()
    assert (left.path, left.reason, left.detail) == (f"{SEVERAL}/x.jpg", "no usable annotation", "missing")


def test_each_round_excludes_the_other(root: Path) -> None:
    first = [f"{TRAIN3}/无瑕疵样本/a.jpg", f"{TRAIN3}/瑕疵样本/碰伤/b.jpg"]
    write_tree(root, first)
    found = tianchi.find_images(root)
    assert found.table["path"].tolist() == first
    assert catalog.count_reasons(found.excluded).to_dict() == {"round 2; data.round=2 reads it": 11}
    assert set(found.excluded["archive"]) == {ROOT}
    found = tianchi.find_images(root, round=2)
    assert catalog.count_reasons(found.excluded).to_dict() == {"round 1; data.round=1 reads it": 2}
    assert len(found.table) == 11


def test_corrections_are_of_round_1_alone(root: Path) -> None:
    name = f"{SINGLE}/擦花/擦花20180901141803对照样本.jpg"
    write_tree(root, [name])
    assert tianchi.find_images(root, round=2).table.set_index("path").loc[name, "label"] == "scuffed"


def test_normal_is_the_same_class_in_both_rounds() -> None:
    assert ROUND2_NORMAL.name == ROUNDS[1][0].name
