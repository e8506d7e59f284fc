"""Round 1 of the competition → catalog: its true file names, corrections, test sets and copies by others."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from alu_defects.data import catalog, tianchi
from alu_defects.data.catalog import FoundImages
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASS_NAMES, CLASSES, DEFECTS, DEFECTS_FOLDER, NORMAL

from .tianchi_names import TRAIN1, TRAIN2, TRAIN3, tiny_jpeg, true_names, write_tree

# of the last archive, in the order of the taxonomy
COUNTS = dict(zip(CLASS_NAMES, (1018, 39, 136, 47, 90, 248, 77, 54, 43, 35, 209), strict=True))
CORRECTED = COUNTS | {"scuffed": 133, "orange_peel": 91, "convex_powder": 45}
SCUFFED, CONVEX = f"{DEFECTS_FOLDER}/擦花", f"{DEFECTS_FOLDER}/凸粉"
SMALL = [f"{TRAIN3}/{NORMAL.folder}/正常.jpg", *(f"{TRAIN3}/{DEFECTS_FOLDER}/{c.folder}/{c.name}.jpg" for c in DEFECTS)]
TEST_A, TEST_B = "guangdong_round1_test_a_20180916", "guangdong_round1_test_b_20181009"


def counts(found: FoundImages) -> dict[str, int]:
    return catalog.count_by_archive(found.table)["total"].drop("total").to_dict()


def excluded(found: FoundImages) -> dict[str, tuple[str, str]]:
    """Path → reason and detail."""
    rows = found.excluded
    return dict(zip(rows["path"], zip(rows["reason"], rows["detail"], strict=True), strict=True))


def rows(found: FoundImages, column: str = "label") -> dict[str, str]:
    """Path → another column."""
    return dict(zip(found.table["path"], found.table[column], strict=True))


def write(root: Path, **contents: bytes) -> None:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def voc(*objects: tuple[str, Iterable[int]]) -> bytes:
    """An annotation as APSPC has it: pinyin and corners."""
    text = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{tag}>{number}</{tag}>" for tag, number in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><filename>x.jpg</filename>{text}</annotation>".encode()


# the true names


@pytest.mark.parametrize("root_is_the_archive", [False, True])
def test_the_last_archive_has_the_known_counts(tianchi_tree: Path, tmp_path: Path, root_is_the_archive: bool) -> None:
    (tmp_path / TRAIN3).symlink_to(tianchi_tree / TRAIN3)
    root = tmp_path / TRAIN3 if root_is_the_archive else tmp_path
    found = tianchi.find_images(root, corrections=False)
    assert counts(found) == COUNTS
    assert list(counts(found)) == list(CLASS_NAMES)
    assert len(found.table) == 1996
    assert catalog.count_reasons(found.excluded).to_dict() == {"class other": 140}
    assert set(found.table["archive"]) == {TRAIN3}
    assert len(tianchi.find_images(root, corrections=False, include_other=True).table) == 2136


def test_three_labels_are_corrected_and_two_are_doubtful(
    tianchi_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / TRAIN3).symlink_to(tianchi_tree / TRAIN3)
    with caplog.at_level(logging.INFO):
        found = tianchi.find_images(tmp_path)
    assert counts(found) == CORRECTED
    assert rows(found)[f"{TRAIN3}/{SCUFFED}/擦花20180830164545对照样本.jpg"] == "orange_peel"
    assert rows(found, "labels")[f"{TRAIN3}/{SCUFFED}/擦花20180901141803对照样本.jpg"] == "convex_powder"
    assert "3 labels corrected" in caplog.text
    assert "2 labels are doubtful and kept" in caplog.text


def test_a_normal_image_named_like_a_corrected_one_stays_normal(tianchi_tree: Path) -> None:
    labels = rows(tianchi.find_images(tianchi_tree))
    assert labels[f"{TRAIN2}/{NORMAL.folder}/擦花20180901141803.jpg"] == "normal"
    assert labels[f"{TRAIN2}/{NORMAL.folder}/擦花20180901141824.jpg"] == "normal"


@pytest.mark.parametrize(("archive", "images"), [(TRAIN1, 230), (TRAIN2, 1796), (TRAIN3, 2136)])
def test_each_archive_alone_is_whole(tianchi_tree: Path, archive: str, images: int) -> None:
    found = tianchi.find_images(tianchi_tree / archive, include_other=True)
    assert len(found.table) == images
    assert found.excluded.empty


def test_all_archives_together_are_one_row_a_name_and_the_newest_wins(
    tianchi_tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.process_time()
    found = tianchi.find_images(tianchi_tree, include_other=True)
    assert time.process_time() - start < 20  # about a second; quadratic work would take minutes
    table = found.table
    assert len(table) == table["path"].str.rpartition("/")[2].nunique() == 3477
    assert catalog.count_reasons(found.excluded).to_dict() == {"same file name": 685}
    assert (table["archive"] == TRAIN3).sum() == 2136
    assert sorted([*table["path"], *found.excluded["path"]]) == sorted(true_names())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    twice = f"{SCUFFED}/擦花20180830164545对照样本.jpg"
    assert excluded(found)[f"{TRAIN2}/{twice}"] == ("same file name", f"{TRAIN3}/{twice}")
    assert table["label"].tolist() == sorted(table["label"], key=[*CLASS_NAMES, "other"].index)
    assert rows(found, "time")[f"{TRAIN3}/{twice}"] == "2018-08-30T16:45:45"
    assert (table["time"] != "").all()


def test_the_summary_counts_classes_by_archive(tianchi_tree: Path) -> None:
    summary = catalog.count_by_archive(tianchi.find_images(tianchi_tree, corrections=False).table)
    assert summary.index.tolist() == [*CLASS_NAMES, "total"]
    assert summary.columns.tolist() == [TRAIN1, TRAIN2, TRAIN3, "total"]
    assert summary[TRAIN3].drop("total").to_dict() == COUNTS
    assert summary.loc["normal"].tolist() == [0, 1143, 1018, 2161]


# what lies between


def test_every_excluded_file_has_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_tree(tmp_path, SMALL)
    spot = f"{TRAIN3}/{DEFECTS_FOLDER}/脏点"
    write(
        root,
        **{
            f"{spot}/.DS_Store": b"",
            f"{spot}/x.jpg/inner.jpg": b"1",
            f"{TRAIN3}/{DEFECTS_FOLDER}/划痕/a.jpg": b"2",
            f"{TRAIN3}/{DEFECTS_FOLDER}/loose.jpg": b"3",
            "preview/x.jpg": b"4",
            f"{TRAIN3}.zip": b"5",
            "notes.json": b"{}",
        },
    )
    with caplog.at_level(logging.WARNING):
        found = tianchi.find_images(root)
    assert counts(found) == dict.fromkeys(CLASS_NAMES, 1)
    assert excluded(found) == {
        f"{spot}/.DS_Store": ("hidden", ""),
        f"{spot}/x.jpg": ("a folder where a file is expected", ""),
        f"{spot}/x.jpg/inner.jpg": ("a folder where a file is expected", f"{spot}/x.jpg"),
        f"{TRAIN3}/{DEFECTS_FOLDER}/划痕/a.jpg": ("unknown class folder", "划痕"),
        f"{TRAIN3}/{DEFECTS_FOLDER}/loose.jpg": ("lies in no class folder", ""),
        "preview/x.jpg": ("lies in no class folder", ""),
        f"{TRAIN3}.zip": ("not an image", ""),
        "notes.json": ("annotation without an image", ""),
    }
    assert "1 × unknown class folder" in caplog.text
    assert catalog.count_reasons(found.excluded)["a folder where a file is expected"] == 2


def test_other_is_the_last_class(tmp_path: Path) -> None:
    rare = f"{TRAIN3}/{DEFECTS_FOLDER}/其他/划伤/x.jpg"
    found = tianchi.find_images(write_tree(tmp_path, [*SMALL, rare]), include_other=True)
    assert found.table["path"].tolist() == [*SMALL, rare]
    assert found.table["label"].tolist() == [*CLASS_NAMES, "other"]


def test_test_sets_are_unlabelled_rows_at_the_end_whatever_their_names(tmp_path: Path) -> None:
    tests = [f"{TEST_A}/0.jpg", f"{TEST_A}/1.jpg", f"{TEST_B}/0.jpg"]
    found = tianchi.find_images(write_tree(tmp_path, [*tests, *SMALL]))
    assert found.table["path"].tolist() == [*SMALL, *tests]
    assert found.table["label"].tolist()[-3:] == found.table["labels"].tolist()[-3:] == ["", "", ""]
    assert found.table["archive"].tolist()[-3:] == [TEST_A, TEST_A, TEST_B]
    assert found.table["time"].tolist()[-3:] == ["", "", ""]
    assert catalog.count_by_archive(found.table).loc["unlabelled", "total"] == 3
    assert found.excluded.empty


def test_files_of_one_name_in_two_archives_that_disagree_are_labelled_by_the_newest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "擦花20180901141803.jpg"
    old, new = f"{TRAIN2}/{NORMAL.folder}/{name}", f"{TRAIN3}/{SCUFFED}/{name}"
    found = tianchi.find_images(write_tree(tmp_path, [old, new, SMALL[0]]))
    assert rows(found) == {SMALL[0]: "normal", new: "scuffed"}
    assert excluded(found)[old] == ("same file name", new)
    assert f"{old} (normal) is taken as scuffed: {new}" in caplog.text


def test_a_name_without_a_time_may_recur(tmp_path: Path) -> None:
    names = [f"{TRAIN2}/{SCUFFED}/1.jpg", f"{TRAIN3}/{SCUFFED}/1.jpg"]
    root = write_tree(tmp_path, SMALL)
    write(root, **{names[0]: b"old", names[1]: b"new"})
    assert set(names) <= set(tianchi.find_images(root).table["path"])


def test_content_under_two_labels_is_excluded_altogether(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (f"{TRAIN3}/{folder}/{number}.jpg" for number, folder in enumerate((SCUFFED, CONVEX)))
    root = write_tree(tmp_path, SMALL)
    write(root, **dict.fromkeys((first, second), b"one image"))
    found = tianchi.find_images(root)
    assert len(found.table) == len(SMALL)
    assert excluded(found) == {
        first: ("same content under another label", second),
        second: ("same content under another label", first),
    }
    assert found.excluded["label"].tolist() == ["convex_powder", "scuffed"]
    assert first in caplog.text
    assert second in caplog.text


@pytest.mark.parametrize("corrections", [True, False])
def test_corrections_come_before_the_search_for_copies(tmp_path: Path, corrections: bool) -> None:
    wrong, right = (f"{TRAIN3}/{folder}20180901141803对照样本.jpg" for folder in (f"{SCUFFED}/擦花", f"{CONVEX}/凸粉"))
    root = write_tree(tmp_path, SMALL)
    write(root, **dict.fromkeys((wrong, right), b"one image"))
    found = tianchi.find_images(root, corrections=corrections)
    assert len(found.table) == len(SMALL) + corrections
    assert set(found.excluded["reason"]) == {"same content" if corrections else "same content under another label"}


# re-packs


def test_ali2018_is_read_by_its_english_folders(tmp_path: Path) -> None:
    names = [f"ali2018/{c.ali2018.swapcase()}/{c.id}.jpg" for c in CLASSES]
    found = tianchi.find_images(write_tree(tmp_path, names))
    assert found.table["path"].tolist() == names
    assert found.table["label"].tolist() == list(CLASS_NAMES)
    assert set(found.table["archive"]) == {"ali2018"}
    assert set(tianchi.find_images(tmp_path / "ali2018").table["archive"]) == {"ali2018"}


@pytest.mark.parametrize("layout", ["APSPC/{}/x.{}", "APSPC/x.{1}"])
def test_apspc_is_labelled_by_its_boxes(tmp_path: Path, layout: str) -> None:
    def place(name: str, suffix: str) -> str:
        return layout.format("Annotations" if suffix == "xml" else "JPEGImages", suffix).replace("/x.", f"/{name}.")

    several = voc(("zangdian", (5, 6, 7, 8)), ("cahua", (10, 20, 30, 40)), ("zangdian", (1, 2, 3, 4)))
    write(
        tmp_path,
        **{place("a", "jpg"): b"a", place("a", "xml"): voc(("aoxian", (1, 2, 3, 4)))},
        **{place("b", "jpg"): b"b", place("b", "xml"): several},
        **{place("c", "jpg"): b"c", place("c", "xml"): voc()},
        **{place("d", "jpg"): b"d", place("d", "xml"): voc(("mao", (1, 2, 3, 4)))},
        **{place("e", "jpg"): b"e", place("e", "xml"): voc(("jupi", (30, 40, 10, 20)))},
        **{place("f", "xml"): voc(("jupi", (1, 2, 3, 4)))},
    )
    found = tianchi.find_images(tmp_path)
    assert list(rows(found, "labels").values()) == ["cross_strip_dent", "orange_peel", "scuffed|dirty_spot"]
    assert found.table["label"].tolist() == ["cross_strip_dent", "orange_peel", ""]
    assert found.table["boxes"].tolist()[:2] == [
        '[{"label": "cross_strip_dent", "box": [1.0, 2.0, 3.0, 4.0]}]',
        '[{"label": "orange_peel", "box": [10.0, 20.0, 30.0, 40.0]}]',
    ]
    assert set(found.table["archive"]) == {"APSPC"}
    assert catalog.count_by_archive(found.table).loc["several", "APSPC"] == 1
    assert excluded(found) == {
        place("c", "jpg"): ("no usable annotation", f"{place('c', 'xml')} marks nothing"),
        place("d", "jpg"): ("no usable annotation", f"{place('d', 'xml')} unknown class mao"),
        place("f", "xml"): ("annotation without an image", ""),
    }


def test_boxes_of_copies_are_taken_over(tmp_path: Path) -> None:
    names = [f"{TRAIN3}/{SCUFFED}/擦花2018090114180{i}对照样本.jpg" for i in range(3)]
    root = write_tree(tmp_path, [*SMALL, *names])
    by_name, by_content, richer = (Path(name).name for name in names)
    write(
        root,
        **{f"APSPC/JPEGImages/{by_name}": b"stored again", "APSPC/JPEGImages/1.jpg": tiny_jpeg(by_content)},
        **{"APSPC/JPEGImages/2.jpg": tiny_jpeg(richer)},
        **{f"APSPC/Annotations/{Path(by_name).stem}.xml": voc(("cahua", (1, 2, 3, 4)))},
        **{"APSPC/Annotations/1.xml": voc(("cahua", (5, 6, 7, 8)))},
        **{"APSPC/Annotations/2.xml": voc(("cahua", (5, 6, 7, 8)), ("zangdian", (1, 1, 2, 2)))},
    )
    found = tianchi.find_images(root)
    assert [rows(found)[name] for name in names] == ["scuffed"] * 3
    boxes = [rows(found, "boxes")[name] for name in names]
    assert boxes[:2] == [
        '[{"label": "scuffed", "box": [1.0, 2.0, 3.0, 4.0]}]',
        '[{"label": "scuffed", "box": [5.0, 6.0, 7.0, 8.0]}]',
    ]
    assert "dirty_spot" in boxes[2]
    assert catalog.count_reasons(found.excluded).to_dict() == {"same content": 2, "same file name": 1}


# what is refused


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "give the folder into which the round-1 archives were extracted"),
        (["preview/x.jpg"], {}, f"holds no {NORMAL.folder}/ or {DEFECTS_FOLDER}/<class>/;"),
        ([f"a/{DEFECTS_FOLDER}/划痕/x.jpg"], {}, "but 划痕, no classes"),
        (SMALL, {"round": 2}, "holds no images of round 2, but 11 of round 1; set data.round=1"),
        (["a/多瑕疵图片/x.jpg"], {}, "holds no images of round 1, but 1 of round 2; set data.round=2"),
        (SMALL, {"round": 3}, "data.round=3 does not exist; give one of 1, 2"),
    ],
)
def test_what_holds_no_images_of_the_round_is_refused(
    tmp_path: Path, names: list[str], options: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tianchi.find_images(write_tree(tmp_path, names), **options)
